//! A clock that is set back: nothing lives longer for it, and nobody waits longer.

use std::time::Duration;

use meshgate::denial::Code;
use meshgate::time::UnixTime;
use meshgate::worker::Disposition;
use serde_json::json;

use crate::support::{Flow, Key, START, claims, denied, forwarded, jwks, only, record};

const HOUR: Duration = Duration::from_secs(3_600);

/// A worker that has its keys and knows the user, by a clock that was then set back by an hour.
fn set_back() -> Flow {
    let mut flow = Flow::ready();
    let token = flow.token();
    forwarded(flow.whole("/x", &token, &record()));
    flow.now = flow.now.before(HOUR);
    flow
}

/// A token that is good by either clock.
fn token(key: &Key) -> String {
    let mut claims = claims();
    claims["iat"] = json!(START - 7_200);
    key.token(&claims)
}

#[test]
fn keys_are_fetched_again_at_once_and_used_meanwhile() {
    let mut flow = set_back();
    flow.tick();
    let call = flow.call();
    assert_eq!(call.request.cluster, "clerk");
    let good = token(&flow.key);
    assert_eq!(flow.get("/x", &good).1, Disposition::Pause, "verified, it waits for its user");
    flow.worker.next_call();
    flow.answer(call.id, 200, &jwks(&[&Key::new("k2")]));
    assert_eq!(denied(&flow.get("/x", &good).1), Code::KeyUnknown);
}

#[test]
fn an_unknown_kid_is_fetched_though_the_set_was_fetched_in_the_future() {
    let mut flow = set_back();
    let rotated = token(&Key::new("k2"));
    assert_eq!(flow.get("/x", &rotated).1, Disposition::Pause);
    assert_eq!(flow.call().request.cluster, "clerk");
}

#[test]
fn a_record_does_not_outlive_its_ttl() {
    let mut flow = set_back();
    let good = token(&flow.key);
    assert_eq!(flow.get("/x", &good).1, Disposition::Pause);
    assert_eq!(flow.call().request.cluster, "users");
}

#[test]
fn who_waits_is_answered_by_the_old_deadline() {
    let mut flow = Flow::ready();
    let token = flow.token();
    let (stream, disposition) = flow.get("/x", &token);
    assert_eq!(disposition, Disposition::Pause);
    flow.now = flow.now.before(HOUR);
    let released = flow.tick();
    assert!(released.is_empty());
    flow.advance(Duration::from_millis(550));
    let released = flow.tick();
    assert_eq!(denied(&only(released, stream)), Code::UserLookupUnavailable);
}

#[test]
fn a_nudge_changes_nothing() {
    let mut flow = Flow::ready();
    let token = flow.token();
    forwarded(flow.whole("/x", &token, &record()));
    flow.now = flow.now.before(Duration::from_millis(900));
    forwarded(flow.get("/x", &token).1);
    flow.tick();
    flow.no_call();
}

#[test]
fn a_clock_that_starts_far_ahead_and_is_set_right_stops_no_refresh() {
    let mut flow = Flow::new();
    flow.now = UnixTime::from_secs(START + 365 * 86_400);
    let mut flow = flow.with_keys();
    flow.now = UnixTime::from_secs(START + 48 * 3_600);
    flow.tick();
    assert_eq!(flow.call().request.cluster, "clerk");
}

#[test]
fn a_record_that_was_being_asked_for_does_not_outlive_its_ttl() {
    let mut flow = Flow::ready();
    let good = token(&flow.key);
    let (stream, _) = flow.get("/x", &good);
    let lookup = flow.call();
    flow.now = flow.now.before(HOUR);
    let released = flow.answer(lookup.id, 200, record().to_string().as_bytes());
    forwarded(only(released, stream));
    flow.advance(Duration::from_secs(300));
    assert_eq!(flow.get("/x", &good).1, Disposition::Pause);
}
