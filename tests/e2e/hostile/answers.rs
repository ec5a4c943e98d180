//! Answers that no service should give: who depends on one is refused in time, who does not is served.

use harness::server::Behavior;
use harness::testbed::Testbed;
use serde_json::json;

use crate::support::{assert_denied, assert_serves, token_of, user_token};

#[test]
fn a_jwks_of_garbage_is_503_until_there_is_a_good_one() {
    for garbage in [&b"garbage"[..], b"\xff\xfe\x00", b"", b"[]", b"{\"keys\":[{\"kty\":\"RSA\"}]}"]
    {
        let bed = Testbed::gateway().idp(|idp| idp.set_jwks_raw(Some(garbage.to_vec()))).start();
        let response = bed.get("/api/comments").bearer(&user_token(&bed)).send();
        assert_denied(&response, 503, "keys_unavailable");
        assert!(response.header("retry-after").is_some());
        bed.idp.set_jwks_raw(None);
        let good = || bed.get("/api/comments").bearer(&user_token(&bed)).send().status == 200;
        crate::support::wait_until("the keys are fetched again", good);
        assert_serves(&bed);
    }
}

#[test]
fn a_jwks_that_is_too_long_is_503() {
    let bed = Testbed::gateway().idp(|idp| idp.behave(Behavior::Huge(300_000))).start();
    let response = bed.get("/api/comments").bearer(&user_token(&bed)).send();
    assert_denied(&response, 503, "keys_unavailable");
    bed.no_traps();
}

#[test]
fn a_user_record_of_garbage_is_503_and_the_next_user_is_served() {
    // None of these names a user, which would be enough to refuse them.
    let bed = Testbed::gateway()
        .filter_config(|config| config["user"]["lookup"]["key_field"] = json!(null))
        .start();
    for (place, record) in [
        &b"garbage"[..],
        b"\xff\xfe\x00",
        b"",
        b"null",
        b"[]",
        b"{}",
        br#"{"id":"u-1"}"#,
        br#"{"id":"u-1","role":null}"#,
        br#"{"id":"u-1\r\nx-user-role: ADMIN","role":"USER"}"#,
        "{\"id\":\"u-1\",\"role\":\"\u{e9}\"}".as_bytes(),
        br#"{"id":"u-1","id":"u-2","role":"USER"}"#,
        br#"{"id":{"a":["#,
    ]
    .into_iter()
    .enumerate()
    {
        let user = format!("user_{place}");
        bed.users.set_record_raw(&user, record);
        let response = bed.get("/api/comments").bearer(&token_of(&bed, &user)).send();
        assert_denied(&response, 503, "user_lookup_unavailable");
        assert_eq!(bed.upstream.requests(), place, "nothing was let through");
        assert_serves(&bed);
    }
    let long = json!({"id": "u-1", "role": "USER", "bio": "x".repeat(70_000)}).to_string();
    bed.users.set_record_raw("user_long", long);
    let response = bed.get("/api/comments").bearer(&token_of(&bed, "user_long")).send();
    assert_denied(&response, 503, "user_lookup_unavailable");
    assert_serves(&bed);
}
