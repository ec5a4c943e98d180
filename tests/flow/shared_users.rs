//! Users known by all workers of a process: one asks, all know, and a leader that is lost is replaced.

use std::time::Duration;

use meshgate::callout::{Dispatch, Failure, StreamId};
use meshgate::denial::Code;
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{
    Flow, SharedData, claims, config, denied, forwarded, only, ready_workers, record, set,
};

/// The lookup's timeout and what a call is given beyond it, less a millisecond.
const ALMOST_THE_LEASE: Duration = Duration::from_millis(549);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A change to a config.
type Change = fn(&mut Value);

fn body(record: &Value) -> Vec<u8> {
    record.to_string().into_bytes()
}

/// Sends one request of the seed's user to each worker; one of them makes a call.
fn first_requests(flows: &mut [Flow]) -> (Vec<StreamId>, usize, Dispatch) {
    let token = flows[0].token();
    let mut calls = Vec::new();
    let mut streams = Vec::new();
    for (number, flow) in flows.iter_mut().enumerate() {
        let (stream, disposition) = flow.get("/x", &token);
        assert_eq!(disposition, Disposition::Pause);
        streams.push(stream);
        while let Some(call) = flow.worker.next_call() {
            calls.push((number, call));
        }
    }
    assert_eq!(calls.len(), 1, "{calls:?}");
    let (leader, call) = calls.remove(0);
    (streams, leader, call)
}

fn advance(flows: &mut [Flow], span: Duration) {
    for flow in flows {
        flow.advance(span);
    }
}

#[test]
fn first_requests_in_all_workers_make_one_lookup() {
    let mut flows = ready_workers(&config(), 4, &SharedData::default());
    let (streams, leader, call) = first_requests(&mut flows);
    for (number, flow) in flows.iter_mut().enumerate() {
        if number != leader {
            assert!(flow.wake().is_empty(), "nothing to be had yet");
        }
    }
    flows[leader].worker.take_wake_others();
    forwarded(only(flows[leader].answer(call.id, 200, &body(&record())), streams[leader]));
    assert!(flows[leader].worker.take_wake_others(), "somebody waits for it");
    for (number, flow) in flows.iter_mut().enumerate() {
        if number != leader {
            let edits = forwarded(only(flow.wake(), streams[number]));
            assert!(edits.contains(&set("x-user-id", "u-1001")));
        }
        let token = flow.token();
        forwarded(flow.get("/x", &token).1);
        flow.no_call();
    }
}

#[test]
fn nobody_is_woken_for_a_record_that_nobody_waits_for() {
    let mut flows = ready_workers(&config(), 2, &SharedData::default());
    flows[0].worker.take_wake_others();
    let token = flows[0].token();
    forwarded(flows[0].whole("/x", &token, &record()));
    assert!(!flows[0].worker.take_wake_others());
}

#[test]
fn what_one_worker_knows_none_of_them_asks_for() {
    for (status, answer) in [(200, record()), (404, json!({}))] {
        let mut flows = ready_workers(&config(), 3, &SharedData::default());
        let token = flows[0].token();
        let (stream, _) = flows[0].get("/x", &token);
        let call = flows[0].call();
        let _ = only(flows[0].answer(call.id, status, &body(&answer)), stream);
        for flow in &mut flows {
            let (_, disposition) = flow.get("/x", &token);
            match status {
                200 => drop(forwarded(disposition)),
                _ => assert_eq!(denied(&disposition), Code::UserUnknown),
            }
            flow.no_call();
        }
        // It grows old with the worker that asked, not with the one that took it over.
        let life = Duration::from_secs(if status == 200 { 300 } else { 10 });
        advance(&mut flows, life);
        for flow in &mut flows {
            let (_, disposition) = flow.get("/x", &token);
            assert_eq!(disposition, Disposition::Pause);
        }
    }
}

