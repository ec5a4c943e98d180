//! The shared auth service, and the proxies that ask it: Envoy's `ext_authz`, nginx's `auth_request`, and what Traefik and
//! ingress-nginx send. Whoever asks takes 2xx for a yes, so no refusal may be one, whatever was sent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use harness::client::{Request, Response, h2};
use harness::envoy::Envoy;
use harness::nginx::Nginx;
use harness::server::Behavior;
use harness::testbed::{Builder, Testbed, edge};
use harness::{module, process, skip};
use serde_json::{Value, json};

use crate::support::{
    NOBODY, USER, assert_context, assert_denied, claims_with, only_seen, patient_lookup, token_of,
    user_token,
};

fn authz() -> Builder {
    Testbed::config("authz.yaml")
}

fn http_filters(bootstrap: &mut Value) -> &mut Vec<Value> {
    let hcm = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
    hcm["typed_config"]["http_filters"].as_array_mut().unwrap()
}

/// Leaves a filter of `envoy/authz.yaml` out.
fn without(filter: &'static str) -> impl Fn(&mut Value) {
    move |bootstrap| {
        let filters = http_filters(bootstrap);
        let before = filters.len();
        filters.retain(|other| other["name"] != filter);
        assert_eq!(filters.len(), before - 1, "{filter}");
    }
}

/// Requests for which no answer of the filter's was found. There is one route, and it is not to be reached.
fn reached(bed: &Testbed) -> u64 {
    bed.envoy.stat("http.authz.rq_direct_response")
}

#[track_caller]
fn assert_yes(response: &Response, context: [Option<&str>; 4]) {
    assert_eq!(response.status, 200, "{response:?}");
    for (name, value) in crate::support::CONTEXT.into_iter().zip(context) {
        assert_eq!(response.header(name), value.map(str::as_bytes), "{name}");
    }
}

/// A refusal that everybody takes for one: no redirect either.
#[track_caller]
fn assert_no(response: &Response, what: &str) {
    assert!((400..600).contains(&response.status), "{what}: {response:?}");
    assert_eq!(response.header("x-user-id"), None, "{what}: {response:?}");
}

