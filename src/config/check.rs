//! What the words of a config must be: one function for each part of it, each of which takes its raw
//! struct apart in full, so that a new field does not compile until it is used.
//!
//! A check that reports a problem answers `None`; the others go on, so that all are reported.

mod boundary;
mod egress;
mod providers;
mod revocation;
mod txn_token;
mod user;

use std::collections::BTreeMap;

use super::names::{self, HeaderName};
use super::read::At;
use super::{
    Config, Context, ContextHeader, Environment, FromHeader, Limits, Mode, Otherwise, Provider,
    Redis, Secret, TokenKind, UserSource, ValueSource, raw,
};
use crate::board::MIN_KEY_BYTES;
use crate::boundary::SERVICE_NAME;
use crate::boundary::txn_token::TXN_TOKEN;
use crate::headers::{ManagedHeaders, canonical};
use crate::rules::{PathMatch, Requirement, Rule, Rules};
use crate::signature::Preference;
use boundary::check_boundary;
use egress::{RawEgress, check_egress, check_propagation};
use providers::check_providers;
use revocation::check_revocation;
use txn_token::check_txn_token;
use user::check_user;

/// Checks all of a config.
pub fn config(raw: raw::Config, at: &At<'_>, env: Environment<'_>) -> Option<Config> {
    let word = check_mode(raw.mode.as_deref(), &at.field("mode"));
    if let Some(word) = word {
        refuse_fields_of_other_modes(word, &raw, at);
    }
    let raw::Config {
        mode: _,
        service,
        boundary,
        destinations,
        service_tokens,
        propagation,
        txn_token,
        providers,
        user,
        revocation,
        context,
        rules,
        crypto,
        sharing,
        limits,
    } = raw;

    let at_providers = at.field("providers");
    let (mode, providers) = match word {
        Some(ModeWord::Egress) => {
            let raw = RawEgress { service, providers, destinations, service_tokens };
            let egress = check_egress(raw, at, env);
            (egress.map(|egress| Mode::Egress(Box::new(egress))), Some(Vec::new()))
        }
        Some(ModeWord::Service) => {
            let providers = check_providers(providers, &at_providers, env);
            let boundary = check_boundary(service, boundary, providers.as_deref(), at);
            (boundary.map(|boundary| Mode::Service(Box::new(boundary))), providers)
        }
        Some(ModeWord::Gateway) => {
            let providers = check_providers(providers, &at_providers, env);
            check_user_tokens_only(providers.as_deref(), &at_providers);
            (Some(Mode::Gateway), providers)
        }
        None => (None, check_providers(providers, &at_providers, env)),
    };
    let authenticates = match &mode {
        Some(Mode::Service(boundary)) => boundary.otherwise == Otherwise::Authenticate,
        Some(Mode::Gateway) => true,
        Some(Mode::Egress(_)) => false,
        None => !matches!(word, Some(ModeWord::Egress)),
    };
    // Where no user is looked up, nothing need be said of how.
    let user = match user {
        None if !authenticates => Some(UserSource::Claims),
        user => check_user(user, &at.field("user"), env),
    };
    let at_txn_token = at.field("txn_token");
    let txn_token = match (txn_token, word) {
        (None, _) => Some(None),
        (Some(_), Some(ModeWord::Service)) => at_txn_token.problem(
            "has no use with `mode: service`, say in `boundary.txn_token` whose is accepted",
        ),
        // Told already.
        (Some(_), Some(ModeWord::Egress)) => None,
        (Some(raw), Some(ModeWord::Gateway) | None) => {
            check_txn_token(raw, &at_txn_token, env).map(Some)
        }
    };
    let revocation = check_revocation(revocation.unwrap_or_default(), &at.field("revocation"), env);
    let places = token_headers(providers.as_deref(), mode.as_ref());
    let context = check_context(context, mode.as_ref(), &places, &at.field("context"));
    if let (Some(providers), Some(context)) = (&providers, &context) {
        check_token_headers(providers, &context.managed, &at.field("providers"));
    }
    let inside = matches!(word, Some(ModeWord::Service));
    let rules = check_rules(rules, inside, &at.field("rules"));
    let crypto = check_crypto(crypto.as_deref(), &at.field("crypto"));
    let propagation =
        check_propagation(propagation.as_ref(), sharing.is_some(), &at.field("propagation"));
    let sharing = match sharing {
        Some(raw) => check_sharing(raw, &at.field("sharing"), env).map(Some),
        None => Some(None),
    };
    let limits = check_limits(limits.unwrap_or_default(), &at.field("limits"));
    if let (Some(user), Some(None)) = (&user, &sharing)
        && user.lookup().is_some_and(|lookup| lookup.redis.is_some())
    {
        at.field("user").field("lookup").field("redis").problem::<()>(
            "needs `sharing: {key: ...}`, the same in all proxies: records in Redis are signed with it",
        );
    }
    Some(Config {
        mode: mode?,
        providers: providers?,
        user: user?,
        txn_token: txn_token?,
        revocation: revocation?,
        context: context?,
        rules: rules?,
        crypto: crypto?,
        sharing: sharing?,
        propagation: propagation?,
        limits,
        // Told of a config that is complete.
        warnings: Vec::new(),
    })
}

