//! What is allowed in a config and yet seldom meant. Each warning says what to do about it.

use std::time::Duration;

use super::names::{ClusterName, HttpUri};
use super::read::At;
use super::{Boundary, Config, KeySource, Location, Mode, Otherwise, Provider, TokenSource};
use crate::token::algorithm::Algorithm;

/// A skew beyond this is more than clocks that are set by the network ever differ by.
const LONG_SKEW: Duration = Duration::from_secs(120);

/// A service that meshgate calls.
#[derive(Debug)]
pub struct Callee<'a> {
    /// The object in the config that has its `cluster`: `providers.clerk.remote_jwks`.
    pub path: String,
    /// The Envoy cluster that leads there.
    pub cluster: &'a ClusterName,
    /// Its URI, where it has one.
    pub uri: Option<&'a HttpUri>,
}

impl Config {
    /// The services that meshgate calls, in no order that matters.
    #[must_use]
    pub fn callees(&self) -> Vec<Callee<'_>> {
        let mut all = Vec::new();
        let mut add = |path: String, cluster, uri| all.push(Callee { path, cluster, uri });
        for provider in &self.providers {
            let path = format!("providers.{}", provider.name);
            if let Some(KeySource::Remote(remote)) = &provider.trust.keys {
                let (field, uri) = match &remote.location {
                    Location::Jwks(uri) => ("remote_jwks", uri),
                    Location::Discovery(uri) => ("discovery", uri),
                };
                add(format!("{path}.{field}"), &remote.cluster, Some(uri));
            }
            if let Some(introspection) = &provider.trust.introspection {
                let endpoint = &introspection.endpoint;
                add(format!("{path}.introspection"), &endpoint.cluster, Some(&endpoint.uri));
            }
        }
        if let Some(lookup) = self.user.lookup() {
            add("user.lookup".to_owned(), &lookup.cluster, None);
            if let Some(cache) = &lookup.redis {
                add("user.lookup.redis".to_owned(), &cache.redis.cluster, None);
            }
        }
        if let Some(feed) = &self.revocation.feed {
            add("revocation.feed".to_owned(), &feed.cluster, Some(&feed.uri));
        }
        if let Some(blacklist) = &self.revocation.blacklist {
            add("revocation.redis".to_owned(), &blacklist.redis.cluster, None);
        }
        for token in self.mode.egress().iter().flat_map(|egress| &egress.service_tokens) {
            if let TokenSource::ClientCredentials(asked) = &token.source {
                let path = format!("service_tokens.{}.client_credentials", token.name);
                add(path, &asked.endpoint.cluster, Some(&asked.endpoint.uri));
            }
        }
        all
    }
}

/// Tells all that is to be told of a config without problems.
pub(super) fn warn(config: &Config, at: &At<'_>) {
    for provider in &config.providers {
        warn_of_provider(provider, &at.field("providers").field(&provider.name));
    }
    for callee in config.callees() {
        if callee.uri.is_some_and(|uri| is_open(uri, callee.cluster)) {
            at.field(&callee.path).field("uri").warning(
                "is asked in the clear: who stands on the way reads and writes what is said, use `https:` and a cluster with TLS",
            );
        }
    }
    if let Some(lookup) = config.user.lookup()
        && lookup.key_field.is_none()
    {
        at.field("user").field("lookup").warning(
            "has no `key_field`, so a record is believed to be the user's, whosever it is: name the record's field that holds the key, such as `key_field: /clerkId`",
        );
    }
    if let Mode::Service(boundary) = &config.mode {
        warn_of_boundary(boundary, &at.field("boundary"));
    }
    for (rule, earlier) in config.rules.never_matched() {
        at.field("rules").index(rule).warning(format!(
            "never matches, since `rules[{earlier}]` matches all that it would, put it before that one or remove it"
        ));
    }
}

fn warn_of_provider(provider: &Provider, at: &At<'_>) {
    if provider.audiences.is_none() && provider.authorized_parties.is_none() {
        at.field("allow_any_audience").warning(
            "tokens that the issuer made for any other application are taken, name `audiences` or, where the issuer writes none, `authorized_parties`",
        );
    }
    let symmetric = provider.algorithms.iter().any(|one| matches!(one, Algorithm::Hs(_)));
    if symmetric && matches!(provider.trust.keys, Some(KeySource::Local(_))) {
        at.field("algorithms").warning(
            "who checks tokens with an HMAC key can make them too, use RS256, ES256 or EdDSA where the issuer can",
        );
    }
    if provider.clock_skew > LONG_SKEW {
        at.field("clock_skew").warning(
            "tokens are taken for so long after they expired, `1m` is enough for clocks that are set by NTP",
        );
    }
    if !provider.require_expiration && provider.max_lifetime.is_none() {
        at.field("require_expiration").warning(
            "a token without `exp` is good for ever, leave it `true` or have a `revocation`",
        );
    }
}

fn warn_of_boundary(boundary: &Boundary, at: &At<'_>) {
    let nobody = boundary.txn_token.is_none()
        && !boundary.peers.iter().any(|peer| peer.may_assert_user)
        && !boundary.service_tokens.as_ref().is_some_and(|tokens| tokens.may_assert_user);
    let word = match boundary.otherwise {
        Otherwise::Authenticate => return,
        Otherwise::Reject => "reject",
        Otherwise::Strip => "strip",
    };
    if nobody {
        at.field("otherwise").warning(format!(
            "with `{word}` no request will have a user, since nobody may say who it is: set `may_assert_user` for a peer or for `service_tokens`, or write `authenticate`"
        ));
    }
}

/// Whether what is said to `uri` can be read and changed on its way. In a mesh, services are called by
/// `http:`, and the proxies speak TLS.
fn is_open(uri: &HttpUri, cluster: &ClusterName) -> bool {
    let authority = uri.authority.as_str();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => authority.split(':').next(),
    };
    let host = host.unwrap_or_default();
    // The parser of addresses would be the larger part of this module in the filter.
    let in_127 = |host: &str| {
        host.starts_with("127.") && host.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    };
    let loopback =
        host == "localhost" || host.ends_with(".localhost") || host == "::1" || in_127(host);
    let in_mesh = cluster.as_str().starts_with("outbound|") && cluster.as_str().contains(".svc.");
    uri.scheme == "http" && !loopback && !in_mesh
}
