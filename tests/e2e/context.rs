//! Who the upstream is told the user is.

use harness::client;
use harness::testbed::Testbed;
use serde_json::json;

use crate::support::{
    NOBODY, USER, assert_context, assert_denied, assert_serves, only_seen, user_token,
};

#[test]
fn a_token_becomes_the_context_and_goes_no_further() {
    let bed = Testbed::gateway().start();
    let response = bed.get("/api/videos/42?sort=new").bearer(&user_token(&bed)).send();
    assert_eq!(response.status, 200);
    let seen = only_seen(&bed);
    assert_eq!(seen.path, "/videos/42?sort=new", "the route rewrites the prefix");
    assert_context(&seen, USER);
    assert!(seen.header("x-request-id").is_some_and(|id| id.len() == 36));
    assert_eq!(seen.header("authorization"), None);
    bed.no_traps();
}

#[test]
fn es256_and_rs256_verify_alike() {
    let bed = Testbed::gateway().start();
    for kid in ["rs-1", "es-1"] {
        let token = bed.idp.key(kid).token(&harness::idp::seed_claims("user_2abc"));
        let response = bed.get("/api/comments").bearer(&token).send();
        assert_eq!(response.status, 200, "{kid}: {}", response.text());
        assert_context(&only_seen(&bed), USER);
    }
    bed.no_traps();
}

#[test]
fn a_user_without_a_channel_has_no_channel_header() {
    let bed = Testbed::gateway().start();
    let token = crate::support::token_of(&bed, "user_2adm");
    assert_eq!(bed.get("/api/videos").bearer(&token).send().status, 200);
    assert_context(&only_seen(&bed), [Some("u-1002"), Some("user_2adm"), Some("ADMIN"), None]);
}

#[test]
fn forged_headers_reach_the_upstream_on_no_kind_of_route() {
    let bed = Testbed::gateway()
        .filter_config(|config| {
            config["rules"] = json!([
                {"match": {"path": "/healthz"}, "require": "anonymous"},
                {"match": {"path_prefix": "/api/videos", "methods": ["OPTIONS"]}, "require": "anonymous"},
                {"match": {"path_prefix": "/api/videos"}, "require": "optional"},
                {"match": {"path_prefix": "/api/channels"}, "require": "user", "forward_token": true},
            ]);
        })
        .start();
    let token = user_token(&bed);
    let routes = [
        ("GET", "/healthz", NOBODY),
        ("OPTIONS", "/api/videos", NOBODY),
        ("GET", "/api/videos", USER),
        ("POST", "/api/videos", USER),
        ("GET", "/api/channels/1", USER),
        ("GET", "/api/comments", USER),
        ("DELETE", "/api/comments/1", USER),
    ];
    for (method, path, with_token) in routes {
        for tokened in [false, true] {
            let mut request = bed
                .get(path)
                .method(method)
                .header("X-User-Id", "forged")
                .header("x_user_id", "forged")
                .header("X-USER-ID", "forged-1")
                .header("X-USER-ID", "forged-2")
                .header("x-user-role", "ADMIN")
                .header("X_User_Role", "ADMIN")
                .header("x.user.role", "ADMIN")
                .header("x-user-clerk-id", "")
                .header("x-user-channel-id", "forged")
                .header("x-service-name", "videos-service")
                .header("Txn-Token", "forged")
                .header("Origin", "https://www.example.com")
                .header("Access-Control-Request-Method", "POST");
            if tokened {
                request = request.bearer(&token);
            }
            let response = request.send();
            let seen = bed.upstream.take();
            if response.status == 200 {
                assert_eq!(seen.len(), 1, "{method} {path}");
                assert_context(&seen[0], if tokened { with_token } else { NOBODY });
                for (name, value) in &seen[0].headers {
                    let value = String::from_utf8_lossy(value);
                    assert!(
                        !value.contains("forged") && value != "ADMIN",
                        "{method} {path}: {name}"
                    );
                }
            } else {
                assert!(!tokened, "{method} {path}: {}", response.text());
                assert_denied(&response, 401, "token_missing");
                assert!(seen.is_empty());
            }
        }
    }
    assert_serves(&bed);
}

#[test]
fn forged_trailers_are_stripped_though_the_request_waits() {
    let bed = Testbed::gateway()
        .bootstrap(|bootstrap| {
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
        })
        .start();
    let bearer = format!("Bearer {}", user_token(&bed));
    // The first one waits for its user, the second one does not.
    for _ in 0..2 {
        let response = client::h2(
            bed.envoy.address(),
            "POST",
            "/api/videos",
            &[("authorization", bearer.as_bytes())],
            b"some body",
            &[("x-user-id", b"forged"), ("x_user_role", b"ADMIN"), ("x-checksum", b"abc")],
        );
        assert_eq!(response.status, 200);
        let seen = only_seen(&bed);
        assert_context(&seen, USER);
        assert_eq!(seen.body, b"some body");
        let trailers: Vec<&str> = seen.trailers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(trailers, ["x-checksum"]);
    }
    bed.no_traps();
}

