//! Users' records in Redis, for all proxies.

use std::time::Duration;

use meshgate::callout::{Dispatch, Failure};
use meshgate::denial::Code;
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{
    Flow, SharedData, config, denied, forwarded, only, ready_workers, record, set,
};

fn redis_config() -> Value {
    let mut config = config();
    // The harness's exchange has its own; the config must only have one.
    config["sharing"] = json!({"key": "sixteen random bytes"});
    config["user"]["lookup"]["redis"] = json!({"cluster": "webdis"});
    config
}

/// A proxy of its own.
fn proxy(config: &Value) -> Flow {
    ready_workers(config, 1, &SharedData::default()).remove(0)
}

fn path(call: &Dispatch) -> &str {
    let found = call.request.headers.iter().find(|(name, _)| name == ":path");
    found.map_or("", |(_, value)| value.as_str())
}

fn got(value: &Value) -> Vec<u8> {
    json!({ "GET": value }).to_string().into_bytes()
}

/// Serves the seed's user by the users service; what is then stored.
fn stored(flow: &mut Flow, status: u16, answer: &Value) -> Option<Dispatch> {
    let token = flow.token();
    let (stream, disposition) = flow.get("/x", &token);
    assert_eq!(disposition, Disposition::Pause);
    let get = flow.call();
    assert_eq!(
        (get.request.cluster.as_str(), path(&get)),
        ("webdis", "/GET/user%3Aclerk%3Auser_2abc")
    );
    assert!(flow.answer(get.id, 200, &got(&Value::Null)).is_empty(), "now the service is asked");
    let lookup = flow.call();
    assert_eq!(lookup.request.cluster, "users");
    let released = flow.answer(lookup.id, status, answer.to_string().as_bytes());
    let disposition = only(released, stream);
    match status {
        200 => drop(forwarded(disposition)),
        404 => assert_eq!(denied(&disposition), Code::UserUnknown),
        _ => assert_eq!(denied(&disposition), Code::UserLookupUnavailable),
    }
    flow.worker.next_call()
}

/// The value that a store sends.
fn value(store: &Dispatch) -> Value {
    json!(String::from_utf8(store.request.body.clone().unwrap()).unwrap())
}

