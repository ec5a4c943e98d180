//! What a client is told when its request ends at the gateway.

use harness::client;
use harness::idp::{Key, now, seed_claims};
use harness::testbed::Testbed;
use serde_json::json;

use crate::support::{assert_denied, assert_serves, claims_with, token_of, user_token};

#[test]
fn each_bad_token_has_its_code_and_a_challenge() {
    let bed = Testbed::gateway().start();
    let good = user_token(&bed);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let altered = match signature.strip_prefix('A') {
        Some(rest) => format!("B{rest}"),
        None => format!("A{}", &signature[1..]),
    };
    let forged = Key::es256("rs-1")
        .token_with(&json!({"alg": "ES256", "kid": "es-1"}), &seed_claims("user_2adm"));
    let none = format!(
        "{}.",
        bed.idp
            .key("es-1")
            .token_with(&json!({"alg": "none"}), &seed_claims("x"))
            .rsplit_once('.')
            .unwrap()
            .0
    );
    let cases = [
        ("garbage".to_owned(), "token_malformed"),
        (format!("{head}!.{signature}"), "token_malformed"),
        (none, "algorithm_not_allowed"),
        (forged, "signature_invalid"),
        (format!("{head}.{altered}"), "signature_invalid"),
        (Key::es256("es-9").token(&seed_claims("user_2abc")), "key_unknown"),
        (bed.idp.token(claims_with("iss", json!("https://evil.example"))), "issuer_unknown"),
        (bed.idp.token(claims_with("aud", json!("other"))), "audience_mismatch"),
        (bed.idp.token(claims_with("exp", json!(now() - 60))), "token_expired"),
        (bed.idp.token(claims_with("nbf", json!(now() + 60))), "token_not_yet_valid"),
        (bed.idp.token(claims_with("iat", json!(now() + 60))), "token_not_yet_valid"),
    ];
    for path in ["/api/videos", "/api/comments"] {
        for (token, code) in &cases {
            let response = bed.get(path).bearer(token).send();
            assert_denied(&response, 401, code);
            let challenge =
                String::from_utf8_lossy(response.header("www-authenticate").unwrap()).into_owned();
            assert!(
                challenge.starts_with("Bearer realm=\"meshgate\", error=\"invalid_token\""),
                "{challenge}"
            );
            assert!(!response.text().contains(signature), "no token in an answer");
        }
    }
    assert_eq!(bed.upstream.requests(), 0);
    assert_serves(&bed);
}

#[test]
fn a_missing_token_is_challenged_without_an_error() {
    let bed = Testbed::gateway().start();
    let response = bed.get("/api/comments").header("x-request-id", "mine").send();
    assert_denied(&response, 401, "token_missing");
    assert_eq!(response.header("www-authenticate"), Some(&b"Bearer realm=\"meshgate\""[..]));
    // The gateway trusts no client with the request id, so it is one of Envoy's own.
    assert_ne!(response.json()["request_id"], "mine");
    assert_eq!(bed.upstream.requests(), 0);
}

#[test]
fn a_known_user_without_the_right_is_403() {
    let bed = Testbed::gateway()
        .filter_config(|config| {
            config["user"]["active"] = json!({"field": "/status", "equals": "ACTIVE"});
            config["rules"] = json!([
                {"match": {"path_prefix": "/api/channels"}, "require": "user", "roles": ["ADMIN"]},
                {"match": {"path_prefix": "/api/videos"}, "require": "user", "permissions": ["video:create"]},
            ]);
        })
        .users(|users| {
            users.add(harness::users::User::new("user_banned", "u-9"));
            users.set_status("user_banned", "BANNED");
        })
        .start();
    let request = |path: &str, user: &str| bed.get(path).bearer(&token_of(&bed, user)).send();
    assert_denied(&request("/api/channels", "user_2abc"), 403, "role_required");
    assert_denied(&request("/api/comments", "user_nobody"), 403, "user_unknown");
    assert_denied(&request("/api/comments", "user_banned"), 403, "user_disabled");
    let response = request("/api/videos", "user_2abc");
    assert_denied(&response, 403, "permission_required");
    let challenge =
        String::from_utf8_lossy(response.header("www-authenticate").unwrap()).into_owned();
    assert!(challenge.contains("error=\"insufficient_scope\""), "{challenge}");
    assert_eq!(bed.upstream.requests(), 0);
    assert_eq!(request("/api/channels", "user_2adm").status, 200);
}