fn refuse_fields_of_other_modes(mode: ModeWord, raw: &raw::Config, at: &At<'_>) {
    let foreign: &[(&str, bool)] = match mode {
        ModeWord::Gateway => &[
            ("service", raw.service.is_some()),
            ("boundary", raw.boundary.is_some()),
            ("destinations", raw.destinations.is_some()),
            ("service_tokens", raw.service_tokens.is_some()),
            ("propagation", raw.propagation.is_some()),
        ],
        ModeWord::Service => &[
            ("destinations", raw.destinations.is_some()),
            ("service_tokens", raw.service_tokens.is_some()),
        ],
        ModeWord::Egress => &[
            ("boundary", raw.boundary.is_some()),
            ("txn_token", raw.txn_token.is_some()),
            ("user", raw.user.is_some()),
            ("revocation", raw.revocation.is_some()),
            ("rules", raw.rules.is_some()),
            ("crypto", raw.crypto.is_some()),
        ],
    };
    for (name, _) in foreign.iter().filter(|(_, there)| *there) {
        let mode = mode.name();
        at.field(name).problem::<()>(format!("has no use with `mode: {mode}`, remove it"));
    }
}

/// A header that is stripped from every request holds no token by the time one is looked for.
fn check_token_headers(providers: &[Provider], managed: &ManagedHeaders, at: &At<'_>) {
    for provider in providers {
        for place in &provider.places.headers {
            if managed.covers(place.name.as_str()) {
                at.field(&provider.name).field("from_headers").problem::<()>(format!(
                    "`{}` is stripped from every request, name another header",
                    place.name.as_str()
                ));
            }
        }
    }
}

#[derive(Clone, Copy)]
enum ModeWord {
    Gateway,
    Service,
    Egress,
}

impl ModeWord {
    const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Service => "service",
            Self::Egress => "egress",
        }
    }
}

fn check_mode(mode: Option<&str>, at: &At<'_>) -> Option<ModeWord> {
    match at.required(mode)? {
        "gateway" => Some(ModeWord::Gateway),
        "service" => Some(ModeWord::Service),
        "egress" => Some(ModeWord::Egress),
        "authz" => at.problem(
            "`authz` is not part of this version, which has `gateway`, `service` and `egress`",
        ),
        other => {
            at.problem(format!("`{other}` is not a mode, write `gateway`, `service` or `egress`"))
        }
    }
}

/// At the edge only users come in.
fn check_user_tokens_only(providers: Option<&[Provider]>, at: &At<'_>) {
    for provider in providers.into_iter().flatten() {
        if provider.kind != TokenKind::User {
            at.field(&provider.name).field("type").problem::<()>(format!(
                "`{}` has no use with `mode: gateway`, where users come in",
                provider.kind.name()
            ));
        }
    }
}

