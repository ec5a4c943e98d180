//! Tokens that were revoked before their time: by the feed, and by the blacklist.

use std::time::Duration;

use meshgate::callout::{Dispatch, Failure};
use meshgate::denial::Code;
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{
    Flow, Key, START, SharedData, claims, config, denied, forwarded, jwks, only, record, set,
    workers,
};

const SECOND: Duration = Duration::from_secs(1);

fn feed_config() -> Value {
    let mut config = config();
    config["user"] = json!({"source": "claims"});
    config["context"] = json!({"headers": {"x-user-id": {"claim": "/sub"}}});
    config["revocation"] =
        json!({"feed": {"uri": "http://auth.internal/revocations?v=1", "cluster": "auth"}});
    config
}

fn body(document: &Value) -> Vec<u8> {
    document.to_string().into_bytes()
}

fn feed(entries: &Value) -> Value {
    json!({"v": 1, "entries": entries})
}

/// Ticks; the one call to this cluster that comes of it.
#[track_caller]
fn poll(flow: &mut Flow, cluster: &str) -> Dispatch {
    flow.tick();
    let mut calls: Vec<Dispatch> = std::iter::from_fn(|| flow.worker.next_call()).collect();
    calls.retain(|call| call.request.cluster == cluster);
    assert_eq!(calls.len(), 1, "{calls:?}");
    calls.remove(0)
}

/// A worker that has its keys and this list.
fn with_feed(entries: &Value) -> Flow {
    with_feed_and(&feed_config(), entries)
}

fn with_feed_and(config: &Value, entries: &Value) -> Flow {
    let mut flow = Flow::with(config);
    flow.tick();
    while let Some(call) = flow.worker.next_call() {
        let answer = match call.request.cluster.as_str() {
            "clerk" => jwks(&[&flow.key, &Key::new("k2")]),
            _ => body(&feed(entries)),
        };
        assert!(flow.answer(call.id, 200, &answer).is_empty());
    }
    flow
}

/// The next list, when its time has come.
fn next_list(flow: &mut Flow, document: &Value) {
    flow.advance(2 * SECOND);
    let call = poll(flow, "auth");
    assert!(flow.answer(call.id, 200, &body(document)).is_empty());
}

fn header<'a>(call: &'a Dispatch, name: &str) -> Option<&'a str> {
    let found = call.request.headers.iter().find(|(own, _)| own == name);
    found.map(|(_, value)| value.as_str())
}

/// The claims of a token with everything that an entry can name.
fn rich_claims() -> Value {
    let mut claims = claims();
    claims["jti"] = json!("t-1");
    claims["sid"] = json!("s-1");
    claims["azp"] = json!("https://www.example.com");
    claims["act"] = json!({"sub": "agent"});
    claims["level"] = json!(1);
    claims
}

#[test]
fn an_entry_revokes_each_token_for_which_all_of_it_holds_and_no_other() {
    let revoked = [
        json!({"jti": "t-1"}),
        json!({"sid": "s-1"}),
        json!({"sub": "user_2abc"}),
        json!({"sub": "user_2abc", "iat_before": START + 1}),
        json!({"sub": "user_2abc", "iat_before": f64::from(u32::try_from(START).unwrap()) + 0.5}),
        json!({"kid": "k1"}),
        json!({"iss": "youtube-clone-auth", "iat_before": START + 60}),
        json!({"iss": "youtube-clone-auth", "jti": "t-1", "exp": START + 600}),
        json!({"match": {"/azp": "https://www.example.com"}}),
        json!({"match": {"/act/sub": "agent", "/aud": "youtube-clone-api"}}),
        json!({"match": {"/level": 1.0}}),
        json!({"jti": "t-1", "sid": "s-1", "sub": "user_2abc", "kid": "k1", "reason": "stolen"}),
    ];
    let good = [
        json!({"jti": "t-2"}),
        json!({"sid": "t-1"}),
        json!({"sub": "user_2adm"}),
        json!({"sub": "user_2abc", "iat_before": START}),
        json!({"sub": "user_2abc", "jti": "t-2"}),
        json!({"kid": "k2"}),
        json!({"iss": "another", "jti": "t-1"}),
        json!({"iss": "youtube-clone-auth", "iat_before": START}),
        json!({"jti": "t-1", "exp": START - 30}),
        json!({"match": {"/azp": "https://other.example.com"}}),
        json!({"match": {"/act/sub": "agent", "/aud": "other"}}),
        json!({"match": {"/nothing": null}}),
    ];
    for (entries, code) in [(&revoked[..], Some(Code::TokenRevoked)), (&good[..], None)] {
        for entry in entries {
            let mut flow = with_feed(&json!([entry]));
            let token = flow.key.token(&rich_claims());
            for _ in 0..2 {
                let (_, disposition) = flow.get("/x", &token);
                match code {
                    Some(code) => assert_eq!(denied(&disposition), code, "{entry}"),
                    None => drop(forwarded(disposition)),
                }
            }
        }
        // All of them at once mean the same.
        let mut flow = with_feed(&json!(entries));
        let token = flow.key.token(&rich_claims());
        assert_eq!(matches!(flow.get("/x", &token).1, Disposition::Deny(_)), code.is_some());
    }
}

#[test]
fn a_token_without_iat_was_issued_before_everything() {
    let mut flow = with_feed(&json!([{"sub": "user_2abc", "iat_before": START - 1_000_000}]));
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove("iat");
    let token = flow.key.token(&claims);
    assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked);
}

#[test]
fn a_revoked_key_is_the_one_that_signed_whatever_the_token_says() {
    let mut flow = with_feed(&json!([{"kid": "k1"}]));
    let header = json!({"alg": "ES256", "typ": "JWT"});
    for (key, code) in [("k1", Some(Code::TokenRevoked)), ("k2", None)] {
        let key = Key::new(key);
        let token = key.sign(&body(&header), &body(&claims()));
        let (_, disposition) = flow.get("/x", &token);
        match code {
            Some(code) => assert_eq!(denied(&disposition), code),
            None => drop(forwarded(disposition)),
        }
    }
}

