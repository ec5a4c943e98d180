//! The user lookup: asked once, shared, remembered as long as promised, and never in place of an answer.

use std::time::Duration;

use meshgate::callout::Failure;
use meshgate::denial::Code;
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{Flow, claims, config, denied, forwarded, only, record, served, set};

#[test]
fn the_lookup_names_the_user_by_the_first_key_claim_there_is() {
    for (claims, path) in [
        (claims(), "/internal/users/by-clerk-id/user_2abc"),
        (
            json!({"sub": "a/../b?c", "exp": 4e9, "iss": "youtube-clone-auth", "aud": "youtube-clone-api"}),
            "/internal/users/by-clerk-id/a%2F..%2Fb%3Fc",
        ),
    ] {
        let mut flow = Flow::ready();
        let token = flow.key.token(&claims);
        let (_, disposition) = flow.get("/x", &token);
        assert_eq!(disposition, Disposition::Pause);
        let call = flow.call();
        assert_eq!(call.request.cluster, "users");
        assert_eq!(call.request.timeout, Duration::from_millis(300));
        let header = |name: &str| {
            call.request.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
        };
        assert_eq!(header(":path"), Some(path));
        assert_eq!(header(":authority"), Some("users.internal"));
    }
    let mut flow = Flow::ready();
    let token = flow
        .key
        .token(&json!({"exp": 4e9, "iss": "youtube-clone-auth", "aud": "youtube-clone-api"}));
    let (_, disposition) = flow.get("/x", &token);
    assert_eq!(denied(&disposition), Code::TokenMalformed);
}

#[test]
fn secrets_of_the_call_come_from_the_environment() {
    let mut config = config();
    config["user"]["lookup"]["headers"] = json!({"authorization": "Bearer ${env:USERS_API_KEY}"});
    let text = config.to_string();
    let env = |name: &str| (name == "USERS_API_KEY").then(|| "k-123".to_owned());
    let parsed = meshgate::config::Config::parse(text.as_bytes(), &env).unwrap();
    assert!(!format!("{parsed:?}").contains("k-123"));
    let mut flow = Flow::new();
    flow.worker =
        meshgate::worker::Worker::new(parsed, meshgate::signature::Crypto::Module, None, 1);
    let mut flow = flow.with_keys();
    let token = flow.token();
    let _ = flow.get("/x", &token);
    let call = flow.call();
    let sent = ("authorization".to_owned(), "Bearer k-123".to_owned());
    assert!(call.request.headers.contains(&sent));
}

#[test]
fn requests_of_one_user_share_one_lookup_though_the_first_hangs_up() {
    let mut flow = Flow::ready();
    let token = flow.token();
    let streams: Vec<_> = (0..200)
        .map(|_| {
            let (stream, disposition) = flow.get("/x", &token);
            assert_eq!(disposition, Disposition::Pause);
            stream
        })
        .collect();
    let call = flow.call();
    flow.worker.on_gone(streams[0]);
    let released = flow.answer(call.id, 200, record().to_string().as_bytes());
    let served: Vec<_> = released
        .into_iter()
        .map(|(stream, disposition)| {
            assert!(forwarded(disposition).contains(&set("x-user-id", "u-1001")));
            stream
        })
        .collect();
    assert_eq!(served, streams[1..]);
    flow.no_call();
}

#[test]
fn a_record_is_remembered_for_its_ttl() {
    let mut flow = Flow::ready();
    let token = flow.token();
    forwarded(flow.whole("/x", &token, &record()));
    flow.advance(Duration::from_millis(299_999));
    let (_, disposition) = flow.get("/x", &token);
    forwarded(disposition);
    flow.advance(Duration::from_millis(1));
    let (_, disposition) = flow.get("/x", &token);
    assert_eq!(disposition, Disposition::Pause);
    flow.call();
}

