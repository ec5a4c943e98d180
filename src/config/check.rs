//! What the words of a config must be: one function for each part of it, each of which takes its raw
//! struct apart in full, so that a new field does not compile until it is used.
//!
//! A check that reports a problem answers `None`; the others go on, so that all are reported.

mod answers;
mod authz;
mod boundary;
mod egress;
mod providers;
mod revocation;
mod rules;
mod txn_token;
mod user;

use std::collections::BTreeMap;

use super::names::{self, HeaderName};
use super::read::At;
use super::{
    Config, Context, ContextHeader, Environment, FromHeader, Limits, Mode, Otherwise, Provider,
    Redis, Secret, TokenKind, UserSource, ValueSource, raw,
};
use crate::account::Fact;
use crate::board::MIN_KEY_BYTES;
use crate::boundary::SERVICE_NAME;
use crate::boundary::txn_token::TXN_TOKEN;
use crate::headers::{ManagedHeaders, are_alike, canonical};
use crate::request::REQUEST_ID;
use crate::signature::Preference;
use answers::check_answers;
use authz::check_authz;
use boundary::check_boundary;
use egress::{RawEgress, check_egress, check_propagation};
use providers::check_providers;
use revocation::check_revocation;
use rules::check_rules;
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
        authz,
        answers,
        cors,
        login,
        access_log,
        crypto,
        sharing,
        limits,
    } = raw;

    let place = RawPlace { service, boundary, providers, destinations, service_tokens, authz };
    let (mode, providers) = check_place(word, place, at, env);
    let authenticates = match &mode {
        Some(Mode::Service(boundary)) => boundary.otherwise == Otherwise::Authenticate,
        Some(Mode::Gateway | Mode::Authz(_)) => true,
        Some(Mode::Egress(_)) => false,
        None => !matches!(word, Some(ModeWord::Egress)),
    };
    // Where only hops say who the user is, nothing need be said of tokens.
    let user = match user {
        None if !authenticates => Some(UserSource::Unsaid),
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
        // Who asks would take the answer for a yes.
        (Some(raw), Some(ModeWord::Authz)) if raw.jwks_path.is_some() => at_txn_token
            .field("jwks_path")
            .problem("has no use with `mode: authz`, serve the keys elsewhere"),
        (Some(raw), Some(ModeWord::Gateway | ModeWord::Authz) | None) => {
            check_txn_token(raw, &at_txn_token, env).map(Some)
        }
    };
    let revocation = check_revocation(revocation.unwrap_or_default(), &at.field("revocation"), env);
    let places = token_headers(providers.as_deref(), mode.as_ref());
    let context = check_context(context, mode.as_ref(), &places, &at.field("context"));
    if let (Some(providers), Some(context)) = (&providers, &context) {
        check_token_headers(providers, &context.managed, &at.field("providers"));
    }
    let rules = check_rules(rules, word, &at.field("rules"));
    let answers = check_answers(answers, cors, login, providers.as_deref(), at);
    let access_log = check_access_log(access_log.unwrap_or_default(), &at.field("access_log"));
    let crypto = check_crypto(crypto.as_deref(), &at.field("crypto"));
    let propagation =
        check_propagation(propagation.as_ref(), sharing.is_some(), &at.field("propagation"));
    let sharing = match sharing {
        Some(raw) => check_sharing(raw, &at.field("sharing"), env).map(Some),
        None => Some(None),
    };
    let limits = check_limits(limits.unwrap_or_default(), &at.field("limits"));
    check_signed_records(user.as_ref(), sharing.as_ref(), at);
    Some(Config {
        mode: mode?,
        providers: providers?,
        user: user?,
        txn_token: txn_token?,
        revocation: revocation?,
        context: context?,
        rules: rules?,
        answers: answers?,
        access_log: access_log?,
        crypto: crypto?,
        sharing: sharing?,
        propagation: propagation?,
        limits,
        // Told of a config that is complete.
        warnings: Vec::new(),
    })
}

/// What says where in the mesh a filter stands, and whose tokens count there.
struct RawPlace {
    service: Option<raw::Service>,
    boundary: Option<raw::Boundary>,
    providers: Option<BTreeMap<String, raw::Provider>>,
    destinations: Option<Vec<raw::Destination>>,
    service_tokens: Option<BTreeMap<String, raw::OwnToken>>,
    authz: Option<raw::Authz>,
}

