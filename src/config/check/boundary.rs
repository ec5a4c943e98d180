//! Who may say who the user is, at a service's door.

use super::super::names::is_header_value;
use super::super::read::At;
use super::super::{Boundary, Otherwise, PeerRule, Provider, ServiceTokens, TokenKind, raw};
use crate::boundary::peer::{PeerName, SpiffePattern};
use crate::token::ProviderId;

/// Checks `service` and `boundary`.
pub(super) fn check_boundary(
    service: Option<raw::Service>,
    raw: Option<raw::Boundary>,
    providers: Option<&[Provider]>,
    at: &At<'_>,
) -> Option<Boundary> {
    let name = check_service(service, &at.field("service"));
    let raw::Boundary {
        peers,
        service_tokens,
        txn_token,
        forwarded_client_cert,
        ambient,
        otherwise,
    } = raw.unwrap_or_default();

    let at = at.field("boundary");
    let peers = at.field("peers").each(peers.unwrap_or_default(), check_peer);
    let service_tokens = match service_tokens {
        Some(raw) => check_service_tokens(raw, providers, &at.field("service_tokens")).map(Some),
        None => Some(None),
    };
    let txn_token = match txn_token {
        Some(raw::AcceptedTxnToken { provider }) => {
            let at = at.field("txn_token").field("provider");
            check_provider_of(TokenKind::Transaction, provider, providers, &at).map(Some)
        }
        None => Some(None),
    };
    let forwarders = match forwarded_client_cert {
        Some(raw::ForwardedClientCert { from }) => {
            let at = at.field("forwarded_client_cert").field("from");
            at.parsed_list(&at.required(from)?)
        }
        None => Some(Vec::new()),
    };
    let otherwise = match otherwise.as_deref() {
        None | Some("authenticate") => Some(Otherwise::Authenticate),
        Some("reject") => Some(Otherwise::Reject),
        Some("strip") => Some(Otherwise::Strip),
        Some(other) => at.field("otherwise").problem(format!(
            "`{other}` is not an answer, write `authenticate`, `reject` or `strip`"
        )),
    };
    Some(Boundary {
        service: name?,
        peers: peers?,
        service_tokens: service_tokens?,
        txn_token: txn_token?,
        forwarders: forwarders?,
        ambient: ambient.unwrap_or(false),
        otherwise: otherwise?,
    })
}

/// Checks the service's own name.
pub(super) fn check_service(raw: Option<raw::Service>, at: &At<'_>) -> Option<String> {
    let raw::Service { name } = at.required(raw)?;
    let at = at.field("name");
    at.required_text(name).filter(|name| {
        is_header_value(name) || at.problem::<()>("is not a legal header value").is_some()
    })
}

fn check_peer(raw: raw::Peer, at: &At<'_>) -> Option<PeerRule> {
    let raw::Peer { spiffe_id, service_name, may_assert_user } = raw;
    let pattern: Option<SpiffePattern> = at.field("spiffe_id").parsed(spiffe_id);
    let at_name = at.field("service_name");
    let service_name = match service_name.as_deref() {
        None => Some(None),
        Some("*") => match &pattern {
            Some(pattern) if pattern.wildcards() == 1 => Some(Some(PeerName::Segment)),
            Some(_) => at_name.problem("`*` needs exactly one `*` in `spiffe_id`, or write a name"),
            None => None,
        },
        Some(name) if is_header_value(name) => Some(Some(PeerName::Fixed(name.to_owned()))),
        Some(_) => at_name.problem("is not a legal header value"),
    };
    Some(PeerRule {
        pattern: pattern?,
        service_name: service_name?,
        may_assert_user: may_assert_user.unwrap_or(false),
    })
}

fn check_service_tokens(
    raw: raw::ServiceTokens,
    providers: Option<&[Provider]>,
    at: &At<'_>,
) -> Option<ServiceTokens> {
    let raw::ServiceTokens { provider, permissions, may_assert_user, bind_to_peer } = raw;
    let provider =
        check_provider_of(TokenKind::Service, provider, providers, &at.field("provider"));
    let permissions = match permissions {
        Some(permissions) => at.field("permissions").texts(permissions),
        None => Some(Vec::new()),
    };
    Some(ServiceTokens {
        provider: provider?,
        permissions: permissions?,
        may_assert_user: may_assert_user.unwrap_or(false),
        bind_to_peer: bind_to_peer.unwrap_or(true),
    })
}

/// The provider of this name, which must issue tokens of this kind.
fn check_provider_of(
    kind: TokenKind,
    name: Option<String>,
    providers: Option<&[Provider]>,
    at: &At<'_>,
) -> Option<ProviderId> {
    let name = at.required_text(name)?;
    // Where the providers are wrong, that is told already.
    let all = providers?;
    let place = all.iter().position(|provider| provider.name == name);
    match place.and_then(|place| Some((place, all.get(place)?))) {
        Some((place, provider)) if provider.kind == kind => ProviderId::all(all.len()).nth(place),
        Some((_, provider)) => at.problem(format!(
            "`{name}` is of `type: {}`, set `type: {}` there or name another provider",
            provider.kind.name(),
            kind.name()
        )),
        None => at.problem(format!("there is no provider `{name}`")),
    }
}
