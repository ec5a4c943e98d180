//! The real OpenID provider: what its tokens look like, and that its endpoints keep their word.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::client::Request;
use harness::oidc::{CLIENT_ID, ES256_CLIENT_ID, Oidc};
use harness::skip;
use rsa::{BigUint, RsaPublicKey};
use serde_json::{Value, json};

const API: &str = "https://api.example/v1";

#[track_caller]
fn provider() -> Option<Oidc> {
    skip::require("a real OIDC provider", Oidc::start())
}

#[test]
fn discovery_names_the_issuer_and_its_endpoints() {
    let Some(provider) = provider() else { return };
    let issuer = provider.issuer();
    assert_eq!(issuer, format!("http://{}", provider.address()));
    let discovery = provider.discovery();
    assert_eq!(discovery["issuer"], issuer);
    assert_eq!(provider.discovery_uri(), format!("{issuer}/.well-known/openid-configuration"));
    let uris = [
        provider.jwks_uri(),
        provider.token_uri(),
        provider.introspection_uri(),
        provider.revocation_uri(),
    ];
    for uri in uris {
        assert!(uri.starts_with(&issuer), "{uri}");
    }
    assert!(!format!("{provider:?} {}", provider.log()).contains(provider.client_secret()));
}

#[test]
fn each_grant_gives_a_jwt_that_a_published_key_signed() {
    let Some(provider) = provider() else { return };
    let tokens = [
        ("RS256", CLIENT_ID, "videos:read", provider.access_token(API, "videos:read")),
        ("ES256", ES256_CLIENT_ID, "a b", provider.access_token_es256(API, "a b")),
        ("RS256", "user_2abc", "videos:read", provider.user_token("user_2abc", API, "videos:read")),
        ("RS256", "zo\u{eb} & co=\"x\"", "", provider.user_token("zo\u{eb} & co=\"x\"", API, "")),
        ("RS256", CLIENT_ID, "", provider.access_token(API, "")),
    ];
    let jwks = provider.jwks();
    for (algorithm, subject, scope, token) in tokens {
        let (header, claims) = verified(&token, &jwks);
        assert_eq!((&header["alg"], &header["typ"]), (&json!(algorithm), &json!("at+jwt")));
        assert_eq!((&claims["sub"], &claims["aud"]), (&json!(subject), &json!(API)));
        assert_eq!(claims["iss"], provider.issuer());
        assert_eq!(claims["scope"].as_str().unwrap_or_default(), scope);
        let client = if algorithm == "ES256" { ES256_CLIENT_ID } else { CLIENT_ID };
        assert_eq!(claims["client_id"], client);
        let [issued, expires] = ["iat", "exp"].map(|name| claims[name].as_u64().expect("a time"));
        assert_eq!(expires - issued, 3600);
    }
}

#[test]
fn a_revoked_token_is_no_longer_active() {
    let Some(provider) = provider() else { return };
    let tokens = [provider.opaque_token(), provider.opaque_user_token("user_2abc")];
    for token in &tokens {
        assert_eq!(token.split('.').count(), 1);
        let told = provider.introspect(token);
        assert_eq!((&told["active"], &told["client_id"]), (&json!(true), &json!(CLIENT_ID)));
    }
    assert_eq!(provider.introspect(&tokens[1])["sub"], "user_2abc");
    for token in &tokens {
        provider.revoke(token);
        assert_eq!(provider.introspect(token), json!({"active": false}));
    }
    assert_eq!(provider.introspect("unknown"), json!({"active": false}));
}

#[test]
fn introspection_is_for_clients_that_know_the_secret() {
    let Some(provider) = provider() else { return };
    let path = provider.introspection_uri().strip_prefix(&provider.issuer()).expect("its own");
    let response = Request::new(provider.address(), "POST", path)
        .header("Content-Type", "application/x-www-form-urlencoded")
        // meshgate:wrong
        .header("Authorization", "Basic bWVzaGdhdGU6d3Jvbmc=")
        .body("token=x")
        .send();
    assert_eq!((response.status, &response.json()["error"]), (401, &json!("invalid_client")));
}

#[test]
fn rotated_keys_sign_at_once_and_old_ones_stay_until_retired() {
    let Some(provider) = provider() else { return };
    let opaque = provider.opaque_token();
    let old = provider.access_token(API, "");
    provider.rotate_keys();
    let jwks = provider.jwks();
    let new = [provider.access_token(API, ""), provider.access_token_es256(API, "")];
    let (old_header, _) = verified(&old, &jwks);
    for token in &new {
        assert_ne!(verified(token, &jwks).0["kid"], old_header["kid"]);
    }
    provider.retire_keys();
    let jwks = provider.jwks();
    assert_eq!(jwks["keys"].as_array().map(Vec::len), Some(2));
    assert!(jwks["keys"].as_array().expect("keys").iter().all(|k| k["kid"] != old_header["kid"]));
    for token in new {
        verified(&token, &jwks);
    }
    assert_eq!(provider.introspect(&opaque)["active"], true);
}

/// The header and the claims; panics unless the key of that id signed them.
#[track_caller]
fn verified(token: &str, jwks: &Value) -> (Value, Value) {
    let (signed, signature) = token.rsplit_once('.').expect("a compact JWS");
    let (header, claims) = signed.split_once('.').expect("a compact JWS");
    let [header, claims] =
        [header, claims].map(|part| serde_json::from_slice::<Value>(&decoded(part)).expect("JSON"));
    let keys = jwks["keys"].as_array().expect("keys");
    let key = keys.iter().find(|key| key["kid"] == header["kid"]).expect("a published key");
    assert_eq!(key["alg"], header["alg"]);
    assert!(key.get("d").is_none(), "a private key is published");
    let part = |name: &str| decoded(key[name].as_str().expect("a part of the key"));
    let (message, signature) = (signed.as_bytes(), decoded(signature));
    match header["alg"].as_str() {
        Some("RS256") => {
            use rsa::signature::Verifier;
            let [n, e] = ["n", "e"].map(|name| BigUint::from_bytes_be(&part(name)));
            let key = RsaPublicKey::new(n, e).expect("an RSA key");
            let key = rsa::pkcs1v15::VerifyingKey::<rsa::sha2::Sha256>::new(key);
            let signature = signature.as_slice().try_into().expect("a signature");
            key.verify(message, &signature).expect("signed by this key");
        }
        Some("ES256") => {
            use p256::ecdsa::signature::Verifier;
            let point = [vec![4], part("x"), part("y")].concat();
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point).expect("a P-256 key");
            let signature = p256::ecdsa::Signature::from_slice(&signature).expect("a signature");
            key.verify(message, &signature).expect("signed by this key");
        }
        other => panic!("{other:?}"),
    }
    (header, claims)
}

fn decoded(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).expect("base64url")
}
