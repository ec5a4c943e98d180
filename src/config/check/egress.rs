//! What a service's own requests take along.

use std::collections::BTreeMap;

use super::super::names::{self, HeaderName, is_header_value};
use super::super::read::At;
use super::super::{
    ClientCredentials, Egress, Environment, FromHeader, OwnToken, Places, Propagation, Signing,
    TokenKind, TokenSource, raw,
};
use super::boundary::check_service;
use super::context_header_name;
use super::providers::{RawEndpoint, check_client_endpoint, check_token_places};
use super::txn_token::check_key;
use crate::boundary::destination::{Destination, Passage};
use crate::boundary::service_token::ServiceTokenId;
use crate::headers::are_alike;

/// The parts of a config that only `mode: egress` has, and the providers.
pub(super) struct RawEgress {
    pub service: Option<raw::Service>,
    pub providers: Option<BTreeMap<String, raw::Provider>>,
    pub destinations: Option<Vec<raw::Destination>>,
    pub service_tokens: Option<BTreeMap<String, raw::OwnToken>>,
}

/// Checks them. Of the providers only the places count in which their tokens stand.
pub(super) fn check_egress(raw: RawEgress, at: &At<'_>, env: Environment<'_>) -> Option<Egress> {
    let RawEgress { service, providers, destinations, service_tokens } = raw;

    let service = check_service(service, &at.field("service"));
    let places = check_places(providers, at);
    let service_tokens =
        check_service_tokens(service_tokens.unwrap_or_default(), &at.field("service_tokens"), env);
    for token in service_tokens.iter().flatten() {
        let users = places.iter().flat_map(|(users, _)| users);
        let mut headers = users.flat_map(|places| &places.headers);
        if token.header.name.as_str() != "authorization"
            && headers.any(|place| is_alike(&place.name, &token.header.name))
        {
            at.field("service_tokens").field(&token.name).field("header").problem::<()>(format!(
                "`{}` is where users' tokens stand, name another header",
                token.header.name.as_str()
            ));
        }
    }
    let at_destinations = at.field("destinations");
    let destinations = at_destinations.required(destinations).and_then(|raw| {
        at_destinations.each(raw, |raw, at| check_destination(raw, service_tokens.as_deref(), at))
    });
    let (places, service_headers) = places?;
    Some(Egress {
        service: service?,
        places,
        service_headers,
        destinations: destinations?,
        service_tokens: service_tokens?,
    })
}

fn is_alike(one: &HeaderName, other: &HeaderName) -> bool {
    are_alike(one.as_str(), other.as_str())
}

/// The places of users' tokens, and the headers of services'. What stands in them is taken off whatever it is,
/// so no prefix counts, and `authorization` is always one of the former.
fn check_places(
    providers: Option<BTreeMap<String, raw::Provider>>,
    at: &At<'_>,
) -> Option<(Vec<Places>, Vec<HeaderName>)> {
    let at = at.field("providers");
    let authorization: HeaderName = at.default("authorization")?;
    let whole = |name| FromHeader { name, value_prefix: String::new() };
    let headers = vec![whole(authorization.clone())];
    let mut places = vec![Places { headers, cookies: Vec::new(), params: Vec::new() }];
    let mut service_headers = Vec::new();
    for (kind, Places { headers, cookies, params }) in check_token_places(providers, &at)? {
        let names = headers.into_iter().map(|header| header.name);
        let mut names: Vec<HeaderName> = names.filter(|name| *name != authorization).collect();
        if kind == TokenKind::Service {
            service_headers.append(&mut names);
        }
        places.push(Places { headers: names.into_iter().map(whole).collect(), cookies, params });
    }
    Some((places, service_headers))
}

fn check_service_tokens(
    raw: BTreeMap<String, raw::OwnToken>,
    at: &At<'_>,
    env: Environment<'_>,
) -> Option<Vec<OwnToken>> {
    let checked: Vec<Option<OwnToken>> = raw
        .into_iter()
        .map(|(name, raw)| {
            let at = at.field(&name);
            let raw::OwnToken { client_credentials, sign, header } = raw;
            let header = check_header(header, &at.field("header"));
            let source = match (client_credentials, sign) {
                (Some(raw), None) => {
                    check_client_credentials(raw, &at.field("client_credentials"), env)
                        .map(TokenSource::ClientCredentials)
                }
                (None, Some(raw)) => {
                    check_signing(raw, &at.field("sign"), env).map(TokenSource::Sign)
                }
                (Some(_), Some(_)) => {
                    at.problem("has `client_credentials` and `sign`, keep one of them")
                }
                (None, None) => at.problem(
                    "says not where the token comes from, add `client_credentials` or `sign`",
                ),
            };
            Some(OwnToken { name, header: header?, source: source? })
        })
        .collect();
    checked.into_iter().collect()
}

