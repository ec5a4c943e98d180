//! Who may issue tokens, and what their tokens are verified with.

use std::collections::BTreeMap;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::names::{self, HttpUri};
use super::super::read::At;
use super::super::{
    ClientEndpoint, Environment, FromHeader, Introspection, KeySource, Location, Places, Provider,
    RemoteJwks, Secret, TokenKind, Trust, raw,
};
use crate::jwks::{JwksError, KeySet, Origin};
use crate::token::algorithm::Algorithm;

/// Checks who may issue tokens.
pub(super) fn check_providers(
    raw: Option<BTreeMap<String, raw::Provider>>,
    at: &At<'_>,
    env: Environment<'_>,
) -> Option<Vec<Provider>> {
    let raw = at.required(raw)?;
    if raw.is_empty() {
        return at.problem("name at least one token issuer");
    }
    let mut providers: Vec<Provider> = Vec::new();
    let mut complete = true;
    for (name, provider) in raw {
        let at = at.field(&name);
        match check_provider(name, provider, &at, env) {
            Some(provider) => {
                let twin = |p: &&Provider| p.issuer == provider.issuer && p.kind == provider.kind;
                if let Some(other) = providers.iter().find(twin) {
                    let _: Option<()> = at.field("issuer").problem(format!(
                        "provider `{}` has this issuer too, and a token is checked by one provider",
                        other.name
                    ));
                }
                providers.push(provider);
            }
            None => complete = false,
        }
    }
    let introspected = |provider: &&Provider| provider.trust.introspection.is_some();
    if let [_, second, ..] = providers.iter().filter(introspected).collect::<Vec<_>>().as_slice() {
        return at.field(&second.name).field("introspection").problem(
            "another provider has it too, and a token that is not a JWT does not say whose it is",
        );
    }
    complete.then_some(providers)
}

fn check_provider(
    name: String,
    raw: raw::Provider,
    at: &At<'_>,
    env: Environment<'_>,
) -> Option<Provider> {
    check_transaction(&raw, at);
    let raw::Provider {
        kind,
        preset,
        issuer,
        audiences,
        allow_any_audience,
        authorized_parties,
        algorithms,
        remote_jwks,
        local_jwks,
        discovery,
        introspection,
        clock_skew,
        require_expiration,
        max_lifetime,
        token_type,
        required_claims,
        from_headers,
        from_cookies,
        from_params,
    } = raw;

    let kind = check_kind(kind.as_deref(), &at.field("type"));
    let preset = check_preset(preset.as_deref(), &at.field("preset"));
    let issuer = at.field("issuer").required_text(issuer);
    let audiences = match (audiences, allow_any_audience.unwrap_or(false)) {
        (Some(_), true) => at
            .field("allow_any_audience")
            .problem("cannot be true beside `audiences`, keep one of them"),
        (Some(audiences), false) => at.field("audiences").texts(audiences).map(Some),
        (None, true) => Some(None),
        (None, false) => at.field("audiences").problem(
            "is required, name what `aud` must be, or set `allow_any_audience: true` where the issuer writes none",
        ),
    };
    let authorized_parties = match authorized_parties {
        Some(parties) => at.field("authorized_parties").texts(parties).map(Some),
        None => Some(None),
    };
    let algorithms = match &algorithms {
        Some(algorithms) => at.field("algorithms").parsed_list(algorithms),
        None => Some(Algorithm::asymmetric()),
    };
    let keys = check_keys(remote_jwks, local_jwks, discovery, at);
    let only_symmetric = algorithms
        .as_ref()
        .is_some_and(|all| all.iter().all(|algorithm| matches!(algorithm, Algorithm::Hs(_))));
    if only_symmetric && matches!(keys, Some(Some(KeySource::Remote(_)))) {
        at.field("algorithms").problem::<()>(
            "HMAC keys are taken from `local_jwks` only, so no token could be verified",
        );
    }
    let introspection = match introspection {
        Some(raw) => check_introspection(raw, &at.field("introspection"), env).map(Some),
        None => Some(None),
    };
    if kind == Some(TokenKind::Service) && matches!(introspection, Some(Some(_))) {
        at.field("introspection")
            .problem::<()>("is for tokens of users, give the keys of service tokens instead");
    }
    if matches!((&keys, &introspection), (Some(None), Some(None))) {
        at.problem::<()>(
            "has nothing to verify tokens with, add `remote_jwks`, `discovery`, `local_jwks` or `introspection`",
        );
    }
    let clock_skew = at.field("clock_skew").duration(clock_skew.as_deref(), "30s", "0s", "10m");
    let max_lifetime = match max_lifetime {
        Some(text) => at.field("max_lifetime").duration(Some(&text), "24h", "1s", "365d").map(Some),
        None => Some(None),
    };
    let required_claims =
        check_claims(required_claims.unwrap_or_default(), &at.field("required_claims"));
    let places = match kind? {
        TokenKind::User | TokenKind::Service => {
            check_places(from_headers, from_cookies, from_params, preset?, at)
        }
        TokenKind::Transaction => Some(Places::default()),
    };
    Some(Provider {
        name,
        kind: kind?,
        issuer: issuer?,
        audiences: audiences?,
        authorized_parties: authorized_parties?,
        algorithms: algorithms?,
        trust: Trust { keys: keys?, introspection: introspection? },
        clock_skew: clock_skew?,
        require_expiration: require_expiration.unwrap_or(true),
        max_lifetime: max_lifetime?,
        token_type,
        required_claims: required_claims?,
        refused_claims: match preset? {
            // A session whose user has not done all that sign-in asks for.
            Preset::Clerk => vec![("sts".to_owned(), Value::from("pending"))],
            Preset::Plain => Vec::new(),
        },
        places: places?,
    })
}

