//! The best current practices for JWTs (RFC 8725) and what JWS itself demands (RFC 7515), each a test
//! of its own.

use meshgate::denial::Code;
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{Flow, Key, claims, config, denied};

/// The verdict on a token with this header and payload, signed by a key that the issuer publishes.
fn verdict(header: &str, payload: &str) -> Disposition {
    let mut flow = Flow::ready();
    let token = flow.key.sign(header.as_bytes(), payload.as_bytes());
    flow.get("/x", &token).1
}

/// The verdict on a good token, whose issuer publishes these keys.
fn with_keys(keys: &[Value]) -> Disposition {
    let mut flow = Flow::new();
    let token = flow.token();
    flow.tick();
    let call = flow.call();
    flow.answer(call.id, 200, json!({ "keys": keys }).to_string().as_bytes());
    flow.get("/x", &token).1
}

/// The issuer's key with one member changed.
fn jwk_with(name: &str, value: Value) -> Value {
    let mut jwk = Key::new("k1").jwk();
    jwk[name] = value;
    jwk
}

#[test]
fn section_3_1_none_is_no_algorithm() {
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({"alg": alg, "kid": "k1"}).to_string();
        let disposition = verdict(&header, &claims().to_string());
        assert_eq!(denied(&disposition), Code::AlgorithmNotAllowed, "{alg}");
    }
}

#[test]
fn section_3_1_the_algorithm_is_the_providers_to_allow() {
    let mut config = config();
    config["providers"]["clerk"]["algorithms"] = json!(["ES384"]);
    let mut flow = Flow::with(&config).with_keys();
    let token = flow.token();
    assert_eq!(denied(&flow.get("/x", &token).1), Code::AlgorithmNotAllowed);
}

