//! The user lookup: asserted at the users service, which counts how often it is asked.

use std::sync::atomic::{AtomicUsize, Ordering};

use harness::idp::seed_claims;
use harness::server::{Answer, Behavior, Seen, Server};
use harness::testbed::Testbed;
use serde_json::{Value, json};

use crate::support::{
    LONG, NOBODY, USER, active, assert_context, assert_denied, assert_serves, only_seen,
    patient_lookup, plugin, token_of, user_token, wait_until,
};

#[test]
fn two_hundred_first_requests_of_one_user_make_one_lookup_though_the_first_hangs_up() {
    let bed = Testbed::gateway()
        .concurrency(1)
        .filter_config(patient_lookup)
        .users(|users| users.behave(Behavior::Hold))
        .start();
    let token = user_token(&bed);
    let request = bed.get("/api/comments").bearer(&token);
    let first = request.begin();
    bed.users.wait_for_requests(1, LONG);
    let rest: Vec<_> = (0..199).map(|_| request.begin()).collect();
    wait_until("all are held", || active(&bed) == 200);
    drop(first);
    wait_until("the first has hung up", || active(&bed) == 199);
    bed.users.release();
    for pending in rest {
        assert_eq!(pending.finish().status, 200);
    }
    assert_eq!(bed.users.requests(), 1);
    let seen = bed.upstream.take();
    assert_eq!(seen.len(), 199);
    for seen in &seen {
        assert_context(seen, USER);
    }
    bed.no_traps();
}

#[test]
fn a_record_is_asked_for_once_and_then_remembered() {
    let bed = Testbed::gateway().start();
    for _ in 0..20 {
        assert_serves(&bed);
    }
    assert_eq!(bed.users.lookups("user_2abc"), 1);
    let asked = &bed.users.seen()[0];
    assert_eq!(asked.path, "/internal/users/by-clerk-id/user_2abc");
    assert_eq!(asked.header("authorization"), None, "the client's token is not shown to it");
    assert_eq!(bed.get("/api/comments").bearer(&token_of(&bed, "user_2adm")).send().status, 200);
    assert_eq!(bed.users.requests(), 2);
}

#[test]
fn a_record_is_forgotten_when_its_ttl_ends() {
    let bed = Testbed::gateway()
        .filter_config(|config| {
            config["user"]["lookup"]["cache"] = json!({"ttl": "200ms", "negative_ttl": "200ms"});
        })
        .start();
    assert_serves(&bed);
    bed.users.set_role("user_2abc", "ADMIN");
    wait_until("the new role arrives", || {
        assert_eq!(bed.get("/api/comments").bearer(&user_token(&bed)).send().status, 200);
        only_seen(&bed).header("x-user-role") == Some(b"ADMIN")
    });
    bed.users.remove("user_2abc");
    wait_until("the user is gone", || {
        bed.get("/api/comments").bearer(&user_token(&bed)).send().status == 403
    });
}

#[test]
fn a_user_is_named_by_clerk_id_else_by_sub() {
    let bed = Testbed::gateway().start();
    let mut claims = seed_claims("user_2abc");
    claims.as_object_mut().unwrap().remove("clerkId");
    assert_eq!(bed.get("/api/comments").bearer(&bed.idp.token(claims)).send().status, 200);
    assert_context(&only_seen(&bed), [Some("u-1001"), None, Some("USER"), Some("ch-2001")]);
    let odd = token_of(&bed, "a/../../admin?x=1#y z%2e");
    assert_denied(&bed.get("/api/comments").bearer(&odd).send(), 403, "user_unknown");
    let asked = bed.users.take();
    assert_eq!(
        asked[1].path,
        "/internal/users/by-clerk-id/a%2F..%2F..%2Fadmin%3Fx%3D1%23y%20z%252e"
    );
}

