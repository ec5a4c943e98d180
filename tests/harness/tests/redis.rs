//! The real Redis and the real webdis: that they come and go as asked, and what webdis makes of keys and values.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use harness::client::{Request, Response};
use harness::redis::{Redis, Reply, Webdis};
use harness::skip;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

const SOON: Duration = Duration::from_secs(10);

/// Time for an answer to come that must not come.
const SHORT: Duration = Duration::from_millis(300);

#[track_caller]
fn redis() -> Option<Redis> {
    skip::require("a real Redis", Redis::start())
}

#[track_caller]
fn both() -> Option<(Redis, Webdis)> {
    let redis = redis()?;
    let webdis = skip::require("a real webdis", Webdis::start(&redis))?;
    Some((redis, webdis))
}

fn get(webdis: &Webdis, path: &str) -> Request {
    Request::get(webdis.address(), path)
}

fn put(webdis: &Webdis, path: &str, value: &[u8]) -> Response {
    Request::new(webdis.address(), "PUT", path).body(value).send()
}

fn text(text: &str) -> Reply {
    Reply::Text(text.into())
}

#[test]
fn commands_are_answered_in_kind() {
    let Some(redis) = redis() else { return };
    assert_eq!(redis.command(&["GET", "k"]), Reply::Nil);
    assert_eq!(redis.command(&["SET", "k", "v\r\n$1", "EX", "300"]), text("OK"));
    assert_eq!(redis.command(&["GET", "k"]), text("v\r\n$1"));
    assert_eq!(redis.command(&["TTL", "k"]), Reply::Number(300));
    assert_eq!(redis.command(&["KEYS", "*"]), Reply::List(vec![text("k")]));
    assert_eq!(redis.command(&["DEL", "k"]), Reply::Number(1));
    assert_eq!(redis.command(&["TTL", "k"]), Reply::Number(-2));
    assert_eq!(redis.command(&[&b"SET"[..], b"k", b"\xff"]), text("OK"));
    assert_eq!(redis.command(&["STRLEN", "k"]), Reply::Number(1));
    let refused = std::panic::catch_unwind(|| redis.command(&["INCR", "k"]));
    let message = refused.expect_err("not a number");
    let message = message.downcast_ref::<String>().expect("a message");
    assert!(message.contains("INCR k: -ERR value is not an integer"), "{message}");
}

#[test]
fn redis_goes_and_comes_back_on_its_port_empty() {
    let Some(redis) = redis() else { return };
    for _ in 0..3 {
        redis.command(&["SET", "k", "v"]);
        redis.stop();
        let error = std::net::TcpStream::connect(redis.address()).expect_err("stopped");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        redis.restart();
        assert_eq!(redis.command(&["DBSIZE"]), Reply::Number(0));
    }
}