#[test]
fn a_cached_token_is_revoked_by_the_next_list_and_good_again_at_the_entrys_end() {
    let mut flow = with_feed(&json!([]));
    let token = flow.key.token(&rich_claims());
    forwarded(flow.get("/x", &token).1);
    next_list(&mut flow, &feed(&json!([{"jti": "t-1", "exp": START - 20}])));
    assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked);
    flow.advance(7_999 * SECOND / 1_000);
    assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked);
    flow.advance(SECOND / 1_000);
    forwarded(flow.get("/x", &token).1);
}

#[test]
fn a_list_takes_the_place_of_the_one_before() {
    let mut flow = with_feed(&json!([{"jti": "t-1"}]));
    let token = flow.key.token(&rich_claims());
    assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked);
    next_list(&mut flow, &feed(&json!([])));
    forwarded(flow.get("/x", &token).1);
}

#[test]
fn it_is_asked_with_the_configured_call_once_in_each_interval() {
    let mut config = feed_config();
    config["revocation"]["feed"]["headers"] = json!({"authorization": "Bearer x"});
    let mut flow = with_feed_and(&config, &json!([]));
    flow.advance(Duration::from_millis(1_999));
    flow.tick();
    flow.no_call();
    flow.advance(Duration::from_millis(1));
    let call = poll(&mut flow, "auth");
    assert_eq!(call.request.timeout, SECOND);
    for (name, value) in [
        (":method", "GET"),
        (":authority", "auth.internal"),
        (":path", "/revocations?v=1"),
        ("authorization", "Bearer x"),
    ] {
        assert_eq!(header(&call, name), Some(value));
    }
    assert_eq!(header(&call, "if-none-match"), None);
    flow.tick();
    flow.no_call();
}

#[test]
fn an_unchanged_list_costs_a_304() {
    let mut flow = with_feed(&json!([]));
    flow.advance(2 * SECOND);
    let call = poll(&mut flow, "auth");
    flow.answer_tagged(call.id, 200, "\"one\"", &feed(&json!([{"jti": "t-1"}])));
    let token = flow.key.token(&rich_claims());
    for _ in 0..40 {
        flow.advance(2 * SECOND);
        let call = poll(&mut flow, "auth");
        assert_eq!(header(&call, "if-none-match"), Some("\"one\""));
        flow.answer(call.id, 304, b"");
        assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked);
    }
}

#[test]
fn a_feed_that_says_where_it_is_brings_only_what_is_new() {
    let mut flow = with_feed(&json!([]));
    let document = |entries: Value, next: &str| json!({"v": 1, "entries": entries, "next": next});
    next_list(&mut flow, &document(json!([{"jti": "t-1"}]), "7/a"));
    flow.advance(2 * SECOND);
    let call = poll(&mut flow, "auth");
    assert_eq!(header(&call, ":path"), Some("/revocations?v=1&since=7%2Fa"));
    flow.answer(call.id, 200, &body(&document(json!([{"sid": "s-9"}]), "8")));
    let token = flow.key.token(&rich_claims());
    assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked, "it is still known");
    let mut other = claims();
    other["sid"] = json!("s-9");
    let other = flow.key.token(&other);
    assert_eq!(denied(&flow.get("/x", &other).1), Code::TokenRevoked);
    // It can no longer tell: the whole list is asked for at once, and until then the old one holds.
    flow.advance(2 * SECOND);
    let call = poll(&mut flow, "auth");
    assert_eq!(header(&call, ":path"), Some("/revocations?v=1&since=8"));
    flow.answer(call.id, 410, b"");
    assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked);
    let call = poll(&mut flow, "auth");
    assert_eq!(header(&call, ":path"), Some("/revocations?v=1"));
    flow.answer(call.id, 200, &body(&document(json!([{"sid": "s-9"}]), "9")));
    forwarded(flow.get("/x", &token).1);
    assert_eq!(denied(&flow.get("/x", &other).1), Code::TokenRevoked);
}

#[test]
fn a_feed_without_end_is_bounded_and_what_has_ended_makes_room() {
    let mut config = feed_config();
    config["limits"] = json!({"max_revocations": 100});
    let mut flow = with_feed_and(&config, &json!([]));
    let mut now = START;
    for round in 0_u64..20 {
        now += 2;
        let entries: Vec<Value> =
            (0..40).map(|n| json!({"jti": format!("{round}-{n}"), "exp": now - 27})).collect();
        next_list(&mut flow, &json!({"v": 1, "entries": entries, "next": round.to_string()}));
        let mut claims = claims();
        claims["jti"] = json!(format!("{round}-39"));
        let token = flow.key.token(&claims);
        assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked);
    }
}