#[test]
fn a_users_service_at_fault_is_503_and_comes_back_by_itself() {
    let bed = Testbed::gateway()
        .filter_config(|config| {
            config["user"]["lookup"]["cache"] = json!({"ttl": "0s", "negative_ttl": "0s"});
        })
        .start();
    let denied = |name: &str| {
        let response = bed.get("/api/comments").bearer(&user_token(&bed)).send();
        assert_denied(&response, 503, "user_lookup_unavailable");
        assert_eq!(response.header("retry-after"), Some(&b"1"[..]), "{name}");
        // Who needs no lookup is served meanwhile.
        assert_eq!(bed.get("/api/videos").send().status, 200);
        assert_context(&only_seen(&bed), NOBODY);
    };
    for (name, behavior) in [
        ("500", Behavior::Status(500)),
        ("401", Behavior::Status(401)),
        ("302", Behavior::Status(302)),
        ("garbage", Behavior::Answer(Answer::new(200, "application/json", b"\xff{".to_vec()))),
        ("reset", Behavior::Reset),
        ("huge", Behavior::Huge(10_000_000)),
        ("never", Behavior::Hold),
    ] {
        bed.users.behave(behavior);
        denied(name);
        bed.users.behave(Behavior::Serve);
        assert_serves(&bed);
    }
    bed.users.shut();
    denied("down");
    bed.users.reopen();
    assert_serves(&bed);
}

#[test]
fn a_body_waits_for_its_head_whatever_the_plugin_is_allowed() {
    for lenient in [false, true] {
        let bed = Testbed::gateway()
            .filter_config(patient_lookup)
            .bootstrap(|bootstrap| {
                plugin(bootstrap)["allow_on_headers_stop_iteration"] = json!(lenient);
            })
            .users(|users| users.behave(Behavior::Hold))
            .start();
        let body = "x".repeat(200_000);
        let request = |user: &str| {
            bed.get("/api/comments")
                .method("POST")
                .header("x-user-id", "forged")
                .bearer(&token_of(&bed, user))
                .body(body.clone())
        };
        let known = request("user_2abc").begin();
        let unknown = request("user_nobody").begin();
        bed.users.wait_for_requests(2, LONG);
        // Time for the bodies to run ahead, if they can.
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(bed.upstream.requests(), 0, "lenient: {lenient}");
        bed.users.release();
        assert_eq!(known.finish().status, 200);
        assert_denied(&unknown.finish(), 403, "user_unknown");
        let seen = only_seen(&bed);
        assert_context(&seen, USER);
        assert_eq!(seen.body.len(), body.len());
        bed.no_traps();
    }
}

#[test]
fn waiting_requests_are_bounded() {
    let bed = Testbed::gateway()
        .filter_config(|config| {
            patient_lookup(config);
            config["limits"] = json!({"max_waiters": 3});
        })
        .users(|users| users.behave(Behavior::Hold))
        .start();
    // Once this is refused, the keys are there: the places are then for verified tokens.
    let expired = bed.idp.token(crate::support::claims_with("exp", json!(1)));
    assert_denied(&bed.get("/api/comments").bearer(&expired).send(), 401, "token_expired");
    let request = bed.get("/api/comments").bearer(&user_token(&bed));
    let held: Vec<_> = (0..3).map(|_| request.begin()).collect();
    wait_until("three are held", || active(&bed) == 3);
    assert_denied(&request.send(), 503, "overloaded");
    bed.users.release();
    for pending in held {
        assert_eq!(pending.finish().status, 200);
    }
    bed.no_traps();
}

#[test]
fn workers_serve_side_by_side() {
    let bed = Testbed::gateway().concurrency(4).start();
    let token = user_token(&bed);
    let pending: Vec<_> =
        (0..64).map(|_| bed.get("/api/comments").bearer(&token).begin()).collect();
    for pending in pending {
        assert_eq!(pending.finish().status, 200);
    }
    for seen in bed.upstream.take() {
        assert_context(&seen, USER);
    }
    bed.no_traps();
}

#[test]
fn a_known_user_is_served_through_an_outage_as_long_as_the_config_says() {
    let bed = Testbed::gateway()
        .filter_config(|config| {
            config["user"]["lookup"]["cache"] = json!({"ttl": "100ms", "stale_if_error": "2s"});
        })
        .start();
    assert_serves(&bed);
    let token = user_token(&bed);
    let send = || bed.get("/api/comments").bearer(&token).send();
    bed.users.shut();
    std::thread::sleep(std::time::Duration::from_millis(200)); // the record is not fresh any more
    assert_eq!(send().status, 200);
    assert_context(&only_seen(&bed), USER);
    wait_until("the record's time is over", || {
        bed.upstream.take();
        send().status == 503
    });
    bed.users.reopen();
    wait_until("a probe finds that the service is back", || send().status == 200);
    assert_serves(&bed);
    // A service that says something is believed, whatever was known before.
    bed.users.remove("user_2abc");
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_denied(&send(), 403, "user_unknown");
}

