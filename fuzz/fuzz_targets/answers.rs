//! Answers of Redis, token endpoint, introspection and discovery, and what a hop says of others: the first byte says
//! whose the rest is.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use meshgate::boundary::peer::{SpiffeId, forwarded_id};
use meshgate::boundary::service_token;
use meshgate::jwks::discovery::jwks_uri;
use meshgate::redis;
use meshgate::token::introspection::{self, Said};
use meshgate::user::Known;
use meshgate::user::stored::Stored;
use meshgate_fuzz::naive;
use meshgate_fuzz::world::{NOW, WORLD, ok};
use serde_json::{Map, Value, json};

fn redis_reply(body: &[u8]) {
    let members = naive::object(body);
    let member = |name: &str| members.as_ref().and_then(|members| members.get(name));
    let answer = ok(body);
    let text = member("GET").and_then(Value::as_str).map(str::to_owned);
    assert_eq!(redis::value(&answer), text);
    let got = member("GET").is_some_and(|value| value.is_string() || value.is_null());
    assert_eq!(redis::is_got(&answer), got);
    assert_eq!(redis::is_set(&answer), member("SETEX").is_some_and(|done| done[0] == true));
    let items = member("MGET").and_then(Value::as_array);
    for count in 0..4 {
        let whole = items.filter(|items| {
            items.len() == count && items.iter().all(|item| item.is_null() || item.is_string())
        });
        let texts =
            whole.map(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        assert_eq!(redis::values(&answer, count), texts);
    }
}

fn token_endpoint(body: &[u8]) {
    WORLD.with(|world| {
        let limits = &world.config.limits;
        let held = service_token::read_answer(&ok(body), limits, NOW, NOW);
        let members = naive::object(body).unwrap_or_default();
        let text = |name: &str| members.get(name).and_then(Value::as_str).unwrap_or_default();
        let token = text("access_token");
        let life = members.get("expires_in").and_then(Value::as_u64).unwrap_or_default();
        let fits = text("token_type").eq_ignore_ascii_case("bearer")
            && (1..=limits.max_token_bytes).contains(&token.len())
            && token.bytes().all(|byte| (b'!'..=b'~').contains(&byte))
            && life > 5;
        assert_eq!(held.is_ok(), fits, "{held:?}");
        if let Ok(held) = held {
            // Never to its very end, nor longer than a day.
            let end = NOW.after(Duration::from_secs(life.min(86_400)));
            assert!(held.is_usable(NOW) && !held.is_usable(end) && held.is_due(end));
            assert!(token.len() < 12 || !format!("{held:?}").contains(token), "it prints");
        }
    });
}

fn introspection_answer(body: &[u8]) {
    let members = naive::object(body);
    let active = members.as_ref().and_then(|members| members.get("active")?.as_bool());
    match introspection::read_answer(&ok(body)) {
        Ok(Said::Active(claims)) => {
            assert_eq!(active, Some(true));
            assert_eq!(Some(claims.members()), members.as_ref());
        }
        Ok(Said::Inactive) => assert_eq!(active, Some(false)),
        Err(_) => assert!(
            active != Some(false)
                && (active.is_none() || members.is_some_and(|all| has_odd_claim(&all)))
        ),
    }
}

/// Whether a registered claim has another type than its own (RFC 7519 section 4.1).
fn has_odd_claim(claims: &Map<String, Value>) -> bool {
    let is_odd = |(name, value): (&String, &Value)| match name.as_str() {
        "iss" | "sub" | "jti" => !value.is_string(),
        "exp" | "nbf" | "iat" => !value.is_number(),
        "aud" => {
            !value.is_string()
                && !value.as_array().is_some_and(|all| all.iter().all(Value::is_string))
        }
        _ => false,
    };
    claims.iter().any(is_odd)
}

fn metadata(body: &[u8]) {
    let Ok(found) = jwks_uri(body, "https://idp.example") else { return };
    let members =
        naive::object(body).unwrap_or_else(|| panic!("a place of keys from what is no metadata"));
    assert_eq!(members.get("issuer"), Some(&json!("https://idp.example")));
    let uri = members.get("jwks_uri").and_then(Value::as_str).unwrap_or_default();
    let (scheme, rest) = uri.split_once("://").unwrap_or_default();
    assert!(found.scheme == scheme && matches!(scheme, "https" | "http"), "{uri}");
    assert!(rest.starts_with(found.authority.as_str()), "{uri}");
    let call = format!("{}{}", found.authority.as_str(), found.path);
    assert!(call.bytes().all(|byte| (b'!'..=b'~').contains(&byte)), "{uri}");
    assert!(found.path.starts_with('/') && !found.authority.as_str().contains(['/', '@']), "{uri}");
}

fn stored(bytes: &[u8]) {
    let Some(stored) = Stored::from_bytes(bytes) else { return };
    let members = naive::object(bytes).unwrap_or_else(|| panic!("a record of what is none"));
    assert_eq!(members.get("fetched").and_then(Value::as_u64), Some(stored.fetched.as_millis()));
    match &stored.known {
        Known::Record(record) => {
            assert_eq!(members.get("record"), Some(&Value::from(record.members().clone())));
        }
        Known::Unknown => assert_eq!(members.get("record"), Some(&Value::Null)),
    }
    assert_eq!(Stored::from_bytes(&stored.to_bytes()), Some(stored));
}

fn forwarded(header: &[u8]) {
    let direct: SpiffeId = "spiffe://a/proxy".parse().unwrap_or_else(|_| panic!("an ID"));
    let Some(id) = forwarded_id(header, &direct) else { return };
    let (text, written) = (String::from_utf8_lossy(header), id.to_string());
    assert!(
        text.contains(&written) && written.parse::<SpiffeId>() == Ok(id.clone()),
        "{text}: {id}"
    );
    // What stands further ahead was there before, and anybody could have written it.
    let later = [header, b",URI=spiffe://a/proxy"].concat();
    if id != direct {
        assert_eq!(
            forwarded_id(&[b"URI=spiffe://evil/x,", header].concat(), &direct),
            Some(id.clone()),
            "{text}"
        );
        assert!(forwarded_id(&later, &direct).is_some(), "{text}");
    }
}

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((b'r', body)) => redis_reply(body),
        Some((b'c', body)) => token_endpoint(body),
        Some((b'i', body)) => introspection_answer(body),
        Some((b'd', body)) => metadata(body),
        Some((b's', body)) => stored(body),
        Some((b'f', body)) => forwarded(body),
        Some(_) | None => {}
    }
});
