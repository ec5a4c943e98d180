//! How a gateway signs the context.

use serde_json::{Value, json};

use super::super::read::At;
use super::super::{Environment, TxnTokens, raw};
use super::rules::plain_path;
use crate::boundary::txn_token::{Issuer, Published};
use crate::json;
use crate::jwks::{KeySet, Origin};
use crate::signature::signing::SigningKey;

/// Checks `txn_token`.
pub(super) fn check_txn_token(
    raw: raw::TxnToken,
    at: &At<'_>,
    env: Environment<'_>,
) -> Option<TxnTokens> {
    let raw::TxnToken { issue, also_publish, jwks_path } = raw;
    let at_issue = at.field("issue");
    let issuer = at_issue.required(issue).and_then(|raw| check_issue(raw, &at_issue, env));
    let path = match jwks_path {
        Some(path) => plain_path(path, &at.field("jwks_path")).map(Some),
        None => Some(None),
    };
    let others = also_publish.unwrap_or_default();
    if matches!(path, Some(None)) && !others.is_empty() {
        at.field("also_publish").problem::<()>("needs a `jwks_path` where it is published");
    }
    let others = at.field("also_publish").each(others, check_public_jwk);
    let (issuer, others) = (issuer?, others?);

    let mut names: Vec<&str> = vec![&issuer.kid];
    for (kid, _) in &others {
        if names.contains(&kid.as_str()) {
            return at.field("also_publish").problem(format!("two keys are named `{kid}`"));
        }
        names.push(kid);
    }
    let own = issuer.key.public_jwk(&issuer.kid);
    let keys: Vec<Value> =
        std::iter::once(own).chain(others.into_iter().map(|(_, jwk)| jwk)).collect();
    let document = json!({ "keys": keys }).to_string();
    Some(TxnTokens { issuer, published: path?.map(|path| Published { path, document }) })
}

fn check_issue(raw: raw::TxnIssue, at: &At<'_>, env: Environment<'_>) -> Option<Issuer> {
    let raw::TxnIssue { issuer, audience, ttl, reuse, key, kid, alg } = raw;
    let issuer = at.field("issuer").required_text(issuer);
    let audience = at.field("audience").required_text(audience);
    let ttl = at.field("ttl").duration(ttl.as_deref(), "60s", "2s", "1h");
    let at_reuse = at.field("reuse");
    let reuse = at_reuse.duration(reuse.as_deref(), "5s", "0s", "30m");
    if let (Some(ttl), Some(reuse)) = (ttl, reuse)
        && reuse > ttl / 2
    {
        at_reuse.problem::<()>(
            "must be at most half of `ttl`, so that a token lives on when it is used",
        );
    }
    let kid = at.field("kid").required_text(kid);
    let key = check_key(key, kid.as_deref(), alg.as_deref(), at, env);
    Some(Issuer {
        issuer: issuer?,
        audience: audience?,
        ttl: ttl?,
        reuse: reuse?,
        kid: kid?,
        key: key?.0,
    })
}

/// The `key` of what signs: a private JWK, and the name that it has or is given. Nothing of it is ever
/// quoted.
pub(super) fn check_key(
    text: Option<String>,
    kid: Option<&str>,
    alg: Option<&str>,
    at: &At<'_>,
    env: Environment<'_>,
) -> Option<(SigningKey, Option<String>)> {
    let at_key = at.field("key");
    let text = at_key.expanded(&at_key.required_text(text)?, env)?;
    let Ok(jwk) = json::parse_object(text.as_bytes()) else {
        return at_key.problem("is not a JWK (RFC 7517) as JSON text");
    };
    if kid.is_some_and(|kid| jwk.get("kid").is_some_and(|own| own != kid)) {
        return at_key.problem("has another `kid`");
    }
    let key = match SigningKey::from_jwk(&jwk) {
        Ok(key) => key,
        Err(error) => return at_key.problem(error.to_string()),
    };
    let own = key.algorithm();
    match alg {
        None => {}
        Some(alg) if alg == own.name() => {}
        Some("EdDSA" | "ES256") => {
            return at.field("alg").problem(format!("the key signs `{own}`"));
        }
        Some(other) => {
            return at.field("alg").problem(format!("`{other}` is not one of `EdDSA` and `ES256`"));
        }
    }
    let name = kid.or(jwk.get("kid").and_then(Value::as_str)).map(str::to_owned);
    Some((key, name))
}

/// A key that is published beside the one that signs, and its name.
fn check_public_jwk(jwk: Value, at: &At<'_>) -> Option<(String, Value)> {
    /// The members of private and symmetric keys (RFC 7518 sections 6.2.2, 6.3.2 and 6.4, and
    /// draft-ietf-cose-dilithium).
    const PRIVATE: [&str; 9] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];
    let Some(members) = jwk.as_object() else {
        return at.problem("is not a JWK, write `{kty: ..., kid: ..., ...}`");
    };
    if PRIVATE.iter().any(|name| members.contains_key(*name)) {
        return at
            .problem("has a private part, give the public key alone: it is served to everybody");
    }
    let set = json!({ "keys": [jwk] }).to_string();
    if KeySet::parse(set.as_bytes(), Origin::Remote).is_err() {
        return at.problem("is not a public key that can be used (RFC 7517)");
    }
    let kid = members.get("kid").and_then(Value::as_str).map(str::to_owned);
    Some((at.field("kid").required_text(kid)?, jwk))
}