fn check_crypto(crypto: Option<&str>, at: &At<'_>) -> Option<Preference> {
    match crypto {
        None | Some("auto") => Some(Preference::Auto),
        Some("host") => Some(Preference::Host),
        Some("module") => Some(Preference::Module),
        Some(other) => at.problem(format!(
            "`{other}` is nobody who could check signatures, write `auto`, `host` or `module`"
        )),
    }
}

fn check_sharing(raw: raw::Sharing, at: &At<'_>, env: Environment<'_>) -> Option<Secret> {
    let raw::Sharing { key } = raw;
    let at = at.field("key");
    let key = at.expanded(&at.required(key)?, env)?;
    if key.len() < MIN_KEY_BYTES {
        return at.problem(format!("must be {MIN_KEY_BYTES} random bytes or more"));
    }
    Some(Secret::new(key))
}

fn check_call_headers(
    raw: BTreeMap<String, String>,
    at: &At<'_>,
    env: Environment<'_>,
) -> Option<Vec<(HeaderName, Secret)>> {
    let mut headers = Vec::new();
    let mut complete = true;
    for (name, value) in raw {
        let at = at.field(&name);
        let name: Option<HeaderName> = at.parsed(Some(name.clone()));
        let value = at.expanded(&value, env);
        match (name, value) {
            (Some(name), Some(value)) if names::is_header_value(&value) => {
                headers.push((name, Secret::new(value)));
            }
            (Some(_), Some(_)) => {
                // The value is not shown: it may be a secret.
                complete =
                    at.problem("its value is not a legal header value").is_some_and(|()| true);
            }
            (None, _) | (_, None) => complete = false,
        }
    }
    complete.then_some(headers)
}

/// A Redis, the fields of which stand beside those of what it is for.
struct RawRedis {
    cluster: Option<String>,
    authority: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    timeout: Option<String>,
}

fn check_redis(raw: RawRedis, at: &At<'_>, env: Environment<'_>) -> Option<Redis> {
    let RawRedis { cluster, authority, headers, timeout } = raw;
    let cluster = at.field("cluster").parsed(cluster);
    let authority = match authority {
        Some(text) => at.field("authority").parsed(Some(text)),
        None => at.default("webdis"),
    };
    let headers = check_call_headers(headers.unwrap_or_default(), &at.field("headers"), env);
    let timeout = at.field("timeout").duration(timeout.as_deref(), "100ms", "1ms", "60s");
    Some(Redis { cluster: cluster?, authority: authority?, headers: headers?, timeout: timeout? })
}

/// The headers in which tokens come.
fn token_headers(providers: Option<&[Provider]>, mode: Option<&Mode>) -> Vec<String> {
    let providers = providers.into_iter().flatten().map(|provider| &provider.places);
    let egress = mode.and_then(Mode::egress).into_iter().flat_map(|egress| &egress.places);
    let name = |header: &FromHeader| header.name.as_str().to_owned();
    providers.chain(egress).flat_map(|places| places.headers.iter().map(name)).collect()
}

fn check_context(
    raw: Option<raw::Context>,
    mode: Option<&Mode>,
    token_headers: &[String],
    at: &At<'_>,
) -> Option<Context> {
    let raw::Context { headers, forward_token } = raw.unwrap_or_default();

    let at_headers = at.field("headers");
    let headers = match headers {
        Some(raw) => check_context_headers(raw, &at_headers)?,
        None => default_context(&at_headers)?,
    };
    let egress = mode.and_then(Mode::egress);
    if egress.is_some() && forward_token.is_some() {
        at.field("forward_token").problem::<()>(
            "has no use with `mode: egress`, write `user_token: forward` for a destination",
        );
    }
    // Nobody but the filter shows a service's token. `authorization` is taken off by other means.
    let own = egress.into_iter().flat_map(|egress| {
        let names = egress.service_tokens.iter().map(|token| &token.header.name);
        names.filter(|name| name.as_str() != "authorization").chain(&egress.service_headers)
    });
    let context = ManagedHeaders::new(headers.iter().map(|header| &header.name));
    for name in own.clone().filter(|name| context.covers(name.as_str())) {
        at_headers.problem::<()>(format!(
            "`{}` is the header of a service token, too, give that another one",
            name.as_str()
        ));
    }
    let managed = ManagedHeaders::new(headers.iter().map(|header| &header.name).chain(own));
    let tokens = token_headers.iter().map(String::as_str).chain(["authorization", "cookie"]);
    Some(Context {
        headers,
        forward_token: forward_token.unwrap_or(false),
        not_in_trailers: managed.and(tokens),
        managed,
    })
}