#[test]
fn a_feed_that_makes_no_sense_is_not_believed_and_the_last_list_ages() {
    let many: Vec<Value> = (0..10_001).map(|n| json!({"jti": n.to_string()})).collect();
    let unnamed: Vec<Value> = (0..257).map(|n| json!({"match": {"/x": n}})).collect();
    let bad: Vec<Vec<u8>> = [
        json!({"v": 2, "entries": []}),
        json!({"entries": []}),
        json!({"v": 1}),
        json!({"v": 1, "entries": {}}),
        json!({"v": 1, "entries": [], "next": "a\nb"}),
        json!({"v": 1, "entries": [], "next": "x".repeat(2_000)}),
        json!({"v": 1, "entries": [], "more": true}),
        feed(&json!([{}])),
        feed(&json!([{"exp": START + 9, "reason": "none"}])),
        feed(&json!([{"jti": null}])),
        feed(&json!([{"jti": 1}])),
        feed(&json!([{"jit": "t-1"}])),
        feed(&json!([{"jti": "t-2", "expires": 1}])),
        feed(&json!([{"match": {"azp": "x"}}])),
        feed(&json!([{"iat_before": "yesterday"}])),
        feed(&json!(many)),
        feed(&json!(unnamed)),
    ]
    .iter()
    .map(body)
    .chain([b"".to_vec(), b"\xff".to_vec(), br#"{"v":1,"v":1,"entries":[]}"#.to_vec()])
    .collect();
    for bad in bad {
        let shown = String::from_utf8_lossy(&bad).chars().take(80).collect::<String>();
        let mut flow = with_feed(&json!([{"jti": "t-1"}]));
        let token = flow.key.token(&rich_claims());
        let other = flow.token();
        flow.advance(2 * SECOND);
        let call = poll(&mut flow, "auth");
        flow.answer(call.id, 200, &bad);
        assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked, "{shown}");
        forwarded(flow.get("/x", &other).1);
        let log = flow.worker.take_log();
        assert!(log.iter().any(|(_, line)| line.starts_with("revocation feed: ")), "{log:?}");
        flow.advance(28 * SECOND);
        assert_eq!(denied(&flow.get("/x", &other).1), Code::RevocationUnavailable, "{shown}");
        // It comes back by itself.
        let call = poll(&mut flow, "auth");
        flow.answer(call.id, 200, &body(&feed(&json!([]))));
        forwarded(flow.get("/x", &token).1);
    }
}

#[test]
fn a_list_that_is_too_old_refuses_unless_the_config_allows() {
    for (on_unavailable, code) in [("deny", Some(Code::RevocationUnavailable)), ("allow", None)] {
        let mut config = feed_config();
        config["revocation"]["on_unavailable"] = json!(on_unavailable);
        let mut flow = with_feed_and(&config, &json!([]));
        let token = flow.token();
        flow.advance(Duration::from_millis(29_999));
        forwarded(flow.get("/x", &token).1);
        flow.advance(Duration::from_millis(1));
        for failure in [Failure::Broken, Failure::TooLong] {
            let (_, disposition) = flow.get("/x", &token);
            match code {
                Some(code) => assert_eq!(denied(&disposition), code),
                None => drop(forwarded(disposition)),
            }
            let call = poll(&mut flow, "auth");
            flow.fail_for_good(call.id, failure);
            flow.advance(3 * SECOND);
        }
        // Who needs no token does not need the list.
        forwarded(flow.get("/healthz", "x").1);
    }
}

#[test]
fn requests_before_the_first_list_wait_for_it() {
    for revoked in [false, true] {
        let mut flow = Flow::with(&feed_config());
        flow.tick();
        let calls: Vec<Dispatch> = std::iter::from_fn(|| flow.worker.next_call()).collect();
        let keys = jwks(&[&flow.key]);
        let auth = calls.iter().find(|call| call.request.cluster == "auth").unwrap().id;
        let clerk = calls.iter().find(|call| call.request.cluster == "clerk").unwrap().id;
        flow.answer(clerk, 200, &keys);
        let token = flow.key.token(&rich_claims());
        let (stream, disposition) = flow.get("/x", &token);
        assert_eq!(disposition, Disposition::Pause);
        let entries = if revoked { json!([{"jti": "t-1"}]) } else { json!([]) };
        let disposition = only(flow.answer(auth, 200, &body(&feed(&entries))), stream);
        if revoked {
            assert_eq!(denied(&disposition), Code::TokenRevoked);
        } else {
            forwarded(disposition);
        }
    }
    // Where it cannot be had, they end.
    let mut flow = Flow::with(&feed_config());
    flow.tick();
    let calls: Vec<Dispatch> = std::iter::from_fn(|| flow.worker.next_call()).collect();
    let keys = jwks(&[&flow.key]);
    for call in &calls {
        if call.request.cluster == "clerk" {
            flow.answer(call.id, 200, &keys);
        }
    }
    let token = flow.token();
    let (stream, _) = flow.get("/x", &token);
    for call in &calls {
        if call.request.cluster == "auth" {
            let released = flow.fail_for_good(call.id, Failure::UnknownCluster);
            assert_eq!(denied(&only(released, stream)), Code::RevocationUnavailable);
        }
    }
    assert_eq!(denied(&flow.get("/x", &token).1), Code::RevocationUnavailable);
}

#[test]
fn a_users_record_from_before_an_entry_of_theirs_is_not_used() {
    let mut config = config();
    config["revocation"] = feed_config()["revocation"].clone();
    config["user"]["lookup"]["cache"] =
        json!({"stale_if_error": "1h", "stale_while_revalidate": "1h"});
    let mut flow = with_feed_and(&config, &json!([]));
    let token = flow.token();
    forwarded(flow.whole("/x", &token, &record()));
    let entries = json!([{"sub": "user_2abc", "iat_before": START + 2}]);
    next_list(&mut flow, &feed(&entries));
    assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked);
    // A token from after it is good, and brings a record from after it.
    let mut new = claims();
    new["iat"] = json!(START + 2);
    let new = flow.key.token(&new);
    let (stream, disposition) = flow.get("/x", &new);
    assert_eq!(disposition, Disposition::Pause);
    let call = flow.call();
    let released = flow.fail_for_good(call.id, Failure::Broken);
    assert_eq!(
        denied(&only(released, stream)),
        Code::UserLookupUnavailable,
        "not for an outage, either"
    );
    let mut promoted = record();
    promoted["role"] = json!("ADMIN");
    let edits = forwarded(flow.whole("/x", &new, &promoted));
    assert!(edits.contains(&set("x-user-role", "ADMIN")));
    // The same list again purges nothing.
    next_list(&mut flow, &feed(&entries));
    forwarded(flow.get("/x", &new).1);
    flow.no_call();
}