/// The status line of the answer to these bytes.
fn raw(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(crate::support::LONG)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn no_way_of_asking_turns_a_refusal_into_a_yes() {
    let bed = authz().start();
    let token = user_token(&bed);
    assert_yes(&bed.get("/api/comments").bearer(&token).send(), USER);
    assert_yes(&bed.get("/healthz").send(), NOBODY);

    for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE"] {
        let request = bed.get("/api/comments").method(method);
        assert_eq!(request.send().status, 401, "{method}");
        assert_yes(&request.bearer(&token).send(), USER);
    }
    let ask = |path: &str| bed.get(path);
    for (what, request) in [
        ("a method of nobody's", ask("/healthz").method("FOO")),
        (
            "a preflight",
            ask("/api/comments")
                .method("OPTIONS")
                .header("Origin", "https://a.example")
                .header("Access-Control-Request-Method", "GET"),
        ),
        ("a body", ask("/api/comments").method("POST").body("x".repeat(100_000))),
        (
            "a chunked body",
            ask("/api/comments")
                .method("POST")
                .header("Transfer-Encoding", "chunked")
                .body("3\r\nabc\r\n0\r\n\r\n"),
        ),
        (
            "a body to come",
            ask("/api/comments")
                .method("POST")
                .header("Content-Length", "5")
                .header("Expect", "100-continue"),
        ),
        (
            "headers of Envoy's",
            ask("/api/comments")
                .header("x-envoy-original-path", "/healthz")
                .header("x-envoy-internal", "true")
                .header("x-envoy-original-host", "a.example")
                .header("x-envoy-upstream-alt-stat-name", "a")
                .header("x-rewrite-url", "/healthz")
                .header("x-http-method-override", "HEAD")
                .header("x-forwarded-proto", "https"),
        ),
        (
            "a response's headers",
            ask("/api/comments").header("x-user-id", "u-1001").header(":status", "200"),
        ),
        ("dots", ask("/healthz/../api/comments")),
        ("an escaped slash", ask("/healthz%2f..%2fapi/comments")),
        ("two slashes", ask("//healthz")),
        ("a fragment", ask("/api/comments#/healthz")),
        ("all of it escaped", ask("/%61pi/comments")),
        ("a whole URI", ask("http://api.example/api/comments")),
        ("another host", ask("/api/comments").header("Host", "a.example")),
        ("a star", ask("*").method("OPTIONS")),
        ("no path", ask("healthz")),
        (
            "an upgrade",
            ask("/api/comments").header("Connection", "Upgrade").header("Upgrade", "websocket"),
        ),
        (
            "an upgrade where nobody is asked who they are",
            ask("/healthz").header("Connection", "Upgrade").header("Upgrade", "websocket"),
        ),
        (
            "an upgrade to HTTP/2",
            ask("/api/comments")
                .header("Connection", "Upgrade, HTTP2-Settings")
                .header("Upgrade", "h2c")
                .header("HTTP2-Settings", "AAMAAABkAAQAAP__"),
        ),
        ("a tunnel", Request::new(bed.envoy.address(), "CONNECT", "api.example:443")),
        ("headers without end", ask("/api/comments").header("x", "y".repeat(70_000))),
    ] {
        assert_no(&request.send(), what);
    }
    for (what, bytes) in [
        ("HTTP/1.0", &b"GET /api/comments HTTP/1.0\r\nHost: a\r\n\r\n"[..]),
        ("HTTP/1.0 without a host", b"GET /api/comments HTTP/1.0\r\n\r\n"),
        ("no host", b"GET /api/comments HTTP/1.1\r\nConnection: close\r\n\r\n"),
        ("HTTP/0.9", b"GET /api/comments\r\n\r\n"),
    ] {
        let status = raw(bed.envoy.address(), bytes);
        let code = status.split(' ').nth(1);
        assert!(code.is_none_or(|code| code.starts_with('4')), "{what}: {status}");
    }
    // nginx asks so by default.
    let asked =
        format!("GET /api/comments HTTP/1.0\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
    assert_eq!(raw(bed.envoy.address(), asked.as_bytes()), "HTTP/1.0 200 OK");
    assert_eq!(reached(&bed), 0);
    bed.no_traps();
}

#[test]
fn a_body_waits_with_its_head() {
    let bed = authz().filter_config(patient_lookup).start();
    bed.users.behave(Behavior::Hold);
    let nobody = bed.idp.token(harness::idp::seed_claims("user_2none"));
    let held =
        bed.get("/api/comments").method("POST").bearer(&nobody).body("x".repeat(100_000)).begin();
    bed.users.wait_for_requests(1, crate::support::LONG);
    bed.users.release();
    assert_denied(&held.finish(), 403, "user_unknown");
    assert_eq!(reached(&bed), 0);
}

/// What Envoy takes for gRPC, what only looks like it, and what is not. `None` where it is asked about as any other.
const KINDS: [(&str, Option<&str>); 11] = [
    ("application/grpc", Some("check_refused")),
    ("application/grpc+proto", Some("check_refused")),
    ("application/grpc+", Some("check_refused")),
    ("application/grpc;charset=utf-8", Some("check_refused")),
    ("application/grpc-web", Some("check_refused")),
    ("application/grpc-web+proto", Some("check_refused")),
    ("application/grpc-web-text", Some("check_refused")),
    ("APPLICATION/GRPC", None),
    ("Application/Grpc+proto", None),
    ("text/plain, application/grpc", None),
    ("application/json", None),
];

/// Asks in every kind and way about a request that may pass and about one that may not.
#[track_caller]
fn assert_grpc_is_refused(bed: &Testbed) {
    let token = user_token(bed);
    let bearer = format!("Bearer {token}");
    for (kind, refused) in KINDS {
        let ask = |path: &str| bed.get(path).header("Content-Type", kind);
        let h2 = |path: &str, authorization: &[u8]| {
            let headers: [(&str, &[u8]); 3] = [
                ("content-type", kind.as_bytes()),
                ("te", b"trailers"),
                ("authorization", authorization),
            ];
            h2(bed.envoy.address(), "POST", path, &headers, b"\0\0\0\0\0", &[])
        };
        // Refused, in any case.
        for response in [
            ask("/api/comments").send(),
            ask("/api/comments").method("POST").body("\0\0\0\0\0").send(),
            ask("/api/comments").method("HEAD").send(),
            ask("/api/comments").bearer("rubbish").send(),
            ask("/api/admin").bearer(&token).send(),
            h2("/api/comments", b"Basic eDp5"),
            h2("/api/admin", bearer.as_bytes()),
        ] {
            assert_no(&response, kind);
        }
        // What would be a yes.
        for response in [
            ask("/healthz").send(),
            ask("/api/comments").bearer(&token).send(),
            h2("/api/comments", bearer.as_bytes()),
        ] {
            match refused {
                Some(_) => assert_eq!(response.status, 403, "{kind}: {response:?}"),
                None => assert_eq!(response.status, 200, "{kind}: {response:?}"),
            }
        }
    }
    // Twice, which Envoy joins.
    let twice = bed.get("/api/comments").header("Content-Type", "application/grpc");
    assert_no(&twice.header("Content-Type", "application/grpc").send(), "twice");
    assert_eq!(reached(bed), 0);
    bed.no_traps();
}

/// An upgrade, which Envoy refuses before there are filters.
fn upgrade(bed: &Testbed, kind: &str) -> Response {
    let request = bed.get("/healthz").header("Content-Type", kind);
    request.header("Connection", "Upgrade").header("Upgrade", "websocket").send()
}

#[test]
fn grpc_is_refused_as_it_is_shipped() {
    let bed = authz().start();
    assert_grpc_is_refused(&bed);
    for (kind, _) in KINDS {
        assert_no(&upgrade(&bed, kind), kind);
    }
}

#[test]
fn grpc_is_refused_by_the_module_alone() {
    let bed = authz().bootstrap(without("no-yes-by-grpc")).start();
    assert_grpc_is_refused(&bed);
    // What never comes to it, it cannot refuse.
    assert_eq!(upgrade(&bed, "application/grpc").status, 200);
}

/// A module that traps in place of ours.
fn trapping(bed: Builder) -> Testbed {
    let dir = process::scratch();
    let path = dir.path().join("trap.wasm");
    std::fs::write(&path, module::TRAPPING).unwrap();
    bed.bootstrap(|bootstrap| {
        let filters = http_filters(bootstrap);
        let ours = filters.iter_mut().find(|filter| filter["name"] == "meshgate").unwrap();
        ours["typed_config"]["config"]["vm_config"]["code"]["local"]["filename"] = json!(path);
    })
    .start()
}

#[test]
fn nothing_is_a_yes_while_the_module_fails() {
    let bed = trapping(authz());
    // The first one traps, and those after it find no VM.
    for _ in 0..2 {
        for path in ["/healthz", "/api/comments"] {
            for (kind, _) in KINDS {
                let ask = bed.get(path).header("Content-Type", kind);
                for response in [ask.send(), ask.method("HEAD").send()] {
                    assert_eq!(response.status, 503, "{kind}: {response:?}");
                }
                let headers: [(&str, &[u8]); 1] = [("content-type", kind.as_bytes())];
                let response = h2(bed.envoy.address(), "POST", path, &headers, b"x", &[]);
                assert_eq!(response.status, 503, "{kind}: {response:?}");
            }
        }
    }
    assert_eq!(reached(&bed), 0);

    // It is the first filter that sees to it: this is what Envoy does without.
    let bed = trapping(authz().bootstrap(without("no-yes-by-grpc")));
    assert_eq!(bed.get("/api/comments").send().status, 503);
    let grpc = bed.get("/api/comments").header("Content-Type", "application/grpc").send();
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some(&b"14"[..])));
    // And no filter before it that takes the content type off helps.
    let bed = trapping(authz().bootstrap(without("no-yes-by-grpc")).bootstrap(|bootstrap| {
        http_filters(bootstrap).insert(0, json!({"name": "strip", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"request_mutations": [{"remove": "content-type"}]},
        }}));
    }));
    let grpc = bed.get("/api/comments").header("Content-Type", "application/grpc").send();
    assert_eq!(grpc.status, 200, "{grpc:?}");
}

