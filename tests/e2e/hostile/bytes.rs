//! Every byte, in every place of a request where it may mean something.

use harness::testbed::Testbed;

use super::battery::{Battery, upstream};
use super::grammar::{Case, NUMBER};
use super::lenient;
use crate::support::{USER, assert_context, assert_denied, assert_serves, only_seen, user_token};

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

/// A request with this byte in one place after another, where a `\x01` stands.
fn with_byte(byte: u8, token: &str) -> Vec<(String, Case)> {
    let plain = "GET /api/videos HTTP/1.1\r\nhost: api.example";
    let in_places = [
        ("a method", "GE\x01T /api/videos HTTP/1.1\r\nhost: api.example".to_owned()),
        ("a path", "GET /api/vid\x01eos HTTP/1.1\r\nhost: api.example".to_owned()),
        ("a query", "GET /api/videos?a\x01b HTTP/1.1\r\nhost: api.example".to_owned()),
        ("a version", "GET /api/videos HTTP/1.\x011\r\nhost: api.example".to_owned()),
        ("a host", "GET /api/videos HTTP/1.1\r\nhost: api\x01.example".to_owned()),
        ("a name", format!("{plain}\r\nx-user\x01-id: forged")),
        ("a name's end", format!("{plain}\r\nx-user-id\x01: forged")),
        ("a name's beginning", format!("{plain}\r\n\x01x-user-id: forged")),
        ("between words of a name", format!("{plain}\r\nx\x01user\x01id: forged")),
        ("a managed value", format!("{plain}\r\nx-user-id: forged\x01")),
        ("a value", format!("{plain}\r\nx-odd: \x01x-user-id: forged")),
        ("credentials", format!("{plain}\r\nauthorization: Bearer a\x01b.c.d")),
        ("a scheme", format!("{plain}\r\nauthorization: Bea\x01rer {token}")),
        ("before a token", format!("{plain}\r\nauthorization: Bearer {}{token}", '\x01')),
        ("a cookie", format!("{plain}\r\ncookie: a=\x01; __session={token}")),
        ("a certificate", format!("{plain}\r\nx-forwarded-client-cert: URI=spiffe://a\x01;By=b")),
        ("an id", format!("{plain}\r\nx-request-id: a\x01b\r\nauthorization: Bearer {token}")),
        ("a content type", format!("{plain}\r\ncontent-type: application/grpc\x01")),
    ];
    let case = |(place, request): (&str, String)| {
        let request = request.into_bytes();
        let mut bytes: Vec<u8> =
            request.into_iter().map(|b| if b == 1 { byte } else { b }).collect();
        bytes.extend_from_slice(b"\r\n");
        let token = bytes.windows(token.len()).any(|window| window == token.as_bytes());
        (format!("{byte:#04x} in {place}"), Case { bytes, token })
    };
    in_places.into_iter().map(case).collect()
}

#[test]
fn every_byte_in_every_place_is_answered_and_forges_nothing() {
    let wire = upstream();
    let bed = Testbed::gateway()
        .with_cluster("videos", wire.address())
        .bootstrap(lenient)
        .filter_config(|config| {
            config["providers"]["clerk"]["from_cookies"] = serde_json::json!(["__session"]);
            config["providers"]["clerk"]["from_headers"] =
                serde_json::json!([{"name": "authorization", "value_prefix": "Bearer "}]);
        })
        .start();
    let token = user_token(&bed);
    let mut cases: Vec<_> = (0..=255).flat_map(|byte| with_byte(byte, &token)).collect();
    for (number, (_, case)) in cases.iter_mut().enumerate() {
        // Where the byte ends the head, these are no request's.
        let line = case.bytes.iter().position(|byte| *byte == b'\n').unwrap_or_default() + 1;
        let number = format!("{NUMBER}: {number}\r\n");
        case.bytes.splice(line..line, number.bytes());
        case.bytes.extend_from_slice(b"connection: close\r\n\r\n");
    }
    let battery = Battery::new(bed.envoy.address(), Some(&wire), "/api/comments", &token);
    battery.table(&cases);
    battery.report("every byte");
    bed.no_traps();
}
