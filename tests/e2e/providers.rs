//! Issuers as they are: a real OpenID provider, opaque tokens, tokens in other places than the header.

use harness::oidc::Oidc;
use harness::skip;
use harness::testbed::Testbed;
use serde_json::{Value, json};

use crate::support::{
    LONG, USER, assert_context, assert_denied, assert_serves, only_seen, user_token,
};

const API: &str = "https://api.example";

fn provider(changes: &Value) -> impl FnMut(&mut Value) {
    move |config| {
        let provider = config["providers"]["clerk"].as_object_mut().unwrap();
        provider.remove("remote_jwks");
        provider.extend(changes.as_object().unwrap().clone());
    }
}

#[test]
fn a_real_openid_provider_is_found_by_discovery_and_its_tokens_accepted() {
    let Some(oidc) = skip::require("a real OIDC provider (Node and npm)", Oidc::start()) else {
        return;
    };
    let discovery = json!({
        "issuer": oidc.issuer(), "audiences": [API], "token_type": "at+jwt",
        "discovery": {"uri": oidc.discovery_uri(), "cluster": "clerk", "unknown_kid_cooldown": "100ms"},
    });
    let bed = Testbed::gateway()
        .with_cluster("clerk", oidc.address())
        .filter_config(provider(&discovery))
        .start();
    let send = |token: &str| bed.get("/api/comments").bearer(token).send();
    // The authorization code flow, by a user.
    let token = oidc.user_token("user_2abc", API, "");
    assert_eq!(send(&token).status, 200);
    assert_context(&only_seen(&bed), [Some("u-1001"), None, Some("USER"), Some("ch-2001")]);
    // For somebody else, and of a user that the users service does not know.
    let elsewhere = oidc.user_token("user_2abc", "https://other.example", "");
    assert_denied(&send(&elsewhere), 401, "audience_mismatch");
    assert_denied(&send(&oidc.access_token(API, "")), 403, "user_unknown");
    assert_denied(&send(&oidc.access_token_es256(API, "")), 403, "user_unknown");
    // Its keys change; the new ones are found by their `kid`, the old ones retire.
    oidc.rotate_keys();
    std::thread::sleep(std::time::Duration::from_millis(150)); // the cooldown
    assert_eq!(send(&oidc.user_token("user_2abc", API, "")).status, 200);
    assert_eq!(send(&token).status, 200, "still published");
    bed.no_traps();
}

#[test]
fn a_real_opaque_token_is_introspected_until_it_is_revoked() {
    let Some(oidc) = skip::require("a real OIDC provider (Node and npm)", Oidc::start()) else {
        return;
    };
    let introspection = json!({
        "issuer": oidc.issuer(),
        "introspection": {
            "uri": oidc.introspection_uri(), "cluster": "clerk", "client_id": harness::oidc::CLIENT_ID,
            "client_secret": "${env:CLIENT_SECRET}", "cache_ttl": "500ms",
        },
    });
    let bed = Testbed::gateway()
        .with_cluster("clerk", oidc.address())
        .env("CLIENT_SECRET", oidc.client_secret())
        .bootstrap(|bootstrap| {
            crate::support::plugin(bootstrap)["vm_config"]["environment_variables"] =
                json!({"host_env_keys": ["CLIENT_SECRET"]});
        })
        .filter_config(|config| {
            provider(&introspection)(config);
            let provider = config["providers"]["clerk"].as_object_mut().unwrap();
            provider.remove("audiences");
            provider.insert("allow_any_audience".to_owned(), json!(true));
        })
        .component_log_level("wasm:trace")
        .start();
    let token = oidc.opaque_user_token("user_2abc");
    let send = || bed.get("/api/comments").bearer(&token).send();
    for _ in 0..5 {
        assert_eq!(send().status, 200);
        assert_context(&only_seen(&bed), [Some("u-1001"), None, Some("USER"), Some("ch-2001")]);
    }
    assert_denied(&bed.get("/api/comments").bearer("never-issued").send(), 401, "token_revoked");
    oidc.revoke(&token);
    crate::support::wait_until("the token is refused", || {
        bed.upstream.take();
        send().status == 401
    });
    assert_denied(&send(), 401, "token_revoked");
    let log = bed.envoy.log();
    assert!(!log.contains(&token) && !log.contains(oidc.client_secret()), "a secret is in the log");
    bed.no_traps();
}

