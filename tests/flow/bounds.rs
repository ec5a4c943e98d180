//! Everything is bounded, and every request that waits has an end.

use std::time::Duration;

use meshgate::denial::Code;
use meshgate::worker::Disposition;
use serde_json::json;

use crate::support::{Flow, claims, config, denied, only};

#[test]
fn no_more_requests_wait_than_the_limit() {
    let mut config = config();
    config["limits"] = json!({"max_waiters": 3});
    let mut flow = Flow::with(&config).with_keys();
    let token = flow.token();
    let mut streams = Vec::new();
    for _ in 0..3 {
        let (stream, disposition) = flow.get("/x", &token);
        assert_eq!(disposition, Disposition::Pause);
        streams.push(stream);
    }
    let (_, disposition) = flow.get("/x", &token);
    assert_eq!(denied(&disposition), Code::Overloaded);
    flow.worker.on_gone(streams[0]);
    let (_, disposition) = flow.get("/x", &token);
    assert_eq!(disposition, Disposition::Pause, "a place is free again");
}

#[test]
fn strangers_take_no_more_than_half_of_the_places() {
    let mut config = config();
    config["limits"] = json!({"max_waiters": 8});
    let mut flow = Flow::with(&config).with_keys();
    flow.advance(Duration::from_secs(60));
    let unknown = crate::support::Key::new("k9").token(&claims());
    for _ in 0..4 {
        assert_eq!(flow.get("/x", &unknown).1, Disposition::Pause);
    }
    assert_eq!(denied(&flow.get("/x", &unknown).1), Code::Overloaded);
    let token = flow.token();
    for _ in 0..4 {
        assert_eq!(flow.get("/x", &token).1, Disposition::Pause, "a verified one has a place");
    }
    assert_eq!(denied(&flow.get("/x", &token).1), Code::Overloaded);
}

#[test]
fn no_more_calls_are_under_way_than_the_limit() {
    let mut config = config();
    config["limits"] = json!({"max_inflight_callouts": 2});
    let mut flow = Flow::with(&config).with_keys();
    let mut get = |name: &str| {
        let mut claims = claims();
        claims["clerkId"] = json!(name);
        let token = flow.key.token(&claims);
        flow.get("/x", &token).1
    };
    assert_eq!(get("a"), Disposition::Pause);
    assert_eq!(get("b"), Disposition::Pause);
    assert_eq!(denied(&get("c")), Code::Overloaded);
    assert_eq!(get("a"), Disposition::Pause, "a call that is under way can be joined");
    assert!(flow.worker.next_call().is_some());
    assert!(flow.worker.next_call().is_some());
    flow.no_call();
}

#[test]
fn a_lookup_that_never_answers_ends_every_request_by_its_deadline() {
    let mut flow = Flow::ready();
    let token = flow.token();
    let (stream, _) = flow.get("/x", &token);
    let call = flow.call();
    flow.advance(Duration::from_millis(549));
    assert!(flow.tick().is_empty());
    flow.advance(Duration::from_millis(1));
    let released = flow.tick();
    assert_eq!(denied(&only(released, stream)), Code::UserLookupUnavailable);
    assert!(!flow.worker.is_waiting(stream));
    assert!(flow.answer(call.id, 200, b"{}").is_empty(), "its late answer is nobody's");
    // The next request starts a call of its own.
    let (_, disposition) = flow.get("/x", &token);
    assert_eq!(disposition, Disposition::Pause);
    flow.call();
}

#[test]
fn a_call_that_was_never_made_ends_too() {
    let mut flow = Flow::ready();
    let token = flow.token();
    let (stream, _) = flow.get("/x", &token);
    flow.advance(Duration::from_secs(60));
    let released = flow.tick();
    assert_eq!(denied(&only(released, stream)), Code::UserLookupUnavailable);
}

#[test]
fn a_stream_of_one_time_users_leaves_no_more_behind_than_the_cache_holds() {
    let mut config = config();
    config["user"]["lookup"]["cache"] = json!({"max_entries": 100});
    let mut flow = Flow::with(&config).with_keys();
    for user in 0..1_000 {
        let mut claims = claims();
        claims["clerkId"] = json!(format!("user_{user}"));
        let token = flow.key.token(&claims);
        let record = json!({"id": user, "role": "USER"});
        crate::support::forwarded(flow.whole("/x", &token, &record));
        assert!(format!("{:?}", flow.worker).len() < 4_096);
    }
    assert!(
        format!("{:?}", flow.worker).contains(" 50 users)"),
        "the other half is for those that come again"
    );
}