#[test]
fn a_failure_of_the_leader_is_everybodys_and_says_whether_a_record_may_stand_in() {
    for (answer, code) in [(500, None), (503, None), (401, Some(Code::UserLookupUnavailable))] {
        let mut config = config();
        config["user"]["lookup"]["cache"] = json!({"stale_if_error": "15m"});
        let mut flows = ready_workers(&config, 3, &SharedData::default());
        let (streams, leader, call) = first_requests(&mut flows);
        flows[leader].answer(call.id, 200, &body(&record()));
        for (number, flow) in flows.iter_mut().enumerate() {
            if number != leader {
                forwarded(only(flow.wake(), streams[number]));
            }
        }
        advance(&mut flows, Duration::from_secs(400));
        let (streams, leader, call) = first_requests(&mut flows);
        let mut released = vec![flows[leader].answer_for_good(call.id, answer, b"")];
        for (number, flow) in flows.iter_mut().enumerate() {
            if number != leader {
                released.push(flow.wake());
                flow.no_call();
            }
        }
        let order = std::iter::once(leader).chain((0..3).filter(|number| *number != leader));
        for (number, released) in order.zip(released) {
            let disposition = only(released, streams[number]);
            match code {
                None => drop(forwarded(disposition)),
                Some(code) => assert_eq!(denied(&disposition), code),
            }
        }
    }
}

#[test]
fn a_leader_that_dies_is_replaced_when_its_turn_ends_and_nobody_is_refused_for_it() {
    let data = SharedData::default();
    let mut flows = ready_workers(&config(), 3, &data);
    let (streams, leader, _) = first_requests(&mut flows);
    let dead = flows.remove(leader);
    drop(dead);
    let streams: Vec<StreamId> = streams
        .into_iter()
        .enumerate()
        .filter(|(number, _)| *number != leader)
        .map(|(_, stream)| stream)
        .collect();
    advance(&mut flows, ALMOST_THE_LEASE);
    for flow in &mut flows {
        assert!(flow.tick().is_empty());
        flow.no_call();
    }
    // A request that comes late waits with the others.
    let token = flows[0].token();
    let (late, disposition) = flows[0].get("/x", &token);
    assert_eq!(disposition, Disposition::Pause);
    advance(&mut flows, MILLISECOND);
    let mut calls = Vec::new();
    for (number, flow) in flows.iter_mut().enumerate() {
        assert!(flow.tick().is_empty());
        while let Some(call) = flow.worker.next_call() {
            calls.push((number, call));
        }
    }
    assert_eq!(calls.len(), 1, "one takes over");
    let (heir, call) = calls.remove(0);
    let mut served = flows[heir].answer(call.id, 200, &body(&record()));
    served.extend(flows[1 - heir].wake());
    let mut served: Vec<StreamId> = crate::support::served(served);
    served.sort();
    let mut expected = vec![streams[0], streams[1], late];
    expected.sort();
    assert_eq!(served, expected);
}

#[test]
fn an_answer_that_never_comes_ends_every_request_in_every_worker() {
    let mut flows = ready_workers(&config(), 3, &SharedData::default());
    let (streams, _, _) = first_requests(&mut flows);
    let mut ended = 0;
    for _ in 0..30 {
        advance(&mut flows, Duration::from_millis(100));
        for (number, flow) in flows.iter_mut().enumerate() {
            for (stream, disposition) in flow.tick() {
                assert_eq!(stream, streams[number]);
                assert_eq!(denied(&disposition), Code::UserLookupUnavailable);
                ended += 1;
            }
            while flow.worker.next_call().is_some() {}
        }
    }
    assert_eq!(ended, streams.len());
}

#[test]
fn a_worker_whose_waiters_are_gone_asks_for_nobody() {
    let mut flows = ready_workers(&config(), 2, &SharedData::default());
    let (streams, leader, _) = first_requests(&mut flows);
    let other = 1 - leader;
    flows[other].worker.on_gone(streams[other]);
    advance(&mut flows, ALMOST_THE_LEASE + MILLISECOND);
    flows[other].tick();
    flows[other].no_call();
}

#[test]
fn a_record_that_is_too_long_to_share_is_asked_for_by_each() {
    let mut flows = ready_workers(&config(), 2, &SharedData::default());
    let mut long = record();
    long["about"] = json!("x".repeat(20_000));
    let (streams, leader, call) = first_requests(&mut flows);
    let other = 1 - leader;
    forwarded(only(flows[leader].answer(call.id, 200, &body(&long)), streams[leader]));
    assert!(flows[other].wake().is_empty());
    let call = flows[other].call();
    forwarded(only(flows[other].answer(call.id, 200, &body(&long)), streams[other]));
}

