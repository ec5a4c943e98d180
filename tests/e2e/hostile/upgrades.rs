//! Requests that become something else: a WebSocket, a tunnel, a call of gRPC. Who may make one is decided as
//! for any other, and what goes over it then is nobody's business.

use std::io::{Read, Write};
use std::net::TcpStream;

use harness::client::h2;
use harness::testbed::Testbed;
use harness::wire::{Heard, Reply, Then, Wire};
use serde_json::json;

use super::battery::assert_clean;
use super::{lenient, manager};
use crate::support::{LONG, USER, assert_context, assert_denied, only_seen, user_token};

/// Switches to an echo whatever it is asked.
fn echo() -> Wire {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";
    Wire::start(move |heard: &Heard| match heard.values("upgrade")[..] {
        [] => Reply::ok("", ""),
        _ => Reply::new(switching, Then::Echo),
    })
}

fn handshake(path: &str, bearer: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: api.example\r\nconnection: upgrade, x-user-id\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{bearer}x-user-id: forged\r\nx_user_role: forged\r\n\r\n"
    )
}

#[test]
fn a_websocket_is_opened_with_the_context_or_not_at_all() {
    let wire = echo();
    let bed = Testbed::gateway().with_cluster("videos", wire.address()).bootstrap(lenient).start();
    let bearer = format!("authorization: Bearer {}\r\n", user_token(&bed));
    for _ in 0..2 {
        let mut stream = TcpStream::connect(bed.envoy.address()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(handshake("/api/comments", &bearer).as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
        // What looks like a request is none any more.
        for message in
            [&b"\x81\x05hello"[..], b"GET / HTTP/1.1\r\nx-user-id: forged\r\n\r\n", &[0xff; 15_000]]
        {
            stream.write_all(message).unwrap();
            let mut echoed = vec![0; message.len()];
            stream.read_exact(&mut echoed).unwrap();
            assert!(echoed == message);
        }
        let opened = wire.take();
        assert_eq!(opened.len(), 1, "{opened:?}");
        assert_clean(&opened[0], USER, true);
        for (name, value) in crate::support::CONTEXT.into_iter().zip(USER) {
            assert_eq!(opened[0].values(name), [value.unwrap().as_bytes()]);
        }
        assert!(opened[0].values("authorization").is_empty());
    }

    let refused = |path: &str, bearer: &str| {
        let sent = harness::wire::send(
            bed.envoy.address(),
            None,
            handshake(path, bearer).as_bytes(),
            LONG,
        );
        sent.unwrap().remove(0)
    };
    assert_denied(&refused("/api/comments", ""), 401, "token_missing");
    assert_denied(
        &refused("/api/comments", "authorization: Bearer a.b.c\r\n"),
        401,
        "token_malformed",
    );
    assert!(wire.take().is_empty(), "nothing reached the upstream");
    bed.no_traps();
}

#[test]
fn a_tunnel_is_no_way_round() {
    let wire = echo();
    let bed = Testbed::gateway()
        .with_cluster("videos", wire.address())
        .bootstrap(|bootstrap| {
            let manager = manager(bootstrap);
            manager["upgrade_configs"] = json!([{"upgrade_type": "CONNECT"}]);
            manager["http2_protocol_options"] = json!({"allow_connect": true});
            let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
            let tunnel = json!({
                "match": {"connect_matcher": {}},
                "route": {"cluster": "videos", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]},
            });
            routes.as_array_mut().unwrap().insert(0, tunnel);
        })
        .start();
    let connect = |bearer: &str| {
        let request = format!(
            "CONNECT api.example:443 HTTP/1.1\r\nhost: api.example:443\r\n{bearer}x-user-id: forged\r\n\r\n"
        );
        let sent = harness::wire::send(bed.envoy.address(), None, request.as_bytes(), LONG);
        sent.unwrap().remove(0)
    };
    let response = connect("");
    assert!((400..500).contains(&response.status), "{response:?}");
    let response = connect("authorization: Bearer a.b.c\r\n");
    assert!((400..500).contains(&response.status), "{response:?}");
    assert!(wire.take().is_empty(), "nothing reached the upstream");
    bed.no_traps();
}

#[test]
fn grpc_is_refused_in_its_own_words_and_a_good_call_passes() {
    let bed = Testbed::gateway()
        .bootstrap(|bootstrap| {
            for cluster in bootstrap["static_resources"]["clusters"].as_array_mut().unwrap() {
                if cluster["name"] == "videos" {
                    cluster["typed_extension_protocol_options"] = json!({
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    });
                }
            }
        })
        .start();
    let bearer = format!("Bearer {}", user_token(&bed));
    let call = |kind: &'static [u8], credentials: &[u8]| {
        let headers: [(&str, &[u8]); 4] = [
            ("content-type", kind),
            ("te", b"trailers"),
            ("authorization", credentials),
            ("x-user-id", b"forged"),
        ];
        let trailers: [(&str, &[u8]); 2] = [("x-user-id", b"forged"), ("grpc-status", b"0")];
        h2(bed.envoy.address(), "POST", "/api/comments", &headers, b"\0\0\0\0\0", &trailers)
    };
    for kind in [&b"application/grpc"[..], b"application/grpc+proto", b"application/grpc+\xff"] {
        for bad in [&b"Bearer a.b.c"[..], b"", b"Bearer \xff"] {
            let response = call(kind, bad);
            assert_eq!((response.status, response.header("grpc-status")), (200, Some(&b"16"[..])));
            assert!(bed.upstream.take().is_empty());
        }
        assert_eq!(call(kind, bearer.as_bytes()).status, 200);
        let seen = only_seen(&bed);
        assert_context(&seen, USER);
        assert!(seen.trailers.iter().all(|(name, _)| name != "x-user-id"), "{seen:?}");
    }
    bed.no_traps();
}
