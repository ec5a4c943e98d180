//! Which JWKs become keys.

use serde_json::json;

use super::*;

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
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
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
        json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
    ])
    .unwrap();
    assert_eq!((set.len(), set.skipped), (2, 3));
    assert_eq!(set.candidates(Algorithm::Es256, Some("1")).count(), 1);
    assert_eq!(set.candidates(Algorithm::Es256, Some("2")).count(), 0);
    assert_eq!(set.candidates(Algorithm::Es256, None).count(), 1);
    assert_eq!(set.candidates(Algorithm::Rs256, Some("2011-04-29")).count(), 1);
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
        with(rsa.clone(), "alg", json!("PS256")),
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
    assert_eq!(set.candidates(Algorithm::Es256, None).count(), MAX_TRIES);
    assert_eq!(set.candidates(Algorithm::Es256, Some("any")).count(), MAX_TRIES);
}

#[test]
fn the_tokens_of_rfc_7515_verify_and_altered_ones_do_not() {
    // RFC 7515 appendix A.3 (ES256) and A.2 (RS256).
    let keys = parse(&[
        json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
        json!({"kty": "RSA", "e": "AQAB",
            "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}),
    ])
    .unwrap();
    let payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    for (algorithm, header, signature) in [
        (
            Algorithm::Es256,
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            Algorithm::Rs256,
            "eyJhbGciOiJSUzI1NiJ9",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
    ] {
        let input = format!("{header}.{payload}");
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let verifies = |input: &str, signature: &[u8]| {
            keys.candidates(algorithm, None)
                .any(|key| key.made(algorithm, input.as_bytes(), signature))
        };
        assert!(verifies(&input, &signature), "{algorithm}");
        assert!(!verifies(&format!("{input}A"), &signature), "{algorithm}");
        for place in 0..signature.len() {
            let mut altered = signature.clone();
            altered[place] ^= 1;
            assert!(!verifies(&input, &altered), "{algorithm}, byte {place}");
        }
        assert!(!verifies(&input, &[]), "{algorithm}");
        assert!(!verifies(&input, &[&signature[..], &[0]].concat()), "{algorithm}");
    }
}