#[test]
fn what_comes_past_the_module_is_refused() {
    let bed = authz().bootstrap(without("meshgate")).start();
    assert_eq!(bed.get("/healthz").send().status, 503);
    let grpc = bed.get("/healthz").header("Content-Type", "application/grpc").send();
    assert_eq!(grpc.status, 503, "{grpc:?}");
    assert_eq!(reached(&bed), 2, "what other tests look at to see that it is not reached");
}

/// Asks as Traefik's `ForwardAuth` does.
fn traefik(bed: &Testbed, method: &str, uri: &str) -> Request {
    bed.get("/")
        .header("X-Forwarded-For", "203.0.113.7")
        .header("X-Forwarded-Host", "api.example")
        .header("X-Forwarded-Method", method)
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Uri", uri)
}

/// Asks as ingress-nginx does.
fn ingress_nginx(bed: &Testbed, method: &str, uri: &str) -> Request {
    bed.get("/check")
        .header("X-Original-URL", format!("https://api.example{uri}"))
        .header("X-Original-Method", method)
        .header("X-Sent-From", "nginx-ingress-controller")
        .header("X-Real-IP", "203.0.113.7")
        .header("X-Forwarded-For", "203.0.113.7")
        .header("X-Auth-Request-Redirect", uri)
}

#[test]
fn proxies_that_are_named_say_what_they_ask_about_and_nobody_else_does() {
    let bed = authz().start();
    let (user, admin) = (user_token(&bed), token_of(&bed, "user_2adm"));
    let ways: [fn(&Testbed, &str, &str) -> Request; 2] = [traefik, ingress_nginx];
    for ask in ways {
        assert_yes(&ask(&bed, "GET", "/healthz").send(), NOBODY);
        assert_yes(&ask(&bed, "GET", "/api/videos/1?x=y").send(), NOBODY);
        assert_yes(&ask(&bed, "GET", "/api/videos/1?x=y").bearer(&user).send(), USER);
        assert_denied(&ask(&bed, "POST", "/api/videos").send(), 401, "token_missing");
        assert_yes(&ask(&bed, "POST", "/api/videos").bearer(&user).send(), USER);
        assert_denied(&ask(&bed, "GET", "/api/admin/x").bearer(&user).send(), 403, "role_required");
        let context = [Some("u-1002"), Some("user_2adm"), Some("ADMIN"), None];
        assert_yes(&ask(&bed, "GET", "/api/admin/x").bearer(&admin).send(), context);
        let dots = ask(&bed, "GET", "/healthz/../api/admin").bearer(&user).send();
        assert_denied(&dots, 403, "role_required");

        // A client that goes past its proxy, and what it may write.
        for forged in ["127.0.0.1", "127.0.0.1, 127.0.0.1", "203.0.113.7, 127.0.0.1"] {
            let stranger = ask(&bed, "GET", "/healthz").from([127, 0, 0, 2]);
            assert_denied(&stranger.send(), 403, "untrusted_peer");
            let stranger = stranger.header("X-Forwarded-For", forged).header("X-Real-IP", forged);
            assert_denied(&stranger.bearer(&user).send(), 403, "untrusted_peer");
        }
    }
    // Who says nothing asks about the request itself, and needs no leave.
    let own = bed.get("/api/comments").from([127, 0, 0, 2]);
    assert_denied(&own.send(), 401, "token_missing");
    assert_yes(&own.bearer(&user).send(), USER);
    // Where the headers differ, a client wrote some of them: all of it must be allowed.
    for (header, value) in [
        ("X-Original-URI", "/healthz"),
        ("X-Original-URL", "https://api.example/healthz"),
        ("X-Forwarded-Uri", "/healthz"),
    ] {
        let both = traefik(&bed, "GET", "/api/comments").header(header, value);
        assert_denied(&both.send(), 401, "token_missing");
    }
    let both = traefik(&bed, "POST", "/api/videos").header("X-Original-Method", "GET");
    assert_denied(&both.send(), 401, "token_missing");
    assert_eq!(reached(&bed), 0);
    bed.no_traps();
}