#[test]
fn a_record_without_a_life_still_serves_all_who_waited_for_it() {
    let mut config = config();
    config["user"]["lookup"]["cache"] = json!({"ttl": "0s"});
    let mut flows = ready_workers(&config, 3, &SharedData::default());
    let (streams, leader, call) = first_requests(&mut flows);
    flows[leader].answer(call.id, 200, &body(&record()));
    for (number, flow) in flows.iter_mut().enumerate() {
        if number != leader {
            forwarded(only(flow.wake(), streams[number]));
        }
        let token = flow.token();
        assert_eq!(flow.get("/x", &token).1, Disposition::Pause);
    }
}

#[test]
fn records_of_another_lookup_or_issuer_are_not_shared() {
    let data = SharedData::default();
    let mut flows = ready_workers(&config(), 1, &data);
    let token = flows[0].token();
    forwarded(flows[0].whole("/x", &token, &record()));
    let changes: [(&str, Change, bool); 5] = [
        ("the same", |_| (), false),
        ("timeout", |c| c["user"]["lookup"]["timeout"] = json!("1s"), false),
        ("path", |c| c["user"]["lookup"]["path"] = json!("/v2/{key}"), true),
        ("cluster", |c| c["user"]["lookup"]["cluster"] = json!("users2"), true),
        ("header", |c| c["user"]["lookup"]["headers"] = json!({"x-tenant": "b"}), true),
    ];
    for (name, change, asks) in changes {
        let mut config = config();
        change(&mut config);
        let mut other = ready_workers(&config, 1, &data).remove(0);
        let (_, disposition) = other.get("/x", &token);
        assert_eq!(disposition == Disposition::Pause, asks, "{name}");
    }
}

#[test]
fn garbage_in_the_slots_lets_each_ask_for_itself_and_forges_nothing() {
    let data = SharedData::default();
    let mut flows = ready_workers(&config(), 2, &data);
    let token = flows[0].token();
    forwarded(flows[0].whole("/x", &token, &record()));
    let forged =
        json!({"fetched": 1_767_225_600_000_u64, "record": {"id": "u-1", "role": "ADMIN"}});
    data.fill(&body(&forged));
    let edits = forwarded(flows[1].whole("/x", &token, &record()));
    assert!(edits.contains(&set("x-user-role", "USER")));
}

#[test]
fn a_record_from_the_future_is_nobodys() {
    let data = SharedData::default();
    let mut flows = ready_workers(&config(), 2, &data);
    let token = flows[0].token();
    forwarded(flows[0].whole("/x", &token, &record()));
    let hour = Duration::from_secs(3_600);
    flows[1].now = flows[1].now.before(hour);
    let mut early = claims();
    early["iat"] = json!(crate::support::START - 7_200);
    let early = flows[1].key.token(&early);
    assert_eq!(flows[1].get("/x", &early).1, Disposition::Pause);
}

#[test]
fn a_flood_of_one_time_users_leaves_records_that_a_second_worker_used() {
    let mut config = config();
    config["user"]["lookup"]["cache"] = json!({"max_entries": 200});
    let data = SharedData::default();
    let mut flows = ready_workers(&config, 2, &data);
    let token = flows[0].token();
    forwarded(flows[0].whole("/x", &token, &record()));
    forwarded(flows[1].get("/x", &token).1);
    for user in 0..2_000 {
        let mut claims = claims();
        claims["clerkId"] = json!(format!("user_{user}"));
        let token = flows[0].key.token(&claims);
        forwarded(flows[0].whole("/x", &token, &json!({"id": user, "role": "USER"})));
    }
    let mut late = ready_workers(&config, 3, &data).remove(2);
    forwarded(late.get("/x", &token).1);
    late.no_call();
}

