//! Signatures: the known answers, altered ones, and the choice of who checks them.

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
