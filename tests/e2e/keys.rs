//! The issuer's keys: fetched by callout, waited for, followed through a rotation.

use std::time::{Duration, Instant};

use harness::idp::{Key, seed_claims};
use harness::server::Behavior;
use harness::testbed::{Builder, Testbed};
use serde_json::json;

use crate::support::{
    self, LONG, USER, active, assert_context, assert_denied, assert_serves, only_seen, user_token,
    wait_until,
};

/// Envoy runs the module in its one worker and, for the root context, in its main thread too; each
/// fetches keys for itself.
const VMS: usize = 2;

#[test]
fn keys_are_fetched_at_start_without_a_request() {
    let bed = Testbed::gateway().start();
    bed.idp.wait_for_requests(VMS, LONG);
    assert_eq!(bed.idp.seen()[0].path, "/.well-known/jwks.json");
    assert_serves(&bed);
    assert_eq!(bed.idp.requests(), VMS, "and not again for each request");
}

#[test]
fn requests_before_the_first_keys_wait_and_go_on() {
    let bed = Testbed::gateway().idp(|idp| idp.behave(Behavior::Hold)).start();
    let token = user_token(&bed);
    let waiting: Vec<_> = (0..5).map(|_| bed.get("/api/comments").bearer(&token).begin()).collect();
    wait_until("five requests are held", || active(&bed) == 5);
    assert_eq!(bed.upstream.requests(), 0);
    // What needs no keys does not wait.
    assert_eq!(bed.get("/healthz").send().status, 200);
    assert_denied(&bed.get("/api/comments").send(), 401, "token_missing");
    bed.upstream.take();
    bed.idp.release();
    for pending in waiting {
        assert_eq!(pending.finish().status, 200);
    }
    for seen in bed.upstream.take() {
        assert_context(&seen, USER);
    }
    assert_eq!(bed.idp.requests(), VMS);
    bed.no_traps();
}

#[test]
fn an_issuer_that_never_answers_ends_each_request_in_time() {
    let bed = Testbed::gateway()
        .idp(|idp| idp.behave(Behavior::Hold))
        .filter_config(|config| {
            config["providers"]["clerk"]["remote_jwks"]["timeout"] = json!("300ms");
        })
        .start();
    let response = bed.get("/api/comments").bearer(&user_token(&bed)).send();
    assert_denied(&response, 503, "keys_unavailable");
    assert_eq!(response.header("retry-after"), Some(&b"1"[..]));
    bed.no_traps();
}

#[test]
fn a_rotated_key_is_fetched_when_it_is_first_seen() {
    let bed = Testbed::gateway()
        .filter_config(|config| {
            config["providers"]["clerk"]["remote_jwks"]["unknown_kid_cooldown"] = json!("100ms");
        })
        .start();
    assert_serves(&bed);
    let old = user_token(&bed);
    bed.idp.rotate();
    std::thread::sleep(Duration::from_millis(150)); // the cooldown is over
    assert_serves(&bed);
    assert_eq!(bed.idp.requests(), VMS + 1);
    let response = bed.get("/api/comments").bearer(&old).send();
    assert_eq!(response.status, 401, "the old key is gone");
}

#[test]
fn keys_outlive_an_issuer_that_is_down() {
    let bed = Testbed::gateway()
        .filter_config(|config| {
            config["providers"]["clerk"]["remote_jwks"]["cache_duration"] = json!("1s");
        })
        .start();
    assert_serves(&bed);
    bed.idp.behave(Behavior::Reset);
    let before = bed.idp.requests();
    bed.idp.wait_for_requests(before + 2, LONG);
    assert_serves(&bed);
    bed.envoy.wait_for_log("jwks provider=clerk: ", LONG);
    let only = bed.get("/api/comments").bearer(&user_token(&bed)).send();
    assert_eq!(only.status, 200);
    assert_context(&only_seen(&bed), USER);
}

/// Workers that share, and look for a new key soon.
fn sharing(workers: u32) -> Builder {
    support::sharing(workers).filter_config(|config| {
        config["providers"]["clerk"]["remote_jwks"]["unknown_kid_cooldown"] = json!("1s");
    })
}

#[test]
fn four_workers_make_one_fetch_at_start_and_one_more_for_a_rotation() {
    let bed = sharing(4).start();
    // Each connection may land on another worker.
    let all_workers = |status: u16| {
        let token = user_token(&bed);
        let sent: Vec<_> =
            (0..64).map(|_| bed.get("/api/comments").bearer(&token).begin()).collect();
        for pending in sent {
            assert_eq!(pending.finish().status, status);
        }
    };
    all_workers(200);
    assert_eq!(bed.idp.requests(), 1);
    bed.idp.rotate();
    std::thread::sleep(Duration::from_millis(1_100)); // the cooldown
    all_workers(200);
    assert_eq!(bed.idp.requests(), 2);
    bed.no_traps();
}

#[test]
fn workers_that_wait_for_the_first_keys_are_all_served_by_one_fetch() {
    let bed = sharing(4).idp(|idp| idp.behave(Behavior::Hold)).start();
    let token = user_token(&bed);
    let waiting: Vec<_> =
        (0..64).map(|_| bed.get("/api/comments").bearer(&token).begin()).collect();
    wait_until("all are held", || active(&bed) == 64);
    bed.idp.release();
    for pending in waiting {
        assert_eq!(pending.finish().status, 200);
    }
    assert_eq!(bed.idp.requests(), 1);
    bed.no_traps();
}

#[test]
fn a_rotation_every_second_under_load_refuses_no_valid_token() {
    const ROUNDS: usize = 5;
    let bed = sharing(2).start();
    assert_serves(&bed);
    let start = Instant::now();
    let mut sent = 0;
    let mut tokens = vec![user_token(&bed)];
    for round in 0..ROUNDS {
        // The new key is published beside the old one, as issuers do it.
        let key = Key::es256(&format!("round-{round}"));
        bed.idp.add_key(key.clone());
        tokens.push(key.token(&seed_claims("user_2abc")));
        std::thread::sleep(Duration::from_millis(1_050)); // the cooldown
        let until = Instant::now() + Duration::from_millis(500);
        while Instant::now() < until {
            let pending: Vec<_> = tokens
                .iter()
                .rev()
                .take(3)
                .map(|token| bed.get("/api/comments").bearer(token).begin())
                .collect();
            for pending in pending {
                let response = pending.finish();
                assert_eq!(response.status, 200, "round {round}: {}", response.text());
                sent += 1;
            }
        }
    }
    let fetches = bed.idp.requests();
    let allowed = 1 + usize::try_from(start.elapsed().as_secs()).unwrap();
    assert!(fetches <= allowed && fetches > ROUNDS, "{fetches} fetches, {allowed} allowed");
    assert!(sent > 100, "{sent} requests are no load");
    bed.no_traps();
}

#[test]
fn a_key_that_leaves_the_jwks_stops_working_cached_tokens_included() {
    let bed = sharing(2).start();
    assert_serves(&bed);
    let old = user_token(&bed);
    assert_eq!(bed.get("/api/comments").bearer(&old).send().status, 200);
    bed.idp.rotate();
    std::thread::sleep(Duration::from_millis(1_100)); // the cooldown
    assert_serves(&bed);
    for _ in 0..16 {
        assert_denied(&bed.get("/api/comments").bearer(&old).send(), 401, "key_unknown");
    }
}