#[test]
fn a_fault_that_is_over_is_asked_about_again() {
    let mut flows = ready_workers(&config(), 2, &SharedData::default());
    let (streams, leader, call) = first_requests(&mut flows);
    let other = 1 - leader;
    let released = flows[leader].fail_for_good(call.id, Failure::Broken);
    assert_eq!(denied(&only(released, streams[leader])), Code::UserLookupUnavailable);
    assert_eq!(denied(&only(flows[other].wake(), streams[other])), Code::UserLookupUnavailable);
    let token = flows[other].token();
    let (stream, disposition) = flows[other].get("/x", &token);
    assert_eq!(disposition, Disposition::Pause);
    let call = flows[other].call();
    forwarded(only(flows[other].answer(call.id, 200, &body(&record())), stream));
}

#[test]
fn whatever_moment_another_worker_answers_in_nobody_asks_twice_and_nobody_waits_for_nothing() {
    let before = SharedData::default();
    let [mut leader, _] = <[Flow; 2]>::try_from(ready_workers(&config(), 2, &before)).ok().unwrap();
    let token = leader.token();
    let (stream, _) = leader.get("/x", &token);
    let call = leader.call();
    let asking = before.fork();
    forwarded(only(leader.answer(call.id, 200, &body(&record())), stream));
    let mut served_at_once = 0;
    for reads in 0..12 {
        // A worker that meets the slots as they are while the leader asks, and then as they are after.
        let data = asking.fork();
        let mut other = ready_workers(&config(), 2, &data).remove(1);
        data.become_after(reads, &before);
        let (stream, disposition) = other.get("/x", &token);
        let disposition = match disposition {
            Disposition::Pause => {
                other.no_call();
                data.become_after(0, &before);
                only(other.wake(), stream)
            }
            disposition => {
                served_at_once += 1;
                disposition
            }
        };
        let edits = forwarded(disposition);
        assert!(edits.contains(&set("x-user-id", "u-1001")), "after {reads} reads");
        other.no_call();
    }
    assert!((1..12).contains(&served_at_once), "both ways were gone: {served_at_once}");
}

#[test]
fn a_turn_is_respected_by_a_worker_that_read_the_clock_a_moment_before_it_was_taken() {
    let mut flows = ready_workers(&config(), 2, &SharedData::default());
    let token = flows[0].token();
    flows[0].advance(Duration::from_millis(1));
    assert_eq!(flows[0].get("/x", &token).1, Disposition::Pause);
    flows[0].call();
    assert_eq!(flows[1].get("/x", &token).1, Disposition::Pause);
    flows[1].no_call();
}

#[test]
fn an_answer_to_an_older_question_takes_the_place_of_no_younger_record() {
    let data = SharedData::default();
    let mut flows = ready_workers(&config(), 2, &data);
    let (streams, leader, call) = first_requests(&mut flows);
    let other = 1 - leader;
    advance(&mut flows, ALMOST_THE_LEASE + MILLISECOND);
    assert!(flows[other].tick().is_empty());
    let second = flows[other].call();
    forwarded(only(flows[other].answer(second.id, 200, &body(&record())), streams[other]));
    // The first leader's thread was blocked; what it was told is from before.
    let mut admin = record();
    admin["role"] = json!("ADMIN");
    flows[leader].answer(call.id, 200, &body(&admin));
    let token = flows[0].token();
    let mut late = ready_workers(&config(), 3, &data).remove(2);
    late.now = flows[0].now;
    let edits = forwarded(late.get("/x", &token).1);
    assert!(edits.contains(&set("x-user-role", "USER")), "{edits:?}");
}

#[test]
fn a_record_that_became_too_long_to_share_leaves_no_older_one_to_stand_in() {
    let mut config = config();
    config["user"]["lookup"]["cache"] = json!({"stale_if_error": "15m"});
    config["user"]["active"] = json!({"field": "/status", "equals": "ACTIVE"});
    let data = SharedData::default();
    let mut flows = ready_workers(&config, 2, &data);
    let token = flows[0].token();
    let mut user = record();
    user["status"] = json!("ACTIVE");
    forwarded(flows[0].whole("/x", &token, &user));
    forwarded(flows[1].get("/x", &token).1);
    advance(&mut flows, Duration::from_secs(301));
    user["status"] = json!("DISABLED");
    user["about"] = json!("x".repeat(20_000));
    assert_eq!(denied(&flows[0].whole("/x", &token, &user)), Code::UserDisabled);
    let mut late = ready_workers(&config, 3, &data).remove(2);
    late.now = flows[0].now;
    let (stream, _) = late.get("/x", &token);
    let call = late.call();
    let released = late.fail_for_good(call.id, Failure::Broken);
    assert_eq!(denied(&only(released, stream)), Code::UserLookupUnavailable);
}

