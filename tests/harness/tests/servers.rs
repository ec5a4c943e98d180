//! The servers and the clients, against each other.

use std::time::{Duration, Instant};

use harness::client::{self, Request};
use harness::idp::{Idp, JWKS_PATH, Key};
use harness::server::{Answer, Behavior, Version};
use harness::upstream::Upstream;
use harness::users::{User, Users};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn requests_are_recorded_byte_for_byte() {
    let upstream = Upstream::start();
    let request = Request::new(upstream.address(), "POST", "/a?b=%00")
        .header("X-Mixed-Case", b"\xff\x80 caf\xe9")
        .header("x_under", "")
        .header("X-Mixed-Case", "again")
        .body("hello");
    let response = request.send();
    assert_eq!(response.json()["path"], "/a?b=%00");
    let seen = upstream.take().remove(0);
    assert_eq!(
        (seen.method.as_str(), seen.path.as_str(), seen.version),
        ("POST", "/a?b=%00", Version::HTTP_11)
    );
    assert_eq!(seen.headers_named("x-mixed-case"), [&b"\xff\x80 caf\xe9"[..], b"again"]);
    assert_eq!(seen.header("x_under"), Some(&b""[..]));
    assert_eq!(seen.body, b"hello");
    assert!(seen.complete);
    assert!(upstream.seen().is_empty());
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn chunked_bodies_and_trailers_arrive() {
    let upstream = Upstream::start();
    let request =
        Request::new(upstream.address(), "POST", "/").header("Transfer-Encoding", "chunked");
    request.body("3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n").send();
    client::h2(upstream.address(), "POST", "/", &[], b"abc", &[("x-t", b"1")]);
    for seen in upstream.take() {
        assert_eq!((seen.body.as_slice(), seen.complete), (&b"abc"[..], true));
        assert_eq!(seen.trailers, [("x-t".to_string(), b"1".to_vec())], "{:?}", seen.version);
    }
}

#[test]
fn a_request_that_breaks_off_is_recorded() {
    let upstream = Upstream::start();
    let mut pending =
        Request::new(upstream.address(), "POST", "/half").header("Content-Length", "10").begin();
    pending.write(b"12345");
    drop(pending);
    upstream.wait_for_requests(1, SOON);
    let seen = upstream.take().remove(0);
    assert_eq!((seen.path.as_str(), seen.complete), ("/half", false));
}

#[test]
fn held_requests_are_served_on_release() {
    let upstream = Upstream::start();
    upstream.behave(Behavior::Hold);
    let pending = [1, 2].map(|n| Request::get(upstream.address(), format!("/{n}")).begin());
    upstream.wait_for_requests(2, SOON);
    let early = Request::get(upstream.address(), "/3").try_send(Duration::from_millis(100));
    assert_eq!(early.expect_err("held").kind(), std::io::ErrorKind::TimedOut);
    upstream.release();
    assert_eq!(pending.map(|pending| pending.finish().status), [200, 200]);
    assert_eq!(Request::get(upstream.address(), "/4").send().status, 200);
}

#[test]
fn held_requests_get_what_the_behaviour_changes_to() {
    let upstream = Upstream::start();
    upstream.behave(Behavior::Hold);
    let pending = Request::get(upstream.address(), "/").begin();
    upstream.wait_for_requests(1, SOON);
    upstream.behave(Behavior::Status(503));
    assert_eq!(pending.finish().status, 503);
}

#[test]
fn each_behaviour_does_what_it_says() {
    let users = Users::start();
    let get = || Request::get(users.address(), "/internal/users/by-clerk-id/user_2abc");
    users.behave(Behavior::Answer(
        Answer::new(200, "text/plain", b"\xff").header("Cache-Control", "no-store"),
    ));
    let response = get().send();
    assert_eq!(
        (response.body.as_slice(), response.header("cache-control")),
        (&b"\xff"[..], Some(&b"no-store"[..]))
    );
    users.behave(Behavior::Huge(300_000));
    let response = get().send();
    assert_eq!((response.body.len(), response.json()["id"].as_str()), (300_000, Some("u-1001")));
    users.behave(Behavior::Reset);
    let error = get().try_send(SOON).expect_err("no answer");
    assert!(
        error.to_string().contains("closed") || error.kind() == std::io::ErrorKind::ConnectionReset,
        "{error}"
    );
    users.behave(Behavior::Serve);
    let whole = get().send();
    assert_eq!(whole.status, 200);
    users.behave(Behavior::Half);
    let half = get().send();
    assert_eq!((half.status, &half.body[..]), (200, &whole.body[..whole.body.len() / 2]));
    users.behave(Behavior::Drip(Duration::from_millis(100)));
    let asked = Instant::now();
    assert_eq!(get().send().body, whole.body);
    assert!(asked.elapsed() >= Duration::from_millis(100), "{:?}", asked.elapsed());
    users.behave(Behavior::BreakOff);
    let error = get().try_send(SOON).expect_err("half an answer");
    assert!(error.to_string().starts_with("closed after"), "{error}");
    assert_eq!(users.lookups("user_2abc"), 7);
}

#[test]
fn a_shut_server_refuses_connections_until_it_reopens() {
    let upstream = Upstream::start();
    upstream.behave(Behavior::Hold);
    let cut_off = Request::get(upstream.address(), "/").begin();
    upstream.wait_for_requests(1, SOON);
    for _ in 0..3 {
        upstream.shut();
        let error = Request::get(upstream.address(), "/").try_send(SOON).expect_err("shut");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        upstream.reopen();
        upstream.release();
        assert_eq!(Request::get(upstream.address(), "/").send().status, 200);
    }
    let cut_off = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cut_off.finish()));
    assert!(cut_off.is_err(), "its connection was closed");
}