/// A path that can be read in more than 64 ways, and passes through proxies as it is.
const ODD: &str =
    "/api/%255c/%252e;x%2523/%252f%253b/%253b/%252e%252e%255c%252f/;x%255c%2525/%252f%2525%253f";

/// What clients send to have more than their share.
fn forge(request: Request, uri: &str) -> Request {
    // What would let everything pass, and what would let nothing.
    let (method, host) = match uri {
        "/healthz" => ("GET", "open.example"),
        _ => ("POST", "closed.example"),
    };
    let forged = [
        ("X-User-Id", "forged"),
        ("X-USER-ID", "forged-2"),
        ("X_User_Id", "forged"),
        ("X.User.Id", "forged"),
        ("X-User-Role", "ADMIN-forged"),
        ("X_User-Role", "ADMIN-forged"),
        ("X-User-Clerk-Id", ""),
        ("X-User-Channel-Id", "forged"),
        ("X-Service-Name", "forged-service"),
        ("Txn-Token", "forged"),
        ("X-Original-URI", uri),
        ("X-Original-URL", uri),
        ("X-Original-Method", method),
        ("X-Original-Host", host),
        ("X-Forwarded-Uri", uri),
        ("X-Forwarded-Method", method),
        ("X-Forwarded-Host", host),
    ];
    forged.into_iter().fold(request, |request, (name, value)| request.header(name, value))
}