#[test]
fn a_stale_record_is_used_while_a_call_that_nobody_waits_for_asks_anew() {
    let bed = Testbed::gateway()
        .filter_config(|config| {
            patient_lookup(config);
            config["user"]["lookup"]["cache"] =
                json!({"ttl": "100ms", "stale_while_revalidate": "1h"});
        })
        .start();
    assert_serves(&bed);
    bed.users.set_role("user_2abc", "ADMIN");
    bed.users.behave(Behavior::Hold);
    std::thread::sleep(std::time::Duration::from_millis(200)); // the record is not fresh any more
    for _ in 0..10 {
        assert_serves(&bed);
    }
    bed.users.wait_for_requests(2, LONG);
    bed.users.release();
    wait_until("the new role arrives", || {
        assert_eq!(bed.get("/api/comments").bearer(&user_token(&bed)).send().status, 200);
        only_seen(&bed).header("x-user-role") == Some(b"ADMIN")
    });
    bed.no_traps();
}

#[test]
fn a_record_may_come_from_postgrest_or_graphql() {
    let service = Server::start(|seen: &Seen| {
        let record = json!({"id": "u-7", "role": "USER", "channelId": null});
        let query: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", "/users?org=acme%2Finc&clerk_id=eq.user_2abc") => {
                Answer::json(200, &json!([record]))
            }
            ("GET", _) => Answer::json(200, &json!([])),
            _ if query["variables"]["id"] == "user_2abc" => {
                Answer::json(200, &json!({"data": {"user": record}}))
            }
            _ => Answer::json(200, &json!({"data": {"user": null}})),
        }
    });
    let postgrest = json!({
        "cluster": "users", "path": "/users?org={claim:/org}&clerk_id=eq.{key}", "record": "/0",
    });
    let graphql = json!({
        "cluster": "users", "path": "/graphql", "record": "/data/user",
        "body": {"query": "query($id: ID!) { user(id: $id) { id role } }", "variables": {"id": "{key}"}},
    });
    for lookup in [postgrest, graphql] {
        let bed = Testbed::gateway()
            .with_cluster("users", service.address())
            .filter_config(|config| config["user"]["lookup"] = lookup.clone())
            .start();
        let send = |user: &str| {
            let mut claims = seed_claims(user);
            claims["org"] = json!("acme/inc");
            bed.get("/api/comments").bearer(&bed.idp.token(claims)).send()
        };
        let response = send("user_2abc");
        assert_eq!(response.status, 200, "{lookup}: {}", response.text());
        assert_context(&only_seen(&bed), [Some("u-7"), Some("user_2abc"), Some("USER"), None]);
        assert_denied(&send("user_2xyz\", \"id\": \"user_2abc"), 403, "user_unknown");
        bed.no_traps();
    }
}

#[test]
fn a_passing_failure_is_not_seen_by_the_client() {
    let failures = AtomicUsize::new(0);
    let service = Server::start(move |_: &Seen| {
        // Every other answer is a failure.
        if failures.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            Answer::problem(503, "Service Unavailable")
        } else {
            Answer::json(200, &json!({"id": "u-7", "role": "USER"}))
        }
    });
    let bed = Testbed::gateway()
        .with_cluster("users", service.address())
        .filter_config(|config| {
            patient_lookup(config);
            // Its records are all of one user.
            config["user"]["lookup"]["key_field"] = json!(null);
        })
        .start();
    for user in 0..20 {
        let token = token_of(&bed, &format!("user_{user}"));
        assert_eq!(bed.get("/api/comments").bearer(&token).send().status, 200);
    }
    assert_eq!(service.requests(), 40);
    bed.no_traps();
}

#[test]
fn a_service_that_is_down_is_left_alone_until_it_is_back() {
    let bed = Testbed::gateway().users(|users| users.behave(Behavior::Status(503))).start();
    let send = |user: usize| {
        bed.get("/api/comments").bearer(&token_of(&bed, &format!("user_{user}"))).send().status
    };
    for user in 0..5 {
        assert_eq!(send(user), 503);
    }
    let asked = bed.users.requests();
    assert_eq!(asked, 10, "each of the five was tried twice");
    for user in 5..50 {
        assert_eq!(send(user), 503);
    }
    assert!(bed.users.requests() <= asked + 2, "a probe at the most");
    bed.users.behave(Behavior::Serve);
    wait_until("it is asked again", || {
        bed.get("/api/comments").bearer(&user_token(&bed)).send().status == 200
    });
    bed.no_traps();
}