fn check_context_headers(
    raw: BTreeMap<String, raw::ContextHeader>,
    at: &At<'_>,
) -> Option<Vec<ContextHeader>> {
    if raw.is_empty() {
        return at.problem("names no header, remove it to have the default four");
    }
    let mut headers: Vec<ContextHeader> = Vec::new();
    let mut complete = true;
    for (name, header) in raw {
        let at = at.field(&name);
        let raw::ContextHeader { user, claim, required, join } = header;
        let name = context_header_name(&name, &at);
        let twin = |name: &HeaderName| {
            headers.iter().any(|other| canonical(other.name.as_str()) == canonical(name.as_str()))
        };
        if name.as_ref().is_some_and(twin) {
            at.problem::<()>("another header here has the same name, but for case or `_`");
        }
        let source = match (user, claim) {
            (Some(user), None) => at.field("user").parsed(Some(user)).map(ValueSource::User),
            (None, Some(claim)) => at.field("claim").parsed(Some(claim)).map(ValueSource::Claim),
            (Some(_), Some(_)) => {
                at.problem("has `user` and `claim`, keep the one its value comes from")
            }
            (None, None) => at.problem(
                "says not where its value comes from, add `user: /field` or `claim: /name`",
            ),
        };
        match (name, source) {
            (Some(name), Some(source)) => headers.push(ContextHeader {
                name,
                source,
                required: required.unwrap_or(false),
                join,
            }),
            (None, _) | (_, None) => complete = false,
        }
    }
    complete.then_some(headers)
}

/// A context header may have any name that no proxy on the way gives a meaning of its own.
fn context_header_name(name: &str, at: &At<'_>) -> Option<HeaderName> {
    const TAKEN: [&str; 15] = [
        "host",
        "connection",
        "content-length",
        "content-type",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
        "authorization",
        "cookie",
        "x-request-id",
        "x-forwarded-client-cert",
        SERVICE_NAME,
        TXN_TOKEN,
    ];
    let name: HeaderName = at.parsed(Some(name.to_owned()))?;
    if TAKEN.contains(&canonical(name.as_str()).as_str()) || name.as_str().starts_with("x-envoy-") {
        return at.problem("this header has another meaning, choose a name such as `x-user-email`");
    }
    Some(name)
}

/// The four headers of a config that names none.
fn default_context(at: &At<'_>) -> Option<Vec<ContextHeader>> {
    let header = |name: &str, source, required| {
        Some(ContextHeader { name: at.default(name)?, source, required, join: None })
    };
    Some(vec![
        header("x-user-id", ValueSource::User(at.default("/id")?), true)?,
        header("x-user-clerk-id", ValueSource::Claim(at.default("/clerkId")?), false)?,
        header("x-user-role", ValueSource::User(at.default("/role")?), true)?,
        header("x-user-channel-id", ValueSource::User(at.default("/channelId")?), false)?,
    ])
}

fn check_rules(raw: Option<Vec<raw::Rule>>, inside: bool, at: &At<'_>) -> Option<Rules> {
    at.each(raw.unwrap_or_default(), |raw, at| check_rule(raw, inside, at)).map(Rules::new)
}