fn check_place(
    word: Option<ModeWord>,
    raw: RawPlace,
    at: &At<'_>,
    env: Environment<'_>,
) -> (Option<Mode>, Option<Vec<Provider>>) {
    let RawPlace { service, boundary, providers, destinations, service_tokens, authz } = raw;
    let at_providers = at.field("providers");
    match word {
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
            check_user_tokens_only(providers.as_deref(), "gateway", &at_providers);
            (Some(Mode::Gateway), providers)
        }
        Some(ModeWord::Authz) => {
            let providers = check_providers(providers, &at_providers, env);
            check_user_tokens_only(providers.as_deref(), "authz", &at_providers);
            let authz = check_authz(authz.unwrap_or_default(), &at.field("authz"));
            (authz.map(|authz| Mode::Authz(Box::new(authz))), providers)
        }
        None => (None, check_providers(providers, &at_providers, env)),
    }
}

/// Records in Redis are signed, for which there must be a key. `sharing` is `None` where it is wrong itself.
fn check_signed_records(user: Option<&UserSource>, sharing: Option<&Option<Secret>>, at: &At<'_>) {
    let lookup = user.and_then(UserSource::lookup);
    if sharing == Some(&None) && lookup.is_some_and(|lookup| lookup.redis.is_some()) {
        at.field("user").field("lookup").field("redis").problem::<()>(
            "needs `sharing: {key: ...}`, the same in all proxies: records in Redis are signed with it",
        );
    }
}

fn refuse_fields_of_other_modes(mode: ModeWord, raw: &raw::Config, at: &At<'_>) {
    use ModeWord::{Authz, Egress, Gateway, Service};
    // Which modes have a use for a field. `txn_token` at a service's door has a remedy of its own.
    let fields: [(&str, bool, &[ModeWord]); 13] = [
        ("service", raw.service.is_some(), &[Service, Egress]),
        ("boundary", raw.boundary.is_some(), &[Service]),
        ("destinations", raw.destinations.is_some(), &[Egress]),
        ("service_tokens", raw.service_tokens.is_some(), &[Egress]),
        ("propagation", raw.propagation.is_some(), &[Service, Egress]),
        ("authz", raw.authz.is_some(), &[Authz]),
        ("txn_token", raw.txn_token.is_some(), &[Gateway, Service, Authz]),
        ("user", raw.user.is_some(), &[Gateway, Service, Authz]),
        ("revocation", raw.revocation.is_some(), &[Gateway, Service, Authz]),
        ("rules", raw.rules.is_some(), &[Gateway, Service, Authz]),
        // A proxy that asks would take the answer to a preflight for a yes, and knows itself where people are
        // who should sign in.
        ("cors", raw.cors.is_some(), &[Gateway, Service]),
        ("login", raw.login.is_some(), &[Gateway, Service]),
        ("crypto", raw.crypto.is_some(), &[Gateway, Service, Authz]),
    ];
    for (name, _, modes) in fields.into_iter().filter(|(_, there, _)| *there) {
        if !modes.contains(&mode) {
            let mode = mode.name();
            at.field(name).problem::<()>(format!("has no use with `mode: {mode}`, remove it"));
        }
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum ModeWord {
    Gateway,
    Service,
    Egress,
    Authz,
}

impl ModeWord {
    const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Service => "service",
            Self::Egress => "egress",
            Self::Authz => "authz",
        }
    }
}

fn check_mode(mode: Option<&str>, at: &At<'_>) -> Option<ModeWord> {
    match at.required(mode)? {
        "gateway" => Some(ModeWord::Gateway),
        "service" => Some(ModeWord::Service),
        "egress" => Some(ModeWord::Egress),
        "authz" => Some(ModeWord::Authz),
        other => at.problem(format!(
            "`{other}` is not a mode, write `gateway`, `service`, `egress` or `authz`"
        )),
    }
}

/// At the edge only users come in.
fn check_user_tokens_only(providers: Option<&[Provider]>, mode: &str, at: &At<'_>) {
    for provider in providers.into_iter().flatten() {
        if provider.kind != TokenKind::User {
            at.field(&provider.name).field("type").problem::<()>(format!(
                "`{}` has no use with `mode: {mode}`, where users come in",
                provider.kind.name()
            ));
        }
    }
}

fn check_access_log(raw: raw::AccessLog, at: &At<'_>) -> Option<Vec<Fact>> {
    let raw::AccessLog { facts } = raw;
    let Some(facts) = facts else {
        return Some(Fact::ALL.to_vec());
    };
    at.field("facts").each(facts, |word, at| {
        Fact::named(&word).map_or_else(
            || {
                at.problem(format!(
                    "`{word}` is no fact, write `decision`, `code`, `provider`, `subject`, `user_id` or `request_id`"
                ))
            },
            Some,
        )
    })
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
    let tokens =
        token_headers.iter().map(String::as_str).chain(["authorization", "cookie", REQUEST_ID]);
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
            headers.iter().any(|other| are_alike(other.name.as_str(), name.as_str()))
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
        REQUEST_ID,
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
