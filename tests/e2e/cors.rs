//! Scripts of other sites: what they are told before they ask, and what of a refusal they may read. Where
//! Envoy's own filter for that is there too, neither gets into the other's way.

use harness::client::Response;
use harness::testbed::{Builder, Testbed};
use serde_json::{Value, json};

use crate::support::{
    CONTEXT, NOBODY, USER, assert_context, assert_denied, assert_serves, only_seen, token_of,
    user_token,
};

const SITE: &str = "https://www.example.com";
const EVIL: &str = "https://evil.example";
const ALLOW_ORIGIN: &str = "access-control-allow-origin";

fn gateway(preflight: &str) -> Builder {
    Testbed::gateway().filter_config(|config| {
        config["cors"] = json!({
            "allow_origins": [SITE, "https://*.example.org"],
            "allow_credentials": true,
            "preflight": preflight,
        });
    })
}

fn fields(response: &Response, name: &str) -> Vec<String> {
    let named = response.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    named.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
}

/// A preflight of `origin` with all that somebody could add who is no browser.
fn forged_preflight(bed: &Testbed, path: &str, origin: &str, token: Option<&str>) -> Response {
    let mut request = bed
        .get(path)
        .method("OPTIONS")
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "DELETE")
        .header("Access-Control-Request-Headers", "authorization")
        .header("Cookie", "session=forged")
        .header("X-HTTP-Method-Override", "DELETE");
    for name in CONTEXT.into_iter().chain(["X_User_Id", "x-service-name", "Txn-Token"]) {
        request = request.header(name, "forged");
    }
    if let Some(token) = token {
        request = request.bearer(token);
    }
    request.send()
}

const PATHS: [&str; 4] = ["/healthz", "/api/videos", "/api/videos/1", "/api/comments"];

#[test]
fn a_preflight_is_answered_and_goes_nowhere() {
    let bed = gateway("answer").start();
    let good = user_token(&bed);
    for path in PATHS {
        for token in [None, Some("bad"), Some(good.as_str())] {
            let response = forged_preflight(&bed, path, SITE, token);
            assert_eq!(response.status, 204, "{path}: {response:?}");
            for (name, value) in [
                (ALLOW_ORIGIN, SITE),
                ("access-control-allow-credentials", "true"),
                ("access-control-allow-methods", "GET, HEAD, POST, PUT, PATCH, DELETE"),
                ("access-control-allow-headers", "authorization, content-type"),
                ("access-control-max-age", "600"),
                ("vary", "origin"),
            ] {
                assert_eq!(fields(&response, name), [value], "{path} {name}");
            }
            assert!(response.body.is_empty());
        }
    }
    assert_eq!(bed.upstream.requests(), 0);
    // What another site asks is a request like any other.
    let refused = forged_preflight(&bed, "/api/comments", EVIL, None);
    assert_denied(&refused, 401, "token_missing");
    assert!(refused.header(ALLOW_ORIGIN).is_none());
    assert_eq!(bed.upstream.requests(), 0);
    assert_serves(&bed);
}

#[test]
fn a_preflight_that_passes_brings_nobody_and_nothing() {
    let bed = gateway("pass").start();
    let good = user_token(&bed);
    for path in PATHS {
        for token in [None, Some("bad"), Some(good.as_str())] {
            let response = forged_preflight(&bed, path, "https://a.example.org", token);
            assert_eq!(response.status, 200, "{path}: {response:?}");
            let seen = only_seen(&bed);
            assert_eq!(seen.method, "OPTIONS");
            assert_context(&seen, NOBODY);
            for name in ["authorization", "cookie", "x-http-method-override"] {
                assert_eq!(seen.header(name), None, "{path}");
            }
            assert_eq!(seen.header("origin"), Some(&b"https://a.example.org"[..]));
            assert_eq!(seen.header("access-control-request-method"), Some(&b"DELETE"[..]));
            let forged = |(_, value): &(String, Vec<u8>)| value == b"forged";
            assert!(!seen.headers.iter().any(forged), "{seen:?}");
        }
    }
    // With a body it is none, and neither is another site's, nor what else has an `Origin`.
    let options = bed.get("/api/comments").method("OPTIONS").header("Origin", SITE);
    let with_method = options.clone().header("Access-Control-Request-Method", "GET");
    for request in [
        options,
        with_method.clone().body("x"),
        with_method.clone().header("Origin", EVIL),
        with_method.method("POST"),
    ] {
        assert_denied(&request.send(), 401, "token_missing");
    }
    assert_denied(
        &forged_preflight(&bed, "/api/comments", EVIL, Some("bad")),
        401,
        "token_malformed",
    );
    assert!(bed.upstream.take().is_empty());
    assert_serves(&bed);
}

