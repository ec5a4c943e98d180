//! Requests that other proxies ask about: which one is meant, and what the answer says.

use meshgate::answers::Words;
use meshgate::boundary::peer::Hop;
use meshgate::config::Config;
use meshgate::denial::{Code, Reply};
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{Flow, claims, config, denied, record};

fn authz_config() -> Value {
    let mut config = config();
    config["mode"] = json!("authz");
    config["authz"] = json!({"peers": [
        {"address": "10.0.0.0/8"}, {"address": "fd00::1"},
        {"spiffe_id": "spiffe://cluster.local/ns/edge/sa/nginx"},
    ]});
    config["rules"].as_array_mut().unwrap().insert(
        0,
        json!({"match": {"path_prefix": "/", "hosts": ["cdn.example"]}, "require": "anonymous"}),
    );
    config
}

fn authz() -> Flow {
    let mut flow = Flow::with(&authz_config()).with_keys();
    flow.hop.address = Some(b"10.1.2.3:4567".to_vec());
    flow
}

#[track_caller]
fn answered(disposition: Disposition) -> Reply {
    match disposition {
        Disposition::Allow(reply, _) => reply,
        Disposition::Forward(..)
        | Disposition::Answer(_)
        | Disposition::Deny(_)
        | Disposition::Pause => {
            panic!("not allowed: {disposition:?}")
        }
    }
}

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    let mut found = reply.headers.iter().filter(|(own, _)| own == name);
    let value = found.next().map(|(_, value)| value.as_str());
    assert!(found.next().is_none(), "{name} is there twice");
    value
}

#[test]
fn a_yes_carries_the_context_and_names_all_else_for_removal() {
    let mut flow = authz();
    let token = flow.token();
    let reply = answered(flow.whole("/api/videos", &token, &record()));
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
    assert_eq!(header(&reply, "x-user-id"), Some("u-1001"));
    assert_eq!(header(&reply, "x-user-role"), Some("USER"));
    assert_eq!(header(&reply, "x-user-channel-id"), Some("ch-2001"));
    assert!(header(&reply, "x-request-id").is_some_and(|id| !id.is_empty()));
    assert_eq!(
        header(&reply, "x-envoy-auth-headers-to-remove"),
        Some("txn-token,x-service-name,authorization")
    );
    assert_eq!(header(&reply, "cache-control"), Some("no-store"));
}

#[test]
fn a_yes_for_nobody_removes_every_context_header() {
    let mut flow = authz();
    let reply = answered(flow.send("/healthz", &[("x-user-id", b"forged")]).2);
    assert_eq!((reply.status, header(&reply, "x-user-id")), (200, None));
    assert_eq!(
        header(&reply, "x-envoy-auth-headers-to-remove"),
        Some("txn-token,x-service-name,x-user-channel-id,x-user-clerk-id,x-user-id,x-user-role")
    );
}

#[test]
fn a_yes_names_other_spellings_of_context_headers_for_removal() {
    let mut flow = authz();
    let forged: [(&str, &[u8]); 4] = [
        ("x_user_id", b"u"),
        ("x.user.role", b"ADMIN"),
        ("x-user-id", b"u"),
        ("x_user_name", b"u"),
    ];
    let reply = answered(flow.send("/healthz", &forged).2);
    let removed = header(&reply, "x-envoy-auth-headers-to-remove").unwrap();
    let removed: Vec<&str> = removed.split(',').collect();
    for (name, is_ours) in
        [("x_user_id", 1), ("x.user.role", 1), ("x-user-id", 1), ("x_user_name", 0)]
    {
        assert_eq!(removed.iter().filter(|other| **other == name).count(), is_ours, "{name}");
    }
    // What the answer sets is not taken off again.
    let token = flow.token();
    let bearer = format!("Bearer {token}");
    let (stream, _, disposition) = flow.send(
        "/api/videos",
        &[("authorization", bearer.as_bytes()), ("x-user-id", b"u"), ("x_user_id", b"u")],
    );
    assert_eq!(disposition, Disposition::Pause);
    let call = flow.call();
    let released = flow.answer(call.id, 200, record().to_string().as_bytes());
    let reply = answered(crate::support::only(released, stream));
    assert_eq!(header(&reply, "x-user-id"), Some("u-1001"));
    assert_eq!(
        header(&reply, "x-envoy-auth-headers-to-remove"),
        Some("txn-token,x-service-name,x_user_id,authorization")
    );
}

