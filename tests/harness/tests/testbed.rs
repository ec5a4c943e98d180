//! The testbed without the module: Envoy as a plain proxy, and with Envoy's own JWT filter as an independent
//! check of the issuer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use harness::idp::{AUDIENCE, ISSUER, JWKS_PATH, Key, seed_claims};
use harness::testbed::{Builder, Testbed};
use harness::upstream::Upstream;
use serde_json::{Value, json};

#[test]
fn a_request_reaches_the_upstream_with_its_prefix_rewritten() {
    let bed = plain(Testbed::gateway()).start();
    let response =
        bed.get("/api/videos/1").header("X-Marker", b"caf\xe9").header("x-marker", "2").send();
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.json()["path"], "/videos/1");
    let seen = bed.upstream.take();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].path, "/videos/1");
    assert_eq!(seen[0].headers_named("x-marker"), [&b"caf\xe9"[..], b"2"]);
    assert_eq!(bed.envoy.stat("cluster.videos.upstream_rq_total"), 1);
    assert_eq!(bed.envoy.address(), bed.envoy.address_of("gateway"));
    bed.no_traps();
}

#[test]
fn http2_requests_and_trailers_pass() {
    let http2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }});
    let bed = plain(Testbed::gateway())
        .bootstrap(|b| {
            b["static_resources"]["clusters"][0]["typed_extension_protocol_options"] = http2
        })
        .start();
    let address = bed.envoy.address();
    let response = harness::client::h2(
        address,
        "POST",
        "/api/videos",
        &[("X-A", b"1")],
        b"body",
        &[("x-t", b"2")],
    );
    assert_eq!(response.status, 200);
    let seen = bed.upstream.take().remove(0);
    assert_eq!(
        (seen.version, seen.body.as_slice()),
        (harness::server::Version::HTTP_2, &b"body"[..])
    );
    assert_eq!(seen.trailers, [("x-t".to_string(), b"2".to_vec())]);
}

#[test]
fn envoys_own_jwt_filter_accepts_the_issuers_tokens() {
    let provider = json!({
        "issuer": ISSUER, "audiences": [AUDIENCE], "forward": true,
        "remote_jwks": {"http_uri": {"uri": format!("http://127.0.0.1{JWKS_PATH}"), "cluster": "clerk", "timeout": "2s"}},
    });
    let jwt_authn = json!({
        "name": "jwt",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"clerk": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "clerk"}}],
        },
    });
    let bed = plain(Testbed::gateway()).bootstrap(|b| filters(b).insert(0, jwt_authn)).start();
    let status = |token: &str| bed.get("/api/videos/1").bearer(token).send().status;
    let claims = seed_claims("user_2abc");
    assert_eq!(bed.get("/api/videos/1").send().status, 401);
    assert_eq!(status(&bed.idp.token(claims.clone())), 200, "RS256");
    assert_eq!(status(&bed.idp.key("es-1").token(&claims)), 200, "ES256");
    assert_eq!(status(&Key::es256("es-1").token(&claims)), 401, "another key under a known id");
    assert_eq!(bed.idp.requests(), 1);
}

#[test]
fn a_cluster_is_led_elsewhere_or_added() {
    let other = Upstream::start();
    let bed = plain(Testbed::gateway())
        .with_cluster("videos", other.address())
        .with_cluster("other", other.address())
        .bootstrap(|b| {
            let routes = &mut b["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
                [0]["typed_config"]["route_config"]["virtual_hosts"][0]["routes"];
            routes[1]["route"]["cluster"] = json!("other");
        })
        .start();
    assert_eq!(bed.get("/api/videos/1").send().status, 200);
    assert_eq!(bed.get("/api/channels/1").send().status, 200);
    assert_eq!(other.requests(), 2);
    assert_eq!(bed.upstream.requests(), 0);
    assert_eq!(bed.envoy.stat("cluster.other.upstream_rq_total"), 1);
}

#[test]
fn a_refused_config_is_an_error_with_envoys_words() {
    let started = plain(Testbed::gateway())
        .bootstrap(|b| b["static_resources"]["no_such_field"] = json!(1))
        .try_start();
    let error = started.expect_err("Envoy must refuse unknown fields");
    assert!(error.status.is_some(), "{error}");
    assert!(error.log.contains("no_such_field"), "{error}");
}

#[test]
fn a_trap_does_not_go_unnoticed() {
    let file = harness::process::scratch();
    let path = file.path().join("trap.wasm");
    std::fs::write(&path, harness::module::TRAPPING).expect("a file");
    let bed = Testbed::gateway()
        .bootstrap(|b| {
            filters(b)[0]["typed_config"]["config"]["vm_config"]["code"]["local"]["filename"] =
                json!(path)
        })
        .start();
    bed.no_traps();
    assert_eq!(bed.get("/api/videos/1").send().status, 503);
    let noticed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bed.no_traps()));
    assert!(noticed.is_err(), "{}", bed.envoy.log());
    bed.envoy.wait_for_log(r#""details":"wasm_fail_stream""#, std::time::Duration::from_secs(10));
    assert_eq!(bed.upstream.requests(), 0);
}

#[test]
fn the_filters_config_can_be_changed_as_a_struct_and_as_a_string() {
    let document =
        json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"a": 1}});
    let string =
        json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": r#"{"a": 1}"#});
    let config = |bootstrap: &mut Value| {
        filters(bootstrap)[0]["typed_config"]["config"]["configuration"].clone()
    };
    let mut changed = Vec::new();
    let _ = Testbed::gateway()
        .bootstrap(|b| filters(b)[0]["typed_config"]["config"]["configuration"] = document)
        .filter_config(|c| c["mode"] = json!("struct"))
        .bootstrap(|b| changed.push(config(b)))
        .bootstrap(|b| filters(b)[0]["typed_config"]["config"]["configuration"] = string)
        .filter_config(|c| c["a"] = json!(2))
        .bootstrap(|b| changed.push(config(b)));
    assert_eq!(changed[0]["value"]["mode"], "struct");
    assert_eq!(changed[1]["value"], r#"{"a":2}"#);
}

fn plain(bed: Builder) -> Builder {
    bed.bootstrap(|bootstrap| filters(bootstrap).retain(|filter| filter["name"] != "meshgate"))
}

fn filters(bootstrap: &mut Value) -> &mut Vec<Value> {
    let http_filters =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
    bootstrap
        .pointer_mut(http_filters)
        .and_then(Value::as_array_mut)
        .expect("a list of HTTP filters")
}

#[test]
fn an_envoy_that_prints_a_token_is_found_out_when_it_ends() {
    let bed = plain(Testbed::gateway())
        .bootstrap(|bootstrap| {
            let format = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/access_log/0/typed_config/log_format/json_format";
            bootstrap.pointer_mut(format).unwrap()["said"] = json!("%REQ(AUTHORIZATION)%");
        })
        .start();
    let token = bed.idp.token(seed_claims("user_2abc"));
    assert_eq!(bed.get("/api/videos").bearer(&token).send().status, 200);
    let Testbed { envoy, .. } = bed;
    envoy.wait_for_log(&token, Duration::from_secs(10));
    let ended = catch_unwind(AssertUnwindSafe(|| drop(envoy))).unwrap_err();
    let said = ended.downcast_ref::<String>().unwrap();
    assert!(said.starts_with("Envoy has printed a token or a secret: line "), "{said}");
    assert!(!said.contains(&token), "it is printed once more");
}
