//! Where one header ends, where the body ends, where the next request begins: what two readers of the same
//! bytes may see differently. The upstream counts requests as a strict reader of what Envoy sends it.

use std::time::Duration;

use harness::testbed::Testbed;
use serde_json::Value;

use super::battery::{Battery, upstream};
use super::grammar::{Case, NUMBER};
use super::lenient;
use crate::support::user_token;

/// A request that hides in another one's body: it would be let through if somebody took it for one.
const HIDDEN: &str = "GET /api/comments HTTP/1.1\r\nhost: api.example\r\nx-user-id: forged\r\nx-user-role: forged\r\n\r\n";

/// Requests. `{host}` and `{token}` are header lines, `{hidden}` is the request, which has `{length}` bytes.
const CASES: [(&str, &str); 62] = [
    (
        "obs-fold in a managed header",
        "GET /api/comments HTTP/1.1\r\n{host}{token}x-user-id:\r\n forged\r\n\r\n",
    ),
    (
        "obs-fold that makes one",
        "GET /api/comments HTTP/1.1\r\n{host}{token}x-a: b\r\n x-user-id: forged\r\n\r\n",
    ),
    (
        "obs-fold by a tab",
        "GET /api/comments HTTP/1.1\r\n{host}{token}x-a: b\r\n\tx-user-id: forged\r\n\r\n",
    ),
    (
        "obs-fold of the first header",
        "GET /api/comments HTTP/1.1\r\n x-user-id: forged\r\n{host}{token}\r\n",
    ),
    (
        "obs-fold of a token",
        "GET /api/comments HTTP/1.1\r\n{host}authorization: Bearer\r\n a.b.c\r\n\r\n",
    ),
    (
        "a bare CR in a value",
        "GET /api/comments HTTP/1.1\r\n{host}{token}x-a: b\rx-user-id: forged\r\n\r\n",
    ),
    (
        "a bare CR at an end",
        "GET /api/comments HTTP/1.1\r\n{host}{token}x-a: b\r\r\nx-b: c\r\n\r\n",
    ),
    (
        "a bare LF in a value",
        "GET /api/comments HTTP/1.1\r\n{host}{token}x-a: b\nx-user-id: forged\r\n\r\n",
    ),
    ("bare LFs alone", "GET /api/comments HTTP/1.1\n{host}{token}x-user-id: forged\n\n"),
    ("an end by bare LFs", "GET /api/videos HTTP/1.1\r\n{host}x-a: b\n\n{hidden}"),
    ("LF CR", "GET /api/comments HTTP/1.1\n\r{host}{token}x-user-id: forged\n\r\n\r"),
    ("a NUL in a value", "GET /api/comments HTTP/1.1\r\n{host}{token}x-user-id: forged\0\r\n\r\n"),
    ("a NUL in a name", "GET /api/comments HTTP/1.1\r\n{host}{token}x-user\0-id: forged\r\n\r\n"),
    ("a NUL in a line", "GET /api/comm\0ents HTTP/1.1\r\n{host}{token}\r\n"),
    (
        "a line without a colon",
        "GET /api/comments HTTP/1.1\r\n{host}{token}x-user-id forged\r\n\r\n",
    ),
    (
        "a space before a colon",
        "GET /api/comments HTTP/1.1\r\n{host}{token}x-user-id : forged\r\n\r\n",
    ),
    (
        "a tab before a colon",
        "GET /api/comments HTTP/1.1\r\n{host}{token}x-user-id\t: forged\r\n\r\n",
    ),
    ("a name that is empty", "GET /api/comments HTTP/1.1\r\n{host}{token}: forged\r\n\r\n"),
    (
        "a pseudo-header",
        "GET /api/videos HTTP/1.1\r\n{host}:path: /healthz\r\n:authority: forged\r\n\r\n",
    ),
    ("no host", "GET /api/comments HTTP/1.1\r\n{token}x-user-id: forged\r\n\r\n"),
    ("an empty host", "GET /api/comments HTTP/1.1\r\nhost:\r\n{token}\r\n"),
    ("two hosts", "GET /api/comments HTTP/1.1\r\n{host}host: forged\r\n{token}\r\n"),
    ("a host of two", "GET /api/comments HTTP/1.1\r\nhost: a, b\r\n{token}\r\n"),
    ("HTTP/1.0", "GET /api/comments HTTP/1.0\r\n{host}{token}x-user-id: forged\r\n\r\n"),
    ("HTTP/1.0 without a host", "GET /api/comments HTTP/1.0\r\n{token}x-user-id: forged\r\n\r\n"),
    (
        "HTTP/1.0, kept alive",
        "GET /api/videos HTTP/1.0\r\n{host}connection: keep-alive\r\n\r\n{hidden}",
    ),
    (
        "HTTP/1.0, chunked",
        "POST /api/videos HTTP/1.0\r\n{host}transfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
    ),
    ("HTTP/0.9", "GET /api/videos\r\n"),
    ("HTTP/0.9 and more", "GET /api/videos\r\nx-user-id: forged\r\n\r\n"),
    ("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("HTTP/3", "GET /api/comments HTTP/3.0\r\n{host}{token}\r\n"),
    (
        "CL.TE",
        "POST /api/videos HTTP/1.1\r\n{host}content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
    ),
    (
        "TE.CL",
        "POST /api/videos HTTP/1.1\r\n{host}transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ),
    (
        "TE.CL that hides one",
        "POST /api/videos HTTP/1.1\r\n{host}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n{hex}\r\n{hidden}\r\n0\r\n\r\n",
    ),
    (
        "TE.TE",
        "POST /api/videos HTTP/1.1\r\n{host}transfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n{hidden}",
    ),
    (
        "TE: xchunked",
        "POST /api/videos HTTP/1.1\r\n{host}transfer-encoding: xchunked\r\ncontent-length: 0\r\n\r\n{hidden}",
    ),
    (
        "TE: identity, chunked",
        "POST /api/videos HTTP/1.1\r\n{host}transfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n{hidden}",
    ),
    (
        "TE: chunked, identity",
        "POST /api/videos HTTP/1.1\r\n{host}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}",
    ),
    (
        "TE with a space",
        "POST /api/videos HTTP/1.1\r\n{host}transfer-encoding : chunked\r\ncontent-length: 0\r\n\r\n{hidden}",
    ),
    (
        "TE with a vertical tab",
        "POST /api/videos HTTP/1.1\r\n{host}transfer-encoding: \x0bchunked\r\ncontent-length: 0\r\n\r\n{hidden}",
    ),
    (
        "TE by _",
        "POST /api/videos HTTP/1.1\r\n{host}transfer_encoding: chunked\r\ncontent-length: {length}\r\n\r\n{hidden}",
    ),
    (
        "TE folded",
        "POST /api/videos HTTP/1.1\r\n{host}transfer-encoding:\r\n chunked\r\ncontent-length: 0\r\n\r\n{hidden}",
    ),
    (
        "two lengths",
        "POST /api/videos HTTP/1.1\r\n{host}content-length: 0\r\ncontent-length: {length}\r\n\r\n{hidden}",
    ),
    (
        "a length of two",
        "POST /api/videos HTTP/1.1\r\n{host}content-length: 0, {length}\r\n\r\n{hidden}",
    ),
    (
        "a length with a sign",
        "POST /api/videos HTTP/1.1\r\n{host}content-length: +0\r\n\r\n{hidden}",
    ),
    (
        "a hexadecimal length",
        "POST /api/videos HTTP/1.1\r\n{host}content-length: 0x5e\r\n\r\n{hidden}",
    ),
    (
        "a length too long",
        "POST /api/videos HTTP/1.1\r\n{host}content-length: 18446744073709551616\r\n\r\n{hidden}",
    ),
    (
        "a request in a body",
        "POST /api/videos HTTP/1.1\r\n{host}{token}content-length: {length}\r\n\r\n{hidden}",
    ),
    (
        "a request behind a body",
        "POST /api/videos HTTP/1.1\r\n{host}{token}content-length: 0\r\n\r\n{hidden}",
    ),
    (
        "a request behind a GET",
        "GET /api/videos HTTP/1.1\r\n{host}{token}x-user-id: forged\r\n\r\n{hidden}",
    ),
    (
        "a chunk's odd size",
        "POST /api/videos HTTP/1.1\r\n{host}transfer-encoding: chunked\r\n\r\n-1\r\n{hidden}",
    ),
    (
        "a chunk's great size",
        "POST /api/videos HTTP/1.1\r\n{host}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{hidden}",
    ),
    (
        "a chunk's extension",
        "POST /api/videos HTTP/1.1\r\n{host}{token}transfer-encoding: chunked\r\n\r\n1;x-user-id=\"forged\n\"\r\na\r\n0\r\n\r\n",
    ),
    (
        "a chunk that is too long",
        "POST /api/videos HTTP/1.1\r\n{host}{token}transfer-encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    ),
    (
        "trailers",
        "POST /api/videos HTTP/1.1\r\n{host}{token}transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-user-id: forged\r\nX_User.Role: forged\r\nauthorization: Bearer forged\r\nx-sum: 1\r\n\r\n",
    ),
    (
        "trailers that are announced",
        "POST /api/videos HTTP/1.1\r\n{host}{token}trailer: x-user-id\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n0\r\ntxn-token: forged\r\nx-user-id: forged\r\n\r\n",
    ),
    (
        "trailers that frame",
        "POST /api/videos HTTP/1.1\r\n{host}transfer-encoding: chunked\r\n\r\n0\r\ncontent-length: {length}\r\nhost: forged\r\n\r\n{hidden}",
    ),
    (
        "a body that is announced",
        "POST /api/videos HTTP/1.1\r\n{host}{token}expect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
    ),
    (
        "headers named by `connection`",
        "GET /api/comments HTTP/1.1\r\n{host}{token}connection: x-user-id, authorization, x-request-id\r\nx-user-id: forged\r\n\r\n",
    ),
    (
        "a whole URI",
        "GET http://api.example/api/comments HTTP/1.1\r\n{host}{token}x-user-id: forged\r\n\r\n",
    ),
    (
        "a URI of another host and scheme",
        "GET https://u:p@forged.example:1/api/comments HTTP/1.1\r\n{host}{token}x-user-id: forged\r\n\r\n",
    ),
    (
        "a request's authority alone",
        "GET api.example:80 HTTP/1.1\r\n{host}{token}x-user-id: forged\r\n\r\n",
    ),
];

/// Methods and targets that mean something of their own.
const LINES: [&str; 14] = [
    "OPTIONS * HTTP/1.1",
    "GET * HTTP/1.1",
    "CONNECT api.example:443 HTTP/1.1",
    "CONNECT /api/comments HTTP/1.1",
    "CONNECT http://api.example/api/comments HTTP/1.1",
    "TRACE /api/comments HTTP/1.1",
    "get /api/comments HTTP/1.1",
    "FORGED /api/comments HTTP/1.1",
    "G<>ET /api/comments HTTP/1.1",
    " GET /api/comments HTTP/1.1",
    "GET  /api/comments HTTP/1.1",
    "GET\t/api/comments\tHTTP/1.1",
    "GET /api/comments x HTTP/1.1",
    "\r\nGET /api/comments HTTP/1.1",
];

fn cases(token: &str) -> Vec<(String, Case)> {
    let token_line = format!("authorization: Bearer {token}\r\n");
    let lines = LINES
        .iter()
        .map(|line| (*line, format!("{line}\r\n{{host}}{{token}}x-user-id: forged\r\n\r\n")));
    let shapes = CASES.iter().map(|(what, shape)| (*what, (*shape).to_owned()));
    let fill = |(number, (what, shape)): (usize, (&str, String))| {
        let text = shape
            .replace("{host}", "host: api.example\r\n")
            .replace("{token}", &token_line)
            .replace("{length}", &HIDDEN.len().to_string())
            .replace("{hex}", &format!("{:x}", HIDDEN.len()))
            .replace("{hidden}", HIDDEN);
        // Its number stands behind the request line, which may stand behind an empty one.
        let line = text.len() - text.trim_start().len();
        let end = text[line..].find('\n').map_or(text.len(), |end| line + end + 1);
        let number = format!("{NUMBER}: {number}\r\n");
        let text = [&text[..end], &number, &text[end..]].concat();
        let case = Case { token: text.contains(token), bytes: text.into_bytes() };
        (what.to_owned(), case)
    };
    shapes.chain(lines).enumerate().map(fill).collect()
}

#[test]
fn no_two_readers_of_a_request_see_different_ones() {
    for change in [|_: &mut Value| (), lenient] {
        let wire = upstream();
        let bed =
            Testbed::gateway().with_cluster("videos", wire.address()).bootstrap(change).start();
        let token = user_token(&bed);
        let mut battery = Battery::new(bed.envoy.address(), Some(&wire), "/api/comments", &token);
        // What may come behind them keeps many of these connections open.
        battery.patience = Duration::from_millis(150);
        battery.table(&cases(&token));
        battery.report("framing");
        bed.no_traps();
    }
}