/// Checks where providers' tokens stand, which is all that counts where they are only taken off.
pub(super) fn check_token_places(
    raw: Option<BTreeMap<String, raw::Provider>>,
    at: &At<'_>,
) -> Option<Vec<(TokenKind, Places)>> {
    let checked: Vec<Option<(TokenKind, Places)>> = at
        .required(raw)?
        .into_iter()
        .map(|(name, provider)| {
            let at = at.field(&name);
            let raw::Provider { kind, preset, from_headers, from_cookies, from_params, .. } =
                provider;
            let kind = check_kind(kind.as_deref(), &at.field("type"));
            let preset = check_preset(preset.as_deref(), &at.field("preset"))?;
            Some((kind?, check_places(from_headers, from_cookies, from_params, preset, &at)?))
        })
        .collect();
    checked.into_iter().collect()
}

fn check_kind(kind: Option<&str>, at: &At<'_>) -> Option<TokenKind> {
    match kind {
        None | Some("user") => Some(TokenKind::User),
        Some("service") => Some(TokenKind::Service),
        Some("transaction") => Some(TokenKind::Transaction),
        Some(other) => at.problem(format!(
            "`{other}` is not a type of token, write `user`, `service` or `transaction`"
        )),
    }
}

/// What makes a transaction token one is not for the config to choose.
fn check_transaction(raw: &raw::Provider, at: &At<'_>) {
    if raw.kind.as_deref() != Some("transaction") {
        return;
    }
    for (name, there) in [
        ("preset", raw.preset.is_some()),
        ("allow_any_audience", raw.allow_any_audience == Some(true)),
        ("require_expiration", raw.require_expiration == Some(false)),
        ("token_type", raw.token_type.is_some()),
        ("introspection", raw.introspection.is_some()),
        ("from_headers", raw.from_headers.is_some()),
        ("from_cookies", raw.from_cookies.is_some()),
        ("from_params", raw.from_params.is_some()),
    ] {
        if there {
            at.field(name).problem::<()>(
                "has no use with `type: transaction`: such a token stands in `txn-token`, is for a trust domain and expires",
            );
        }
    }
    if raw.algorithms.iter().flatten().any(|algorithm| algorithm.starts_with("HS")) {
        at.field("algorithms")
            .problem::<()>("who checks transaction tokens with an HMAC key can make them too");
    }
}

