//! The whole filter around one vector: its config, and its answer where it runs in the core.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshgate::boundary::peer::Hop;
use meshgate::callout::StreamId;
use meshgate::config::Config;
use meshgate::headers::{Field, Stripped};
use meshgate::jwks::{KeySet, Origin};
use meshgate::signature::Crypto;
use meshgate::time::UnixTime;
use meshgate::worker::{Disposition, Worker};
use serde_json::{Value, json};

use crate::corpus::{Corpus, Vector};

/// Status and `code` of an answer; a request that goes on is 200 without a code.
pub type Answer = (u16, String);

/// The config that the vector is about. What its source does not assert is not asked for, and what
/// it uses is allowed.
pub fn config(corpus: &Corpus, vector: &Vector) -> Value {
    let keys = usable_keys(corpus.jwks(vector));
    let symmetric = keys.iter().any(|key| key["kty"] == "oct");
    let claims = claims(&vector.token);
    let issuer = vector.issuer().or(claims["iss"].as_str()).unwrap_or("https://nobody.example");
    let mut provider = json!({
        "issuer": issuer,
        "local_jwks": {"keys": keys},
        // Many of these tokens have no `exp`, for which they would be refused before their point.
        "require_expiration": claims.get("exp").is_some(),
    });
    match vector.audiences() {
        Some(audiences) => provider["audiences"] = json!(audiences),
        None => provider["allow_any_audience"] = json!(true),
    }
    if symmetric {
        provider["algorithms"] =
            json!(["HS256", "HS384", "HS512", "RS256", "PS256", "ES256", "ES512", "EdDSA"]);
    }
    json!({
        "mode": "gateway",
        "providers": {"issuer": provider},
        "user": {"source": "claims"},
        "context": {"headers": {"x-user-id": {"claim": "/sub"}}},
        "crypto": "module",
        // One of the good tokens is longer than the usual 8 KiB.
        "limits": {"max_token_bytes": 16384},
    })
}

/// A config with a key that cannot be used is refused, so it gets the others. Where there are none,
/// it gets one of which the token knows nothing.
fn usable_keys(jwks: &Value) -> Vec<Value> {
    let usable = |key: &&Value| {
        KeySet::parse(json!({"keys": [key]}).to_string().as_bytes(), Origin::Local).is_ok()
    };
    let keys: Vec<Value> =
        jwks["keys"].as_array().unwrap().iter().filter(usable).cloned().collect();
    if keys.is_empty() {
        // RFC 7517 appendix A.1.
        return vec![json!({
            "kty": "EC", "crv": "P-256", "kid": "of nobody",
            "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        })];
    }
    keys
}

/// The claims as a careless reader sees them.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap_or_default();
    let bytes = URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// The header that carries the token.
pub fn authorization(vector: &Vector) -> String {
    format!("Bearer {}", vector.token)
}

/// A checked config.
pub fn parsed(config: &Value) -> Config {
    Config::parse(config.to_string().as_bytes(), &|_| None)
        .unwrap_or_else(|error| panic!("{error}\n{config:#}"))
}

/// The core's answer.
pub fn answer(config: &Value, vector: &Vector, now: UnixTime) -> Answer {
    let config = parsed(config);
    let field =
        |name: &str, value: &str| Field { name: name.to_owned(), value: value.as_bytes().to_vec() };
    let fields = vec![
        field(":method", "GET"),
        field(":path", "/"),
        // White space around a value is not part of it: RFC 9110 section 5.5.
        field("authorization", authorization(vector).trim_ascii()),
    ];
    let (_, head) = Stripped::strip(fields, &config.context.managed);
    let mut worker = Worker::new(config, Crypto::Module, None, 1);
    match worker.on_request(StreamId(1), &head, &Hop::default(), now) {
        Disposition::Forward(..) => (200, String::new()),
        Disposition::Deny(denial) => (denial.code.status(), denial.code.name().to_owned()),
        Disposition::Answer(_) | Disposition::Allow(..) | Disposition::Pause => {
            panic!("{}: there is nothing to wait for, or to be served", vector.id)
        }
    }
}
