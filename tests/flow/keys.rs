//! The life of a provider's keys: fetched, waited for, refreshed, missed.

use std::time::Duration;

use meshgate::callout::Failure;
use meshgate::denial::Code;
use meshgate::worker::Disposition;
use serde_json::json;

use crate::support::{Flow, Key, claims, config, denied, jwks, only, record, served};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Whether a token of `key` gets past verification: it is then held for its user.
fn verifies(flow: &mut Flow, key: &Key) -> bool {
    let token = key.token(&claims());
    let (stream, disposition) = flow.get("/x", &token);
    let verified = disposition == Disposition::Pause;
    flow.worker.on_gone(stream);
    verified
}

#[test]
fn the_first_keys_are_fetched_at_the_first_tick_with_the_configured_call() {
    let mut flow = Flow::new();
    flow.tick();
    let call = flow.call();
    assert_eq!(call.request.cluster, "clerk");
    assert_eq!(call.request.timeout, 2 * SECOND);
    for (name, value) in [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "clerk.example"),
        (":path", "/jwks"),
    ] {
        assert!(call.request.headers.iter().any(|(n, v)| n == name && v == value), "{name}");
    }
    flow.tick();
    flow.no_call();
}

#[test]
fn requests_before_the_first_keys_wait_for_them_and_go_on() {
    let mut flow = Flow::new();
    let token = flow.token();
    let (first, disposition) = flow.get("/x", &token);
    assert_eq!(disposition, Disposition::Pause);
    let (second, disposition) = flow.get("/x", &token);
    assert_eq!(disposition, Disposition::Pause);
    let keys = flow.call();
    let released = flow.answer(keys.id, 200, &jwks(&[&flow.key]));
    assert!(released.is_empty(), "both now wait for their user");
    let lookup = flow.call();
    let released = flow.answer(lookup.id, 200, record().to_string().as_bytes());
    assert_eq!(served(released), [first, second]);
}

#[test]
fn a_token_that_cannot_be_good_never_waits_for_keys() {
    let mut flow = Flow::new();
    for token in ["garbage", &flow.key.token(&json!({"iss": "unknown"}))] {
        let (_, disposition) = flow.get("/x", token);
        denied(&disposition);
    }
    flow.no_call();
}

#[test]
fn keys_that_cannot_be_had_are_503_and_fetched_again_later() {
    let mut flow = Flow::new();
    let token = flow.token();
    for (round, failure) in
        [Failure::UnknownCluster, Failure::NotSent, Failure::Broken, Failure::TooLong]
            .into_iter()
            .enumerate()
    {
        let (stream, disposition) = flow.get("/x", &token);
        assert_eq!(disposition, Disposition::Pause, "round {round}");
        let call = flow.call();
        let released = flow.fail_for_good(call.id, failure);
        assert_eq!(denied(&only(released, stream)), Code::KeysUnavailable);
        // Until the next attempt is due, nobody waits and nothing is fetched.
        let (_, disposition) = flow.get("/x", &token);
        assert_eq!(denied(&disposition), Code::KeysUnavailable);
        flow.tick();
        flow.no_call();
        flow.advance(30 * SECOND);
    }
    let mut flow = flow.with_keys();
    let key = Key::new("k1");
    assert!(verifies(&mut flow, &key));
}