#[test]
fn a_token_is_forwarded_only_where_a_rule_says_so() {
    let bed = Testbed::gateway()
        .filter_config(|config| {
            config["rules"] = json!([
                {"match": {"path_prefix": "/api/channels"}, "require": "user", "forward_token": true},
                {"match": {"path": "/healthz"}, "require": "anonymous", "forward_token": true},
            ]);
        })
        .start();
    let token = user_token(&bed);
    for (path, forwarded) in [
        ("/api/channels", true),
        ("/api/comments", false),
        // Nobody verified it there.
        ("/healthz", false),
    ] {
        assert_eq!(bed.get(path).bearer(&token).send().status, 200);
        let seen = only_seen(&bed);
        assert_eq!(seen.header("authorization").is_some(), forwarded, "{path}");
    }
}

#[test]
fn a_route_cannot_be_chosen_by_a_forged_header() {
    let bed = Testbed::gateway()
        .bootstrap(|bootstrap| {
            let hcm = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
            let routes = &mut hcm["typed_config"]["route_config"]["virtual_hosts"][0]["routes"];
            let by_role = json!({
                "match": {"prefix": "/api/videos", "headers": [{"name": "x-user-role", "string_match": {"exact": "ADMIN"}}]},
                "route": {"cluster": "videos", "prefix_rewrite": "/admin-only"},
            });
            routes.as_array_mut().unwrap().insert(0, by_role);
        })
        .start();
    let forged = bed.get("/api/videos").header("x-user-role", "ADMIN");
    for request in [forged.clone(), forged.bearer(&user_token(&bed))] {
        assert_eq!(request.send().status, 200);
        assert_eq!(only_seen(&bed).path, "/videos");
    }
    let admin = crate::support::token_of(&bed, "user_2adm");
    assert_eq!(bed.get("/api/videos").bearer(&admin).send().status, 200);
    assert_eq!(only_seen(&bed).path, "/admin-only", "the verified role may choose");
}

#[test]
fn no_token_reaches_the_upstream_that_was_not_verified_however_it_is_written() {
    let bed = Testbed::gateway()
        .filter_config(|config| {
            let provider = &mut config["providers"]["clerk"];
            provider["from_headers"] = json!([
                {"name": "authorization", "value_prefix": "Bearer "}, {"name": "x-access-token"},
            ]);
            config["context"]["forward_token"] = json!(true);
        })
        .start();
    let good = user_token(&bed);
    let evil = "evil.evil.evil";
    for (name, value) in [
        ("Authorization", format!("Bearer\t{evil}")),
        ("Authorization", format!("Basic eDp5,Bearer {evil}")),
        ("Authorization", format!("Basic eDp5, bearer\t{evil}")),
        ("x_access_token", evil.to_owned()),
        ("X.Access.Token", evil.to_owned()),
    ] {
        for path in ["/healthz", "/api/videos", "/api/comments"] {
            for with_good in [false, true] {
                let mut request = bed.get(path).header(name, &value);
                if with_good {
                    request = request.header("x-access-token", &good);
                }
                let response = request.send();
                assert!([200, 401].contains(&response.status), "{path}: {}", response.text());
                for seen in bed.upstream.take() {
                    for (name, value) in &seen.headers {
                        let value = String::from_utf8_lossy(value);
                        assert!(!value.contains("evil"), "{path}: {name}: {value}");
                    }
                }
            }
        }
    }
    // Two headers of one name, which Envoy joins.
    let two = bed
        .get("/api/videos")
        .header("Authorization", "Basic eDp5")
        .header("Authorization", format!("Bearer {evil}"))
        .send();
    assert_denied(&two, 401, "token_ambiguous");
    assert!(bed.upstream.take().is_empty());
    assert_serves(&bed);
}

#[test]
fn a_rule_is_not_passed_by_with_any_order_of_reading_a_path() {
    let bed = Testbed::gateway()
        .bootstrap(|bootstrap| {
            // An Envoy that leaves paths as they are, as it does by default.
            let hcm = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
            let hcm = hcm["typed_config"].as_object_mut().unwrap();
            for option in ["normalize_path", "merge_slashes", "path_with_escaped_slashes_action"] {
                hcm.remove(option);
            }
            let routes = &mut hcm["route_config"]["virtual_hosts"][0]["routes"];
            *routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "videos"}}]);
        })
        .filter_config(|config| {
            config["rules"] = json!([
                {"match": {"path_prefix": "/public"}, "require": "anonymous"},
                {"match": {"path_prefix": "/admin"}, "require": "user", "roles": ["ADMIN"]},
            ]);
        })
        .start();
    let token = user_token(&bed);
    for path in [
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/..%2fadmin",
        "/public/..;/admin",
        "/public/%2e%2e;%2fpublic/admin",
        "/public/%252e%252e/admin",
        "/x%2fy/../%61dmin",
        "/%61dmin;%2fx",
        "/admin%3fx",
        "/admin%23x",
        "//admin",
        "/admin/../public",
    ] {
        assert_denied(&bed.get(path).send(), 401, "token_missing");
        assert_denied(&bed.get(path).bearer(&token).send(), 403, "role_required");
    }
    let long = format!("/public/{}", "%252e;a".repeat(2_000));
    assert_denied(&bed.get(&long).send(), 400, "path_refused");
    assert_eq!(bed.upstream.requests(), 0);
    assert_eq!(bed.get("/public/a%20b").send().status, 200);
}