/// What is known beforehand of an issuer's tokens.
#[derive(Clone, Copy)]
enum Preset {
    Plain,
    /// Clerk's session tokens: in a cookie too, and refused while the session is pending.
    Clerk,
}

fn check_preset(preset: Option<&str>, at: &At<'_>) -> Option<Preset> {
    match preset {
        None => Some(Preset::Plain),
        Some("clerk") => Some(Preset::Clerk),
        Some(other) => at.problem(format!("`{other}` is not a preset, there is `clerk`")),
    }
}

#[expect(clippy::option_option, reason = "the outer one says that a problem was reported")]
fn check_keys(
    remote: Option<raw::RemoteJwks>,
    local: Option<Value>,
    discovery: Option<raw::RemoteJwks>,
    at: &At<'_>,
) -> Option<Option<KeySource>> {
    match (remote, local, discovery) {
        (None, None, None) => Some(None),
        (Some(raw), None, None) => check_remote_jwks(raw, &at.field("remote_jwks"), Location::Jwks)
            .map(|remote| Some(KeySource::Remote(remote))),
        (None, None, Some(raw)) => {
            check_remote_jwks(raw, &at.field("discovery"), Location::Discovery)
                .map(|remote| Some(KeySource::Remote(remote)))
        }
        (None, Some(document), None) => {
            let at = at.field("local_jwks");
            let document = match document {
                Value::String(text) => text,
                document => document.to_string(),
            };
            match KeySet::parse(document.as_bytes(), Origin::Local) {
                Ok(set) if set.skipped == 0 => Some(Some(KeySource::Local(Rc::new(set)))),
                Ok(set) => at.problem(format!(
                    "{} of its keys cannot be used, remove them or mend them (RFC 7517)",
                    set.skipped
                )),
                Err(JwksError::NotAJwks) => at.problem("is not a JWKS, write `{keys: [...]}`"),
                Err(JwksError::NoUsableKey) => at.problem(
                    "has no key that can be used (RSA keys have 2048 to 4096 bits, HMAC keys at least 32 bytes)",
                ),
            }
        }
        (_, _, _) => {
            at.problem("has more than one of `remote_jwks`, `local_jwks` and `discovery`, keep one")
        }
    }
}

fn check_introspection(
    raw: raw::Introspection,
    at: &At<'_>,
    env: Environment<'_>,
) -> Option<Introspection> {
    let raw::Introspection { uri, cluster, client_id, client_secret, timeout, cache_ttl } = raw;

    let raw = RawEndpoint { uri, cluster, client_id, client_secret, timeout };
    let endpoint = check_client_endpoint(raw, at, env);
    let cache_ttl = at.field("cache_ttl").duration(cache_ttl.as_deref(), "30s", "0s", "1h");
    Some(Introspection { endpoint: endpoint?, cache_ttl: cache_ttl? })
}

/// An endpoint whose fields stand beside those of what it is for.
pub(super) struct RawEndpoint {
    pub(super) uri: Option<String>,
    pub(super) cluster: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) client_secret: Option<String>,
    pub(super) timeout: Option<String>,
}

pub(super) fn check_client_endpoint(
    raw: RawEndpoint,
    at: &At<'_>,
    env: Environment<'_>,
) -> Option<ClientEndpoint> {
    let RawEndpoint { uri, cluster, client_id, client_secret, timeout } = raw;
    let uri = at.field("uri").parsed(uri);
    let cluster = at.field("cluster").parsed(cluster);
    let client_id = at.field("client_id").required_text(client_id);
    let at_secret = at.field("client_secret");
    let client_secret =
        at_secret.required_text(client_secret).and_then(|secret| at_secret.expanded(&secret, env));
    let timeout = at.field("timeout").duration(timeout.as_deref(), "1s", "1ms", "60s");
    Some(ClientEndpoint {
        uri: uri?,
        cluster: cluster?,
        authorization: basic(&client_id?, &client_secret?),
        timeout: timeout?,
    })
}