#[test]
fn an_answer_that_is_no_jwks_is_as_good_as_none() {
    for (status, body) in [
        (200, &b"garbage"[..]),
        (200, b"\xff\xfe"),
        (200, b"[]"),
        (200, b"{}"),
        (200, br#"{"keys":{}}"#),
        (200, br#"{"keys":[]}"#),
        (200, br#"{"keys":[1,null,{}, {"kty":"oct","k":"AAAA"}]}"#),
        (500, b""),
        (404, br#"{"keys":[]}"#),
        (302, b""),
    ] {
        let mut flow = Flow::new();
        let token = flow.token();
        let (stream, _) = flow.get("/x", &token);
        let call = flow.call();
        let released = flow.answer(call.id, status, body);
        assert_eq!(denied(&only(released, stream)), Code::KeysUnavailable);
    }
}

#[test]
fn keys_are_refreshed_before_they_end_and_used_meanwhile() {
    let mut flow = Flow::ready();
    let old = Key::new("k1");
    let new = Key::new("k2");
    flow.advance(539 * SECOND);
    flow.tick();
    flow.no_call();
    flow.advance(SECOND);
    flow.tick();
    let call = flow.call();
    assert!(verifies(&mut flow, &old), "while the fetch is under way");
    flow.worker.next_call();
    flow.answer(call.id, 200, &jwks(&[&new]));
    assert!(verifies(&mut flow, &new));
    let token = old.token(&claims());
    let (_, disposition) = flow.get("/x", &token);
    assert_eq!(denied(&disposition), Code::KeyUnknown, "a key that left works no more");
}

#[test]
fn keys_outlive_an_outage_until_max_stale_and_no_longer() {
    let mut config = config();
    config["providers"]["clerk"]["remote_jwks"]["max_stale"] = json!("1h");
    let mut flow = Flow::with(&config).with_keys();
    let key = Key::new("k1");
    let token = {
        let mut claims = claims();
        claims["exp"] = json!(4_000_000_000_u64);
        key.token(&claims)
    };
    let mut fetches = 0;
    for minute in 0..70 {
        let (stream, disposition) = flow.get("/x", &token);
        assert_eq!(disposition, Disposition::Pause, "minute {minute}");
        let lookup = flow.call();
        denied(&only(flow.answer(lookup.id, 500, b""), stream));
        flow.advance(MINUTE);
        flow.tick();
        while let Some(call) = flow.worker.next_call() {
            fetches += 1;
            flow.fail(call.id, Failure::TooLong);
        }
    }
    assert!((55..=70).contains(&fetches), "{fetches} attempts");
    let (_, disposition) = flow.get("/x", &token);
    assert_eq!(denied(&disposition), Code::KeysUnavailable);
}

#[test]
fn an_unknown_kid_fetches_once_in_the_cooldown_and_waits_for_it() {
    let mut flow = Flow::ready();
    let new = Key::new("k2");
    let token = new.token(&claims());
    // The keys have just been fetched, so this kid is unknown for now.
    let (_, disposition) = flow.get("/x", &token);
    assert_eq!(denied(&disposition), Code::KeyUnknown);
    flow.no_call();
    flow.advance(10 * SECOND);
    let (first, disposition) = flow.get("/x", &token);
    assert_eq!(disposition, Disposition::Pause);
    let (second, disposition) = flow.get("/x", &Key::new("k3").token(&claims()));
    assert_eq!(disposition, Disposition::Pause);
    let call = flow.call();
    let mut released = flow.answer(call.id, 200, &jwks(&[&flow.key, &new]));
    assert_eq!(denied(&only(released.split_off(0), second)), Code::KeyUnknown);
    assert!(flow.worker.is_waiting(first), "verified, it waits for its user");
    flow.worker.next_call();
    let (_, disposition) = flow.get("/x", &Key::new("k4").token(&claims()));
    assert_eq!(denied(&disposition), Code::KeyUnknown);
    flow.no_call();
}

#[test]
fn an_unknown_kid_during_an_outage_is_503_and_does_not_hammer_the_issuer() {
    let mut flow = Flow::ready();
    flow.advance(10 * SECOND);
    let token = Key::new("k2").token(&claims());
    let (stream, disposition) = flow.get("/x", &token);
    assert_eq!(disposition, Disposition::Pause);
    let call = flow.call();
    let released = flow.fail_for_good(call.id, Failure::Broken);
    assert_eq!(denied(&only(released, stream)), Code::KeysUnavailable);
    let (_, disposition) = flow.get("/x", &token);
    assert_eq!(denied(&disposition), Code::KeyUnknown);
    flow.no_call();
    let key = Key::new("k1");
    assert!(verifies(&mut flow, &key), "the keys held still work");
}

#[test]
fn a_key_fetch_that_never_ends_is_given_up_and_its_late_answer_ignored() {
    let mut flow = Flow::new();
    let token = flow.token();
    let (stream, _) = flow.get("/x", &token);
    let call = flow.call();
    flow.advance(Duration::from_millis(2_249));
    assert!(flow.tick().is_empty());
    flow.advance(Duration::from_millis(1));
    let released = flow.tick();
    assert_eq!(denied(&only(released, stream)), Code::KeysUnavailable);
    let late = flow.answer(call.id, 200, &jwks(&[&flow.key]));
    assert!(late.is_empty());
}

#[test]
fn a_key_without_a_name_does_not_hide_a_new_one() {
    let unnamed = |name: &'static str| {
        let mut jwk = Key::new(name).jwk();
        jwk.as_object_mut().unwrap().remove("kid");
        json!({"keys": [jwk]}).to_string().into_bytes()
    };
    let nameless = |name: &'static str| {
        Key::new(name).sign(br#"{"alg":"ES256"}"#, claims().to_string().as_bytes())
    };
    for token in [Key::new("k2").token(&claims()), nameless("k2")] {
        let mut flow = Flow::new();
        flow.tick();
        let call = flow.call();
        flow.answer(call.id, 200, &unnamed("k1"));
        // What the key at hand signed causes no fetch, with or without a name.
        flow.advance(10 * SECOND);
        for good in [Key::new("k1").token(&claims()), nameless("k1")] {
            let (stream, disposition) = flow.get("/x", &good);
            assert_eq!(disposition, Disposition::Pause);
            assert_eq!(flow.call().request.cluster, "users");
            flow.worker.on_gone(stream);
            flow.advance(SECOND);
            flow.tick();
        }
        let (stream, disposition) = flow.get("/x", &token);
        assert_eq!(disposition, Disposition::Pause);
        let call = flow.call();
        assert_eq!(call.request.cluster, "clerk");
        flow.answer(call.id, 200, &unnamed("k2"));
        assert!(flow.worker.is_waiting(stream), "verified, it waits for its user");
        let (_, disposition) = flow.get("/x", &nameless("k3"));
        assert_eq!(denied(&disposition), Code::SignatureInvalid, "not again in the cooldown");
    }
}