#[test]
fn a_token_in_a_cookie_or_a_parameter_is_taken_out_of_it() {
    let bed = Testbed::gateway()
        .filter_config(|config| {
            let provider = &mut config["providers"]["clerk"];
            provider["preset"] = json!("clerk");
            provider["from_params"] = json!(["access_token"]);
        })
        .start();
    let token = user_token(&bed);
    let cookie = format!("theme=dark; __session={token}; lang=en");
    assert_eq!(bed.get("/api/comments").header("Cookie", &cookie).send().status, 200);
    let seen = only_seen(&bed);
    assert_context(&seen, USER);
    assert_eq!(seen.header("cookie"), Some(&b"theme=dark; lang=en"[..]));
    let target = format!("/api/comments/7?page=2&access_token={token}&size=9");
    assert_eq!(bed.get(&target).send().status, 200);
    let seen = only_seen(&bed);
    assert_context(&seen, USER);
    assert_eq!(seen.path, "/comments/7?page=2&size=9");
    for (name, value) in &seen.headers {
        assert!(!String::from_utf8_lossy(value).contains(&token), "{name} has the token");
    }
    let other = crate::support::token_of(&bed, "user_2adm");
    let both = bed.get(&target).header("Cookie", format!("__session={other}")).send();
    assert_denied(&both, 401, "token_ambiguous");
    bed.no_traps();
}

#[test]
fn host_and_module_check_signatures_alike() {
    for crypto in ["host", "module", "auto"] {
        let bed =
            Testbed::gateway().filter_config(|config| config["crypto"] = json!(crypto)).start();
        let chosen = if crypto == "auto" { "host" } else { crypto };
        bed.envoy.wait_for_log(&format!("crypto={chosen}"), LONG);
        for kid in ["rs-1", "es-1"] {
            let token = bed.idp.key(kid).token(&harness::idp::seed_claims("user_2abc"));
            assert_eq!(
                bed.get("/api/comments").bearer(&token).send().status,
                200,
                "{crypto} {kid}"
            );
            let mut forged = token.into_bytes();
            let place = forged.len() - 40;
            forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            let response = bed.get("/api/comments").bearer(&forged).send();
            assert_denied(&response, 401, "signature_invalid");
        }
        assert_eq!(bed.upstream.take().len(), 2);
        assert_serves(&bed);
    }
}

#[test]
fn the_config_for_clerk_takes_its_session_tokens_from_cookie_and_header() {
    let bed = Testbed::config("clerk.yaml")
        .bootstrap(|bootstrap| {
            // The issuer of this test speaks plain HTTP.
            for cluster in bootstrap["static_resources"]["clusters"].as_array_mut().unwrap() {
                cluster.as_object_mut().unwrap().remove("transport_socket");
            }
        })
        .start();
    let session = |sts: &str, azp: &str| {
        let now = harness::idp::now();
        bed.idp.token(json!({
            "iss": "https://clerk.example.com", "sub": "user_2abc", "sid": "sess_1", "azp": azp, "v": 2,
            "iat": now, "nbf": now - 10, "exp": now + 60, "sts": sts, "o": {"id": "org_1", "rol": "admin"},
        }))
    };
    let ours = "https://www.example.com";
    let token = session("active", ours);
    for request in [
        bed.get("/api/videos").header("Cookie", format!("__session={token}")),
        bed.get("/api/videos").bearer(&token),
    ] {
        let response = request.header("x-org-role", "owner").send();
        assert_eq!(response.status, 200, "{}", response.text());
        let seen = only_seen(&bed);
        for (name, value) in [
            ("x-user-id", "user_2abc"),
            ("x-session-id", "sess_1"),
            ("x-org-id", "org_1"),
            ("x-org-role", "admin"),
        ] {
            assert_eq!(seen.headers_named(name), [value.as_bytes()], "{name}");
        }
        assert!(seen.header("cookie").is_none() && seen.header("authorization").is_none());
    }
    let refused = |token: &str| bed.get("/api/videos").bearer(token).send();
    assert_denied(&refused(&session("pending", ours)), 401, "claim_mismatch");
    assert_denied(
        &refused(&session("active", "https://evil.example")),
        401,
        "authorized_party_mismatch",
    );
    bed.no_traps();
}
