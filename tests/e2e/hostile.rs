//! Bytes that nobody should send: each gets its proper answer, and the next request is served.

use harness::server::Behavior;
use harness::testbed::Testbed;
use serde_json::json;

use crate::support::{
    USER, assert_context, assert_denied, assert_serves, only_seen, token_of, user_token,
};

#[test]
fn one_byte_that_is_not_utf8_in_any_header_value_harms_nobody() {
    let bed = Testbed::gateway().start();
    let token = user_token(&bed);
    for name in [
        "x-anything",
        "x-user-id",
        "x_user_role",
        "cookie",
        "content-type",
        "x-request-id",
        "x-forwarded-for",
        "user-agent",
        "accept",
        "referer",
        "origin",
        "te-x",
        "x-envoy-anything",
    ] {
        for value in [&b"\xff"[..], b"a\x80b", b"\xc3\x28", b"\xf0\x9f\x92"] {
            let response = bed.get("/api/videos/1").header(name, value).bearer(&token).send();
            assert_eq!(response.status, 200, "{name}: {}", response.text());
            assert_context(&only_seen(&bed), USER);
        }
    }
    for value in [&b"Bearer \xff"[..], b"Bearer a.\x80.c", b"Bearer \xc3\x28.\xff.\xfe"] {
        let response = bed.get("/api/comments").header("authorization", value).send();
        assert_denied(&response, 401, "token_malformed");
    }
    for value in [&b"\xff"[..], b"B\xffarer x"] {
        let response = bed.get("/api/comments").header("authorization", value).send();
        assert_denied(&response, 401, "token_missing");
    }
    assert_serves(&bed);
}

#[test]
fn every_byte_is_answered_in_a_value_and_in_a_path() {
    let bed = Testbed::gateway().start();
    let token = user_token(&bed);
    for byte in 0..=255_u8 {
        if matches!(byte, b'\r' | b'\n') {
            continue;
        }
        let odd = [b'a', byte, b'b'];
        let requests = [
            bed.get("/api/videos").header("x-odd", odd),
            bed.get([&b"/api/videos/"[..], &odd].concat()),
            bed.get([&b"/api/videos?q="[..], &odd].concat()),
            bed.get("/api/videos").header("authorization", [b"Bearer ", &odd[..]].concat()),
        ];
        for request in requests {
            // Envoy itself refuses some of these by closing the connection.
            if let Ok(response) =
                request.header("x-user-id", "forged").try_send(crate::support::LONG)
            {
                assert!(
                    response.status != 503 && response.status != 500,
                    "{byte:#04x}: {}",
                    response.text()
                );
            }
        }
    }
    for seen in bed.upstream.take() {
        assert_context(&seen, [None; 4]);
    }
    assert_eq!(bed.get("/api/videos").bearer(&token).send().status, 200);
    assert_serves(&bed);
}

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

#[test]
fn a_cluster_that_envoy_does_not_know_is_503_and_named_in_the_log() {
    let bed = Testbed::gateway()
        .filter_config(|config| config["user"]["lookup"]["cluster"] = json!("no-such-cluster"))
        .start();
    let token = user_token(&bed);
    for _ in 0..3 {
        let response = bed.get("/api/comments").bearer(&token).send();
        assert_denied(&response, 503, "user_lookup_unavailable");
        assert_eq!(bed.get("/api/videos").send().status, 200, "other requests are served");
    }
    bed.envoy.wait_for_log(
        "user lookup cluster=no-such-cluster: Envoy has no such cluster",
        crate::support::LONG,
    );
    bed.no_traps();

    let bed = Testbed::gateway()
        .filter_config(|config| {
            config["providers"]["clerk"]["remote_jwks"]["cluster"] = json!("no-such-cluster");
        })
        .start();
    for _ in 0..3 {
        let response = bed.get("/api/comments").bearer(&user_token(&bed)).send();
        assert_denied(&response, 503, "keys_unavailable");
    }
    bed.no_traps();
}

#[test]
fn a_cluster_without_endpoints_is_503() {
    let bed = Testbed::gateway()
        .bootstrap(|bootstrap| {
            for cluster in bootstrap["static_resources"]["clusters"].as_array_mut().unwrap() {
                if cluster["name"] == "users" {
                    cluster["load_assignment"]["endpoints"] = json!([]);
                }
            }
        })
        .start();
    for _ in 0..3 {
        let response = bed.get("/api/comments").bearer(&user_token(&bed)).send();
        assert_denied(&response, 503, "user_lookup_unavailable");
    }
    bed.no_traps();
}