#[test]
fn a_body_goes_no_further_than_its_refused_head() {
    let bed = Testbed::gateway().start();
    let response = bed.get("/api/comments").method("POST").body("x".repeat(100_000)).send();
    assert_denied(&response, 401, "token_missing");
    assert_eq!(bed.upstream.requests(), 0);
    let head = bed.get("/api/comments").method("HEAD").send();
    assert_eq!(head.status, 401);
    assert!(head.body.is_empty());
}

#[test]
fn grpc_clients_are_told_in_grpc() {
    let bed = Testbed::gateway().start();
    let call = |token: Option<&str>| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![("content-type", &b"application/grpc"[..]), ("te", b"trailers")];
        if let Some(bearer) = &bearer {
            headers.push(("authorization", bearer.as_bytes()));
        }
        client::h2(bed.envoy.address(), "POST", "/api/comments", &headers, b"\0\0\0\0\0", &[])
    };
    let field = |response: &client::Response, name: &str| {
        response.header(name).map(|value| String::from_utf8_lossy(value).into_owned())
    };
    for (token, status, code) in
        [(None, "16", "token_missing"), (Some(token_of(&bed, "user_nobody")), "7", "user_unknown")]
    {
        let response = call(token.as_deref());
        assert_eq!(response.status, 200);
        assert_eq!(field(&response, "grpc-status").as_deref(), Some(status));
        assert!(field(&response, "grpc-message").is_some_and(|message| message.starts_with(code)));
        assert_eq!(field(&response, "content-type").as_deref(), Some("application/grpc"));
    }
    bed.users.shut();
    let response = call(Some(&user_token(&bed)));
    assert_eq!(field(&response, "grpc-status").as_deref(), Some("14"));
    assert_eq!(bed.upstream.requests(), 0);
    bed.no_traps();
}

#[test]
fn answers_are_in_the_operators_words_and_nothing_of_the_request_stands_in_them_bare() {
    let bed = Testbed::gateway()
        .filter_config(|config| {
            config["answers"] = json!({
                "realm": "api.example",
                "type_prefix": "https://errors.example.com/",
                "bodies": {
                    "token_missing": {
                        "json": {"error": {"code": "{code}", "why": "{detail}", "id": "{request_id}"}, "status": "{status}"},
                    },
                    "401": {"text": "<p>{detail}</p><i>{request_id}</i>", "content_type": "text/html; charset=utf-8"},
                    "403": {"status": 404},
                },
            });
            config["rules"] = json!([
                {"match": {"path_prefix": "/api/channels"}, "require": "user", "permissions": ["none:such"]},
            ]);
        })
        .bootstrap(|bootstrap| {
            // The client's own id is let in, which may hold anything that is visible.
            let hcm = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
            hcm["typed_config"]["preserve_external_request_id"] = json!(true);
        })
        .start();
    let hostile = "<script>\"\\{code}";
    let request = bed.get("/api/comments").header("x-request-id", hostile);

    let response = request.clone().send();
    assert_eq!(response.status, 401);
    assert_eq!(response.header("content-type"), Some(&b"application/json"[..]));
    assert_eq!(response.header("www-authenticate"), Some(&b"Bearer realm=\"api.example\""[..]));
    let body = json!({
        "error": {"code": "token_missing", "why": "this path requires a bearer token", "id": hostile},
        "status": 401,
    });
    assert_eq!(response.json(), body);

    let response = request.bearer("bad").send();
    assert_eq!(response.status, 401);
    assert_eq!(response.header("content-type"), Some(&b"text/html; charset=utf-8"[..]));
    assert_eq!(response.header("x-content-type-options"), Some(&b"nosniff"[..]));
    let page = response.text();
    assert!(page.ends_with("<i>&lt;script&gt;&quot;\\{code}</i>"), "{page}");

    let response = bed.get("/api/channels").bearer(&user_token(&bed)).send();
    assert_denied(&response, 404, "permission_required");
    assert_eq!(response.json()["type"], "https://errors.example.com/permission_required");
    assert_eq!(response.header("www-authenticate"), None);
    assert_eq!(bed.upstream.requests(), 0);
    bed.no_traps();
}