#[test]
fn a_record_stays_void_when_its_entry_is_gone_whatever_else_the_entry_names() {
    for entry in [
        json!({"sub": "user_2abc", "iat_before": START + 2, "exp": START + 5}),
        json!({"sub": "user_2abc", "jti": "t-1", "exp": START + 5}),
        json!({"sub": "user_2abc", "kid": "k9"}),
    ] {
        let mut config = config();
        config["revocation"] = feed_config()["revocation"].clone();
        let data = SharedData::default();
        let mut flows = workers(&config, 2, &data);
        for flow in &mut flows {
            flow.tick();
            while let Some(call) = flow.worker.next_call() {
                let answer = match call.request.cluster.as_str() {
                    "clerk" => jwks(&[&flow.key]),
                    _ => body(&feed(&json!([]))),
                };
                flow.answer(call.id, 200, &answer);
            }
            flow.wake();
        }
        flows[1].wake();
        flows[0].wake();
        let mut new = claims();
        new["iat"] = json!(START + 2);
        let new = flows[0].key.token(&new);
        forwarded(flows[0].whole("/x", &new, &record()));
        forwarded(flows[1].get("/x", &new).1);
        for document in [feed(&json!([entry])), feed(&json!([]))] {
            for flow in &mut flows {
                flow.advance(4 * SECOND);
                flow.tick();
                while let Some(call) = flow.worker.next_call() {
                    assert_eq!(call.request.cluster, "auth");
                    flow.answer(call.id, 200, &body(&document));
                }
                flow.wake();
            }
            flows[0].wake();
        }
        for flow in &mut flows {
            let (stream, disposition) = flow.get("/x", &new);
            assert_eq!(disposition, Disposition::Pause, "{entry}");
            flow.worker.on_gone(stream);
            while flow.worker.next_call().is_some() {}
        }
    }
}

#[test]
fn the_documented_feed_is_a_feed() {
    let text = include_str!("../../docs/revocation.md");
    let block = text.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let mut flow = with_feed(&json!([]));
    flow.advance(2 * SECOND);
    let call = poll(&mut flow, "auth");
    flow.worker.take_log();
    flow.answer(call.id, 200, block.as_bytes());
    let log = flow.worker.take_log();
    assert!(log.iter().all(|(_, line)| !line.starts_with("revocation feed: ")), "{log:?}");
    let mut claims = claims();
    claims["azp"] = json!("https://old.example.com");
    let token = flow.key.token(&claims);
    assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked);
}

#[test]
fn a_record_that_was_asked_for_before_an_entry_and_came_after_it_is_asked_for_again() {
    let mut config = config();
    config["revocation"] = feed_config()["revocation"].clone();
    let mut flow = with_feed_and(&config, &json!([]));
    flow.advance(Duration::from_millis(1_900));
    let mut new = claims();
    new["iat"] = json!(START + 1);
    let new = flow.key.token(&new);
    let old = flow.token();
    let (kept, _) = flow.get("/x", &new);
    let (refused, _) = flow.get("/x", &old);
    let lookup = flow.call();
    flow.advance(Duration::from_millis(100));
    let call = poll(&mut flow, "auth");
    flow.answer(
        call.id,
        200,
        &body(&feed(&json!([{"sub": "user_2abc", "iat_before": START + 1}]))),
    );
    let released = flow.answer(lookup.id, 200, &body(&record()));
    assert_eq!(
        denied(&only(released, refused)),
        Code::TokenRevoked,
        "it was revoked while it waited"
    );
    let again = flow.call();
    let released = flow.answer(again.id, 200, &body(&record()));
    forwarded(only(released, kept));
}

#[test]
fn one_worker_polls_and_an_entry_holds_in_all_of_them() {
    let data = SharedData::default();
    let mut flows = workers(&feed_config(), 4, &data);
    let round = |flows: &mut [Flow], document: Value| {
        let mut polls = 0;
        let mut woken = false;
        for flow in flows.iter_mut() {
            flow.tick();
            while let Some(call) = flow.worker.next_call() {
                if call.request.cluster == "clerk" {
                    let keys = jwks(&[&flow.key]);
                    flow.answer(call.id, 200, &keys);
                } else {
                    polls += 1;
                    flow.worker.take_wake_others();
                    flow.answer(call.id, 200, &body(&document));
                    woken = flow.worker.take_wake_others();
                }
            }
        }
        for flow in flows.iter_mut() {
            assert!(flow.wake().is_empty());
        }
        assert_eq!(polls, 1);
        woken
    };
    assert!(round(&mut flows, feed(&json!([]))));
    let token = flows[0].key.token(&rich_claims());
    for flow in &mut flows {
        forwarded(flow.get("/x", &token).1);
        flow.advance(2 * SECOND);
    }
    assert!(round(&mut flows, feed(&json!([{"jti": "t-1"}]))), "all are woken for what is new");
    for flow in &mut flows {
        assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked);
    }
    // What is confirmed by one is young for all, for longer than any list may be old.
    for poll in 0..40 {
        for flow in &mut flows {
            flow.advance(2 * SECOND);
        }
        let same = json!({"v": 1, "entries": [{"jti": "t-1"}], "next": poll.to_string()});
        assert!(!round(&mut flows, same), "nobody is woken for nothing");
        for flow in &mut flows {
            assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked);
        }
    }
    // One that starts later has the list without a poll.
    let mut late = workers(&feed_config(), 5, &data).remove(4);
    late.now = flows[0].now;
    late.tick();
    late.wake();
    assert!(late.worker.next_call().is_none());
    assert_eq!(denied(&late.get("/x", &token).1), Code::TokenRevoked);
}

#[test]
fn a_worker_that_polls_no_more_is_replaced() {
    let data = SharedData::default();
    let mut flows = workers(&feed_config(), 2, &data);
    let first = flows.iter_mut().map(|flow| {
        flow.tick();
        std::iter::from_fn(|| flow.worker.next_call()).any(|call| call.request.cluster == "auth")
    });
    assert_eq!(first.collect::<Vec<_>>(), [true, false]);
    let mut heir = flows.remove(1);
    drop(flows);
    heir.advance(2 * SECOND);
    let call = poll(&mut heir, "auth");
    heir.answer(call.id, 200, &body(&feed(&json!([]))));
}