/// The shipped service, and rules for the hosts that [`forge`] would like to be asked about.
fn with_hosts() -> Builder {
    authz().filter_config(|config| {
        for rule in [
            json!({"match": {"path_prefix": "/", "hosts": ["open.example"]}, "require": "anonymous"}),
            json!({"match": {"path_prefix": "/", "hosts": ["closed.example"]},
                "require": "user", "roles": ["NOBODY"]}),
        ] {
            config["rules"].as_array_mut().unwrap().insert(0, rule);
        }
    })
}

/// Which answers a client gets, of this proxy or through it, and what the upstream is told, of [`with_hosts`].
#[track_caller]
fn assert_asks(bed: &Testbed, proxy: SocketAddr) {
    let user = user_token(bed);
    let admin = token_of(bed, "user_2adm");
    let unknown = token_of(bed, "user_2none");
    let expired = bed.idp.token(claims_with("exp", json!(1)));
    let ada = [Some("u-1002"), Some("user_2adm"), Some("ADMIN"), None];
    let missing = Err((401, Some("Bearer realm=\"meshgate\"")));
    let invalid = Err((401, Some("error=\"invalid_token\"")));
    let forbidden = Err((403, None));
    for (method, path, token, expected) in [
        ("GET", "/healthz", None, Ok(NOBODY)),
        ("GET", "/healthz", Some(&user), Ok(NOBODY)),
        ("GET", "/api/videos/1?a=%2Fb", None, Ok(NOBODY)),
        ("GET", "/api/videos/1?a=%2Fb", Some(&user), Ok(USER)),
        ("GET", "/api/videos/1", Some(&expired), invalid),
        ("POST", "/api/videos", None, missing),
        ("POST", "/api/videos", Some(&user), Ok(USER)),
        ("HEAD", "/api/comments", None, missing),
        ("DELETE", "/api/comments/1", None, missing),
        ("GET", "/api/comments", Some(&user), Ok(USER)),
        ("GET", "/api/comments", Some(&expired), invalid),
        ("GET", "/api/comments", Some(&unknown), forbidden),
        ("GET", "/api/admin/x", None, missing),
        ("GET", "/api/admin/x", Some(&user), forbidden),
        ("GET", "/api/admin/x", Some(&admin), Ok(ada)),
        ("GET", "/healthz/../api/admin/x", Some(&user), forbidden),
        ("GET", "/api/videos/%2e%2e/admin/x", Some(&user), forbidden),
        ("GET", "/elsewhere", None, missing),
    ] {
        for uri in [None, Some("/healthz"), Some("/api/admin")] {
            let what = format!("{method} {path} {uri:?}");
            let mut request = Request::new(proxy, method, path);
            if let Some(uri) = uri {
                request = forge(request, uri);
            }
            if let Some(token) = token {
                request = request.bearer(token);
            }
            if method == "POST" {
                request = request.body("some body");
            }
            let response = request.send();
            match expected {
                Ok(context) => {
                    assert_eq!(response.status, 200, "{what}: {response:?}");
                    let seen = only_seen(bed);
                    assert_context(&seen, context);
                    assert_eq!(seen.method, method, "{what}");
                    for hidden in ["authorization", "x-envoy-auth-headers-to-remove"] {
                        assert_eq!(seen.header(hidden), None, "{what}");
                    }
                    assert!(seen.header("x-request-id").is_some(), "{what}");
                    for (name, value) in &seen.headers {
                        let plain = name.replace(['_', '.'], "-");
                        let value = String::from_utf8_lossy(value);
                        let ours = plain.starts_with("x-user") || plain.starts_with("x-service");
                        assert!(!(ours && value.contains("forged")), "{what}: {name}: {value}");
                    }
                    if method == "POST" {
                        assert_eq!(seen.body, b"some body", "{what}");
                    }
                }
                Err((status, challenge)) => {
                    assert_eq!(response.status, status, "{what}: {response:?}");
                    let sent = response.header("www-authenticate").map(String::from_utf8_lossy);
                    match challenge {
                        None => assert_eq!(sent, None, "{what}"),
                        Some(challenge) => {
                            assert!(sent.unwrap_or_default().contains(challenge), "{what}");
                        }
                    }
                    assert_eq!(response.header("x-user-id"), None, "{what}");
                    let seen = bed.upstream.take();
                    assert!(seen.is_empty(), "{what}: the upstream saw {seen:?}");
                }
            }
        }
    }
    assert_eq!(reached(bed), 0);
    bed.no_traps();
}