#[test]
fn a_client_cannot_have_a_header_removed_that_the_answer_sets() {
    let mut config = authz_config();
    config["context"] =
        json!({"headers": {"x_user_plan": {"user": "/role"}, "x-user-id": {"user": "/id"}}});
    let mut flow = Flow::with(&config).with_keys();
    let bearer = format!("Bearer {}", flow.token());
    let (stream, _, disposition) = flow
        .send("/api/videos", &[("authorization", bearer.as_bytes()), ("x_user_plan", b"forged")]);
    assert_eq!(disposition, Disposition::Pause);
    let call = flow.call();
    let released = flow.answer(call.id, 200, record().to_string().as_bytes());
    let reply = answered(crate::support::only(released, stream));
    assert_eq!(header(&reply, "x_user_plan"), Some("USER"));
    let removed = header(&reply, "x-envoy-auth-headers-to-remove").unwrap();
    assert!(removed.split(',').all(|name| name != "x_user_plan"), "{removed}");
}

#[test]
fn a_token_that_is_forwarded_is_not_named_for_removal() {
    let mut config = authz_config();
    config["rules"] =
        json!([{"match": {"path_prefix": "/raw"}, "require": "user", "forward_token": true}]);
    let mut flow = Flow::with(&config).with_keys();
    let token = flow.token();
    let reply = answered(flow.whole("/raw", &token, &record()));
    assert_eq!(header(&reply, "x-envoy-auth-headers-to-remove"), Some("txn-token,x-service-name"));
}

#[test]
fn the_rules_look_at_the_request_that_is_asked_about() {
    for (headers, code) in [
        (&[("x-original-uri", &b"/healthz"[..])][..], None),
        (&[("x-original-uri", b"/healthz?x=1")], None),
        (&[("x-original-url", b"https://api.example/healthz")], None),
        (&[("x-original-url", b"HTTPS://api.example/healthz")], None),
        (&[("x-original-url", b"https://cdn.example/anything")], None),
        (&[("x-original-url", b"https://cdn.example")], None),
        (&[("x-original-url", b"https://api.example?/healthz")], Some(Code::TokenMissing)),
        (&[("x-forwarded-uri", b"/healthz")], None),
        (&[("x-forwarded-uri", b"/healthz"), ("x-forwarded-host", b"api.example")], None),
        (&[("x-forwarded-uri", b"/x"), ("x-forwarded-host", b"cdn.example")], None),
        (&[("x-forwarded-uri", b"/x")], Some(Code::TokenMissing)),
        // A client wrote the other one: both must be let through.
        (&[("x-original-uri", b"/x"), ("x-forwarded-uri", b"/healthz")], Some(Code::TokenMissing)),
        (&[("x-original-uri", b"/healthz"), ("x-forwarded-uri", b"/x")], Some(Code::TokenMissing)),
        (&[("x-original-uri", b"/healthz"), ("x-original-uri", b"/x")], Some(Code::TokenMissing)),
        (
            &[("x-original-url", b"https://cdn.example/x"), ("x-forwarded-host", b"api.example")],
            Some(Code::TokenMissing),
        ),
        (&[("x-original-uri", b"/public/../x")], Some(Code::TokenMissing)),
        (&[("x-original-uri", b"//healthz")], Some(Code::TokenMissing)),
        (&[("x-original-uri", b"")], Some(Code::TokenMissing)),
        (&[("x-original-uri", b"\xff")], Some(Code::TokenMissing)),
    ] {
        let mut flow = authz();
        let disposition = flow.send("/healthz", headers).2;
        match code {
            None => assert_eq!(answered(disposition).status, 200, "{headers:?}"),
            Some(code) => assert_eq!(denied(&disposition), code, "{headers:?}"),
        }
    }
}

#[test]
fn methods_count_as_they_are_told() {
    let mut config = authz_config();
    config["rules"] =
        json!([{"match": {"path_prefix": "/", "methods": ["GET"]}, "require": "anonymous"}]);
    for (headers, allowed) in [
        (&[][..], true),
        (&[("x-original-method", &b"GET"[..])][..], true),
        (&[("x-original-method", b"POST")], false),
        (&[("x-original-method", b"GET"), ("x-forwarded-method", b"POST")], false),
        (&[("x-forwarded-method", b"get")], false),
    ] {
        let mut flow = Flow::with(&config).with_keys();
        flow.hop.address = Some(b"10.1.2.3:4567".to_vec());
        let disposition = flow.send("/", headers).2;
        assert_eq!(matches!(disposition, Disposition::Allow(..)), allowed, "{headers:?}");
    }
}