#[test]
fn a_clock_that_is_set_back_prolongs_no_list_and_asks_for_no_record_for_ever() {
    let mut config = config();
    config["revocation"] = feed_config()["revocation"].clone();
    let mut flow =
        with_feed_and(&config, &json!([{"sub": "user_2abc", "iat_before": START - 9_000}]));
    flow.now = flow.now.before(7_200 * SECOND);
    flow.tick();
    while let Some(call) = flow.worker.next_call() {
        flow.fail_for_good(call.id, Failure::Broken);
    }
    let mut early = claims();
    early["iat"] = json!(START - 8_000);
    let token = flow.key.token(&early);
    forwarded(flow.whole("/x", &token, &record()));
    forwarded(flow.get("/x", &token).1);
    flow.advance(30 * SECOND);
    assert_eq!(denied(&flow.get("/x", &token).1), Code::RevocationUnavailable);
}

// ---- the blacklist --------------------------------------------------------------------------------

fn blacklist_config() -> Value {
    let mut config = feed_config();
    config["revocation"] = json!({"redis": {"cluster": "webdis"}});
    config
}

fn blacklisted(values: &str) -> Vec<u8> {
    format!("{{\"MGET\":[{values}]}}").into_bytes()
}

#[test]
fn a_token_is_asked_for_by_all_its_names_at_once_and_remembered_for_a_moment() {
    for (values, code) in [
        ("null,null", None),
        ("\"1\",null", Some(Code::TokenRevoked)),
        ("null,\"1\"", Some(Code::TokenRevoked)),
        ("null,\"\"", Some(Code::TokenRevoked)),
        ("\"0\",\"false\"", Some(Code::TokenRevoked)),
    ] {
        let mut flow = Flow::with(&blacklist_config()).with_keys();
        let mut claims = rich_claims();
        claims["jti"] = json!("a.b/c d+é");
        let token = flow.key.token(&claims);
        let (stream, disposition) = flow.get("/x", &token);
        assert_eq!(disposition, Disposition::Pause);
        let (joined, _) = flow.get("/x", &token);
        let call = flow.call();
        assert_eq!(call.request.cluster, "webdis");
        assert_eq!(
            header(&call, ":path"),
            Some("/MGET/revoked%3Aa%2Eb%2Fc%20d%2B%C3%A9/revoked%3Auser%3Auser_2abc")
        );
        let check = |disposition: Disposition| match code {
            None => drop(forwarded(disposition)),
            Some(code) => assert_eq!(denied(&disposition), code, "{values}"),
        };
        let released = flow.answer(call.id, 200, &blacklisted(values));
        assert_eq!(released.len(), 2);
        for (released, disposition) in released {
            assert!(released == stream || released == joined);
            check(disposition);
        }
        flow.advance(Duration::from_millis(1_999));
        check(flow.get("/x", &token).1);
        flow.no_call();
        flow.advance(Duration::from_millis(1));
        assert_eq!(flow.get("/x", &token).1, Disposition::Pause);
    }
}

#[test]
fn a_token_without_the_claims_of_the_blacklist_cannot_be_revoked_and_is_refused() {
    let mut config = blacklist_config();
    config["revocation"]["redis"]["keys"] = json!(["revoked:{jti}"]);
    let mut flow = Flow::with(&config).with_keys();
    let token = flow.token();
    assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenMalformed);
    // By default the user's name is one, too.
    let mut flow = Flow::with(&blacklist_config()).with_keys();
    let token = flow.token();
    assert_eq!(flow.get("/x", &token).1, Disposition::Pause);
    assert_eq!(header(&flow.call(), ":path"), Some("/MGET/revoked%3Auser%3Auser_2abc"));
}

#[test]
fn where_the_blacklist_cannot_be_asked_the_config_decides() {
    for (on_unavailable, code) in [("deny", Some(Code::RevocationUnavailable)), ("allow", None)] {
        for answer in [
            (503, &b""[..]),
            (200, b"garbage"),
            (200, br#"{"MGET":[false,"ERR"]}"#),
            (200, br#"{"MGET":[null]}"#),
            (200, b"{}"),
            (403, b""),
        ] {
            let mut config = blacklist_config();
            config["revocation"]["on_unavailable"] = json!(on_unavailable);
            let mut flow = Flow::with(&config).with_keys();
            let token = flow.key.token(&rich_claims());
            let (stream, _) = flow.get("/x", &token);
            let call = flow.call();
            let disposition = only(flow.answer_for_good(call.id, answer.0, answer.1), stream);
            match code {
                None => drop(forwarded(disposition)),
                Some(code) => assert_eq!(denied(&disposition), code),
            }
            assert_eq!(flow.get("/x", &token).1, Disposition::Pause, "that is not remembered");
        }
    }
}

#[test]
fn a_blacklist_that_is_down_is_left_alone_for_a_while() {
    let mut flow = Flow::with(&blacklist_config()).with_keys();
    for round in 0..5 {
        let mut claims = rich_claims();
        claims["jti"] = json!(round.to_string());
        let token = flow.key.token(&claims);
        let (stream, _) = flow.get("/x", &token);
        let call = flow.call();
        let released = flow.fail_for_good(call.id, Failure::Broken);
        assert_eq!(denied(&only(released, stream)), Code::RevocationUnavailable);
    }
    let token = flow.key.token(&rich_claims());
    assert_eq!(denied(&flow.get("/x", &token).1), Code::RevocationUnavailable);
    flow.no_call();
}

#[test]
fn a_blacklist_that_never_answers_ends_the_request_by_its_deadline() {
    let mut flow = Flow::with(&blacklist_config()).with_keys();
    let token = flow.key.token(&rich_claims());
    let (stream, _) = flow.get("/x", &token);
    flow.advance(Duration::from_millis(350));
    let released = flow.tick();
    assert_eq!(denied(&only(released, stream)), Code::RevocationUnavailable);
}

#[test]
fn entries_that_had_ended_by_a_clock_that_was_ahead_are_asked_for_anew() {
    let document = feed(&json!([{"jti": "t-1", "exp": START + 600}]));
    let mut flow = with_feed(&json!([]));
    flow.advance(7_200 * SECOND);
    let call = poll(&mut flow, "auth");
    flow.answer_tagged(call.id, 200, "\"one\"", &document);
    flow.now = flow.now.before(7_200 * SECOND);
    let call = poll(&mut flow, "auth");
    match header(&call, "if-none-match") {
        Some("\"one\"") => flow.answer(call.id, 304, b""),
        _ => flow.answer_tagged(call.id, 200, "\"one\"", &document),
    };
    let token = flow.key.token(&rich_claims());
    assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked);
}

/// Has every call refused that there is.
fn refuse_calls(flow: &mut Flow) {
    flow.tick();
    while let Some(call) = flow.worker.next_call() {
        flow.answer(call.id, 403, b"");
    }
}

#[test]
fn an_entry_that_has_ended_is_kept_should_the_clock_be_set_back() {
    let entries = json!([{"jti": "t-1", "exp": START + 600}]);
    for incremental in [false, true] {
        let data = SharedData::default();
        let mut flows = workers(&feed_config(), 2, &data);
        let mut late = flows.remove(1);
        let mut flow = flows.remove(0);
        let mut document = feed(&entries);
        if incremental {
            document["next"] = json!("n");
        }
        flow.tick();
        while let Some(call) = flow.worker.next_call() {
            let is_feed = call.request.cluster == "auth";
            let answer = if is_feed { body(&document) } else { jwks(&[&flow.key]) };
            flow.answer(call.id, 200, &answer);
        }
        let token = flow.key.token(&rich_claims());
        assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked);
        // By the next list it has ended.
        flow.advance(700 * SECOND);
        if incremental {
            document["entries"] = json!([]);
        }
        refuse_calls(&mut flow);
        next_list(&mut flow, &document);
        forwarded(flow.get("/x", &token).1);
        let set_back = flow.now.before(300 * SECOND);
        for flow in [&mut flow, &mut late] {
            flow.now = set_back;
            refuse_calls(flow);
            flow.wake();
            assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked, "{incremental}");
        }
    }
}