fn ext_authz(bed: &Testbed, change: impl FnOnce(&mut Value)) -> Envoy {
    let clusters = [("videos", bed.upstream.address()), ("authz", bed.envoy.address())];
    edge("authz-client.yaml", &clusters, change)
}

#[test]
fn envoy_asks_by_ext_authz() {
    let bed = with_hosts().start();
    let edge = ext_authz(&bed, |_| {});
    assert_asks(&bed, edge.address());

    let get = |path: &str| Request::get(edge.address(), path);
    let user = user_token(&bed);
    // Refusals arrive as they are.
    assert_denied(&get("/api/comments").send(), 401, "token_missing");
    assert_denied(&get("/api/admin").bearer(&user).send(), 403, "role_required");
    assert_denied(&get(ODD).send(), 400, "path_refused");
    assert_denied(
        &get("/api/comments").bearer(&user).bearer("a.b.c").send(),
        401,
        "token_ambiguous",
    );
    // The id is the edge's, the same for all.
    let id = get("/api/comments").send().json()["request_id"].clone();
    assert_eq!(id.as_str().map(str::len), Some(36), "{id}");

    // gRPC: the check has no content type, and the edge speaks gRPC to its client.
    let call = |token: &str| {
        let bearer = format!("Bearer {token}");
        let headers: [(&str, &[u8]); 3] = [
            ("content-type", b"application/grpc"),
            ("te", b"trailers"),
            ("authorization", bearer.as_bytes()),
        ];
        h2(edge.address(), "POST", "/api/comments", &headers, b"\0\0\0\0\0", &[])
    };
    assert_eq!(call(&user).status, 200);
    assert_context(&only_seen(&bed), USER);
    let refused = call("rubbish");
    assert_eq!((refused.status, refused.header("grpc-status")), (200, Some(&b"16"[..])));
    assert!(bed.upstream.take().is_empty());
    assert_eq!(reached(&bed), 0);
}