#[test]
fn only_peers_that_the_config_names_say_what_they_ask_about() {
    let address =
        |address: &str| Hop { address: Some(address.as_bytes().to_vec()), ..Hop::default() };
    let certificate = |id: &str| Hop {
        has_certificate: true,
        uri_san: Some(id.as_bytes().to_vec()),
        address: Some(b"192.0.2.1:1".to_vec()),
        ..Hop::default()
    };
    for (hop, trusted) in [
        (address("10.255.255.255:1"), true),
        (address("[::ffff:10.0.0.1]:1"), true),
        (address("11.0.0.0:1"), false),
        (address("9.255.255.255:1"), false),
        (address("[fd00::1]:1"), true),
        (address("[fd00::2]:1"), false),
        (address("10.0.0.1"), false),
        (address("/tmp/socket"), false),
        (address(""), false),
        (Hop::default(), false),
        (certificate("spiffe://cluster.local/ns/edge/sa/nginx"), true),
        (certificate("spiffe://cluster.local/ns/edge/sa/nginx2"), false),
    ] {
        for header in ["x-original-uri", "x-original-method", "x-forwarded-host"] {
            let mut flow = authz();
            flow.hop = hop.clone();
            let disposition = flow.send("/healthz", &[(header, b"/healthz")]).2;
            if trusted {
                assert_eq!(answered(disposition).status, 200, "{hop:?} {header}");
            } else {
                assert_eq!(denied(&disposition), Code::UntrustedPeer, "{hop:?} {header}");
            }
        }
        let mut flow = authz();
        flow.hop = hop;
        assert_eq!(answered(flow.send("/healthz", &[]).2).status, 200, "nothing is told");
    }
}

#[test]
fn a_token_in_the_query_is_looked_for_in_the_request_that_is_asked_about() {
    let mut config = authz_config();
    config["providers"]["clerk"]["from_params"] = json!(["access_token"]);
    let mut flow = Flow::with(&config).with_keys();
    flow.hop.address = Some(b"10.1.2.3:4567".to_vec());
    let uri = format!("/api/videos?access_token={}", flow.token());
    let (stream, disposition) = {
        let (stream, _, disposition) = flow.send("/check", &[("x-original-uri", uri.as_bytes())]);
        (stream, disposition)
    };
    assert_eq!(disposition, Disposition::Pause);
    let call = flow.call();
    let released = flow.answer(call.id, 200, record().to_string().as_bytes());
    let reply = answered(crate::support::only(released, stream));
    assert_eq!(header(&reply, "x-user-id"), Some("u-1001"));
}

#[test]
fn refusals_are_refusals_for_grpc_too() {
    let mut flow = authz();
    let old = {
        let mut claims = claims();
        claims["exp"] = json!(1);
        flow.key.token(&claims)
    };
    let disposition = flow.get("/api", &old).1;
    assert_eq!(denied(&disposition), Code::TokenExpired);
    for kind in ["application/grpc", "application/grpc+proto", "application/grpc;x"] {
        // Even where the rules ask for nothing: Envoy says 200 to gRPC, whatever is meant.
        let disposition = flow.send("/healthz", &[("content-type", kind.as_bytes())]).2;
        assert_eq!(denied(&disposition), Code::CheckRefused, "{kind}");
        let Disposition::Deny(denial) = disposition else { panic!("not denied") };
        let reply = denial.reply(&Words::default());
        assert_eq!((reply.status, reply.grpc_status), (403, None), "{kind}");
    }
}

#[test]
fn headers_that_name_too_many_requests_are_refused() {
    let mut flow = authz();
    let uris: Vec<String> = (0..5).map(|n| format!("/healthz?{n}")).collect();
    let headers: Vec<(&str, &[u8])> =
        uris.iter().map(|uri| ("x-original-uri", uri.as_bytes())).collect();
    assert_eq!(denied(&flow.send("/", &headers).2), Code::CheckRefused);
    assert_eq!(answered(flow.send("/", &headers[..4]).2).status, 200);
}

#[test]
fn configs_are_told_what_is_wrong() {
    for (change, problem) in [
        (json!({"authz": {"peers": [{}]}}), "authz.peers[0]: names nobody"),
        (
            json!({"authz": {"peers": [{"address": "10.0.0.0/33"}]}}),
            "authz.peers[0].address: `10.0.0.0/33`",
        ),
        (
            json!({"authz": {"peers": [{"address": "10.0.0.0/4294967295"}]}}),
            "authz.peers[0].address: `10.0.0.0/4294967295`",
        ),
        (
            json!({"authz": {"peers": [{"address": "gateway"}]}}),
            "authz.peers[0].address: `gateway`",
        ),
        (
            json!({"authz": {"peers": [{"address": "::1", "spiffe_id": "spiffe://a/b"}]}}),
            "authz.peers[0]: has",
        ),
        (json!({"authz": {"original_uri": []}}), "authz.original_uri: is empty"),
        (json!({"service": {"name": "x"}}), "service: has no use with `mode: authz`"),
        (json!({"mode": "gateway", "authz": {}}), "authz: has no use with `mode: gateway`"),
        (
            json!({"rules": [{"match": {"path": "/"}, "require": "service"}]}),
            "rules[0].require: `service` has no use with `mode: authz`",
        ),
    ] {
        let mut config = authz_config();
        for (name, value) in change.as_object().unwrap() {
            config[name] = value.clone();
        }
        let error = Config::parse(config.to_string().as_bytes(), &|_| None).unwrap_err();
        assert!(error.to_string().contains(problem), "{problem}: {error}");
    }
}