/// How a client names itself by HTTP Basic. RFC 6749 section 2.3.1: both parts are form-encoded before they
/// are joined.
fn basic(client_id: &str, client_secret: &str) -> Secret {
    let credentials =
        format!("{}:{}", names::form_encoded(client_id), names::form_encoded(client_secret));
    Secret::new(format!("Basic {}", STANDARD.encode(credentials)))
}

/// Claims and the values that they may have.
pub(super) fn check_claims(
    raw: BTreeMap<String, Value>,
    at: &At<'_>,
) -> Option<Vec<(String, Vec<Value>)>> {
    raw.into_iter()
        .map(|(name, value)| {
            let values = match value {
                Value::Array(values) => values,
                value @ (Value::Bool(_) | Value::Number(_) | Value::String(_)) => vec![value],
                Value::Null | Value::Object(_) => {
                    return at
                        .field(&name)
                        .problem("must be a value, a list of values, or `[]` for any value");
                }
            };
            Some((name, values))
        })
        .collect()
}

fn check_places(
    headers: Option<Vec<raw::FromHeader>>,
    cookies: Option<Vec<String>>,
    params: Option<Vec<String>>,
    preset: Preset,
    at: &At<'_>,
) -> Option<Places> {
    let nowhere_else = cookies.is_none() && params.is_none();
    let bearer = || {
        Some(vec![FromHeader {
            name: at.default("authorization")?,
            value_prefix: "Bearer ".to_owned(),
        }])
    };
    let headers = match (headers, preset) {
        (Some(raw), _) => check_from_headers(raw, &at.field("from_headers")),
        (None, Preset::Clerk) => bearer(),
        (None, Preset::Plain) if nowhere_else => bearer(),
        (None, Preset::Plain) => Some(Vec::new()),
    };
    let list = |name: &str, names: Option<Vec<String>>| match names {
        Some(names) => at.field(name).texts(names),
        None => Some(Vec::new()),
    };
    let cookies = match (cookies, preset) {
        (None, Preset::Clerk) => Some(vec!["__session".to_owned()]),
        (cookies, _) => list("from_cookies", cookies),
    };
    let params = list("from_params", params);
    Some(Places { headers: headers?, cookies: cookies?, params: params? })
}

fn check_remote_jwks(
    raw: raw::RemoteJwks,
    at: &At<'_>,
    location: fn(HttpUri) -> Location,
) -> Option<RemoteJwks> {
    let raw::RemoteJwks { uri, cluster, timeout, cache_duration, max_stale, unknown_kid_cooldown } =
        raw;

    let uri = at.field("uri").parsed(uri);
    let cluster = at.field("cluster").parsed(cluster);
    let timeout = at.field("timeout").duration(timeout.as_deref(), "2s", "1ms", "60s");
    let cache_duration =
        at.field("cache_duration").duration(cache_duration.as_deref(), "10m", "1s", "7d");
    let max_stale = at.field("max_stale").duration(max_stale.as_deref(), "24h", "0s", "30d");
    let unknown_kid_cooldown = at.field("unknown_kid_cooldown").duration(
        unknown_kid_cooldown.as_deref(),
        "10s",
        "100ms",
        "1h",
    );
    Some(RemoteJwks {
        location: location(uri?),
        cluster: cluster?,
        timeout: timeout?,
        cache_duration: cache_duration?,
        max_stale: max_stale?,
        unknown_kid_cooldown: unknown_kid_cooldown?,
    })
}

fn check_from_headers(raw: Vec<raw::FromHeader>, at: &At<'_>) -> Option<Vec<FromHeader>> {
    if raw.is_empty() {
        return at.problem("names no header, remove it to read `authorization`");
    }
    at.each(raw, |raw, at| {
        let raw::FromHeader { name, value_prefix } = raw;
        Some(FromHeader {
            name: at.field("name").parsed(name)?,
            value_prefix: value_prefix.unwrap_or_default(),
        })
    })
}
