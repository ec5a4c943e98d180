//! The issuer's keys: fetched by callout, waited for, followed through a rotation.

use harness::server::Behavior;
use harness::testbed::Testbed;
use serde_json::json;

use crate::support::{
    LONG, USER, active, assert_context, assert_denied, assert_serves, only_seen, user_token,
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
    std::thread::sleep(std::time::Duration::from_millis(150)); // the cooldown is over
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