#[test]
fn people_are_sent_to_sign_in_and_back_to_this_site_only() {
    const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let bed = Testbed::gateway()
        .filter_config(|config| {
            config["providers"]["clerk"]["from_params"] = json!(["access_token"]);
            config["providers"]["clerk"]["from_headers"] =
                json!([{"name": "authorization", "value_prefix": "Bearer "}]);
            config["login"] = json!({
                "uri": "https://accounts.example.com/sign-in?redirect_url={original_url}",
                "origins": ["https://api.example"],
            });
        })
        .start();
    let start = "https://accounts.example.com/sign-in?redirect_url=https%3A%2F%2Fapi.example";
    let expired = bed.idp.token(claims_with("exp", json!(now() - 60)));
    let navigation = |path: &str| bed.get(path).header("Sec-Fetch-Mode", "navigate");
    let old = |path: &str| bed.get(path).header("Accept", BROWSER);
    let sent: [(client::Request, &str); 7] = [
        (navigation("/api/comments?a=1&b=2"), "%2Fapi%2Fcomments%3Fa%3D1%26b%3D2"),
        (old("/api/comments"), "%2Fapi%2Fcomments"),
        (old("/api/comments").method("HEAD"), "%2Fapi%2Fcomments"),
        (navigation("/api/comments").header("Host", "API.example:443"), "%2Fapi%2Fcomments"),
        (
            navigation("/api/comments?u=//evil.example"),
            "%2Fapi%2Fcomments%3Fu%3D%2F%2Fevil.example",
        ),
        (
            navigation(&format!("/api/comments?access_token={expired}&a=1")),
            "%2Fapi%2Fcomments%3Fa%3D1",
        ),
        (navigation("/api/comments").bearer(&expired), "%2Fapi%2Fcomments"),
    ];
    for (request, target) in sent {
        let response = request.send();
        assert_eq!(response.status, 303, "{target}: {response:?}");
        let location = String::from_utf8_lossy(response.header("location").unwrap()).into_owned();
        assert_eq!(location, format!("{start}{target}"));
        assert_eq!(response.header("cache-control"), Some(&b"no-store"[..]));
        assert!(response.body.is_empty());
    }
    let told: [(client::Request, &str); 9] = [
        (bed.get("/api/comments"), "token_missing"),
        (
            bed.get("/api/comments").header("Sec-Fetch-Mode", "cors").header("Accept", BROWSER),
            "token_missing",
        ),
        (bed.get("/api/comments").header("Accept", "application/json"), "token_missing"),
        (navigation("/api/comments").method("POST"), "token_missing"),
        (old("/api/comments").bearer(&expired), "token_expired"),
        // Signing in anew does not mend these.
        (navigation("/api/comments").bearer("bad"), "token_malformed"),
        (navigation("/api/comments").header("Host", "evil.example"), "token_missing"),
        (navigation("/api/comments").header("Host", "api.example.evil.example"), "token_missing"),
        (navigation("http://evil.example/api/comments"), "token_missing"),
    ];
    for (request, code) in told {
        let response = request.send();
        assert_denied(&response, 401, code);
        assert_eq!(response.header("location"), None);
        assert!(response.header("www-authenticate").is_some());
    }
    // gRPC clients get what they always get.
    let grpc = [("content-type", &b"application/grpc"[..]), ("accept", BROWSER.as_bytes())];
    let response = client::h2(bed.envoy.address(), "GET", "/api/comments", &grpc, b"", &[]);
    assert_eq!((response.status, response.header("grpc-status")), (200, Some(&b"16"[..])));
    assert_eq!(bed.upstream.requests(), 0);
    assert_serves(&bed);
}