/// It is not kept for ever: what is not known any more may be the entry that matters.
#[test]
fn a_list_means_nothing_before_the_end_of_what_was_left_out_of_it() {
    let day = 86_400 * SECOND;
    for (allows, bounded) in [(false, false), (true, false), (false, true)] {
        let mut config = feed_config();
        config["revocation"]["on_unavailable"] = json!(if allows { "allow" } else { "deny" });
        config["limits"] = json!({"max_revocations": 1});
        let data = SharedData::default();
        let mut flows = workers(&config, 2, &data);
        let mut late = flows.remove(1);
        let mut flow = flows.remove(0);
        // Too long ago, or no room for it.
        let (after, ends, back) =
            if bounded { (700, START + 600, 300 * SECOND) } else { (9_000, START + 600, day) };
        flow.now = flow.now.after(after * SECOND);
        flow.tick();
        let document = feed(&json!([{"jti": "t-1", "exp": ends}, {"jti": "t-2"}]));
        while let Some(call) = flow.worker.next_call() {
            let is_feed = call.request.cluster == "auth";
            let answer = if is_feed { body(&document) } else { jwks(&[&flow.key]) };
            flow.answer(call.id, 200, &answer);
        }
        let mut claims = rich_claims();
        claims["iat"] = json!(START - 100_000);
        claims["exp"] = json!(START + 100_000);
        let token = flow.key.token(&claims);
        forwarded(flow.get("/x", &token).1);
        let set_back = flow.now.before(back);
        for flow in [&mut flow, &mut late] {
            flow.now = set_back;
            refuse_calls(flow);
            flow.wake();
            let (_, disposition) = flow.get("/x", &token);
            if allows {
                forwarded(disposition);
            } else {
                assert_eq!(denied(&disposition), Code::RevocationUnavailable);
            }
        }
        // The feed knows it still.
        flow.advance(2 * SECOND);
        let again = poll(&mut flow, "auth");
        flow.answer(again.id, 200, &body(&feed(&json!([{"jti": "t-1", "exp": ends}]))));
        assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked);
    }
}

#[test]
fn what_the_blacklist_said_is_as_old_as_the_question() {
    let mut flow = Flow::with(&blacklist_config()).with_keys();
    let token = flow.key.token(&rich_claims());
    let (stream, _) = flow.get("/x", &token);
    let call = flow.call();
    flow.advance(Duration::from_millis(90));
    forwarded(only(flow.answer(call.id, 200, &blacklisted("null,null")), stream));
    flow.advance(Duration::from_millis(1_910));
    assert_eq!(flow.get("/x", &token).1, Disposition::Pause);
}

#[test]
fn what_the_last_list_revokes_stays_revoked_however_old_the_list_is() {
    for on_unavailable in ["deny", "allow"] {
        let mut config = feed_config();
        config["revocation"]["on_unavailable"] = json!(on_unavailable);
        let mut flow = with_feed_and(&config, &json!([{"jti": "t-1"}]));
        let token = flow.key.token(&rich_claims());
        flow.advance(31 * SECOND);
        assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked, "{on_unavailable}");
    }
}

/// The board keeps the last list for good, and a worker may start when the feed has been down for long.
#[test]
fn a_list_of_other_workers_that_is_too_old_still_revokes_who_waits_for_the_feed_in_vain() {
    let data = SharedData::default();
    let mut config = feed_config();
    config["revocation"]["on_unavailable"] = json!("allow");
    let mut flows = workers(&config, 2, &data);
    let mut late = flows.pop().unwrap();
    let mut early = flows.pop().unwrap();
    early.tick();
    while let Some(call) = early.worker.next_call() {
        let answer = match call.request.cluster.as_str() {
            "clerk" => jwks(&[&early.key]),
            _ => body(&feed(&json!([{"jti": "t-1"}]))),
        };
        early.answer(call.id, 200, &answer);
    }
    late.advance(31 * SECOND);
    let mut other = rich_claims();
    other["jti"] = json!("t-2");
    let (revoked, good) = (late.key.token(&rich_claims()), late.key.token(&other));
    let (first, disposition) = late.get("/x", &revoked);
    assert_eq!(disposition, Disposition::Pause, "it waits for the feed");
    let call = late.call();
    assert_eq!(call.request.cluster, "auth");
    let released = late.fail_for_good(call.id, Failure::Broken);
    assert_eq!(denied(&only(released, first)), Code::TokenRevoked);
    // Whom that list does not name, the config lets pass.
    forwarded(late.get("/x", &good).1);
}

