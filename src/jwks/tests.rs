//! Which JWKs become keys.

use serde_json::json;

use super::*;
use crate::token::algorithm::Hash;

/// The example keys of RFC 7517 appendix A.1.
fn rfc_7517() -> (Value, Value) {
    (
        json!({"kty": "EC", "crv": "P-256", "use": "enc", "kid": "1",
            "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}),
        json!({"kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}),
    )
}

fn parse(keys: &[Value]) -> Result<KeySet, JwksError> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), Origin::Remote)
}

fn with(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk[name] = value;
    jwk
}

#[test]
fn keys_for_signatures_are_taken_and_others_skipped() {
    let (ec, rsa) = rfc_7517();
    let ec = with(ec, "use", json!("sig"));
    let set = parse(&[
        json!({"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMko"}),
        ec,
        json!("garbage"),
        rsa,
        json!({"kty": "OKP", "crv": "X25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
    ])
    .unwrap();
    assert_eq!((set.len(), set.skipped), (2, 3));
    assert_eq!(set.candidates(Algorithm::Es(Hash::Sha256), Some("1")).count(), 1);
    assert_eq!(set.candidates(Algorithm::Es(Hash::Sha256), Some("2")).count(), 0);
    assert_eq!(set.candidates(Algorithm::Es(Hash::Sha256), None).count(), 1);
    assert_eq!(set.candidates(Algorithm::Rs(Hash::Sha256), Some("2011-04-29")).count(), 1);
}

#[test]
fn a_key_that_does_not_fit_its_own_description_is_no_key() {
    let (ec, rsa) = rfc_7517();
    let ec = with(ec, "use", json!("sig"));
    for jwk in [
        rfc_7517().0,
        with(ec.clone(), "use", json!(1)),
        with(ec.clone(), "key_ops", json!(["sign"])),
        with(ec.clone(), "key_ops", json!("verify")),
        with(ec.clone(), "alg", json!("ES384")),
        with(ec.clone(), "alg", json!(null)),
        with(ec.clone(), "kid", json!(1)),
        with(ec.clone(), "kty", json!("ec")),
        with(ec.clone(), "crv", json!("P-384")),
        with(ec.clone(), "x", json!("AAAA")),
        with(ec.clone(), "x", ec["y"].clone()),
        with(ec.clone(), "y", json!("4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM=")),
        with(rsa.clone(), "alg", json!("ES256")),
        with(rsa.clone(), "alg", json!("RSA-OAEP")),
        with(rsa.clone(), "e", json!("AQ")),
        with(rsa.clone(), "e", json!("Aw")),
        with(rsa.clone(), "n", json!("AQAB")),
        with(rsa.clone(), "n", json!("")),
        with(rsa.clone(), "n", json!(7)),
    ] {
        assert_eq!(parse(std::slice::from_ref(&jwk)).unwrap_err(), JwksError::NoUsableKey, "{jwk}");
    }
}

#[test]
fn a_token_without_kid_is_tried_with_a_few_keys_only() {
    let (ec, _) = rfc_7517();
    let mut ec = with(ec, "use", json!("sig"));
    ec.as_object_mut().unwrap().remove("kid");
    let set = parse(&vec![ec; 50]).unwrap();
    assert_eq!(set.candidates(Algorithm::Es(Hash::Sha256), None).count(), MAX_TRIES);
    assert_eq!(set.candidates(Algorithm::Es(Hash::Sha256), Some("any")).count(), MAX_TRIES);
}

#[test]
fn a_symmetric_key_is_one_only_where_the_config_has_it() {
    let jwk = json!({"kty": "oct", "alg": "HS256", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"});
    let document = json!({ "keys": [jwk] }).to_string();
    let parse = |origin| KeySet::parse(document.as_bytes(), origin);
    assert_eq!(parse(Origin::Local).unwrap().len(), 1);
    assert_eq!(parse(Origin::Remote).unwrap_err(), JwksError::NoUsableKey);
}

#[test]
fn a_named_algorithm_is_the_only_one_of_its_key() {
    let (_, rsa) = rfc_7517();
    let set = parse(std::slice::from_ref(&rsa)).unwrap();
    assert_eq!(set.candidates(Algorithm::Rs(Hash::Sha512), None).count(), 0);
    let mut unnamed = rsa;
    unnamed.as_object_mut().unwrap().remove("alg");
    let set = parse(&[unnamed]).unwrap();
    assert_eq!(set.candidates(Algorithm::Rs(Hash::Sha512), None).count(), 1);
    assert_eq!(set.candidates(Algorithm::Ps(Hash::Sha256), None).count(), 1);
    assert_eq!(set.candidates(Algorithm::Es(Hash::Sha256), None).count(), 0);
}