#[test]
fn section_3_1_a_public_key_is_not_a_symmetric_one() {
    // The classic: HS256 under the text of the public key. No key of the network fits it.
    let mut config = config();
    config["providers"]["clerk"]["algorithms"] = json!(["ES256", "HS256"]);
    let mut flow = Flow::with(&config).with_keys();
    let token = flow.key.sign(br#"{"alg":"HS256","kid":"k1"}"#, claims().to_string().as_bytes());
    assert_eq!(denied(&flow.get("/x", &token).1), Code::KeyUnknown);
}

#[test]
fn section_3_1_a_key_has_one_algorithm_where_it_names_one() {
    assert_eq!(with_keys(&[jwk_with("alg", json!("ES256"))]), Disposition::Pause);
    // The set then has another, good key, so that it is a set at all.
    let other = Key::new("k2").jwk();
    for alg in [json!("ES384"), json!("RS256"), json!("ECDH-ES"), json!(256), json!(null)] {
        let disposition = with_keys(&[jwk_with("alg", alg.clone()), other.clone()]);
        assert_eq!(denied(&disposition), Code::KeyUnknown, "{alg}");
    }
}

#[test]
fn section_3_1_a_key_for_something_else_signs_nothing() {
    let other = Key::new("k2").jwk();
    for (name, value) in [
        ("use", json!("enc")),
        ("use", json!(["sig"])),
        ("key_ops", json!(["sign"])),
        ("key_ops", json!([])),
        ("key_ops", json!("verify")),
        ("kty", json!("RSA")),
        ("kty", json!("OKP")),
        ("crv", json!("P-384")),
    ] {
        let disposition = with_keys(&[jwk_with(name, value.clone()), other.clone()]);
        assert_eq!(denied(&disposition), Code::KeyUnknown, "{name}: {value}");
    }
}

#[test]
fn section_3_3_what_was_signed_is_what_is_read() {
    let mut flow = Flow::ready();
    let token = flow.token();
    let parts: Vec<&str> = token.split('.').collect();
    let other = flow.key.token(&json!({"sub": "admin", "iss": "youtube-clone-auth"}));
    let payload = other.split('.').nth(1).unwrap();
    let spliced = format!("{}.{payload}.{}", parts[0], parts[2]);
    assert_eq!(denied(&flow.get("/x", &spliced).1), Code::SignatureInvalid);
}

#[test]
fn section_3_8_and_3_9_issuer_and_audience_are_exact() {
    for (name, value, code) in [
        ("iss", json!("YOUTUBE-CLONE-AUTH"), Code::IssuerUnknown),
        ("iss", json!("youtube-clone-auth/"), Code::IssuerUnknown),
        ("iss", json!("youtube-clone-auth\u{0}"), Code::IssuerUnknown),
        ("aud", json!("youtube-clone"), Code::AudienceMismatch),
        ("aud", json!("youtube-clone-api-2"), Code::AudienceMismatch),
        ("aud", json!(["YOUTUBE-CLONE-API"]), Code::AudienceMismatch),
    ] {
        let mut claims = claims();
        claims[name] = value;
        let disposition = verdict(r#"{"alg":"ES256","kid":"k1"}"#, &claims.to_string());
        assert_eq!(denied(&disposition), code, "{claims}");
    }
}

#[test]
fn section_3_10_keys_and_addresses_in_a_token_are_not_trusted() {
    let mut flow = Flow::ready();
    let imposter = Key::new("imposter");
    for header in [
        json!({"alg": "ES256", "kid": "k1", "jwk": imposter.jwk()}),
        json!({"alg": "ES256", "kid": "k1", "jku": "https://evil.example/jwks"}),
        json!({"alg": "ES256", "kid": "k1", "x5u": "https://evil.example/cert"}),
        json!({"alg": "ES256", "kid": "k1", "x5c": ["MIIB"]}),
    ] {
        let token = imposter.sign(header.to_string().as_bytes(), claims().to_string().as_bytes());
        assert_eq!(denied(&flow.get("/x", &token).1), Code::SignatureInvalid, "{header}");
        flow.no_call();
    }
}

#[test]
fn rfc_7515_section_4_duplicate_names_are_refused() {
    let payload = claims().to_string();
    for (header, payload) in [
        (r#"{"alg":"ES256","alg":"ES256"}"#, payload.as_str()),
        (r#"{"alg":"ES256","kid":"k1","kid":"k1"}"#, &payload),
        (r#"{"alg":"ES256"}"#, r#"{"iss":"youtube-clone-auth","iss":"youtube-clone-auth"}"#),
        (r#"{"alg":"ES256"}"#, r#"{"iss":"youtube-clone-auth","o":{"rol":"a","rol":"admin"}}"#),
    ] {
        assert_eq!(denied(&verdict(header, payload)), Code::TokenMalformed, "{header} {payload}");
    }
}

#[test]
fn rfc_7515_section_4_1_11_a_crit_is_refused() {
    let payload = claims().to_string();
    for crit in [json!([]), json!(["b64"]), json!(["exp"]), json!("exp"), json!(null)] {
        let header = json!({"alg": "ES256", "kid": "k1", "b64": false, "crit": crit});
        assert_eq!(denied(&verdict(&header.to_string(), &payload)), Code::TokenMalformed, "{crit}");
    }
}

#[test]
fn rfc_7515_section_2_base64url_has_no_padding_no_breaks_and_no_spare_bits() {
    let mut flow = Flow::ready();
    let good = flow.token();
    let (head, signature) = good.rsplit_once('.').unwrap();
    for token in [
        format!("{good}="),
        format!("{good}=="),
        format!("{head}.{}\t{}", &signature[..8], &signature[8..]),
        format!("{head}.+{}", &signature[1..]),
        format!("{head}./{}", &signature[1..]),
    ] {
        assert_eq!(denied(&flow.get("/x", &token).1), Code::TokenMalformed, "{token}");
    }
}

#[test]
fn rfc_7517_section_4_5_several_keys_may_have_one_kid_and_a_key_may_have_none() {
    let token = |kid: &'static str, signer: &str| {
        let mut key = Key::new(if signer == "a" { "a" } else { "b" });
        key.kid = kid;
        key.token(&claims())
    };
    let named = |name: &'static str, kid: Option<&'static str>| {
        let mut jwk = Key::new(name).jwk();
        match kid {
            Some(kid) => jwk["kid"] = json!(kid),
            None => drop(jwk.as_object_mut().unwrap().remove("kid")),
        }
        jwk
    };
    for keys in [
        [named("a", Some("same")), named("b", Some("same"))],
        [named("a", None), named("b", Some("same"))],
        [named("a", None), named("b", None)],
    ] {
        let mut flow = Flow::new();
        flow.tick();
        let call = flow.call();
        flow.answer(call.id, 200, json!({ "keys": keys }).to_string().as_bytes());
        for signer in ["a", "b"] {
            let (_, disposition) = flow.get("/x", &token("same", signer));
            assert_eq!(disposition, Disposition::Pause, "{signer}: {keys:?}");
        }
        let (_, disposition) = flow.get("/x", &Key::new("c").token(&claims()));
        denied(&disposition);
    }
}

#[test]
fn a_jwk_that_is_not_understood_does_not_spoil_the_good_ones_beside_it() {
    let mut flow = Flow::new();
    flow.tick();
    let call = flow.call();
    let good = flow.key.jwk();
    let keys = json!({"keys": [
        1, null, {}, [], {"kty": "future"}, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, good,
    ]});
    flow.answer(call.id, 200, keys.to_string().as_bytes());
    let told = flow.worker.take_log();
    assert!(told.iter().any(|(_, line)| line.ends_with("keys=1 skipped=6")), "{told:?}");
    let token = flow.token();
    assert_eq!(flow.get("/x", &token).1, Disposition::Pause);
}
