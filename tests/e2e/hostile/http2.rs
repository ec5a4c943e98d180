//! HTTP/2 that no client speaks, frame by frame: each connection or stream ends, and the next is served.

use harness::frames::{Connection, END_HEADERS, END_STREAM, Ended, Field, block, kind};
use harness::server::Behavior;
use harness::testbed::{Builder, Testbed};
use harness::wire::Wire;
use serde_json::json;

use super::battery::{assert_clean, upstream};
use super::{lenient, manager};
use crate::support::{
    LONG, USER, active, assert_context, assert_serves, patient_lookup, token_of, user_token,
    wait_until,
};

const PSEUDO: [Field<'static>; 4] = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/api/comments"),
    (b":authority", b"api.example"),
];

/// Writes frames.
type Script<'a> = Box<dyn Fn(&mut Connection) + 'a>;

fn bed(wire: &Wire) -> Builder {
    Testbed::gateway().with_cluster("videos", wire.address()).bootstrap(|bootstrap| {
        // A connection at fault is closed at once: only the tests would wait for it.
        manager(bootstrap)["delayed_close_timeout"] = json!("0.05s");
    })
}

/// A good request's fields, and these behind them.
fn with<'a>(bearer: &'a [u8], more: &[Field<'a>]) -> Vec<Field<'a>> {
    PSEUDO
        .iter()
        .copied()
        .chain([(&b"authorization"[..], bearer)])
        .chain(more.iter().copied())
        .collect()
}

/// Nothing forged has arrived, and a good request is served on a connection of its own.
#[track_caller]
fn settle(bed: &Testbed, wire: &Wire, bearer: &[u8], what: &str) {
    let mut connection = Connection::open(bed.envoy.address());
    connection.headers(
        1,
        &with(bearer, &[(b"x-user-id", b"forged"), (b"x-case", b"good")]),
        END_STREAM,
    );
    let good = connection.end_of(1);
    assert_eq!((good.status, good.complete), (Some(200), true), "{what}");
    let heard = wire.take();
    for heard in &heard {
        assert_clean(heard, USER, true);
    }
    let good = heard.iter().find(|heard| heard.values("x-case") == [b"good"]);
    assert_eq!(good.map(|good| good.values("x-user-id")), Some(vec![&b"u-1001"[..]]), "{what}");
}

/// Heads whose pseudo-headers are those of no request.
fn targets(bearer: &[u8]) -> Vec<(&'static str, Vec<Field<'_>>)> {
    let [method, scheme, path, authority] = PSEUDO;
    let token = (&b"authorization"[..], bearer);
    vec![
        ("a path said twice", with(bearer, &[(b":path", b"/healthz")])),
        (
            "a path said twice, at once",
            vec![method, scheme, path, (b":path", b"/healthz"), authority],
        ),
        (
            "a method said twice",
            vec![method, (b":method", b"POST"), scheme, path, authority, token],
        ),
        (
            "an authority said twice",
            vec![method, scheme, path, authority, (b":authority", b"forged"), token],
        ),
        ("a host beside it", with(bearer, &[(b"host", b"forged")])),
        ("two hosts beside it", with(bearer, &[(b"host", b"a"), (b"host", b"b")])),
        ("no path", vec![method, scheme, authority, token]),
        ("an empty path", vec![method, scheme, (b":path", b""), authority, token]),
        ("no method", vec![scheme, path, authority, token]),
        ("no authority", vec![method, scheme, path, token]),
        ("no scheme", vec![method, path, authority, token]),
        ("nothing", vec![]),
        ("a scheme of nobody's", vec![method, (b":scheme", b"forged"), path, authority, token]),
        ("a status", with(bearer, &[(b":status", b"200")])),
        (
            "a protocol",
            vec![
                (b":method", b"CONNECT"),
                (b":protocol", b"websocket"),
                scheme,
                path,
                authority,
                token,
            ],
        ),
        ("CONNECT", vec![(b":method", b"CONNECT"), authority, token]),
        ("CONNECT with a path", vec![(b":method", b"CONNECT"), scheme, path, authority, token]),
    ]
}

/// Heads whose fields are none, or forge.
#[allow(clippy::too_many_lines, reason = "a table")]
fn fields(bearer: &[u8]) -> Vec<(&'static str, Vec<Field<'_>>)> {
    let long = &[b'a'; 15_000];
    let [method, scheme, path, authority] = PSEUDO;
    let token = (&b"authorization"[..], bearer);
    vec![
        ("an unknown pseudo-header", with(bearer, &[(b":forged", b"1")])),
        ("a name in upper case", with(bearer, &[(b"X-User-Id", b"forged")])),
        ("a name of nothing", with(bearer, &[(b"", b"forged")])),
        ("a name with a colon", with(bearer, &[(b"x-user-id:", b"forged")])),
        ("a name with a space", with(bearer, &[(b"x-user-id ", b"forged")])),
        ("a name with a CR and LF", with(bearer, &[(b"x-a: b\r\nx-user-id", b"forged")])),
        ("a name that is not UTF-8", with(bearer, &[(b"x-\xff-id", b"forged")])),
        ("a name with a NUL", with(bearer, &[(b"x-user-id\0", b"forged")])),
        (
            "other spellings",
            with(
                bearer,
                &[
                    (b"x_user_id", b"forged"),
                    (b"x.user~role", b"forged"),
                    (b"txn_token", b"forged"),
                ],
            ),
        ),
        ("a value with a CR and LF", with(bearer, &[(b"x-a", b"b\r\nx-user-id: forged")])),
        ("a value with a LF", with(bearer, &[(b"x-a", b"b\nx-user-id: forged")])),
        ("a value with a NUL", with(bearer, &[(b"x-user-id", b"forged\0")])),
        (
            "a value that is not UTF-8",
            with(bearer, &[(b"x-user-role", b"\xff\xfe forged"), (b"x-a", b"\x80")]),
        ),
        ("a value in spaces", with(bearer, &[(b"x-user-id", b" forged ")])),
        (
            "a token that is not UTF-8",
            PSEUDO
                .iter()
                .copied()
                .chain([(&b"authorization"[..], &b"Bearer \xff.\xfe.\x80"[..])])
                .collect(),
        ),
        (
            "a path that is not UTF-8",
            vec![method, scheme, (b":path", b"/api/videos/\xff\xfe"), authority],
        ),
        (
            "a path with a CR and LF",
            vec![
                method,
                scheme,
                (b":path", b"/api/videos HTTP/1.1\r\nx-user-id: forged\r\nx-a: "),
                authority,
            ],
        ),
        (
            "a path with a space",
            vec![method, scheme, (b":path", b"/api/videos HTTP/1.1"), authority],
        ),
        (
            "a method with a space",
            vec![
                (b":method", b"GET /healthz HTTP/1.1\r\nx-user-id: forged"),
                scheme,
                path,
                authority,
            ],
        ),
        (
            "an authority with a CR and LF",
            vec![method, scheme, path, (b":authority", b"a\r\nx-user-id: forged"), token],
        ),
        ("`connection`", with(bearer, &[(b"connection", b"x-user-id")])),
        ("`transfer-encoding`", with(bearer, &[(b"transfer-encoding", b"chunked")])),
        ("`te`", with(bearer, &[(b"te", b"trailers, forged")])),
        ("`te: trailers`", with(bearer, &[(b"te", b"trailers")])),
        ("`upgrade`", with(bearer, &[(b"upgrade", b"h2c"), (b"http2-settings", b"AAMAAABk")])),
        ("a length without a body", with(bearer, &[(b"content-length", b"5")])),
        (
            "lengths that differ",
            with(bearer, &[(b"content-length", b"5"), (b"content-length", b"6")]),
        ),
        (
            "cookies apart",
            with(
                bearer,
                &[(b"cookie", b"a=b"), (b"cookie", b"__session=forged"), (b"cookie", b"\xff")],
            ),
        ),
        ("two tokens", with(bearer, &[(b"authorization", b"Bearer a.b.c")])),
        ("90 forged", with(bearer, &[(&b"x-user-id"[..], &b"forged"[..]); 90])),
        ("200 forged", with(bearer, &[(&b"x-user-id"[..], &b"forged"[..]); 200])),
        ("16 KiB forged", with(bearer, &[(b"x-user-id", long)])),
    ]
}

#[test]
fn no_head_of_http2_forges_or_stops_the_next_request() {
    for change in [
        |_: &mut serde_json::Value| (),
        |bootstrap: &mut serde_json::Value| {
            lenient(bootstrap);
            // A bad request then costs its stream alone, and more of them come as far as the filter.
            manager(bootstrap)["http2_protocol_options"] = json!({
                "override_stream_error_on_invalid_http_message": true, "allow_connect": true,
            });
        },
    ] {
        let wire = upstream();
        let bed = bed(&wire).bootstrap(change).start();
        let bearer = format!("Bearer {}", user_token(&bed)).into_bytes();
        let mut answers = std::collections::BTreeMap::<_, usize>::new();
        let heads = [targets(&bearer), fields(&bearer)].concat();
        for (what, fields) in &heads {
            let mut connection = Connection::open(bed.envoy.address());
            connection.headers(1, fields, END_STREAM);
            let Ended { status, .. } = connection.end_of(1);
            *answers.entry(status).or_default() += 1;
            assert!(!matches!(status, Some(500 | 503)), "{what}: {status:?}");
            // These come as far as the filter.
            if ["other spellings", "a value that is not UTF-8", "cookies apart", "90 forged"]
                .contains(what)
            {
                assert_eq!(status, Some(200), "{what}");
            }
            settle(&bed, &wire, &bearer, what);
        }
        println!("HTTP/2: {} heads, each before a good one: answers {answers:?}", heads.len());
        bed.no_traps();
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn frames_in_any_order_forge_nothing() {
    let wire = upstream();
    let bed = bed(&wire).bootstrap(lenient).start();
    let bearer = format!("Bearer {}", user_token(&bed)).into_bytes();
    let good = with(&bearer, &[(b"x-user-id", b"forged")]);
    let posted: Vec<Field<'_>> =
        good.iter().map(|f| if f.0 == b":method" { (f.0, &b"POST"[..]) } else { *f }).collect();
    let forged: [Field<'_>; 3] =
        [(b"x-user-id", b"forged"), (b"x_user_role", b"forged"), (b"x-sum", b"1")];
    let scripts: Vec<(&str, Option<u16>, Script<'_>)> = vec![
        (
            "a head cut in pieces",
            Some(200),
            Box::new(|c| {
                let block = block(&good);
                let pieces: Vec<&[u8]> = block.chunks(block.len() / 4 + 1).collect();
                c.frame(kind::HEADERS, END_STREAM, 1, pieces[0]);
                c.frame(kind::CONTINUATION, 0, 1, pieces[1]);
                c.frame(kind::CONTINUATION, 0, 1, pieces[2]);
                c.frame(kind::CONTINUATION, END_HEADERS, 1, pieces[3]);
            }),
        ),
        (
            "another frame between the pieces",
            None,
            Box::new(|c| {
                let block = block(&good);
                c.frame(kind::HEADERS, END_STREAM, 1, &block[..9]);
                c.frame(kind::DATA, 0, 1, b"forged");
                c.frame(kind::CONTINUATION, END_HEADERS, 1, &block[9..]);
            }),
        ),
        (
            "pieces without end",
            None,
            Box::new(|c| {
                c.frame(kind::HEADERS, END_STREAM, 1, &block(&good));
                for _ in 0..5_000 {
                    c.frame(kind::CONTINUATION, 0, 1, &block(&[(b"x-user-id", b"forged")]));
                }
            }),
        ),
        (
            "a piece of nothing",
            None,
            Box::new(|c| c.frame(kind::CONTINUATION, END_HEADERS, 1, &block(&good))),
        ),
        (
            "trailers that forge",
            Some(200),
            Box::new(|c| {
                c.headers(1, &posted, 0);
                c.frame(kind::DATA, 0, 1, b"a body");
                c.headers(1, &forged, END_STREAM);
            }),
        ),
        (
            "trailers without a body",
            Some(200),
            Box::new(|c| {
                c.headers(1, &posted, 0);
                c.headers(1, &forged, END_STREAM);
            }),
        ),
        (
            "trailers with a path",
            None,
            Box::new(|c| {
                c.headers(1, &posted, 0);
                c.headers(1, &[(b":path", b"/healthz"), (b"x-user-id", b"forged")], END_STREAM);
            }),
        ),
        (
            "trailers that do not end it",
            None,
            Box::new(|c| {
                c.headers(1, &posted, 0);
                c.headers(1, &forged, 0);
                c.headers(1, &forged, END_STREAM);
            }),
        ),
        (
            "a body of a stream that is not there",
            None,
            Box::new(|c| c.frame(kind::DATA, END_STREAM, 1, b"forged")),
        ),
        ("a stream of an even number", None, Box::new(|c| c.headers(2, &good, END_STREAM))),
        ("a stream of number 0", None, Box::new(|c| c.headers(0, &good, END_STREAM))),
        (
            "two heads of a stream",
            None,
            Box::new(|c| {
                c.headers(1, &good, END_STREAM);
                c.headers(1, &good, END_STREAM);
            }),
        ),
        (
            "an index that is not there",
            None,
            Box::new(|c| {
                c.frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0x80, 0x80, 0x01]);
            }),
        ),
        (
            "half a literal",
            None,
            Box::new(|c| {
                c.frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, b"\x00\x7f\xff\xff\xff\x0fx");
            }),
        ),
        (
            "settings of half a setting",
            None,
            Box::new(|c| c.frame(kind::SETTINGS, 0, 0, b"\x00\x04\x00")),
        ),
        ("a window of nothing", None, Box::new(|c| c.frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]))),
        (
            "a kind of frame that is not there, and a good one",
            Some(200),
            Box::new(|c| {
                c.frame(0x7f, 0xff, 0, b"forged");
                c.headers(1, &good, END_STREAM);
            }),
        ),
        (
            "a frame that is too long",
            None,
            Box::new(|c| {
                c.bytes(&[b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", &[b'a'; 15_000][..]].concat());
            }),
        ),
        (
            "text",
            None,
            Box::new(|c| c.bytes(b"GET /api/comments HTTP/1.1\r\nx-user-id: forged\r\n\r\n")),
        ),
        ("a goodbye", None, Box::new(|c| c.frame(kind::GOAWAY, 0, 0, &[0; 8]))),
    ];
    for (what, status, script) in scripts {
        let mut connection = Connection::open(bed.envoy.address());
        script(&mut connection);
        // Envoy need not say anything to what says nothing.
        if !["a goodbye"].contains(&what) {
            let ended = connection.end_of(1);
            if status.is_some() {
                assert_eq!(ended.status, status, "{what}");
            }
        }
        for heard in wire.take() {
            assert_clean(&heard, USER, true);
            assert!(!heard.trailers.windows(6).any(|at| at == b"forged"), "{what}: {heard:?}");
        }
        settle(&bed, &wire, &bearer, what);
    }
    bed.no_traps();
}

#[test]
fn streams_that_are_broken_off_while_they_wait_take_nobody_along() {
    let bed = Testbed::gateway()
        .filter_config(patient_lookup)
        .users(|users| users.behave(Behavior::Hold))
        .start();
    let (first, second) = (token_of(&bed, "user_2abc"), token_of(&bed, "user_2adm"));
    let [first, second] = [first, second].map(|token| format!("Bearer {token}").into_bytes());
    let mut connection = Connection::open(bed.envoy.address());
    let streams: Vec<u32> = (0..90).map(|number| number * 2 + 1).collect();
    for stream in &streams {
        let bearer = if stream % 3 == 0 { &second } else { &first };
        connection.headers(*stream, &with(bearer, &[(b"x-user-id", b"forged")]), END_STREAM);
    }
    wait_until("all are held", || active(&bed) == 90);
    bed.users.wait_for_requests(2, LONG);
    // Of all that wait for the second user, nobody is left; of the others, every other one.
    let (left, gone): (Vec<u32>, Vec<u32>) =
        streams.iter().partition(|stream| *stream % 3 != 0 && (*stream / 2) % 2 == 0);
    for stream in &gone {
        connection.cancel(*stream);
    }
    wait_until("they are gone", || active(&bed) == u64::try_from(left.len()).unwrap());
    bed.users.release();
    let ended = connection.ended(&left);
    for stream in &left {
        let expected = Ended { status: Some(200), reset: None, complete: true };
        assert_eq!(ended.get(stream), Some(&expected), "{stream}");
    }
    let seen = bed.upstream.take();
    assert_eq!(seen.len(), left.len());
    for seen in &seen {
        assert_context(seen, USER);
    }
    assert_serves(&bed);
}