#[test]
fn webdis_answers_a_read_in_json() {
    let Some((redis, webdis)) = both() else { return };
    redis.command(&["SET", "k", r#"{"id":"u-1001"}"#]);
    redis.command(&["LPUSH", "list", "x"]);
    for (path, answer) in [
        ("/GET/k", r#"{"GET":"{\"id\":\"u-1001\"}"}"#),
        ("/get/k", r#"{"get":"{\"id\":\"u-1001\"}"}"#),
        ("/GET/absent", r#"{"GET":null}"#),
        ("/MGET/k/absent", r#"{"MGET":["{\"id\":\"u-1001\"}",null]}"#),
        (
            "/GET/list",
            r#"{"GET":[false,"WRONGTYPE Operation against a key holding the wrong kind of value"]}"#,
        ),
    ] {
        let response = get(&webdis, path).send();
        assert_eq!((response.status, response.text().as_str()), (200, answer), "{path}");
        assert_eq!(response.header("content-type"), Some(&b"application/json"[..]), "{path}");
    }
    for method in ["HEAD", "DELETE"] {
        assert_eq!(get(&webdis, "/GET/k").method(method).send().status, 405, "{method}");
    }
}

#[test]
fn webdis_takes_a_put_body_as_the_last_argument_whatever_its_type() {
    let Some((redis, webdis)) = both() else { return };
    let value = "{\"a\": \"1/2.txt &=+%2F\"}";
    for content_type in
        [None, Some("application/json"), Some("text/plain"), Some("application/octet-stream")]
    {
        redis.command(&["DEL", "k"]);
        let mut request = Request::new(webdis.address(), "PUT", "/SETEX/k/300").body(value);
        if let Some(content_type) = content_type {
            request = request.header("Content-Type", content_type);
        }
        assert_eq!(request.send().text(), r#"{"SETEX":[true,"OK"]}"#, "{content_type:?}");
        assert_eq!(redis.command(&["GET", "k"]), text(value), "{content_type:?}");
        assert_eq!(redis.command(&["TTL", "k"]), Reply::Number(300), "{content_type:?}");
    }
    let chunked = Request::new(webdis.address(), "PUT", "/SETEX/k/300")
        .header("Transfer-Encoding", "chunked")
        .body("2\r\nab\r\n0\r\n\r\n");
    assert_eq!(chunked.send().status, 200);
    assert_eq!(redis.command(&["GET", "k"]), text("ab"));
    // An empty body is no argument at all.
    let empty = put(&webdis, "/SETEX/k/300", b"");
    assert_eq!(
        (empty.status, empty.text().as_str()),
        (200, r#"{"SETEX":[false,"ERR wrong number of arguments for 'setex' command"]}"#)
    );
    // Redis keeps any bytes; webdis does not give all of them back.
    for (value, read) in [(&b"\xff\x00\x01"[..], "{}"), (b"a\x00b", r#"{"GET":"a"}"#)] {
        assert_eq!(put(&webdis, "/SETEX/k/300", value).status, 200);
        assert_eq!(get(&webdis, "/GET/k").send().text(), read);
    }
}

#[test]
fn webdis_takes_a_percent_encoded_key_as_it_is() {
    let Some((redis, webdis)) = both() else { return };
    for key in [
        "user:a/b",
        "a.txt",
        "a.raw",
        "..",
        "a+b c",
        "a%2Fb",
        "https://issuer.example/x?y=1#z|user.json",
        "\"\\\u{eb}\n",
    ] {
        let encoded = utf8_percent_encode(key, NON_ALPHANUMERIC);
        put(&webdis, &format!("/SETEX/{encoded}/300"), key.as_bytes());
        assert_eq!(redis.command(&["GET", key]), text(key));
        let response = get(&webdis, &format!("/GET/{encoded}")).send();
        assert_eq!(response.json(), json!({"GET": key}), "{key}");
    }
}

#[test]
fn webdis_reads_some_characters_of_a_path_as_its_own() {
    let Some((redis, webdis)) = both() else { return };
    for key in ["a", "a b", "a.unknown", "a.b.unknown"] {
        redis.command(&["SET", key, key]);
    }
    for (path, status, answer) in [
        ("/GET/a.json", 200, r#"{"GET":"a"}"#),
        ("/GET/a.txt", 200, "a"),
        ("/GET/absent.txt", 404, ""),
        ("/GET/a.raw", 200, "$1\r\na\r\n"),
        ("/GET/absent.raw", 200, "$-1\r\n"),
        ("/GET/a.unknown", 200, r#"{"GET":"a.unknown"}"#),
        ("/GET/a.b.unknown", 200, r#"{"GET":"a.b.unknown"}"#),
        ("/GET/a+b", 200, r#"{"GET":"a b"}"#),
        ("/GET/a?type=text/plain", 200, "a"),
        ("/GET/a/b", 200, r#"{"GET":[false,"ERR wrong number of arguments for 'get' command"]}"#),
    ] {
        let response = get(&webdis, path).send();
        assert_eq!((response.status, response.text().as_str()), (status, answer), "{path}");
    }
    // With a value in the body, the path has no format: the whole of it names the key.
    put(&webdis, "/SETEX/k.txt/300", b"v");
    assert_eq!(redis.command(&["GET", "k.txt"]), text("v"));
}

#[test]
fn webdis_is_503_while_redis_is_down_and_comes_back_with_it() {
    let Some((redis, webdis)) = both() else { return };
    for _ in 0..3 {
        redis.stop();
        for _ in 0..10 {
            let response = get(&webdis, "/GET/k").send();
            assert_eq!((response.status, response.text().as_str()), (503, ""));
        }
        assert_eq!(put(&webdis, "/SETEX/k/300", b"v").status, 503);
        redis.restart();
        let back = Instant::now();
        while get(&webdis, "/GET/k").send().status != 200 {
            assert!(back.elapsed() < SOON, "webdis does not come back");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_pause_keeps_what_is_asked_waiting() {
    let Some((redis, webdis)) = both() else { return };
    redis.command(&["SET", "k", "v"]);
    let request = get(&webdis, "/GET/k");
    redis.pause();
    assert_eq!(request.try_send(SHORT).expect_err("paused").kind(), ErrorKind::TimedOut);
    let pending = request.begin();
    redis.resume();
    assert_eq!(pending.finish().status, 200);

    webdis.pause();
    assert_eq!(request.try_send(SHORT).expect_err("paused").kind(), ErrorKind::TimedOut);
    let pending = request.begin();
    webdis.resume();
    assert_eq!(pending.finish().status, 200);
}

#[test]
fn what_redis_was_asked_when_it_broke_off_is_503() {
    let Some((redis, webdis)) = both() else { return };
    redis.pause();
    let pending = get(&webdis, "/GET/k").begin();
    std::thread::sleep(SHORT); // it is with Redis now
    redis.stop();
    assert_eq!(pending.finish().status, 503);
}

#[test]
fn webdis_goes_and_comes_back_on_its_port() {
    let Some((redis, webdis)) = both() else { return };
    redis.command(&["SET", "k", "v"]);
    for _ in 0..3 {
        webdis.stop();
        let error = get(&webdis, "/GET/k").try_send(SOON).expect_err("stopped");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        webdis.restart();
        assert_eq!(get(&webdis, "/GET/k").send().text(), r#"{"GET":"v"}"#);
    }
    webdis.pause(); // what is paused ends with its test all the same
}
