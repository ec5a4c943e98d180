//! A users service at fault before four workers that share: each request ends in time and with the right code,
//! none gets through, and once the service is back, so are we.

use std::time::{Duration, Instant};

use harness::server::{Answer, Behavior};
use serde_json::json;

use crate::support::{
    LONG, USER, active, assert_all, assert_context, assert_denied, assert_serves, begin_all,
    sharing, token_of, user_token, wait_until,
};

#[test]
fn whatever_the_users_service_does_wrong_nobody_gets_through_and_nobody_waits_long() {
    let bed = sharing(4)
        .filter_config(|config| {
            config["user"]["lookup"]["key_field"] = json!("/clerkId");
            config["user"]["lookup"]["cache"] = json!({"ttl": "0s", "negative_ttl": "0s"});
        })
        .start();
    assert_all(&bed.get("/api/comments").bearer(&user_token(&bed)), 200);
    let json = |body: &str| Behavior::Answer(Answer::new(200, "application/json", body));
    let unavailable = (503, "user_lookup_unavailable");
    for (fault, behavior, (status, code)) in [
        ("500", Behavior::Status(500), unavailable),
        ("502", Behavior::Status(502), unavailable),
        ("429", Behavior::Status(429), unavailable),
        ("401", Behavior::Status(401), unavailable),
        ("302", Behavior::Status(302), unavailable),
        ("204", Behavior::Status(204), unavailable),
        ("404", Behavior::Status(404), (403, "user_unknown")),
        ("garbage", json("\u{fffd}{"), unavailable),
        (
            "a list",
            json(r#"[{"id": "u-1", "clerkId": "user_2abc", "role": "ADMIN"}]"#),
            unavailable,
        ),
        ("no user", json("null"), unavailable),
        (
            "said twice",
            json(r#"{"id": "u-1", "clerkId": "user_2abc", "role": "USER", "role": "ADMIN"}"#),
            unavailable,
        ),
        (
            "another user",
            json(r#"{"id": "u-1", "clerkId": "user_2adm", "role": "ADMIN"}"#),
            unavailable,
        ),
        ("nobody's", json(r#"{"id": "u-1", "role": "ADMIN"}"#), unavailable),
        ("10 MB", Behavior::Huge(10_000_000), unavailable),
        ("reset", Behavior::Reset, unavailable),
        ("never", Behavior::Hold, unavailable),
    ] {
        bed.upstream.take();
        bed.users.behave(behavior);
        let start = Instant::now();
        let users = ["user_2abc", "user_2xyz", "a/b"].map(|user| token_of(&bed, user));
        let pending: Vec<_> = users
            .iter()
            .flat_map(|token| begin_all(&bed.get("/api/comments").bearer(token), 16))
            .collect();
        // Who needs no lookup is served meanwhile.
        assert_eq!(bed.get("/api/videos").send().status, 200, "{fault}");
        for pending in pending {
            let response = pending.finish();
            assert_eq!(response.status, status, "{fault}: {}", response.text());
            assert_denied(&response, status, code);
            assert_eq!(response.header("retry-after").is_some(), status == 503, "{fault}");
        }
        assert!(start.elapsed() < Duration::from_millis(1_800), "{fault}: {:?}", start.elapsed());
        assert_eq!(bed.upstream.take().len(), 1, "{fault}");
        bed.users.behave(Behavior::Serve);
        let request = bed.get("/api/comments").bearer(&user_token(&bed));
        wait_until("the service is back", || request.send().status == 200);
    }
    bed.no_traps();
}

#[test]
fn a_users_service_that_is_killed_while_it_is_asked_comes_back_by_itself() {
    let bed = sharing(4)
        .filter_config(|config| {
            config["user"]["lookup"]["timeout"] = json!("2s");
            config["user"]["lookup"]["cache"] = json!({"ttl": "0s", "negative_ttl": "0s"});
        })
        .users(|users| users.behave(Behavior::Hold))
        .start();
    let request = bed.get("/api/comments").bearer(&user_token(&bed));
    for _ in 0..3 {
        bed.users.behave(Behavior::Hold);
        let asked = bed.users.requests();
        let pending = begin_all(&request, 64);
        wait_until("all are held", || active(&bed) == 64);
        bed.users.wait_for_requests(asked + 1, LONG);
        let start = Instant::now();
        bed.users.shut();
        for pending in pending {
            assert_denied(&pending.finish(), 503, "user_lookup_unavailable");
        }
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        for pending in begin_all(&request, 64) {
            assert_denied(&pending.finish(), 503, "user_lookup_unavailable");
        }
        bed.users.behave(Behavior::Serve);
        bed.users.reopen();
        wait_until("the service is back", || request.send().status == 200);
        bed.upstream.take();
        wait_until("it is back for all workers", || {
            begin_all(&request, 32).into_iter().all(|pending| pending.finish().status == 200)
        });
        for seen in bed.upstream.take() {
            assert_context(&seen, USER);
        }
    }
    assert_serves(&bed);
}