#[test]
fn forged_trailers_do_not_pass_ext_authz_either() {
    let bed = authz().start();
    let edge = ext_authz(&bed, |bootstrap| {
        // HTTP/2 toward the upstream, which is what carries trailers by default.
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
    });
    let bearer = format!("Bearer {}", user_token(&bed));
    let response = h2(
        edge.address(),
        "POST",
        "/api/videos",
        &[("authorization", bearer.as_bytes())],
        b"some body",
        &[("x-user-id", b"forged"), ("x_user_role", b"ADMIN"), ("x-checksum", b"abc")],
    );
    assert_eq!(response.status, 200);
    let seen = only_seen(&bed);
    assert_context(&seen, USER);
    let trailers: Vec<&str> = seen.trailers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(trailers, ["x-checksum"]);
}

#[test]
fn ext_authz_lets_nothing_through_while_there_is_no_answer() {
    let bed = authz().filter_config(patient_lookup).start();
    let edge = ext_authz(&bed, |_| {});
    let request = Request::get(edge.address(), "/api/comments").bearer(&user_token(&bed));
    // The users service is down: Envoy has its own words for that.
    bed.users.behave(Behavior::Status(500));
    let response = request.send();
    assert_eq!((response.status, response.header("retry-after")), (503, None), "{response:?}");
    assert_eq!(response.text(), "");
    // No answer in time.
    bed.users.behave(Behavior::Hold);
    assert_eq!(request.send().status, 503);
    bed.users.release();
    // A module that fails, for gRPC too.
    let failing = trapping(authz());
    let clusters = [("videos", bed.upstream.address()), ("authz", failing.envoy.address())];
    let behind = harness::testbed::edge("authz-client.yaml", &clusters, |_| {});
    for kind in ["application/json", "application/grpc"] {
        let request = Request::get(behind.address(), "/healthz").header("Content-Type", kind);
        let response = request.send();
        let grpc = kind.ends_with("grpc");
        assert_eq!(response.status, if grpc { 200 } else { 503 }, "{response:?}");
        assert_eq!(response.header("grpc-status").is_some(), grpc, "{response:?}");
    }
    // Nobody there.
    let Testbed { envoy, upstream, .. } = bed;
    drop(envoy);
    for path in ["/healthz", "/api/comments"] {
        assert_eq!(Request::get(edge.address(), path).send().status, 503, "{path}");
    }
    assert_eq!(upstream.requests(), 0);
}

/// `http` with the addresses filled in.
#[track_caller]
fn nginx(http: &str, bed: &Testbed) -> Option<Nginx> {
    let servers =
        [("127.0.0.1:8082", bed.envoy.address()), ("127.0.0.1:9001", bed.upstream.address())];
    // Names with a weight or a comment behind them would not be found: the harness says so.
    skip::require("a real nginx", Nginx::start(http, &servers))
}

#[test]
fn nginx_asks_by_auth_request() {
    let bed = with_hosts().start();
    let Some(nginx) = nginx(&Nginx::shipped("auth_request.conf"), &bed) else { return };
    assert_asks(&bed, nginx.address());

    // Nobody asks in nginx's place.
    assert_eq!(nginx.get("/_meshgate").send().status, 404);
    // gRPC: the check has no content type.
    let user = user_token(&bed);
    let call = nginx.get("/api/comments").method("POST").header("Content-Type", "application/grpc");
    assert_eq!(call.send().status, 401);
    assert_eq!(call.clone().bearer(&user).body("x").send().status, 200);
    assert_context(&only_seen(&bed), USER);
    // nginx knows 2xx, 401 and 403. The others are kept by `@no_verdict`.
    assert_eq!(nginx.get(ODD).send().status, 400);
    bed.users.behave(Behavior::Status(500));
    let other = token_of(&bed, "user_2new");
    let response = nginx.get("/api/comments").bearer(&other).send();
    assert_eq!((response.status, response.header("retry-after")), (503, Some(&b"1"[..])));
    assert!(bed.upstream.take().is_empty());
    // The upstream's own are its own.
    bed.users.behave(Behavior::Serve);
    bed.upstream.behave(Behavior::Status(500));
    assert_eq!(nginx.get("/healthz").send().status, 500);
    bed.upstream.behave(Behavior::Status(503));
    assert_eq!(nginx.get("/healthz").send().header("retry-after"), None);
    bed.upstream.take();

    let Testbed { envoy, upstream, .. } = bed;
    drop(envoy);
    for path in ["/healthz", "/api/comments"] {
        let response = nginx.get(path).send();
        assert_eq!((response.status, response.header("retry-after")), (503, Some(&b"1"[..])));
    }
    assert!(upstream.take().is_empty());
}

