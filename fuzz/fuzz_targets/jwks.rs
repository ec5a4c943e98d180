//! A JWKS document: which of its keys are taken, and what tokens they are tried with.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshgate::jwks::{KeySet, MAX_TRIES, Origin};
use meshgate::token::algorithm::{Algorithm, Hash};
use meshgate_fuzz::naive;
use serde_json::{Map, Value, json};

/// What no key of an issuer may be, as far as its members tell.
fn is_refused(jwk: &Map<String, Value>) -> bool {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let bytes = |name: &str| text(name).and_then(|text| naive::base64url(text.as_bytes()));
    let leads = |name: &str| {
        let bytes = bytes(name)?;
        let first = bytes.iter().position(|byte| *byte != 0)?;
        Some((bytes.len() - first) * 8 - usize::try_from(bytes[first].leading_zeros()).ok()?)
    };
    let kind = match text("kty") {
        Some("RSA") => leads("n").is_some_and(|bits| bits >= 2048) && bytes("e").is_some(),
        Some("EC") => bytes("x").is_some() && bytes("y").is_some(),
        Some("OKP") => text("crv") == Some("Ed25519") && bytes("x").is_some_and(|x| x.len() == 32),
        Some("AKP") => text("alg").is_some_and(|alg| alg.starts_with("ML-DSA-")),
        // A symmetric key that the network gave is one that everybody has.
        _ => false,
    };
    let operations = jwk.get("key_ops").is_none_or(|operations| {
        operations.as_array().is_some_and(|all| all.contains(&json!("verify")))
    });
    !kind || !operations || jwk.get("use").is_some_and(|usage| usage != "sig") || !is_alg_fit(jwk)
}

fn is_alg_fit(jwk: &Map<String, Value>) -> bool {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str).unwrap_or_default();
    let fitting: &[&str] = match (text("kty"), text("crv")) {
        ("RSA", _) => &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        ("EC", "P-256") => &["ES256"],
        ("EC", "P-384") => &["ES384"],
        ("EC", "P-521") => &["ES512"],
        ("EC", "secp256k1") => &["ES256K"],
        ("OKP", _) => &["EdDSA", "Ed25519"],
        ("AKP", _) => &["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"],
        _ => &[],
    };
    jwk.get("alg").is_none_or(|alg| fitting.iter().any(|one| alg == one))
}

fn alone(jwk: &Value) -> bool {
    KeySet::parse(json!({"keys": [jwk]}).to_string().as_bytes(), Origin::Remote).is_ok()
}

fuzz_target!(|document: &[u8]| {
    // Each key costs as much as a signature to read, and none is different for standing far behind.
    if document.len() > 16_384 {
        return;
    }
    let read = || KeySet::parse(document, Origin::Remote);
    let reference = naive::object(document);
    let jwks = reference.as_ref().and_then(|members| members.get("keys")?.as_array());
    let (set, jwks) = match (read(), jwks) {
        (Ok(set), Some(jwks)) => (set, jwks),
        (Ok(_), None) => panic!("keys of what is no JWKS"),
        (Err(_), jwks) => {
            let usable = jwks.into_iter().flatten().find(|jwk| alone(jwk));
            assert_eq!(usable, None, "a good key is lost among others");
            return;
        }
    };
    let taken: Vec<&Map<String, Value>> =
        jwks.iter().filter(|jwk| alone(jwk)).filter_map(Value::as_object).collect();
    assert_eq!(set.len(), taken.len(), "it depends on the others whether a key is taken");
    assert_eq!(set.skipped, jwks.len() - taken.len());
    for (key, jwk) in set.keys().zip(&taken) {
        assert!(!is_refused(jwk), "taken: {}", Value::from((*jwk).clone()));
        assert_eq!(key.kid(), jwk.get("kid").and_then(Value::as_str));
    }
    assert_eq!(read().as_ref(), Ok(&set), "read twice, another set");
    let algorithms = Algorithm::asymmetric();
    for kid in
        taken.iter().map(|jwk| jwk.get("kid").and_then(Value::as_str)).chain([None, Some("none")])
    {
        for algorithm in &algorithms {
            let tried: Vec<_> = set.candidates(*algorithm, kid).collect();
            assert!(tried.len() <= MAX_TRIES);
            for key in tried {
                assert!(kid.is_none() || key.kid().is_none() || key.kid() == kid);
                assert!(key.public_key().fits(*algorithm));
            }
        }
        for hash in [Hash::Sha256, Hash::Sha384, Hash::Sha512] {
            assert_eq!(
                set.candidates(Algorithm::Hs(hash), kid).count(),
                0,
                "a public key as a secret"
            );
        }
    }
});