fn check_header(raw: Option<raw::FromHeader>, at: &At<'_>) -> Option<FromHeader> {
    let Some(raw::FromHeader { name, value_prefix }) = raw else {
        return Some(FromHeader {
            name: at.default("authorization")?,
            value_prefix: "Bearer ".to_owned(),
        });
    };
    let at_name = at.field("name");
    let name: Option<HeaderName> = match at_name.required(name)?.to_ascii_lowercase().as_str() {
        "authorization" => at_name.default("authorization"),
        other => context_header_name(other, &at_name),
    };
    let value_prefix = value_prefix.unwrap_or_else(|| "Bearer ".to_owned());
    if !is_header_value(&format!("{value_prefix}token")) {
        return at.field("value_prefix").problem("is not the beginning of a legal header value");
    }
    Some(FromHeader { name: name?, value_prefix })
}

fn check_client_credentials(
    raw: raw::ClientCredentials,
    at: &At<'_>,
    env: Environment<'_>,
) -> Option<ClientCredentials> {
    let raw::ClientCredentials { uri, cluster, client_id, client_secret, scope, timeout } = raw;

    let raw = RawEndpoint { uri, cluster, client_id, client_secret, timeout };
    let endpoint = check_client_endpoint(raw, at, env);
    let scope =
        scope.map_or_else(String::new, |scope| format!("&scope={}", names::form_encoded(&scope)));
    Some(ClientCredentials {
        endpoint: endpoint?,
        form: format!("grant_type=client_credentials{scope}"),
    })
}

fn check_signing(raw: raw::Sign, at: &At<'_>, env: Environment<'_>) -> Option<Signing> {
    let raw::Sign { key, kid, alg, issuer, audience, ttl, permissions } = raw;

    let key = check_key(key, kid.as_deref(), alg.as_deref(), at, env);
    let issuer = at.field("issuer").required_text(issuer);
    let audience = at.field("audience").required_text(audience);
    let at_ttl = at.field("ttl");
    let ttl = at_ttl.duration(ttl.as_deref(), "5m", "10s", "1d").filter(|ttl| {
        ttl.subsec_nanos() == 0 || at_ttl.problem::<()>("must be whole seconds").is_some()
    });
    let permissions = match permissions {
        Some(permissions) => at.field("permissions").texts(permissions),
        None => Some(Vec::new()),
    };
    let (signer, kid) = key?;
    Some(Signing {
        kid,
        signer,
        issuer: issuer?,
        audience: audience?,
        ttl: ttl?,
        permissions: permissions?,
    })
}

fn check_destination(
    raw: raw::Destination,
    tokens: Option<&[OwnToken]>,
    at: &At<'_>,
) -> Option<Destination> {
    let raw::Destination { clusters, user_token, context, service_token } = raw;

    let at_clusters = at.field("clusters");
    let clusters = at_clusters.required(clusters).and_then(|all| at_clusters.parsed_list(&all));
    let user_token = check_passage(user_token.as_deref(), &at.field("user_token"));
    let context = check_passage(context.as_deref(), &at.field("context"));
    let at_token = at.field("service_token");
    let service_token = match (service_token, tokens) {
        (None, _) => Some(None),
        (Some(name), Some(tokens)) => match ServiceTokenId::named(tokens, &name) {
            Some((_, token))
                if user_token == Some(Passage::Forward)
                    && token.header.name.as_str() == "authorization" =>
            {
                at_token.problem(format!(
                    "goes in `authorization`, where the user's token may stand that is forwarded, give it another header: `service_tokens.{name}.header`"
                ))
            }
            Some((id, _)) => Some(Some(id)),
            None => at_token.problem(format!("there is no `service_tokens.{name}`")),
        },
        // Where the tokens are wrong, that is told already.
        (Some(_), None) => None,
    };
    Some(Destination {
        clusters: clusters?,
        user_token: user_token?,
        context: context?,
        service_token: service_token?,
    })
}

fn check_passage(word: Option<&str>, at: &At<'_>) -> Option<Passage> {
    match word {
        None | Some("strip") => Some(Passage::Strip),
        Some("forward") => Some(Passage::Forward),
        Some(other) => at.problem(format!("`{other}` is neither `strip` nor `forward`")),
    }
}

/// Checks how the context of a request reaches those that are made for its sake.
pub(super) fn check_propagation(
    raw: Option<&raw::Propagation>,
    shares: bool,
    at: &At<'_>,
) -> Option<Propagation> {
    let Some(raw::Propagation { by_request_id }) = raw else {
        return Some(Propagation::ByService);
    };
    match at.field("by_request_id").required(*by_request_id)? {
        false => Some(Propagation::ByService),
        true if shares => Some(Propagation::ByRequestId),
        true => at.problem(
            "needs `sharing: {key: ...}`, the same in the filters of both directions: they tell each other by it",
        ),
    }
}