#[test]
fn the_users_service_answers_from_its_table() {
    let users = Users::start();
    let get = |key: &str| {
        Request::get(users.address(), format!("/internal/users/by-clerk-id/{key}")).send()
    };
    let known = json!({"id": "u-1001", "clerkId": "user_2abc", "role": "USER", "channelId": "ch-2001", "status": "ACTIVE"});
    assert_eq!(get("user_2abc").json(), known);
    assert_eq!(get("user_2adm").json()["channelId"], Value::Null);
    users.set_role("user_2abc", "ADMIN");
    assert_eq!(get("user%5F2abc").json()["role"], "ADMIN");
    users.add(User { extra: json!({"permissions": ["a"]}), ..User::new("a/é", "u-1") });
    assert_eq!(get("a%2F%C3%A9").json()["permissions"], json!(["a"]));
    users.set_record_raw("user_2abc", "not json");
    assert_eq!(get("user_2abc").body, b"not json");
    users.remove("user_2abc");
    assert_eq!(get("user_2abc").status, 404);
    assert_eq!(users.lookups("user_2abc"), 4);
    assert_eq!(users.lookups("a/é"), 1);
}

#[test]
fn the_issuer_serves_the_keys_it_has() {
    let idp = Idp::start();
    let kids = || {
        let document = Request::get(idp.address(), JWKS_PATH).send().json();
        let keys = document["keys"].as_array().expect("keys").clone();
        keys.iter()
            .map(|key| key["kid"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(kids(), ["rs-1", "es-1"]);
    assert_eq!(idp.rotate().kid(), "es-2");
    assert_eq!(kids(), ["es-1", "es-2"]);
    idp.add_key(Key::rs256("rs-9"));
    idp.remove_key("es-1");
    assert_eq!(kids(), ["es-2", "rs-9"]);
    idp.set_jwks_raw(Some(b"{".to_vec()));
    assert_eq!(Request::get(idp.address(), JWKS_PATH).send().body, b"{");
    assert_eq!(format!("{:?}", idp.signer()), "Key(ES256 es-2)");
}