#[test]
fn a_worker_that_left_a_service_alone_waits_with_another_that_found_it_back() {
    let mut flows = ready_workers(&config(), 2, &SharedData::default());
    let user = |flow: &mut Flow, name: &str| {
        let mut claims = claims();
        claims["clerkId"] = json!(name);
        let token = flow.key.token(&claims);
        flow.get("/x", &token)
    };
    for round in 0..5 {
        let (stream, _) = user(&mut flows[1], &format!("user_{round}"));
        let call = flows[1].call();
        let released = flows[1].fail_for_good(call.id, Failure::Broken);
        assert_eq!(denied(&only(released, stream)), Code::UserLookupUnavailable);
    }
    assert_eq!(denied(&user(&mut flows[1], "user_x").1), Code::UserLookupUnavailable);
    let now = flows[1].now;
    flows[0].now = now;
    let (first, _) = user(&mut flows[0], "user_x");
    let call = flows[0].call();
    let (second, disposition) = user(&mut flows[1], "user_x");
    assert_eq!(disposition, Disposition::Pause, "it is the other one's turn");
    flows[1].no_call();
    forwarded(only(flows[0].answer(call.id, 200, &body(&record())), first));
    forwarded(only(flows[1].wake(), second));
    assert_eq!(denied(&user(&mut flows[1], "user_y").1), Code::UserLookupUnavailable);
}

/// A worker's own call may hold the last place, or end in the very moment.
#[test]
fn who_followed_a_worker_that_died_is_told_of_the_load_where_there_is_no_call_left() {
    for (before, is_full) in [(500, true), (0, false)] {
        let mut config = config();
        config["limits"] = json!({"max_inflight_callouts": 1});
        let mut flows = ready_workers(&config, 2, &SharedData::default());
        let (streams, leader, _) = first_requests(&mut flows);
        drop(flows.remove(leader));
        let heir = &mut flows[0];
        let follower = streams[1 - leader];
        heir.advance(Duration::from_millis(before));
        let mut claims = claims();
        claims["clerkId"] = json!("another");
        let token = heir.key.token(&claims);
        let (other, disposition) = heir.get("/x", &token);
        assert_eq!(disposition, Disposition::Pause);
        heir.call();
        heir.advance(Duration::from_millis(550 - before));
        let released = heir.tick();
        if is_full {
            assert_eq!(denied(&only(released, follower)), Code::Overloaded);
        } else {
            assert_eq!(denied(&only(released, other)), Code::UserLookupUnavailable);
            let call = heir.call();
            forwarded(only(heir.answer(call.id, 200, &body(&record())), follower));
        }
    }
}

#[test]
fn what_others_ask_for_takes_no_room_from_a_workers_own_calls() {
    let mut config = config();
    config["limits"] = json!({"max_inflight_callouts": 1});
    let mut flows = ready_workers(&config, 2, &SharedData::default());
    let user = |flow: &mut Flow, name: &str| {
        let mut claims = claims();
        claims["clerkId"] = json!(name);
        let token = flow.key.token(&claims);
        flow.get("/x", &token).1
    };
    assert_eq!(user(&mut flows[0], "a"), Disposition::Pause);
    assert_eq!(user(&mut flows[1], "a"), Disposition::Pause, "it follows");
    assert_eq!(user(&mut flows[1], "b"), Disposition::Pause, "it asks");
    assert_eq!(user(&mut flows[0], "b"), Disposition::Pause, "though it may ask for nothing more");
    assert_eq!(denied(&user(&mut flows[0], "c")), Code::Overloaded);
    assert_eq!(denied(&user(&mut flows[1], "c")), Code::Overloaded);
}