/// As it stands in many an nginx: no more than the path and the method, and nothing taken off.
const PLAIN: &str = "
    upstream meshgate { server 127.0.0.1:8082; }
    upstream videos { server 127.0.0.1:9001; }
    server {
        listen 127.0.0.1:8080;
        location / {
            auth_request /auth;
            auth_request_set $user_id $upstream_http_x_user_id;
            proxy_set_header X-User-Id $user_id;
            proxy_pass http://videos;
        }
        location = /auth {
            internal;
            proxy_pass http://meshgate;
            proxy_pass_request_body off;
            proxy_set_header Content-Length \"\";
            proxy_set_header X-Original-URI $request_uri;
            proxy_set_header X-Original-Method $request_method;
        }
    }";

#[test]
fn a_plain_auth_request_can_be_fooled_into_refusals_only() {
    let bed = authz().start();
    let Some(nginx) = nginx(PLAIN, &bed) else { return };
    let user = user_token(&bed);
    let response = nginx.get("/api/comments").bearer(&user).header("X-User-Id", "forged").send();
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(only_seen(&bed).headers_named("x-user-id"), [b"u-1001"]);
    assert_eq!(nginx.get("/healthz").header("X-User-Id", "forged").send().status, 200);
    assert!(only_seen(&bed).headers_named("x-user-id").is_empty());

    for (name, value) in [
        ("X-Forwarded-Uri", "/healthz"),
        ("X-Original-URL", "http://api.example/healthz"),
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Host", "api.example"),
        ("X-Original-URI", "/healthz"),
        ("X-Original-Method", "GET"),
        ("Content-Type", "application/grpc"),
    ] {
        for path in ["/api/comments", "/api/admin", "/api/videos"] {
            let request = nginx.get(path).method("POST").header(name, value);
            let response = request.send();
            let status = if name == "Content-Type" { 403 } else { 401 };
            assert_eq!(response.status, status, "{name} {path}: {response:?}");
        }
        let admin = nginx.get("/api/admin").header(name, value).bearer(&user).send();
        assert_eq!(admin.status, 403, "{name}: {admin:?}");
    }
    let more = nginx.get("/healthz").header("X-Forwarded-Uri", "/api/comments");
    assert_eq!(more.send().status, 401);
    // What is neither 2xx nor 401 nor 403 is 500 to its clients.
    assert_eq!(nginx.get(ODD).send().status, 500);
    bed.users.behave(Behavior::Status(500));
    let other = token_of(&bed, "user_2adm");
    assert_eq!(nginx.get("/api/comments").bearer(&other).send().status, 500);
    assert!(bed.upstream.take().is_empty());
    assert_eq!(reached(&bed), 0);
    bed.no_traps();
}

#[test]
fn an_nginx_that_is_not_named_gets_no_yes() {
    let bed = authz()
        .filter_config(|config| config["authz"]["peers"] = json!([{"address": "192.0.2.0/24"}]))
        .start();
    let Some(nginx) = nginx(&Nginx::shipped("auth_request.conf"), &bed) else { return };
    for path in ["/healthz", "/api/comments"] {
        assert_eq!(nginx.get(path).bearer(&user_token(&bed)).send().status, 403, "{path}");
    }
    assert_eq!(bed.upstream.requests(), 0);
}