#[test]
fn an_unknown_user_is_403_and_remembered_for_the_negative_ttl() {
    for status in [404, 410] {
        let mut flow = Flow::ready();
        let token = flow.token();
        let (stream, _) = flow.get("/x", &token);
        let call = flow.call();
        let released = flow.answer(call.id, status, b"{}");
        assert_eq!(denied(&only(released, stream)), Code::UserUnknown);
        flow.advance(Duration::from_millis(9_999));
        let (_, disposition) = flow.get("/x", &token);
        assert_eq!(denied(&disposition), Code::UserUnknown);
        flow.no_call();
        flow.advance(Duration::from_millis(1));
        forwarded(flow.whole("/x", &token, &record()));
    }
}

#[test]
fn a_lookup_that_tells_nothing_is_503_and_not_remembered() {
    for (status, body) in [
        (500, &b""[..]),
        (502, b""),
        (503, b""),
        (504, b"upstream request timeout"),
        (401, b"{}"),
        (403, b"{}"),
        (302, b""),
        (204, b""),
        (201, br#"{"id":"u-1","role":"USER"}"#),
        (200, b"garbage"),
        (200, b"\xff\xfe\x00"),
        (200, b"null"),
        (200, b"[]"),
        (200, br#"{"id":"u-1","id":"u-2","role":"USER"}"#),
        (200, br#"{"id":"u-1""#),
    ] {
        let mut flow = Flow::ready();
        let token = flow.token();
        let (stream, _) = flow.get("/x", &token);
        let call = flow.call();
        let released = flow.answer_for_good(call.id, status, body);
        assert_eq!(
            denied(&only(released, stream)),
            Code::UserLookupUnavailable,
            "{status} {body:?}"
        );
        forwarded(flow.whole("/x", &token, &record()));
    }
    for failure in [
        Failure::UnknownCluster,
        Failure::NotSent,
        Failure::Broken,
        Failure::TimedOut,
        Failure::TooLong,
    ] {
        let mut flow = Flow::ready();
        let token = flow.token();
        let (stream, _) = flow.get("/x", &token);
        let call = flow.call();
        let released = flow.fail_for_good(call.id, failure);
        assert_eq!(denied(&only(released, stream)), Code::UserLookupUnavailable);
    }
}

#[test]
fn a_record_that_cannot_be_a_context_is_refused() {
    for (record, code) in [
        (json!({}), Code::UserLookupUnavailable),
        (json!({"id": "u-1"}), Code::UserLookupUnavailable),
        (json!({"id": null, "role": "USER"}), Code::UserLookupUnavailable),
        (json!({"id": "", "role": "USER"}), Code::UserLookupUnavailable),
        (json!({"id": {"a": 1}, "role": "USER"}), Code::UserLookupUnavailable),
        (json!({"id": "u-1\r\nx-user-role: ADMIN", "role": "USER"}), Code::UserLookupUnavailable),
        (json!({"id": "u-1", "role": "US\u{0}ER"}), Code::UserLookupUnavailable),
        (json!({"id": "u-1", "role": "USER", "channelId": "é"}), Code::UserLookupUnavailable),
        (json!({"id": "u-1", "role": ["USER"]}), Code::UserLookupUnavailable),
    ] {
        let mut flow = Flow::ready();
        let token = flow.token();
        let disposition = flow.whole("/x", &token, &record);
        assert_eq!(denied(&disposition), code, "{record}");
    }
    let mut flow = Flow::ready();
    let mut bad = claims();
    bad["clerkId"] = json!("user\nx");
    let token = flow.key.token(&bad);
    let disposition = flow.whole("/x", &token, &record());
    assert_eq!(denied(&disposition), Code::TokenMalformed);
}

#[test]
fn a_user_who_is_not_active_is_403() {
    let mut config = config();
    config["user"]["active"] = json!({"field": "/status", "equals": "ACTIVE"});
    for (status, code) in [
        (json!("ACTIVE"), None),
        (json!("BANNED"), Some(Code::UserDisabled)),
        (json!(null), Some(Code::UserDisabled)),
    ] {
        let mut flow = Flow::with(&config).with_keys();
        let token = flow.token();
        let mut record = record();
        record["status"] = status;
        let disposition = flow.whole("/x", &token, &record);
        match code {
            None => drop(forwarded(disposition)),
            Some(code) => assert_eq!(denied(&disposition), code),
        }
    }
}

#[test]
fn claims_can_be_the_record() {
    let mut config = config();
    config["user"] = json!({"source": "claims"});
    config["context"] = json!({"headers": {
        "x-user-id": {"claim": "/sub", "required": true},
        "x-user-role": {"user": "/role"},
    }});
    let mut flow = Flow::with(&config).with_keys();
    let mut claims = claims();
    claims["role"] = json!("ADMIN");
    let token = flow.key.token(&claims);
    let (_, disposition) = flow.get("/admin", &token);
    let edits = forwarded(disposition);
    assert!(edits.contains(&set("x-user-id", "user_2abc")));
    assert!(edits.contains(&set("x-user-role", "ADMIN")));
    flow.no_call();
}

#[test]
fn a_token_that_is_the_record_is_at_fault_for_what_that_lacks() {
    for (source, code) in
        [("claims", Code::TokenMalformed), ("lookup", Code::UserLookupUnavailable)]
    {
        let mut config = config();
        if source == "claims" {
            config["user"] = json!({"source": "claims"});
        }
        config["context"] =
            json!({"headers": {"x-user-tier": {"user": "/tier", "required": true}}});
        let mut flow = Flow::with(&config).with_keys();
        for tier in [Value::Null, json!({"gold": true}), json!("g\u{f6}ld")] {
            let mut user = claims();
            user["tier"] = tier;
            user["jti"] = json!(user["tier"].to_string());
            user["clerkId"] = user["jti"].clone();
            let token = flow.key.token(&user);
            let disposition = match source {
                "claims" => flow.get("/x", &token).1,
                _ => flow.whole("/x", &token, &user),
            };
            assert_eq!(denied(&disposition), code, "{source}: {}", user["tier"]);
        }
    }
}

#[test]
fn one_name_at_two_issuers_is_two_users() {
    let mut config = config();
    let mut other = config["providers"]["clerk"].clone();
    other["issuer"] = json!("other-auth");
    config["providers"]["other"] = other;
    let mut flow = Flow::with(&config);
    flow.tick();
    let keys = crate::support::jwks(&[&flow.key]);
    while let Some(call) = flow.worker.next_call() {
        flow.answer(call.id, 200, &keys);
    }
    let token = flow.token();
    forwarded(flow.whole("/x", &token, &record()));
    let mut theirs = claims();
    theirs["iss"] = json!("other-auth");
    let token = flow.key.token(&theirs);
    let (_, disposition) = flow.get("/x", &token);
    assert_eq!(disposition, Disposition::Pause, "the first user's record is not theirs");
    flow.call();
}

/// A worker that knows the user, whose record has just ceased to be fresh.
fn expired(cache: serde_json::Value) -> Flow {
    let mut config = config();
    config["user"]["lookup"]["cache"] = cache;
    config["user"]["active"] = json!({"field": "/status", "equals": "ACTIVE"});
    let mut flow = Flow::with(&config).with_keys();
    let token = flow.token();
    forwarded(flow.whole("/x", &token, &active("USER")));
    flow.advance(Duration::from_secs(300));
    flow
}

fn active(role: &str) -> serde_json::Value {
    json!({"id": "u-1001", "role": role, "status": "ACTIVE"})
}

#[test]
fn a_stale_record_is_used_while_one_call_asks_anew() {
    let mut flow = expired(json!({"stale_while_revalidate": "60s"}));
    let token = flow.token();
    for _ in 0..5 {
        let edits = forwarded(flow.get("/x", &token).1);
        assert!(edits.contains(&set("x-user-role", "USER")));
    }
    assert!(flow.worker.has_calls());
    let call = flow.call();
    flow.answer(call.id, 200, active("ADMIN").to_string().as_bytes());
    let edits = forwarded(flow.get("/x", &token).1);
    assert!(edits.contains(&set("x-user-role", "ADMIN")));
    flow.no_call();
    assert!(!flow.worker.has_calls());
}

#[test]
fn what_asking_anew_brings_holds_at_once() {
    for (status, body, code) in [
        (404, json!({}), Code::UserUnknown),
        (200, json!({"id": "u-1001", "role": "USER", "status": "BANNED"}), Code::UserDisabled),
    ] {
        let cache = json!({"stale_while_revalidate": "60s", "stale_if_error": "15m"});
        let mut flow = expired(cache);
        let token = flow.token();
        forwarded(flow.get("/x", &token).1);
        let call = flow.call();
        flow.answer(call.id, status, body.to_string().as_bytes());
        assert_eq!(denied(&flow.get("/x", &token).1), code);
        // Neither does an outage after that bring the old record back.
        flow.advance(Duration::from_secs(301));
        let (stream, disposition) = flow.get("/x", &token);
        let disposition = if disposition == Disposition::Pause {
            let call = flow.call();
            only(flow.answer_for_good(call.id, 503, b""), stream)
        } else {
            disposition
        };
        let code = denied(&disposition);
        assert!(matches!(code, Code::UserLookupUnavailable | Code::UserDisabled), "{code:?}");
    }
}

#[test]
fn a_stale_record_is_not_used_past_its_time() {
    let mut flow = expired(json!({"stale_while_revalidate": "60s"}));
    let token = flow.token();
    flow.advance(Duration::from_millis(59_999));
    forwarded(flow.get("/x", &token).1);
    flow.call();
    flow.advance(Duration::from_millis(1));
    assert_eq!(flow.get("/x", &token).1, Disposition::Pause);
}

#[test]
fn a_record_stands_in_for_a_service_that_is_down_and_for_none_that_is_wrong() {
    let answers = [
        (Some((500, &b""[..])), None, true),
        (Some((503, b"")), None, true),
        (Some((504, b"")), None, true),
        (None, Some(Failure::Broken), true),
        (None, Some(Failure::TimedOut), true),
        (None, Some(Failure::UnknownCluster), true),
        (None, Some(Failure::TooLong), false),
        (Some((401, b"")), None, false),
        (Some((302, b"")), None, false),
        (Some((200, b"garbage")), None, false),
    ];
    for (answer, failure, stands_in) in answers {
        let mut flow = expired(json!({"stale_if_error": "15m"}));
        let token = flow.token();
        for (later, stands_in) in [(890_000, stands_in), (10_000, false)] {
            flow.advance(Duration::from_millis(later));
            let (stream, disposition) = flow.get("/x", &token);
            assert_eq!(disposition, Disposition::Pause, "it is asked for first");
            let call = flow.call();
            let released = match (answer, failure) {
                (Some((status, body)), _) => flow.answer_for_good(call.id, status, body),
                (None, failure) => flow.fail_for_good(call.id, failure.unwrap()),
            };
            let disposition = only(released, stream);
            if stands_in {
                forwarded(disposition);
            } else {
                assert_eq!(denied(&disposition), Code::UserLookupUnavailable);
            }
        }
    }
}

#[test]
fn a_passing_failure_is_tried_once_more_within_the_calls_time() {
    for first in [Some(502), Some(503), Some(504), None] {
        let mut flow = Flow::ready();
        let token = flow.token();
        let (stream, _) = flow.get("/x", &token);
        let call = flow.call();
        flow.advance(Duration::from_millis(10));
        let released = match first {
            Some(status) => flow.answer(call.id, status, b""),
            None => flow.fail(call.id, Failure::Broken),
        };
        assert!(released.is_empty());
        flow.no_call();
        flow.advance(Duration::from_millis(75));
        flow.tick();
        let again = flow.call();
        assert!(again.request.timeout >= Duration::from_millis(215), "{:?}", again.request.timeout);
        assert!(again.request.timeout <= Duration::from_millis(265), "{:?}", again.request.timeout);
        let released = flow.answer(again.id, 200, record().to_string().as_bytes());
        forwarded(only(released, stream));
    }
    // Where the time is used up, or the answer will not be another one, it is not.
    for (status, after) in [(504, 300), (500, 10), (404, 10), (401, 10)] {
        let mut flow = Flow::ready();
        let token = flow.token();
        let (stream, _) = flow.get("/x", &token);
        let call = flow.call();
        flow.advance(Duration::from_millis(after));
        denied(&only(flow.answer(call.id, status, b""), stream));
    }
}

#[test]
fn a_service_that_is_down_is_left_alone_and_probed_by_one_call() {
    let mut flow = Flow::ready();
    let user = |flow: &mut Flow, name: &str| {
        let mut claims = claims();
        claims["clerkId"] = json!(name);
        let token = flow.key.token(&claims);
        flow.get("/x", &token)
    };
    for round in 0..5 {
        let (stream, disposition) = user(&mut flow, &format!("user_{round}"));
        assert_eq!(disposition, Disposition::Pause);
        let call = flow.call();
        let released = flow.fail_for_good(call.id, Failure::Broken);
        assert_eq!(denied(&only(released, stream)), Code::UserLookupUnavailable);
    }
    // It is open: nobody waits for a timeout, and nobody asks.
    assert_eq!(denied(&user(&mut flow, "user_x").1), Code::UserLookupUnavailable);
    flow.no_call();
    flow.advance(Duration::from_secs(1));
    let (probe, disposition) = user(&mut flow, "user_x");
    assert_eq!(disposition, Disposition::Pause, "one may try");
    let (joined, disposition) = user(&mut flow, "user_x");
    assert_eq!(disposition, Disposition::Pause, "who wants the same may wait with it");
    assert_eq!(denied(&user(&mut flow, "user_y").1), Code::UserLookupUnavailable);
    let call = flow.call();
    let released = flow.answer(call.id, 200, record().to_string().as_bytes());
    assert_eq!(served(released), [probe, joined]);
    assert_eq!(user(&mut flow, "user_y").1, Disposition::Pause, "it is closed again");
}

#[test]
fn a_user_whose_record_cannot_be_made_shuts_nobody_else_out() {
    let mut flow = Flow::ready();
    let token = flow.token();
    for _ in 0..100 {
        let (stream, disposition) = flow.get("/x", &token);
        assert_eq!(disposition, Disposition::Pause);
        let call = flow.call();
        denied(&only(flow.answer(call.id, 500, b""), stream));
    }
}

#[test]
fn a_record_stands_in_while_the_circuit_is_open() {
    let mut flow = expired(json!({"stale_if_error": "15m"}));
    let token = flow.token();
    for _ in 0..5 {
        let (stream, _) = flow.get("/x", &token);
        let call = flow.call();
        forwarded(only(flow.fail_for_good(call.id, Failure::Broken), stream));
    }
    forwarded(flow.get("/x", &token).1);
    flow.no_call();
}

#[test]
fn a_record_of_another_user_is_nobodys_though_one_from_before_could_stand_in() {
    let mut config = config();
    config["user"]["lookup"]["key_field"] = json!("/clerkId");
    config["user"]["lookup"]["cache"] = json!({"stale_if_error": "15m"});
    for (id, served) in [
        (json!("user_2abc"), true),
        (json!("user_2adm"), false),
        (json!("USER_2ABC"), false),
        (json!(["user_2abc"]), false),
        (json!(null), false),
    ] {
        let mut flow = Flow::with(&config).with_keys();
        let token = flow.token();
        forwarded(flow.whole("/x", &token, &record()));
        flow.advance(Duration::from_secs(300));
        let mut theirs = record();
        theirs["clerkId"] = id;
        let disposition = flow.whole("/x", &token, &theirs);
        if served {
            forwarded(disposition);
        } else {
            assert_eq!(denied(&disposition), Code::UserLookupUnavailable);
            let (_, disposition) = flow.get("/x", &token);
            assert_eq!(disposition, Disposition::Pause, "it is not remembered");
        }
    }
}
