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