#[test]
fn a_token_that_is_revoked_while_it_waits_is_refused_however_the_wait_ends() {
    let t1 = json!([{"jti": "t-1"}]);
    // For the blacklist.
    for (on_unavailable, answer) in [("deny", Some("null,null")), ("allow", None)] {
        let mut config = feed_config();
        config["revocation"]["redis"] = json!({"cluster": "webdis"});
        config["revocation"]["on_unavailable"] = json!(on_unavailable);
        let mut flow = with_feed_and(&config, &json!([]));
        let token = flow.key.token(&rich_claims());
        flow.advance(1_900 * SECOND / 1_000);
        let (stream, _) = flow.get("/x", &token);
        let asked = flow.call();
        flow.advance(Duration::from_millis(100));
        let call = poll(&mut flow, "auth");
        assert!(flow.answer(call.id, 200, &body(&feed(&t1))).is_empty());
        let released = match answer {
            Some(values) => flow.answer(asked.id, 200, &blacklisted(values)),
            None => flow.answer(asked.id, 500, b""),
        };
        assert_eq!(denied(&only(released, stream)), Code::TokenRevoked, "{on_unavailable}");
    }
    // For a user, whose last record then stands in.
    let mut config = config();
    config["revocation"] = feed_config()["revocation"].clone();
    config["user"]["lookup"]["cache"] = json!({"ttl": "1s", "stale_if_error": "1h"});
    let mut flow = with_feed_and(&config, &json!([]));
    let token = flow.key.token(&rich_claims());
    forwarded(flow.whole("/x", &token, &record()));
    flow.advance(1_900 * SECOND / 1_000);
    let (stream, _) = flow.get("/x", &token);
    let asked = flow.call();
    flow.advance(Duration::from_millis(100));
    let call = poll(&mut flow, "auth");
    assert!(flow.answer(call.id, 200, &body(&feed(&t1))).is_empty());
    let released = flow.answer(asked.id, 500, b"");
    assert_eq!(denied(&only(released, stream)), Code::TokenRevoked);
}

#[test]
fn a_request_ends_though_every_poll_brings_an_entry_of_its_user() {
    let mut config = config();
    config["revocation"] = feed_config()["revocation"].clone();
    config["revocation"]["feed"]["interval"] = json!("200ms");
    let mut flow = with_feed_and(&config, &json!([]));
    let token = flow.token();
    let (stream, _) = flow.get("/x", &token);
    let mut lookup = flow.call();
    for round in 1..100 {
        flow.advance(Duration::from_millis(200));
        let mut released = flow.tick();
        let poll = flow.call();
        let entries = json!([{"sub": "user_2abc", "iat_before": START - round}]);
        assert!(flow.answer(poll.id, 200, &body(&feed(&entries))).is_empty());
        released.extend(flow.answer(lookup.id, 200, &body(&record())));
        if !released.is_empty() {
            let _ = only(released, stream);
            return;
        }
        lookup = flow.call();
    }
    panic!("it waits without end");
}

#[test]
fn an_old_list_that_is_put_back_on_the_board_is_not_the_one_that_was_confirmed() {
    let data = SharedData::default();
    let mut flows = workers(&feed_config(), 2, &data);
    let serve = |flow: &mut Flow, entries: &Value| {
        flow.tick();
        while let Some(call) = flow.worker.next_call() {
            let answer = match call.request.cluster.as_str() {
                "clerk" => jwks(&[&flow.key]),
                _ => body(&feed(entries)),
            };
            flow.answer(call.id, 200, &answer);
        }
    };
    serve(&mut flows[0], &json!([]));
    flows[1].wake();
    let old = data.copy(".list.");
    assert_eq!(old.len(), 1);
    let entries = json!([{"jti": "t-1"}]);
    for flow in &mut flows {
        flow.advance(2 * SECOND);
    }
    serve(&mut flows[0], &entries);
    data.put_back(&old);
    flows[1].wake();
    // It cannot take the list over, so it asks for itself.
    serve(&mut flows[1], &entries);
    let token = flows[1].key.token(&rich_claims());
    assert_eq!(denied(&flows[1].get("/x", &token).1), Code::TokenRevoked);
}

#[test]
fn a_filter_that_cannot_hold_the_list_keeps_no_other_from_it() {
    let data = SharedData::default();
    let mut small = feed_config();
    small["limits"] = json!({"max_revocations": 1});
    let mut flows =
        [workers(&small, 1, &data).remove(0), workers(&feed_config(), 2, &data).remove(1)];
    let document = body(&feed(&json!([{"jti": "t-1"}, {"jti": "t-2"}])));
    for _ in 0..20 {
        for flow in &mut flows {
            flow.wake();
            flow.tick();
            while let Some(call) = flow.worker.next_call() {
                let keys = jwks(&[&flow.key]);
                let answer = if call.request.cluster == "clerk" { &keys } else { &document };
                flow.answer(call.id, 200, answer);
            }
            flow.advance(2 * SECOND);
        }
    }
    let token = flows[1].key.token(&rich_claims());
    assert_eq!(denied(&flows[1].get("/x", &token).1), Code::TokenRevoked);
}

#[test]
fn a_poll_takes_no_room_from_the_calls_that_requests_wait_for() {
    let mut config = config();
    config["revocation"] = feed_config()["revocation"].clone();
    config["limits"] = json!({"max_inflight_callouts": 1});
    let mut flow = with_feed_and(&config, &json!([]));
    flow.advance(2 * SECOND);
    poll(&mut flow, "auth");
    let token = flow.token();
    assert_eq!(flow.get("/x", &token).1, Disposition::Pause);
    assert_eq!(flow.call().request.cluster, "users");
}

