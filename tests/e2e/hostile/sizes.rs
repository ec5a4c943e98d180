//! Up to Envoy's limits and beyond: long headers, long paths, many headers, many of one name.

use harness::testbed::{Builder, Testbed};
use harness::wire::Wire;

use super::battery::{Battery, upstream};
use crate::support::{USER, assert_context, assert_denied, claims_with, only_seen, user_token};

fn bed(wire: &Wire) -> Builder {
    Testbed::gateway().with_cluster("videos", wire.address())
}

fn get(path: &str, lines: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: api.example\r\n{lines}connection: close\r\n\r\n").into()
}

/// So many lines.
fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).flat_map(|number| [line(number), "\r\n".to_owned()]).collect()
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn what_is_long_or_many_is_served_or_refused_and_never_let_through_half() {
    let wire = upstream();
    let bed = bed(&wire).start();
    let token = user_token(&bed);
    let bearer = format!("authorization: Bearer {token}\r\n");
    let battery = Battery::new(bed.envoy.address(), Some(&wire), "/api/comments", &token);
    let k = |kib: usize| kib * 1024;
    for (what, head, statuses) in [
        ("59 KiB in one header", format!("{bearer}x-long: {}\r\n", "a".repeat(k(58))), &[200][..]),
        ("59 KiB forged", format!("{bearer}x-user-id: {}\r\n", "forged".repeat(k(9))), &[200]),
        ("64 KiB in one header", format!("{bearer}x-long: {}\r\n", "a".repeat(k(64))), &[431]),
        (
            "credentials of 58 KiB",
            format!("authorization: Bearer {}\r\n", "a.".repeat(k(29))),
            &[401],
        ),
        ("a cookie of 58 KiB", format!("{bearer}cookie: {}\r\n", "a=b; ".repeat(k(11))), &[200]),
        (
            "a host of 8 KiB",
            format!("{bearer}x-a: b\r\nhost: {}\r\n", "a".repeat(k(8))),
            &[200, 400],
        ),
        ("90 headers", bearer.clone() + &lines(90, |n| format!("x-{n}: a")), &[200]),
        ("110 headers", bearer.clone() + &lines(110, |n| format!("x-{n}: a")), &[431]),
        ("forged 90 times", bearer.clone() + &"X-User-Id: forged\r\n".repeat(90), &[200]),
        (
            "forged in 90 spellings",
            bearer.clone()
                + &lines(90, |n| {
                    let (first, second) = (["-", "_", ".", "~"][n % 4], ["-", "_", "!"][n % 3]);
                    format!("x{first}user{second}id: forged")
                }),
            &[200],
        ),
        ("one token 50 times", bearer.repeat(50), &[200, 401]),
        ("50 tokens", lines(50, |n| format!("authorization: Bearer a.{n}.b")), &[401]),
        (
            "a good token and 50 others",
            bearer.clone() + &"authorization: Bearer a.b.c\r\n".repeat(50),
            &[401],
        ),
        ("90 cookies", bearer.clone() + &"cookie: a=b; c\r\n".repeat(90), &[200]),
        ("90 ids", bearer.clone() + &"x-request-id: forged\r\n".repeat(90), &[200]),
    ] {
        let answers = battery.send(&get("/api/comments", &head)).unwrap();
        assert!(
            answers.iter().all(|answer| statuses.contains(&answer.status)),
            "{what}: {answers:?}"
        );
        assert_eq!(answers.len(), 1, "{what}");
        for heard in wire.take() {
            super::battery::assert_clean(&heard, USER, true);
            assert_eq!(heard.values("x-user-id"), [b"u-1001"], "{what}");
        }
        battery.settle(|_| true);
    }
    for (kib, status) in [(8, 200), (16, 200), (40, 200), (64, 431)] {
        for path in [
            "a".repeat(k(kib)),
            "/a".repeat(k(kib / 2)),
            "%61".repeat(k(kib / 3)),
            format!("?a={}", "&=".repeat(k(kib / 2))),
        ] {
            let path = format!("/api/comments/{path}");
            let answers = battery.send(&get(&path, &bearer)).unwrap();
            // A path that takes too long to read is refused.
            let is_expected =
                |answer: &harness::client::Response| [status, 400].contains(&answer.status);
            assert!(answers.len() == 1 && answers.iter().all(is_expected), "{kib}: {answers:?}");
            for heard in wire.take() {
                assert_eq!(heard.values("x-user-id"), [b"u-1001"]);
            }
        }
    }
    battery.settle(|_| true);
    battery.report("sizes");
    bed.no_traps();
}

#[test]
fn a_token_of_the_longest_allowed_length_passes_and_a_longer_one_does_not() {
    let bed = Testbed::gateway().start();
    let token = |pad: usize| bed.idp.token(claims_with("pad", "p".repeat(pad).into()));
    let mut pad = 5_000;
    while token(pad + 1).len() <= 8_192 {
        pad += 1;
    }
    let (longest, longer) = (token(pad), token(pad + 1));
    assert!((8_189..=8_192).contains(&longest.len()), "{}", longest.len());
    for _ in 0..2 {
        assert_eq!(bed.get("/api/comments").bearer(&longest).send().status, 200);
        assert_context(&only_seen(&bed), USER);
        assert_denied(&bed.get("/api/comments").bearer(&longer).send(), 401, "token_malformed");
    }
    let longest_of_all = "a.".repeat(20_000);
    assert_denied(&bed.get("/api/comments").bearer(&longest_of_all).send(), 401, "token_malformed");
    assert!(bed.upstream.take().is_empty());
    bed.no_traps();
}
