//! Several workers of one process: one asks, all know.

use std::time::Duration;

use meshgate::callout::{Dispatch, Failure};
use meshgate::denial::Code;
use meshgate::time::UnixTime;
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{Flow, Key, START, SharedData, claims, config, denied, jwks, only, workers};

const SECOND: Duration = Duration::from_secs(1);

/// Ticks every worker; the number of the one that makes a call, and the call.
fn one_call(flows: &mut [Flow]) -> (usize, Dispatch) {
    let mut calls = Vec::new();
    for (number, flow) in flows.iter_mut().enumerate() {
        assert!(flow.tick().is_empty());
        while let Some(call) = flow.worker.next_call() {
            calls.push((number, call));
        }
    }
    assert_eq!(calls.len(), 1, "{calls:?}");
    calls.remove(0)
}

#[test]
fn one_start_makes_one_fetch_and_one_rotation_one_more() {
    let data = SharedData::default();
    let mut flows = workers(&config(), 5, &data);
    let (leader, call) = one_call(&mut flows);
    // Requests wait in every worker, whoever fetches.
    let token = flows[0].token();
    let waiting: Vec<_> = flows.iter_mut().map(|flow| flow.get("/x", &token).0).collect();
    for flow in &mut flows {
        flow.no_call();
    }
    let first = jwks(&[&Key::new("k1")]);
    assert!(flows[leader].answer(call.id, 200, &first).is_empty());
    assert!(flows[leader].worker.take_wake_others());
    for (number, flow) in flows.iter_mut().enumerate() {
        if number != leader {
            assert!(flow.worker.on_wake(flow.now).is_empty());
            assert!(!flow.worker.take_wake_others());
        }
        assert!(flow.worker.is_waiting(waiting[number]), "verified, it waits for its user");
        while let Some(call) = flow.worker.next_call() {
            assert_eq!(call.request.cluster, "users");
        }
    }
    // A new key is first seen by one worker, which fetches; the others have it without.
    for flow in &mut flows {
        flow.advance(11 * SECOND);
    }
    let new = Key::new("k2").token(&claims());
    assert_eq!(flows[3].get("/x", &new).1, Disposition::Pause);
    let call = flows[3].call();
    assert_eq!(flows[4].get("/x", &new).1, Disposition::Pause);
    flows[4].no_call();
    flows[3].answer(call.id, 200, &jwks(&[&Key::new("k2")]));
    for flow in &mut flows {
        let _ = flow.worker.on_wake(flow.now);
        let (_, disposition) = flow.get("/x", &new);
        assert_eq!(disposition, Disposition::Pause, "it waits for its user, not for keys");
        while let Some(call) = flow.worker.next_call() {
            assert_eq!(call.request.cluster, "users");
        }
        let old = Key::new("k1").token(&claims());
        assert_eq!(denied(&flow.get("/x", &old).1), Code::KeyUnknown);
    }
}

#[test]
fn a_worker_that_dies_is_replaced_when_its_turn_ends() {
    let data = SharedData::default();
    let mut flows = workers(&config(), 2, &data);
    let (leader, _) = one_call(&mut flows);
    let other = 1 - leader;
    let token = flows[other].token();
    let (stream, disposition) = flows[other].get("/x", &token);
    assert_eq!(disposition, Disposition::Pause);
    flows[other].advance(3 * SECOND);
    let now = flows[other].now;
    let released = flows[other].worker.on_tick(now);
    assert!(released.is_empty(), "it goes on waiting");
    let call = flows[other].call();
    let keys = jwks(&[&Key::new("k1")]);
    flows[other].answer(call.id, 200, &keys);
    assert!(flows[other].worker.is_waiting(stream), "verified, it waits for its user");
    assert_eq!(flows[other].call().request.cluster, "users");
}

/// The board keeps what was posted for good, and a worker may start when nobody has fetched for long.
#[test]
fn keys_on_the_board_that_are_past_their_life_are_fetched_and_refuse_nobody() {
    let data = SharedData::default();
    let mut config = config();
    config["providers"]["clerk"]["remote_jwks"]["max_stale"] = json!("1h");
    let mut flows = workers(&config, 2, &data);
    let mut late = flows.pop().unwrap();
    let mut early = flows.pop().unwrap();
    assert!(early.tick().is_empty());
    let call = early.call();
    early.answer(call.id, 200, &jwks(&[&Key::new("k1")]));
    late.advance(2 * 3600 * SECOND);
    let token = late.key.token(&with_times(late.now));
    let (stream, disposition) = late.get("/x", &token);
    assert_eq!(disposition, Disposition::Pause, "it waits for keys");
    let call = late.call();
    assert_eq!(call.request.cluster, "clerk");
    late.answer(call.id, 200, &jwks(&[&Key::new("k1")]));
    assert!(late.worker.is_waiting(stream), "verified, it waits for its user");
    assert_eq!(late.call().request.cluster, "users");
}

/// The seed's claims, issued at this time.
fn with_times(now: UnixTime) -> Value {
    let mut claims = claims();
    let now = now.as_millis() / 1000;
    claims["iat"] = json!(now);
    claims["exp"] = json!(now + 600);
    claims
}

