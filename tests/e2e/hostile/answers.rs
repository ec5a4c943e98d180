//! Answers that no service should give, of each service that is asked: who depends on one is refused with the
//! right code and in time, who does not is served meanwhile, and once the service is well, so are we.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::client::{Request, Response};
use harness::idp::{ISSUER, Key, now, service_claims};
use harness::mesh::Mesh;
use harness::testbed::{Testbed, point};
use harness::users::User;
use harness::wire::{Heard, Reply, Then, Wire};
use serde_json::{Value, json};

use crate::support::{
    NOBODY, USER, assert_context, assert_denied, assert_serves, claims_with, only_seen, plugin,
    sharing, token_of, user_token, wait_until,
};

/// Longer than the timeouts here and a second try, shorter than what a client would give up at.
const SOON: Duration = Duration::from_secs(3);

/// Answers that say nothing, whatever was asked.
#[allow(clippy::too_many_lines, reason = "a table")]
fn garbage(good: &str) -> Vec<(String, Reply)> {
    let inner = &good[1..good.len() - 1];
    let (half, rest) = good.split_at(good.len() / 2);
    let bodies: [(&str, Vec<u8>); 19] = [
        ("nothing", vec![]),
        ("null", b"null".to_vec()),
        ("a boolean", b"true".to_vec()),
        ("a text", b"\"text\"".to_vec()),
        ("a list", b"[]".to_vec()),
        ("a list of it", format!("[{good}]").into()),
        ("an object of nothing", b"{}".to_vec()),
        ("a number", b"1e400".to_vec()),
        ("10,000 lists", [b"[".repeat(10_000), b"]".repeat(10_000)].concat()),
        (
            "10,000 objects",
            [b"{\"a\":".repeat(10_000), b"1".to_vec(), b"}".repeat(10_000)].concat(),
        ),
        (
            "10,000 lists in it",
            [
                b"{\"a\":",
                &b"[".repeat(10_000)[..],
                &b"]".repeat(10_000)[..],
                b",",
                inner.as_bytes(),
                b"}",
            ]
            .concat(),
        ),
        ("10 MB", [good.as_bytes(), &b" ".repeat(10_000_000)[..]].concat()),
        ("not UTF-8", [b"{\"a\":\"\xff\xfe\",", inner.as_bytes(), b"}"].concat()),
        ("half a surrogate", format!("{{\"a\":\"\\ud800\",{inner}}}").into()),
        ("NULs", format!("{good}\0").into()),
        ("a byte order mark", format!("\u{feff}{good}").into()),
        ("members said twice", format!("{{{inner},{inner}}}").into()),
        ("half of it", half.into()),
        ("it twice", good.repeat(2).into()),
    ];
    let zipped =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00";
    let head =
        |line: &str| format!("HTTP/1.1 {line}\r\ncontent-length: {}\r\n\r\n{good}", good.len());
    let longer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{good}", good.len() + 1);
    let shorter = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{good}", half.len());
    let wires = [
        ("gzip", Reply::ok("content-encoding: gzip\r\n", zipped)),
        ("a length too long", Reply::new(longer.clone(), Then::Close)),
        ("a length too long, and silence", Reply::new(longer.clone(), Then::Hang)),
        ("a reset in the body", Reply::new(longer.clone(), Then::Reset)),
        ("a length too short", Reply::new(shorter, Then::Close)),
        ("two lengths", Reply::new(head("200 OK\r\ncontent-length: 1"), Then::Close)),
        (
            "a length below 0",
            Reply::new("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", Then::Close),
        ),
        (
            "a length of 2^64",
            Reply::new(
                "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\n",
                Then::Close,
            ),
        ),
        (
            "no chunk",
            Reply::new(
                format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{good}"),
                Then::Close,
            ),
        ),
        (
            "half of the chunks",
            Reply::new(
                format!(
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{half}\r\n5\r\n{rest}",
                    half.len()
                ),
                Then::Close,
            ),
        ),
        (
            "a chunk of 2^64",
            Reply::new(
                format!(
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10000000000000000\r\n{good}"
                ),
                Then::Close,
            ),
        ),
        ("no word", Reply::new("", Then::Close)),
        ("a reset", Reply::new("", Then::Reset)),
        ("silence", Reply::new("", Then::Hang)),
        ("a drip", Reply::new(head("200 OK"), Then::Dripped(Duration::from_millis(50)))),
        ("half a head", Reply::new("HTTP/1.1 200 OK\r\ncontent-", Then::Close)),
        ("a reset in the head", Reply::new("HTTP/1.1 200 OK\r\ncontent-", Then::Reset)),
        (
            "a head of 1 MB",
            Reply::new(
                format!("HTTP/1.1 200 OK\r\nx-a: {}\r\n\r\n{good}", "a".repeat(1_000_000)),
                Then::Close,
            ),
        ),
        (
            "300 headers",
            Reply::new(
                format!("HTTP/1.1 200 OK\r\n{}\r\n{good}", "x-a: b\r\n".repeat(300)),
                Then::Close,
            ),
        ),
        ("a NUL in a header", Reply::new(head("200 OK\r\nx-a: b\0"), Then::Close)),
        ("a header without a colon", Reply::new(head("200 OK\r\nx-a"), Then::Close)),
        ("HTTP/0.9", Reply::new(good, Then::Close)),
        ("HTTP/2", Reply::new(&b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"[..], Then::Close)),
        ("SMTP", Reply::new("220 mail.example ESMTP\r\n", Then::Close)),
        (
            "101",
            Reply::new(
                head("101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade"),
                Then::Close,
            ),
        ),
        ("204 with a body", Reply::new(head("204 No Content"), Then::Close)),
        ("no status", Reply::new(head("OK"), Then::Close)),
        ("000", Reply::new(head("000 OK"), Then::Close)),
        ("2000", Reply::new(head("2000 OK"), Then::Close)),
    ];
    let statuses = [201, 206, 301, 302, 307, 400, 401, 418, 429, 500, 502, 503, 599, 999];
    let bodies = bodies.into_iter().map(|(what, body)| (what.to_owned(), Reply::json(body)));
    let wires = wires.into_iter().map(|(what, reply)| (what.to_owned(), reply));
    let statuses = statuses.into_iter().map(|status| {
        let line = format!("{status} X\r\nlocation: /elsewhere");
        (status.to_string(), Reply::new(head(&line), Then::Stay))
    });
    bodies.chain(wires).chain(statuses).collect()
}

/// Answers that say what a good one says, in a way that one may refuse.
fn odd(good: &str) -> Vec<(String, Reply)> {
    let inner = &good[1..good.len() - 1];
    let head =
        |line: &str| format!("HTTP/1.1 {line}\r\ncontent-length: {}\r\n\r\n{good}", good.len());
    [
        ("a number of 1e400", Reply::json(format!("{{\"a\":1e400,{inner}}}"))),
        ("a number of 2^64", Reply::json(format!("{{\"a\":18446744073709551616,{inner}}}"))),
        ("a number of 10,000 digits", Reply::json(format!("{{\"a\":{},{inner}}}", "9".repeat(10_000)))),
        ("100 lists", Reply::json(format!("{{\"a\":{}{},{inner}}}", "[".repeat(100), "]".repeat(100)))),
        ("a content type of bytes", Reply::ok("content-type: \u{e9}/\u{fffd}\r\n", good)),
        ("text", Reply::ok("content-type: text/html\r\n", good)),
        ("values of bytes", Reply::new([b"HTTP/1.1 200 OK\r\netag: \"\xff\xfe\"\r\nx-a: \x80\r\ncache-control: max-age=\xff\r\ncontent-length: ", good.len().to_string().as_bytes(), b"\r\n\r\n", good.as_bytes()].concat(), Then::Stay)),
        ("a great age", Reply::ok("cache-control: max-age=99999999999999999999\r\nage: -1\r\n", good)),
        ("an age below 0", Reply::ok("cache-control: max-age=-1, max-age=, max-age=1e400\r\n", good)),
        ("an ETag of 50 KB", Reply::ok(&format!("etag: \"{}\"\r\n", "a".repeat(50_000)), good)),
        ("`content-encoding: gzip`, which it is not", Reply::ok("content-encoding: gzip\r\n", good)),
        ("a folded header", Reply::ok("x-a: b\r\n c\r\n", good)),
        ("100 first", Reply::new([b"HTTP/1.1 100 Continue\r\n\r\n", head("200 OK").as_bytes()].concat(), Then::Stay)),
        ("103 first", Reply::new([b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", head("200 OK").as_bytes()].concat(), Then::Stay)),
        ("HTTP/1.0", Reply::new(format!("HTTP/1.0 200 OK\r\n\r\n{good}"), Then::Close)),
        ("no length", Reply::new(format!("HTTP/1.1 200 OK\r\n\r\n{good}"), Then::Close)),
        ("a length and chunks", Reply::new(format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{good}\r\n0\r\n\r\n", good.len()), Then::Close)),
        ("trailers", Reply::new(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{good}\r\n0\r\n:status: 500\r\nx-a: b\r\n\r\n", good.len()), Then::Close)),
        ("two answers", Reply::new(head("200 OK") + &head("500 X"), Then::Close)),
    ]
    .map(|(what, reply)| (what.to_owned(), reply))
    .into()
}

/// Both, and whether one may be taken for a good answer.
fn rows(good: &str) -> Vec<(String, Reply, bool)> {
    let bad = garbage(good).into_iter().map(|(what, reply)| (what, reply, false));
    bad.chain(odd(good).into_iter().map(|(what, reply)| (what, reply, true))).collect()
}

/// Asserts that this answer came in time: the refusal, or where that is right, a good one.
#[track_caller]
fn assert_refused(sent: (&Response, Duration), code: &str, what: &str, may_pass: bool) {
    let (response, took) = sent;
    assert!(took < SOON, "{what}: {took:?}");
    if !(may_pass && response.status == 200) {
        assert_eq!(response.status, 503, "{what}: {}", response.text());
        assert_denied(response, 503, code);
        assert!(response.header("retry-after").is_some(), "{what}");
    }
}

fn timed(request: &Request) -> (Response, Duration) {
    let start = Instant::now();
    (request.send(), start.elapsed())
}

/// The last part of the path that was asked for, percent-decoding left out.
fn last_part(heard: &Heard) -> String {
    let line = heard.head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line).into_owned();
    let path = line.split(' ').nth(1).unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Gives to `/{number}` the answer of that number, until it is well; `well` says what it answers then and
/// where there is no such answer.
fn numbered(
    replies: Vec<Reply>,
    well: impl Fn() -> String + Send + Sync + 'static,
) -> (Wire, Arc<AtomicBool>) {
    let is_well = Arc::new(AtomicBool::new(false));
    let heals = Arc::clone(&is_well);
    let wire = Wire::start(move |heard| {
        let number: Option<usize> = last_part(heard).parse().ok();
        match number.and_then(|number| replies.get(number)) {
            Some(reply) if !heals.load(Ordering::Relaxed) => reply.clone(),
            Some(_) | None => Reply::json(well()),
        }
    });
    (wire, is_well)
}

/// Keys that are none, or none that anybody should believe.
fn odd_keys(good: &Key) -> Vec<(&'static str, Value)> {
    let with = |changes: Value| {
        let Value::Object(changes) = changes else { panic!("no members") };
        let mut key = good.jwk();
        key.as_object_mut().unwrap().extend(changes);
        key
    };
    let ones = |bytes: usize| URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
    let zeros = |bytes: usize| URL_SAFE_NO_PAD.encode(vec![0; bytes]);
    let even = URL_SAFE_NO_PAD.encode([&[0xff; 255][..], &[0xfe]].concat());
    let ec = |x: &str, y: &str| json!({"kty": "EC", "crv": "P-256", "kid": "rs-1", "x": x, "y": y});
    vec![
        ("RSA of 1024 bits", with(json!({"n": ones(128)}))),
        ("RSA of 16384 bits", with(json!({"n": ones(2_048)}))),
        ("RSA of 1.5 million bits", with(json!({"n": ones(190_000)}))),
        ("RSA with an even exponent", with(json!({"e": "AAEAAA"}))),
        ("RSA with an exponent of 1", with(json!({"e": "AQ"}))),
        ("RSA with an exponent of 0", with(json!({"e": ""}))),
        ("RSA with an exponent as long as itself", with(json!({"e": good.jwk()["n"]}))),
        ("RSA with a modulus of 0", with(json!({"n": zeros(256)}))),
        ("RSA without a modulus", with(json!({"n": ""}))),
        ("RSA with an even modulus", with(json!({"n": even}))),
        ("RSA with a modulus of another type", with(json!({"n": {"a": []}}))),
        ("RSA, not base64url", with(json!({"n": "=+/\u{e9}\0"}))),
        ("RSA for encryption", with(json!({"use": "enc"}))),
        ("RSA for EC", with(json!({"alg": "ES256"}))),
        ("RSA for nothing", with(json!({"alg": "none"}))),
        ("RSA by a type of nobody's", with(json!({"kty": "forged"}))),
        ("a point off the curve", ec(&ones(32), &zeros(32))),
        ("a point of 0", ec(&zeros(32), &zeros(32))),
        ("a point that is too long", ec(&ones(64), &ones(64))),
        ("a point of nothing", ec("", "")),
        ("a secret", json!({"kty": "oct", "kid": "rs-1", "alg": "HS256", "k": "c2VjcmV0"})),
        ("an object of nothing", json!({})),
        ("a text", json!("key")),
        ("nothing", Value::Null),
    ]
}

#[test]
fn keys_of_garbage_are_unavailable_for_their_issuer_alone_until_there_are_good_ones() {
    let good_key = Key::rs256("rs-1");
    let good = json!({"keys": [good_key.jwk()]}).to_string();
    let rows = rows(&good);
    let keys = odd_keys(&good_key);
    let mut replies: Vec<Reply> = rows.iter().map(|(_, reply, _)| reply.clone()).collect();
    replies.extend(keys.iter().map(|(_, key)| Reply::json(json!({"keys": [key]}).to_string())));
    let count = replies.len();
    let (wire, is_well) = numbered(replies, move || good.clone());
    let issuer = |number: usize| format!("https://issuer-{number}.example");
    let bed = Testbed::gateway()
        .with_cluster("odd", wire.address())
        .filter_config(|config| {
            for number in 0..count {
                let mut provider = config["providers"]["clerk"].clone();
                provider["issuer"] = json!(issuer(number));
                provider["remote_jwks"] = json!({
                    "uri": format!("http://odd.example/{number}"), "cluster": "odd", "timeout": "300ms",
                });
                config["providers"][format!("odd-{number}")] = provider;
            }
        })
        .start();
    let request = |number: usize| {
        let claims = claims_with("iss", issuer(number).into());
        bed.get("/api/comments").bearer(&good_key.token(&claims))
    };
    assert_serves(&bed);
    for (number, (what, _, may_pass)) in rows.iter().enumerate() {
        let (response, took) = timed(&request(number));
        assert_refused((&response, took), "keys_unavailable", what, *may_pass);
        assert_eq!(bed.upstream.take().len(), usize::from(response.status == 200), "{what}");
        assert_serves(&bed);
    }
    for (number, (what, _)) in (rows.len()..).zip(&keys) {
        let (response, took) = timed(&request(number));
        assert!([401, 503].contains(&response.status), "{what}: {}", response.text());
        assert!(took < SOON, "{what}: {took:?}");
        assert!(bed.upstream.take().is_empty(), "{what}");
        assert_serves(&bed);
    }
    is_well.store(true, Ordering::Relaxed);
    for number in 0..count {
        // A set of odd keys is a good one, for its time.
        if number >= rows.len() && request(number).send().status == 401 {
            continue;
        }
        wait_until("the keys are fetched again", || request(number).send().status == 200);
    }
    for seen in bed.upstream.take() {
        assert_context(&seen, USER);
    }
    println!("JWKS: {count} answers");
    bed.no_traps();
}

#[test]
fn records_of_garbage_are_unavailable_until_there_are_good_ones() {
    let record = |user: &str| {
        json!({"id": "u-7", "clerkId": user, "role": "USER", "channelId": null}).to_string()
    };
    let wire = Wire::start(move |heard| Reply::json(record(&last_part(heard))));
    let bed = Testbed::gateway()
        .with_cluster("users", wire.address())
        .filter_config(|config| {
            config["user"]["lookup"]["cache"] = json!({"ttl": "0s", "negative_ttl": "0s"});
        })
        .start();
    let serves =
        |user: &str| bed.get("/api/comments").bearer(&token_of(&bed, user)).send().status == 200;
    let names = rows(&record("user_x")).len();
    for number in 0..names {
        let user = format!("user_{number}");
        let (what, reply, may_pass) = rows(&record(&user)).swap_remove(number);
        wire.take();
        wire.say(Some(reply));
        let (response, took) = timed(&bed.get("/api/comments").bearer(&token_of(&bed, &user)));
        assert_refused((&response, took), "user_lookup_unavailable", &what, may_pass);
        assert!(wire.heard() > 0, "{what}: it was asked");
        if response.status == 200 {
            assert_context(&only_seen(&bed), [Some("u-7"), Some(&user), Some("USER"), None]);
        }
        assert!(bed.upstream.take().is_empty(), "{what}");
        assert_eq!(bed.get("/api/videos").send().status, 200, "{what}");
        assert_context(&only_seen(&bed), NOBODY);
        wire.say(None);
        wait_until("the service is back", || serves("user_good"));
        bed.upstream.take();
    }
    println!("users: {names} answers");
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
fn a_cache_of_garbage_costs_no_more_than_its_time() {
    let good = json!({"GET": null, "SETEX": [true, "OK"]}).to_string();
    let rows = rows(&good);
    let well = good.clone();
    let wire = Wire::start(move |_| Reply::json(&well));
    let bed = sharing(1)
        .with_cluster("webdis", wire.address())
        .filter_config(|config| {
            config["user"]["lookup"]["redis"] = json!({"cluster": "webdis", "timeout": "300ms"});
        })
        .start();
    let mut users = 0;
    let mut next = || {
        users += 1;
        let user = format!("user_{users}");
        bed.users.add(User::new(&user, &user));
        let (response, took) = timed(&bed.get("/api/comments").bearer(&token_of(&bed, &user)));
        assert_eq!(response.status, 200, "{}", response.text());
        assert!(took < SOON, "{took:?}");
        assert_context(&only_seen(&bed), [Some(&user), Some(&user), Some("USER"), None]);
    };
    for (what, reply, _) in &rows {
        wire.take();
        wire.say(Some(reply.clone()));
        next();
        assert!(wire.heard() > 0, "{what}: it was asked");
        wire.say(None);
        wire.take();
        wait_until("it is asked again", || {
            next();
            wire.heard() > 0
        });
    }
    println!("webdis: {} answers", rows.len());
    bed.no_traps();
}

#[test]
fn a_feed_of_garbage_revokes_nobody_and_lets_nobody_back_in() {
    let entries = json!({"v": 1, "entries": [{"jti": "revoked"}]}).to_string();
    let rows = rows(&entries);
    let well = entries.clone();
    let wire = Wire::start(move |_| Reply::json(&well));
    let bed = Testbed::gateway()
        .with_cluster("auth", wire.address())
        .filter_config(|config| {
            config["revocation"] = json!({"feed": {
                "uri": "http://auth.internal/revocations", "cluster": "auth",
                "interval": "100ms", "timeout": "150ms", "max_age": "30s",
            }});
        })
        .start();
    let revoked = bed.idp.token(claims_with("jti", "revoked".into()));
    wait_until("the feed is heard", || {
        bed.get("/api/comments").bearer(&revoked).send().status == 401
    });
    for (what, reply, _) in &rows {
        wire.say(Some(reply.clone()));
        wire.take();
        wait_until("it is polled twice", || wire.heard() > 1);
        assert_denied(&bed.get("/api/comments").bearer(&revoked).send(), 401, "token_revoked");
        let response = bed.get("/api/comments").bearer(&user_token(&bed)).send();
        assert_eq!(response.status, 200, "{what}: {}", response.text());
        wire.say(None);
        wire.take();
        wait_until("it is polled again", || wire.heard() > 1);
    }
    bed.upstream.take();
    assert_serves(&bed);
    println!("revocation feed: {} answers", rows.len());
}

#[test]
fn an_issuers_word_of_garbage_lets_nobody_in_until_there_is_a_good_one() {
    let word = json!({
        "active": true, "sub": "user_2abc", "iss": ISSUER, "aud": "youtube-clone-api", "exp": now() + 3_600,
    })
    .to_string();
    let rows = rows(&word);
    let well = word.clone();
    let wire = Wire::start(move |_| Reply::json(&well));
    let bed = Testbed::gateway()
        .with_cluster("clerk", wire.address())
        .env("CLIENT_SECRET", "a-secret-for-tests-alone")
        .bootstrap(|bootstrap| {
            plugin(bootstrap)["vm_config"]["environment_variables"] =
                json!({"host_env_keys": ["CLIENT_SECRET"]});
        })
        .filter_config(|config| {
            let provider = config["providers"]["clerk"].as_object_mut().unwrap();
            provider.remove("remote_jwks");
            provider.insert("introspection".to_owned(), json!({
                "uri": "http://clerk.example/introspect", "cluster": "clerk", "client_id": "gateway",
                "client_secret": "${env:CLIENT_SECRET}", "timeout": "300ms",
            }));
        })
        .start();
    let mut tokens = 0;
    let mut next = || {
        tokens += 1;
        timed(&bed.get("/api/comments").bearer(&format!("opaque-{tokens}")))
    };
    assert_eq!(next().0.status, 200);
    assert_context(&only_seen(&bed), [Some("u-1001"), None, Some("USER"), Some("ch-2001")]);
    for (what, reply, may_pass) in &rows {
        wire.take();
        wire.say(Some(reply.clone()));
        let (response, took) = next();
        assert_refused((&response, took), "introspection_unavailable", what, *may_pass);
        assert!(wire.heard() > 0, "{what}: it was asked");
        assert_eq!(bed.upstream.take().len(), usize::from(response.status == 200), "{what}");
        assert_eq!(bed.get("/api/videos").send().status, 200, "{what}");
        wire.say(None);
        wait_until("it is asked again", || next().0.status == 200);
        bed.upstream.take();
    }
    println!("introspection: {} answers", rows.len());
    bed.no_traps();
}

#[test]
fn a_token_endpoint_of_garbage_holds_up_who_needs_its_token_alone() {
    let key = Key::es256("mesh-1");
    let grant = move || {
        let token = key.token(&service_claims("videos", &["internal:read"]));
        json!({"access_token": token, "token_type": "Bearer", "expires_in": 300}).to_string()
    };
    let rows = rows(&grant());
    let replies: Vec<Reply> = rows.iter().map(|(_, reply, _)| reply.clone()).collect();
    let (wire, is_well) = numbered(replies, grant);
    let count = rows.len();
    let mesh = Mesh::videos()
        .without_gateway()
        .exit()
        .egress(|bootstrap| {
            assert!(point(bootstrap, "mesh-auth", wire.address()));
            let resources = &mut bootstrap["static_resources"];
            let all = resources["clusters"].as_array_mut().unwrap();
            let cluster = all.iter().find(|cluster| cluster["name"] == "thumbnails").unwrap().clone();
            let mut routes = vec![json!({
                "match": {"path_separated_prefix": "/free"}, "route": {"cluster": "thumbnails"},
            })];
            for number in 0..count {
                let mut cluster = cluster.clone();
                cluster["name"] = json!(format!("c-{number}"));
                all.push(cluster);
                routes.push(json!({
                    "match": {"path_separated_prefix": format!("/{number}")},
                    "route": {"cluster": format!("c-{number}")},
                }));
            }
            let hcm = &mut resources["listeners"][0]["filter_chains"][0]["filters"][0];
            hcm["typed_config"]["route_config"]["virtual_hosts"] =
                json!([{"name": "all", "domains": ["*"], "routes": routes}]);
        })
        .egress_config(|config| {
            let mut asked = config["service_tokens"]["mesh"].clone();
            asked["client_credentials"]["timeout"] = json!("300ms");
            config["destinations"] = json!([]);
            config["service_tokens"] = json!({});
            for number in 0..count {
                asked["client_credentials"]["uri"] = json!(format!("http://127.0.0.1/{number}"));
                config["service_tokens"][format!("t-{number}")] = asked.clone();
                let destination = json!({"clusters": [format!("c-{number}")], "service_token": format!("t-{number}")});
                config["destinations"].as_array_mut().unwrap().push(destination);
            }
        })
        .start();
    let called = &mesh.beyond().thumbnails;
    let call = |number: usize| mesh.outbound(format!("/{number}"));
    for (number, (what, _, may_pass)) in rows.iter().enumerate() {
        let (response, took) = timed(&call(number));
        assert_refused((&response, took), "service_token_unavailable", what, *may_pass);
        assert_eq!(called.take().len(), usize::from(response.status == 200), "{what}");
        assert_eq!(mesh.outbound("/free").send().status, 200, "{what}");
        assert_eq!(called.take().len(), 1);
    }
    is_well.store(true, Ordering::Relaxed);
    for number in 0..count {
        wait_until("it is asked again", || call(number).send().status == 200);
        for seen in called.take() {
            let token = seen.header("x-service-authorization").unwrap_or_default();
            assert!(token.starts_with(b"Bearer "), "{number}: {seen:?}");
        }
    }
    println!("token endpoint: {count} answers");
    mesh.no_traps();
}