fn check_rule(raw: raw::Rule, inside: bool, at: &At<'_>) -> Option<Rule> {
    let raw::Rule { matches, require, roles, permissions, forward_token } = raw;

    let at_match = at.field("match");
    let matched = match matches {
        Some(raw) => check_match(raw, &at_match),
        None => {
            at_match.problem("is required, write `match: {path_prefix: /}` to match everything")
        }
    };
    let roles = match roles {
        Some(roles) => at.field("roles").texts(roles)?,
        None => Vec::new(),
    };
    let permissions = match permissions {
        Some(permissions) => at.field("permissions").texts(permissions)?,
        None => Vec::new(),
    };
    let at_require = at.field("require");
    let requirement = match at_require.required(require)?.as_str() {
        "user" => Some(Requirement::User { roles, permissions }),
        "anonymous" | "optional" | "service" if !(roles.is_empty() && permissions.is_empty()) => {
            at_require.problem("roles and permissions need `require: user`")
        }
        "anonymous" => Some(Requirement::Anonymous),
        "optional" => Some(Requirement::Optional),
        "service" if inside => Some(Requirement::Service),
        "service" => at_require.problem("`service` has no use with `mode: gateway`"),
        other if inside => at_require.problem(format!(
            "`{other}` is not a requirement, write `anonymous`, `optional`, `user` or `service`"
        )),
        other => at_require.problem(format!(
            "`{other}` is not a requirement, write `anonymous`, `optional` or `user`"
        )),
    };
    let (path, methods) = matched?;
    Some(Rule { path, methods, requirement: requirement?, forward_token })
}

fn check_match(raw: raw::Match, at: &At<'_>) -> Option<(PathMatch, Vec<String>)> {
    let raw::Match { path, path_prefix, methods } = raw;

    let checked_path = |name: &str, text: String| plain_path(text, &at.field(name));
    let path = match (path, path_prefix) {
        (Some(path), None) => checked_path("path", path).map(PathMatch::Exact),
        (None, Some(prefix)) => {
            checked_path("path_prefix", prefix).map(|prefix| PathMatch::prefix(&prefix))
        }
        (Some(_), Some(_)) => at.problem("has `path` and `path_prefix`, keep one of them"),
        (None, None) => at.problem("says no path, add `path_prefix: /` to match every one"),
    };
    let methods = match methods {
        Some(methods) => at.field("methods").texts(methods),
        None => Some(Vec::new()),
    };
    if let Some(lower) =
        methods.iter().flatten().find(|m| m.bytes().any(|b| b.is_ascii_lowercase()))
    {
        // RFC 9110 section 9.1: methods are case-sensitive.
        return at
            .field("methods")
            .problem(format!("`{lower}` never matches, write `{}`", lower.to_ascii_uppercase()));
    }
    Some((path?, methods?))
}

/// A path that can be read in one way only.
fn plain_path(text: String, at: &At<'_>) -> Option<String> {
    if !text.starts_with('/') {
        at.problem(format!("`{text}` must start with `/`"))
    } else if text.contains(['?', '#', '%', ';', '\\'])
        || text.contains("//")
        || text.split('/').any(|s| matches!(s, "." | ".."))
    {
        at.problem(format!(
            "`{text}` must be a plain path: no query, no escapes, no `//`, `.` or `..`"
        ))
    } else {
        Some(text)
    }
}

fn check_limits(raw: raw::Limits, at: &At<'_>) -> Limits {
    let raw::Limits {
        max_token_bytes,
        max_cached_tokens,
        max_waiters,
        max_inflight_callouts,
        max_jwks_bytes,
        max_user_bytes,
        max_feed_bytes,
        max_revocations,
    } = raw;
    let number = |name: &str, value, default, least, most| {
        at.field(name).number(value, default, least, most)
    };
    Limits {
        max_token_bytes: number("max_token_bytes", max_token_bytes, 8_192, 256, 65_536),
        max_cached_tokens: number("max_cached_tokens", max_cached_tokens, 2_048, 2, 1_000_000),
        max_waiters: number("max_waiters", max_waiters, 1_024, 1, 1_000_000),
        max_inflight_callouts: number(
            "max_inflight_callouts",
            max_inflight_callouts,
            256,
            1,
            100_000,
        ),
        max_jwks_bytes: number("max_jwks_bytes", max_jwks_bytes, 262_144, 256, 4_194_304),
        max_user_bytes: number("max_user_bytes", max_user_bytes, 65_536, 16, 4_194_304),
        max_feed_bytes: number("max_feed_bytes", max_feed_bytes, 1_048_576, 256, 16_777_216),
        max_revocations: number("max_revocations", max_revocations, 10_000, 1, 1_000_000),
    }
}