#[test]
fn an_entry_with_an_iss_means_all_tokens_of_that_issuer_those_that_it_vouches_for_too() {
    let mut config = feed_config();
    config["providers"]["clerk"]["introspection"] = json!({
        "uri": "https://clerk.example/introspect", "cluster": "clerk",
        "client_id": "gateway", "client_secret": "secret",
    });
    let mut flow =
        with_feed_and(&config, &json!([{"iss": "youtube-clone-auth", "iat_before": START + 60}]));
    let (stream, disposition) = flow.get("/x", "opaque");
    assert_eq!(disposition, Disposition::Pause);
    let call = flow.call();
    let said =
        json!({"active": true, "sub": "user_2abc", "aud": "youtube-clone-api", "iat": START});
    let released = flow.answer(call.id, 200, &body(&said));
    assert_eq!(denied(&only(released, stream)), Code::TokenRevoked);
}

#[test]
fn an_entry_that_ends_with_its_token_holds_as_long_as_that_is_accepted() {
    let entries = json!([{"jti": "t-1", "exp": START + 3_600}]);
    let mut flow = with_feed(&entries);
    let token = flow.key.token(&rich_claims());
    flow.advance(3_590 * SECOND);
    for _ in 0..19 {
        next_list(&mut flow, &feed(&entries));
        assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenRevoked, "{:?}", flow.now);
    }
    next_list(&mut flow, &feed(&entries));
    assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenExpired, "its clock skew is over");
}

#[test]
fn a_record_that_an_entry_made_old_stays_old_when_the_entry_ends() {
    for gone in [false, true] {
        let mut config = config();
        config["revocation"] = feed_config()["revocation"].clone();
        let mut flow = with_feed_and(&config, &json!([]));
        let token = flow.token();
        let mut admin = record();
        admin["role"] = json!("ADMIN");
        forwarded(flow.whole("/admin", &token, &admin));
        // The role is taken away; tokens live for a minute, and so does the entry.
        let entries = json!([{"sub": "user_2abc", "iat_before": START + 2, "exp": START + 62}]);
        next_list(&mut flow, &feed(&entries));
        flow.advance(60 * SECOND);
        let entries = if gone { json!([]) } else { entries };
        next_list(&mut flow, &feed(&entries));
        let mut new = claims();
        new["iat"] = json!(START + 63);
        let new = flow.key.token(&new);
        assert_eq!(flow.get("/admin", &new).1, Disposition::Pause, "the old record is forgotten");
    }
}

#[test]
fn an_entry_with_a_sub_forgets_the_user_whatever_else_it_names() {
    for entry in [
        json!({"jti": "t-9", "sub": "user_2abc"}),
        json!({"sid": "s-9", "sub": "user_2abc"}),
        json!({"kid": "k9", "sub": "user_2abc"}),
    ] {
        let mut config = config();
        config["revocation"] = feed_config()["revocation"].clone();
        let mut flow = with_feed_and(&config, &json!([]));
        let token = flow.token();
        forwarded(flow.whole("/x", &token, &record()));
        next_list(&mut flow, &feed(&json!([entry])));
        assert_eq!(flow.get("/x", &token).1, Disposition::Pause, "{entry}");
        // Once: the same list again purges nothing.
        let call = flow.call();
        assert_eq!(flow.answer(call.id, 200, &body(&record())).len(), 1);
        next_list(&mut flow, &feed(&json!([entry])));
        forwarded(flow.get("/x", &token).1);
    }
}

#[test]
fn a_worker_that_starts_after_the_entry_ended_takes_no_record_from_before_it() {
    let data = SharedData::default();
    let mut config = config();
    config["revocation"] = feed_config()["revocation"].clone();
    let mut flows = workers(&config, 2, &data);
    let serve = |flow: &mut Flow, entries: &Value| {
        flow.tick();
        while let Some(call) = flow.worker.next_call() {
            let answer = match call.request.cluster.as_str() {
                "clerk" => jwks(&[&flow.key]),
                _ => body(&feed(entries)),
            };
            flow.answer(call.id, 200, &answer);
        }
    };
    serve(&mut flows[0], &json!([]));
    let token = flows[0].token();
    forwarded(flows[0].whole("/x", &token, &record()));
    for entries in [json!([{"sub": "user_2abc", "iat_before": START - 9}]), json!([])] {
        flows[0].advance(2 * SECOND);
        serve(&mut flows[0], &entries);
    }
    let mut late = flows.remove(1);
    late.now = flows[0].now;
    late.tick();
    late.wake();
    assert_eq!(late.get("/x", &token).1, Disposition::Pause);
    assert_eq!(late.call().request.cluster, "users");
}

#[test]
fn a_filter_that_keeps_no_records_voids_none_for_one_that_does() {
    let data = SharedData::default();
    let mut keeps = config();
    keeps["revocation"] = feed_config()["revocation"].clone();
    let mut flows =
        [workers(&feed_config(), 1, &data).remove(0), workers(&keeps, 2, &data).remove(1)];
    let serve = |flow: &mut Flow, entries: &Value| {
        flow.tick();
        while let Some(call) = flow.worker.next_call() {
            let answer = match call.request.cluster.as_str() {
                "clerk" => jwks(&[&flow.key]),
                _ => body(&feed(entries)),
            };
            flow.answer(call.id, 200, &answer);
        }
        flow.wake();
    };
    for flow in &mut flows {
        serve(flow, &json!([]));
    }
    let token = flows[1].token();
    forwarded(flows[1].whole("/x", &token, &record()));
    // The other one hears of both entries, one after the other, before this one looks.
    let mut entries = json!([]);
    for sub in ["user_2abc", "user_2def"] {
        entries.as_array_mut().unwrap().push(json!({"sub": sub, "iat_before": START - 9}));
        for flow in &mut flows {
            flow.advance(2 * SECOND);
        }
        serve(&mut flows[0], &entries);
    }
    serve(&mut flows[1], &entries);
    assert_eq!(flows[1].get("/x", &token).1, Disposition::Pause);
}
