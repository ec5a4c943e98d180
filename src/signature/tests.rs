//! Signatures: the known answers, altered ones, and the choice of who checks them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;

/// A host that checks as this module does, and one that is broken in some way.
struct Fake(fn(bool) -> bool);

impl Host for Fake {
    fn verify_signature(&self, hash: &str, key: &[u8], signature: &[u8], text: &[u8]) -> bool {
        let Some(answers) = known_answers::all() else {
            return false;
        };
        let right = hash == "sha256"
            && answers.iter().any(|answer| {
                answer.key.for_host(answer.algorithm, &answer.signature)
                    == Some((key, signature.to_vec()))
                    && answer.input == text
            });
        (self.0)(right)
    }
}

#[test]
fn the_examples_of_rfc_7515_verify_and_altered_ones_do_not() {
    for crypto in [Crypto::Module, Crypto::Host(Box::new(Fake(|right| right)))] {
        for answer in known_answers::all().unwrap() {
            let verify = |input: &[u8], signature: &[u8]| {
                crypto.verify(&answer.key, answer.algorithm, input, signature)
            };
            assert!(verify(&answer.input, &answer.signature), "{crypto:?} {}", answer.algorithm);
            assert!(!verify(&[&answer.input[..], b"A"].concat(), &answer.signature));
            for place in 0..answer.signature.len() {
                let mut altered = answer.signature.clone();
                altered[place] ^= 1;
                assert!(!verify(&answer.input, &altered), "{}, byte {place}", answer.algorithm);
            }
            assert!(!verify(&answer.input, &[]));
            assert!(!verify(&answer.input, &[&answer.signature[..], &[0]].concat()));
        }
    }
}

#[test]
fn an_ecdsa_signature_out_of_range_is_no_signature() {
    let [_, answer] = known_answers::all().unwrap();
    let (r, s) = answer.signature.split_at(32);
    let order = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    for signature in [
        [&[0; 32], s].concat(),
        [r, &[0; 32]].concat(),
        [r, &order[..]].concat(),
        [&order[..], s].concat(),
        [&[0xff; 32], s].concat(),
        [0; 64].to_vec(),
    ] {
        for crypto in [Crypto::Module, Crypto::Host(Box::new(Fake(|_| true)))] {
            assert!(!crypto.verify(&answer.key, answer.algorithm, &answer.input, &signature));
        }
    }
}

#[test]
fn a_key_is_used_with_its_own_algorithms_only() {
    let [rsa, ec] = known_answers::all().unwrap();
    let mut base_point = [0x66; 32];
    base_point[0] = 0x58;
    let keys = [
        rsa.key,
        ec.key,
        PublicKey::hmac(&[7; 32]).unwrap(),
        PublicKey::ed25519(&base_point).unwrap(),
    ];
    for key in &keys {
        for algorithm in Algorithm::asymmetric().into_iter().chain([Algorithm::Hs(Hash::Sha512)]) {
            if !key.fits(algorithm) {
                assert!(!Crypto::Module.verify(key, algorithm, b"text", &[0; 64]));
            }
        }
    }
    assert!(!keys[2].fits(Algorithm::Hs(Hash::Sha384)), "RFC 7518 section 3.2: too short");
    assert!(PublicKey::hmac(&[7; 31]).is_none());
}

#[test]
fn the_host_is_chosen_where_it_tells_right_from_wrong() {
    let choose = |preference, verdict: fn(bool) -> bool| {
        Crypto::choose(preference, Box::new(Fake(verdict))).map(|crypto| crypto.name())
    };
    let right: fn(bool) -> bool = |right| right;
    for (preference, verdict, chosen) in [
        (Preference::Auto, right, Ok("host")),
        (Preference::Auto, |_| true, Ok("module")),
        (Preference::Auto, |_| false, Ok("module")),
        (Preference::Module, right, Ok("module")),
        (Preference::Host, right, Ok("host")),
        (Preference::Host, |_| true, Err(HostUnfit)),
        (Preference::Host, |right| !right, Err(HostUnfit)),
    ] {
        assert_eq!(choose(preference, verdict), chosen, "{preference:?}");
    }
}

/// RFC 8037 appendix A.4, and RFC 6979 appendix A.2.5 with SHA-256: both signatures are known beforehand.
#[test]
fn signatures_are_the_known_ones_and_depend_on_nothing_else() {
    let key = |jwk: Value| signing::SigningKey::from_jwk(jwk.as_object().unwrap()).unwrap();
    let ed25519 = key(json!({"kty": "OKP", "crv": "Ed25519",
        "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}));
    assert_eq!(
        URL_SAFE_NO_PAD
            .encode(ed25519.sign(b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc")),
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    );
    let hex = |text: &str| {
        let digits = (0..text.len()).step_by(2);
        digits
            .map(|at| u8::from_str_radix(text.get(at..at + 2).unwrap(), 16).unwrap())
            .collect::<Vec<u8>>()
    };
    let part = |text: &str| URL_SAFE_NO_PAD.encode(hex(text));
    let p256 = key(json!({"kty": "EC", "crv": "P-256",
        "d": part("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721"),
        "x": part("60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6"),
        "y": part("7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299")}));
    let mut expected = hex("EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716");
    expected.extend(hex("F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8"));
    assert_eq!(p256.sign(b"sample"), expected);
}
