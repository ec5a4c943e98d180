//! The revocation feed's answer: all of it is understood or none, and it revokes what a slow reading of it revokes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshgate::revocation::Terms;
use meshgate::revocation::feed::Feed;
use meshgate::token::VerifiedToken;
use meshgate_fuzz::flow::{self, START};
use meshgate_fuzz::naive;
use meshgate_fuzz::world::{NOW, WORLD, World, ok};
use serde_json::{Map, Value, json};

const TEXTS: [&str; 6] = ["iss", "jti", "sid", "sub", "kid", "reason"];
/// By how much the issuer's clock may differ.
const SKEW: f64 = 30.0;

/// An answer's entries, where all of it is as documented.
fn entries(body: &[u8]) -> Option<Vec<Map<String, Value>>> {
    let document = naive::object(body)?;
    let next = document.get("next").unwrap_or(&Value::Null);
    let next_fits = next.is_null()
        || next
            .as_str()
            .is_some_and(|next| next.len() <= 1024 && naive::is_header_value(next.as_bytes()));
    let known = document.keys().all(|name| ["v", "entries", "next"].contains(&name.as_str()));
    if document.get("v")?.as_u64() != Some(1) || !known || !next_fits {
        return None;
    }
    let entries = document.get("entries")?.as_array()?;
    entries.iter().map(|entry| entry.as_object().filter(|entry| is_entry(entry)).cloned()).collect()
}

fn is_entry(entry: &Map<String, Value>) -> bool {
    let is_typed = |(name, value): (&String, &Value)| match name.as_str() {
        name if TEXTS.contains(&name) => value.is_string() || value.is_null(),
        "iat_before" | "exp" => value.is_number() || value.is_null(),
        "match" => {
            value.as_object().is_some_and(|all| all.keys().all(|pointer| is_pointer(pointer)))
        }
        _ => false,
    };
    let says = |(name, value): (&String, &Value)| {
        !["exp", "reason"].contains(&name.as_str()) && !value.is_null() && *value != json!({})
    };
    entry.iter().all(is_typed) && entry.iter().any(says)
}

/// RFC 6901 section 3, without the pointer to all of a document, which would mean one token.
fn is_pointer(text: &str) -> bool {
    let is_escape = |rest: &str| rest.starts_with('0') || rest.starts_with('1');
    text.starts_with('/') && text.split('~').skip(1).all(is_escape)
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn is_live(entry: &Map<String, Value>) -> bool {
    number(entry, "exp").is_none_or(|exp| (START as f64) < exp.max(0.0) + SKEW)
}

fn number(entry: &Map<String, Value>, name: &str) -> Option<f64> {
    entry.get(name).and_then(Value::as_f64)
}

/// Whether an entry means the token with these claims.
fn means(entry: &Map<String, Value>, claims: &Map<String, Value>) -> bool {
    let document = Value::from(claims.clone());
    let same = |one: &Value, other: &Value| {
        one == other || (one.is_number() && other.is_number() && one.as_f64() == other.as_f64())
    };
    entry.iter().filter(|(_, value)| !value.is_null()).all(|(name, value)| match name.as_str() {
        "kid" => value == "k1",
        "iat_before" => claims["iat"].as_f64() < value.as_f64(),
        "match" => value.as_object().is_some_and(|all| {
            all.iter().all(|(pointer, value)| {
                document.pointer(pointer).is_some_and(|found| same(found, value))
            })
        }),
        "exp" | "reason" => true,
        name => claims.get(name) == Some(value),
    })
}

thread_local! {
    static TOKEN: VerifiedToken = WORLD.with(token);
}

fn token(world: &World) -> VerifiedToken {
    let mut claims = flow::claims();
    for (name, value) in
        [("jti", json!("t-1")), ("sid", json!("s-1")), ("act", json!({"sub": ["a", 1]}))]
    {
        claims[name] = value;
    }
    let text = world.key.token(&claims);
    world.verify(text.as_bytes()).unwrap_or_else(|error| panic!("{error:?}"))
}

fuzz_target!(|body: &[u8]| {
    WORLD.with(|world| {
        let config = &world.config;
        let Some(feed_config) = &config.revocation.feed else { return };
        let terms = Terms::of(config);
        let mut feed = Feed::default();
        let taken = feed.answered(feed_config, terms, &ok(body), NOW).is_ok();
        assert!(feed.len() <= config.limits.max_revocations);
        assert_eq!(taken, feed.list().is_some());
        let reference = entries(body);
        let live: Option<Vec<_>> = reference.map(|all| all.into_iter().filter(is_live).collect());
        let fits = live.as_ref().is_some_and(|live| live.len() <= config.limits.max_revocations);
        assert_eq!(taken, fits, "{live:?}");
        let (Some(list), Some(live)) = (feed.list(), live) else { return };
        assert_eq!(list.len(), live.len());
        TOKEN.with(|token| {
            let revoked = live.iter().any(|entry| means(entry, token.claims().members()));
            assert_eq!(list.cover(token, NOW), revoked, "{live:?}");
            // Another worker that is told of the list refuses the same.
            let pulse =
                feed.pulse(NOW).and_then(|pulse| meshgate::revocation::feed::Pulse::read(&pulse));
            let (Some(state), Some(pulse)) = (feed.state(), pulse) else {
                panic!("nothing to tell")
            };
            let mut other = Feed::default();
            let told = other.take_over(feed_config, terms, &state, pulse, NOW, NOW);
            assert_eq!(told, Ok(()));
            let other = other.list().map(|list| (list.len(), list.cover(token, NOW)));
            assert_eq!(other, Some((live.len(), revoked)), "another worker's list");
        });
    });
});
