//! Envoy's foreign function `verify_signature`, with RustCrypto for BoringSSL: what is not signed is not let through
//! here either.

use p256::ecdsa::signature::Verifier;
use p256::pkcs8::DecodePublicKey;
use prost::encoding::{decode_key, decode_varint};
use rsa::pkcs1v15;
use rsa::sha2::Sha256;

/// Envoy's `VerifySignatureResult` for its `VerifySignatureArguments`, both in protobuf.
pub(super) fn verify(arguments: &[u8]) -> Vec<u8> {
    let [hash, key, signature, text] = fields(arguments);
    assert_eq!(hash, b"sha256", "no other hash is modelled");
    let good = is_rs256(key, signature, text) || is_es256(key, signature, text);
    // Field 1 is the result, field 2 the error.
    if good { vec![0x08, 0x01] } else { [&[0x12, 0x03], &b"bad"[..]].concat() }
}

fn is_rs256(spki: &[u8], signature: &[u8], text: &[u8]) -> bool {
    use rsa::pkcs8::DecodePublicKey;
    use rsa::signature::Verifier;
    let Ok(key) = rsa::RsaPublicKey::from_public_key_der(spki) else { return false };
    let key = pkcs1v15::VerifyingKey::<Sha256>::new(key);
    pkcs1v15::Signature::try_from(signature).is_ok_and(|made| key.verify(text, &made).is_ok())
}

fn is_es256(spki: &[u8], signature: &[u8], text: &[u8]) -> bool {
    let Ok(key) = p256::ecdsa::VerifyingKey::from_public_key_der(spki) else { return false };
    let signature = p256::ecdsa::Signature::from_der(signature);
    signature.is_ok_and(|made| key.verify(text, &made).is_ok())
}

/// The fields 1 to 4, all of them bytes.
fn fields(mut message: &[u8]) -> [&[u8]; 4] {
    let mut fields = [&[][..]; 4];
    while !message.is_empty() {
        let (tag, _) = decode_key(&mut message).unwrap();
        let length = usize::try_from(decode_varint(&mut message).unwrap()).unwrap();
        let (field, rest) = message.split_at(length);
        fields[usize::try_from(tag).unwrap() - 1] = field;
        message = rest;
    }
    fields
}