#[test]
fn what_one_proxy_fetched_another_has_without_asking_and_for_no_longer() {
    for (status, answer, life) in [(200, record(), 300), (404, json!({}), 10)] {
        let mut one = proxy(&redis_config());
        let store = stored(&mut one, status, &answer).unwrap();
        assert_eq!(path(&store), format!("/SETEX/user%3Aclerk%3Auser_2abc/{life}"));
        one.answer(store.id, 200, br#"{"SETEX":[true,"OK"]}"#);
        let mut two = proxy(&redis_config());
        two.advance(Duration::from_secs(life - 1));
        let token = two.token();
        let (stream, disposition) = two.get("/x", &token);
        assert_eq!(disposition, Disposition::Pause);
        let get = two.call();
        let disposition = only(two.answer(get.id, 200, &got(&value(&store))), stream);
        if status == 200 {
            let edits = forwarded(disposition);
            assert!(edits.contains(&set("x-user-role", "USER")));
        } else {
            assert_eq!(denied(&disposition), Code::UserUnknown);
        }
        two.no_call();
        two.advance(Duration::from_secs(1));
        let (stream, disposition) = two.get("/x", &token);
        assert_eq!(disposition, Disposition::Pause, "it is as old as it was for the other one");
        let get = two.call();
        assert!(two.answer(get.id, 200, &got(&value(&store))).is_empty(), "nor is it fresh there");
        assert_eq!(two.call().request.cluster, "users");
        two.worker.on_gone(stream);
    }
}

#[test]
fn what_says_nothing_about_the_user_is_not_stored() {
    for (status, answer) in [(500, json!({})), (401, json!({})), (302, json!({}))] {
        assert!(stored(&mut proxy(&redis_config()), status, &answer).is_none());
    }
    let mut config = redis_config();
    config["user"]["lookup"]["cache"] = json!({"negative_ttl": "500ms"});
    let store = stored(&mut proxy(&config), 404, &json!({}));
    assert!(store.is_none(), "Redis counts in seconds");
}

#[test]
fn a_redis_that_is_down_or_lies_is_passed_over() {
    let forged =
        json!({"fetched": 1_767_225_600_000_u64, "record": {"id": "u-1", "role": "ADMIN"}});
    let mut other = redis_config();
    other["user"]["lookup"]["path"] = json!("/v2/{key}");
    let store = stored(&mut proxy(&other), 200, &json!({"id": "u-1", "role": "ADMIN"})).unwrap();
    let answers: Vec<(u16, Vec<u8>)> = vec![
        (503, Vec::new()),
        (200, b"garbage".to_vec()),
        (200, b"{}".to_vec()),
        (200, br#"{"GET":[false,"ERR"]}"#.to_vec()),
        (200, got(&json!(forged.to_string()))),
        (200, got(&json!("x".repeat(100)))),
        (200, got(&value(&store))),
    ];
    for (status, answer) in answers {
        let mut flow = proxy(&redis_config());
        let token = flow.token();
        let (stream, _) = flow.get("/x", &token);
        let get = flow.call();
        assert!(flow.answer(get.id, status, &answer).is_empty());
        let lookup = flow.call();
        assert_eq!(lookup.request.cluster, "users");
        let released = flow.answer(lookup.id, 200, record().to_string().as_bytes());
        let edits = forwarded(only(released, stream));
        assert!(edits.contains(&set("x-user-role", "USER")), "{status}");
    }
}

#[test]
fn a_redis_that_never_answers_costs_its_timeout_and_then_nothing_for_a_while() {
    let mut flow = proxy(&redis_config());
    let mut asked = 0;
    for round in 0..6 {
        let mut claims = crate::support::claims();
        claims["clerkId"] = json!(round.to_string());
        let token = flow.key.token(&claims);
        let (stream, _) = flow.get("/x", &token);
        let mut call = flow.call();
        if call.request.cluster == "webdis" {
            asked += 1;
            assert_eq!(call.request.timeout, Duration::from_millis(100));
            flow.advance(Duration::from_millis(350));
            assert!(flow.tick().is_empty());
            call = flow.call();
        }
        assert_eq!(call.request.cluster, "users");
        assert_eq!(call.request.timeout, Duration::from_millis(300), "it has all its time");
        flow.advance(Duration::from_millis(299));
        assert!(flow.tick().is_empty());
        let released = flow.answer(call.id, 200, record().to_string().as_bytes());
        forwarded(only(released, stream));
        // Nor is the store answered.
        while flow.worker.next_call().is_some() {}
    }
    assert!((1..=5).contains(&asked), "Redis is left alone, it was asked {asked} times");
}

#[test]
fn a_redis_that_remembers_serves_while_the_users_service_is_left_alone() {
    let mut flow = proxy(&redis_config());
    let store = stored(&mut proxy(&redis_config()), 200, &record()).unwrap();
    for round in 0..5 {
        let mut claims = crate::support::claims();
        claims["clerkId"] = json!(round.to_string());
        let token = flow.key.token(&claims);
        let (stream, _) = flow.get("/x", &token);
        let get = flow.call();
        assert!(flow.answer(get.id, 200, &got(&Value::Null)).is_empty());
        let lookup = flow.call();
        let released = flow.fail_for_good(lookup.id, Failure::Broken);
        assert_eq!(denied(&only(released, stream)), Code::UserLookupUnavailable);
    }
    let token = flow.token();
    let (stream, _) = flow.get("/x", &token);
    let get = flow.call();
    assert_eq!(get.request.cluster, "webdis");
    forwarded(only(flow.answer(get.id, 200, &got(&value(&store))), stream));
}

/// It did not just come, though it was just posted: only who read it in time may use it.
#[test]
fn a_record_that_another_worker_had_from_redis_is_used_by_who_waited_for_no_longer_than_its_ttl() {
    let store = stored(&mut proxy(&redis_config()), 200, &record()).unwrap();
    let mut flows = ready_workers(&redis_config(), 2, &SharedData::default());
    let token = flows[0].token();
    for flow in &mut flows {
        flow.advance(Duration::from_secs(299));
    }
    let (reader, _) = flows[0].get("/x", &token);
    let get = flows[0].call();
    let (waiting, _) = flows[1].get("/x", &token);
    forwarded(only(flows[0].answer(get.id, 200, &got(&value(&store))), reader));
    // As a clock that is set right may make it.
    flows[1].advance(Duration::from_secs(1));
    assert!(flows[1].wake().is_empty());
    let get = flows[1].call();
    assert!(flows[1].answer(get.id, 200, &got(&value(&store))).is_empty());
    let lookup = flows[1].call();
    assert_eq!(lookup.request.cluster, "users");
    let released = flows[1].answer(lookup.id, 200, record().to_string().as_bytes());
    forwarded(only(released, waiting));
}

#[test]
fn a_record_that_another_worker_had_from_redis_says_nothing_of_the_users_service() {
    let store = stored(&mut proxy(&redis_config()), 200, &record()).unwrap();
    let mut flows = ready_workers(&redis_config(), 2, &SharedData::default());
    // Redis has nothing; whether the users service is asked then.
    let asks_users = |flow: &mut Flow, user: &str| {
        let mut claims = crate::support::claims();
        claims["clerkId"] = json!(user);
        let token = flow.key.token(&claims);
        let (stream, _) = flow.get("/x", &token);
        let get = flow.call();
        let mut released = flow.answer(get.id, 200, &got(&Value::Null));
        let lookup = flow.worker.next_call();
        let asked = lookup.is_some();
        if let Some(lookup) = lookup {
            released = flow.fail_for_good(lookup.id, Failure::Broken);
        }
        assert_eq!(denied(&only(released, stream)), Code::UserLookupUnavailable);
        asked
    };
    for user in ["1", "2", "3", "4", "5"] {
        assert!(asks_users(&mut flows[1], user));
    }
    assert!(!asks_users(&mut flows[1], "6"), "it is left alone");
    let token = flows[0].token();
    let (leading, _) = flows[0].get("/x", &token);
    let get = flows[0].call();
    let (following, _) = flows[1].get("/x", &token);
    flows[1].no_call();
    forwarded(only(flows[0].answer(get.id, 200, &got(&value(&store))), leading));
    forwarded(only(flows[1].wake(), following));
    assert!(!asks_users(&mut flows[1], "7"), "and still is");
}