#[test]
fn a_refusal_can_be_read_by_allowed_sites_alone() {
    let bed = gateway("answer").start();
    let nobody = token_of(&bed, "user_nobody");
    for (origin, allowed) in [
        (Some(SITE), true),
        (Some("https://shop.example.org"), true),
        (Some("https://example.org"), false),
        (Some("https://www.example.com.evil.example"), false),
        (Some(EVIL), false),
        (Some("null"), false),
        (None, false),
    ] {
        // A simple request, one after a preflight, and one that had to wait for its user.
        for (method, token, status) in
            [("GET", None, 401), ("PUT", Some("bad"), 401), ("GET", Some(&*nobody), 403)]
        {
            let mut request = bed.get("/api/comments").method(method);
            if let Some(token) = token {
                request = request.bearer(token);
            }
            if let Some(origin) = origin {
                request = request.header("Origin", origin);
            }
            let response = request.send();
            assert_eq!(response.status, status, "{origin:?}");
            let expected: &[(&str, &str)] = &[
                (ALLOW_ORIGIN, origin.unwrap_or_default()),
                ("access-control-allow-credentials", "true"),
                ("access-control-expose-headers", "www-authenticate, retry-after, x-request-id"),
                ("vary", "origin"),
            ];
            for (name, value) in expected {
                let expected: &[&str] = if allowed { &[value] } else { &[] };
                assert_eq!(fields(&response, name), expected, "{method} {origin:?} {name}");
            }
        }
    }
    bed.users.shut();
    let down = bed.get("/api/comments").bearer(&user_token(&bed)).header("Origin", SITE).send();
    assert_denied(&down, 503, "user_lookup_unavailable");
    assert_eq!(fields(&down, ALLOW_ORIGIN), [SITE]);
    bed.no_traps();
}

/// Envoy's own filter, before ours or behind it.
fn with_envoys(builder: Builder, place: usize) -> Builder {
    builder.bootstrap(|bootstrap| {
        let hcm = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
            [0]["typed_config"];
        let filter = json!({
            "name": "envoy.filters.http.cors",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"},
        });
        hcm["http_filters"].as_array_mut().unwrap().insert(place, filter);
        hcm["route_config"]["virtual_hosts"][0]["typed_per_filter_config"] = json!({
            "envoy.filters.http.cors": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
                "allow_origin_string_match": [{"exact": SITE}],
                "allow_methods": "GET",
                "expose_headers": "x-of-envoy",
            },
        });
    })
}

const BEFORE: usize = 0;
const BEHIND: usize = 1;

#[test]
fn beside_envoys_filter_no_header_is_there_twice() {
    let ours = "www-authenticate, retry-after, x-request-id";
    for (config, place, preflight, refusal, success) in [
        // (status, allow-origin, expose-headers) of each.
        (None, BEFORE, (200, Some("GET")), (Some(SITE), Some("x-of-envoy")), Some("x-of-envoy")),
        (
            Some("answer"),
            BEFORE,
            (200, Some("GET")),
            (Some(SITE), Some("x-of-envoy")),
            Some("x-of-envoy"),
        ),
        (Some("pass"), BEHIND, (200, Some("GET")), (Some(SITE), Some(ours)), Some("x-of-envoy")),
        (
            Some("answer"),
            BEHIND,
            (204, Some("GET, HEAD, POST, PUT, PATCH, DELETE")),
            (Some(SITE), Some(ours)),
            Some("x-of-envoy"),
        ),
        // Behind, it does not see what is refused: only `cors` helps.
        (None, BEHIND, (401, None), (None, None), Some("x-of-envoy")),
    ] {
        let builder = match config {
            Some(mode) => gateway(mode),
            None => Testbed::gateway(),
        };
        let bed = with_envoys(builder, place).start();
        let what = format!("{config:?} {place}");
        let list = |value: Option<&str>| value.map(str::to_owned).into_iter().collect::<Vec<_>>();

        let asked = forged_preflight(&bed, "/api/comments", SITE, None);
        assert_eq!(asked.status, preflight.0, "{what}: {asked:?}");
        assert_eq!(fields(&asked, "access-control-allow-methods"), list(preflight.1), "{what}");
        assert_eq!(bed.upstream.requests(), 0, "{what}");

        let refused = bed.get("/api/comments").header("Origin", SITE).send();
        assert_denied(&refused, 401, "token_missing");
        assert_eq!(fields(&refused, ALLOW_ORIGIN), list(refusal.0), "{what}");
        assert_eq!(fields(&refused, "access-control-expose-headers"), list(refusal.1), "{what}");

        let request = bed.get("/api/comments").header("Origin", SITE);
        let served = request.bearer(&user_token(&bed)).send();
        assert_eq!(served.status, 200, "{what}");
        assert_eq!(fields(&served, ALLOW_ORIGIN), [SITE], "{what}");
        assert_eq!(fields(&served, "access-control-expose-headers"), list(success), "{what}");
        assert_context(&only_seen(&bed), USER);
        bed.no_traps();
    }
}

#[test]
fn a_broken_cors_stops_envoy_and_says_why() {
    let value: Value = json!({"allow_origins": ["*"], "allow_credentials": true});
    let error = Testbed::gateway()
        .filter_config(|config| config["cors"] = value.clone())
        .try_start()
        .unwrap_err();
    assert!(error.log.contains("cors.allow_origins: `*` with `allow_credentials"), "{error}");
}