#[test]
fn a_failed_fetch_is_everybodys_and_is_not_repeated_by_each() {
    let data = SharedData::default();
    let mut flows = workers(&config(), 3, &data);
    let (leader, call) = one_call(&mut flows);
    let token = flows[0].token();
    let waiting: Vec<_> = flows.iter_mut().map(|flow| flow.get("/x", &token).0).collect();
    let mut released = flows[leader].fail_for_good(call.id, Failure::Broken);
    for (number, flow) in flows.iter_mut().enumerate() {
        if number != leader {
            released = flow.worker.on_wake(flow.now);
        }
        assert_eq!(
            denied(&only(std::mem::take(&mut released), waiting[number])),
            Code::KeysUnavailable
        );
        flow.no_call();
    }
}

/// A worker whose turn is over without its noticing, and its call; and one that has asked after it, and that call.
fn overtaken() -> [(Flow, Dispatch); 2] {
    let mut flows = workers(&config(), 2, &SharedData::default());
    let (leader, first) = one_call(&mut flows);
    let slow = flows.remove(leader);
    let mut both = [slow, flows.remove(0)];
    for flow in &mut both {
        flow.advance(10 * SECOND);
    }
    let [slow, mut quick] = both;
    quick.tick();
    let second = quick.call();
    [(slow, first), (quick, second)]
}

/// Its failure hides no keys from it, and it refuses nobody by them.
#[test]
fn a_worker_that_was_overtaken_goes_on_with_what_the_other_was_told() {
    let [(mut slow, first), (mut quick, second)] = overtaken();
    let token = slow.token();
    let (waiting, _) = slow.get("/x", &token);
    let keys = jwks(&[&quick.key]);
    quick.answer(second.id, 200, &keys);
    assert!(slow.answer(first.id, 403, b"").is_empty(), "verified, it waits for its user");
    assert!(slow.worker.is_waiting(waiting));
    // Nor is the other told that asking has failed.
    assert!(quick.wake().is_empty());
    let rotated = Key::new("k2").token(&claims());
    assert_eq!(denied(&quick.get("/x", &rotated).1), Code::KeyUnknown);
}

#[test]
fn what_is_told_in_the_millisecond_of_a_failure_is_heard_by_who_failed() {
    let [(mut slow, first), (mut quick, second)] = overtaken();
    assert!(slow.answer(first.id, 403, b"").is_empty());
    let keys = jwks(&[&quick.key]);
    quick.answer(second.id, 200, &keys);
    slow.wake();
    let token = slow.token();
    assert_eq!(slow.get("/x", &token).1, Disposition::Pause, "verified, it waits for its user");
    assert_eq!(slow.call().request.cluster, "users");
}

/// All that was seen before stood under times that are yet to come.
#[test]
fn keys_are_heard_of_after_the_clock_was_set_back_and_the_slots_were_written_over() {
    let data = SharedData::default();
    let mut flows = workers(&config(), 2, &data);
    let (leader, call) = one_call(&mut flows);
    let keys = jwks(&[&Key::new("k1")]);
    flows[leader].answer(call.id, 200, &keys);
    for flow in &mut flows {
        let _ = flow.wake();
        flow.now = UnixTime::from_secs(START - 3_600);
    }
    let (leader, call) = one_call(&mut flows);
    data.fill(b"another plugin's");
    let keys = jwks(&[&Key::new("k2")]);
    flows[leader].answer(call.id, 200, &keys);
    let removed = Key::new("k1").token(&with_times(flows[0].now));
    for flow in &mut flows {
        let _ = flow.wake();
        assert_eq!(denied(&flow.get("/x", &removed).1), Code::KeyUnknown);
    }
}

#[test]
fn without_sharing_or_with_garbage_in_the_slots_each_fetches_for_itself() {
    let data = SharedData::default();
    let fill = |bytes: &[u8]| data.fill(bytes);
    let mut flows = workers(&config(), 2, &data);
    for flow in &mut flows {
        flow.tick();
        fill(b"another plugin's");
        let call = flow.call();
        let keys = jwks(&[&flow.key]);
        flow.answer(call.id, 200, &keys);
        fill(b"another plugin's");
        let token = flow.token();
        assert_eq!(flow.get("/x", &token).1, Disposition::Pause);
    }
    let forged = json!({"keys": [Key::new("evil").jwk()]}).to_string().into_bytes();
    fill(&forged);
    for flow in &mut flows {
        assert!(flow.worker.on_wake(flow.now).is_empty());
        let evil = Key::new("evil").token(&claims());
        assert_eq!(denied(&flow.get("/x", &evil).1), Code::KeyUnknown);
    }
}

#[test]
fn a_failed_fetch_takes_no_keys_from_a_worker_that_starts_later() {
    let data = SharedData::default();
    let mut flows = workers(&config(), 2, &data);
    let (leader, call) = one_call(&mut flows);
    let keys = jwks(&[&Key::new("k1")]);
    flows[leader].answer(call.id, 200, &keys);
    for flow in &mut flows {
        let _ = flow.worker.on_wake(flow.now);
        flow.advance(540 * SECOND);
    }
    let (leader, call) = one_call(&mut flows);
    flows[leader].fail_for_good(call.id, Failure::TooLong);
    let now = flows[leader].now;
    let mut late = workers(&config(), 3, &data).remove(2);
    late.now = now;
    assert!(late.tick().is_empty());
    let token = late.token();
    let _ = late.worker.on_wake(late.now);
    assert_eq!(late.get("/x", &token).1, Disposition::Pause, "verified, it waits for its user");
    assert_eq!(late.worker.next_call().unwrap().request.cluster, "users");
}
