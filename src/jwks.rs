//! A JWKS document in, a [`KeySet`] out (RFC 7517), and what its keys are for: signatures.
//!
//! The primitives are `jwt-simple`'s own: its key types read and judge the keys, and the
//! implementations beneath them (`superboring`, `p256`) check the signature. `jwt-simple`'s
//! `verify_token` is not used, since it brings a second reading of header and claims with it, and
//! a token must have one reading whoever checks its signature.

pub mod cache;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jwt_simple::prelude::{
    ECDSAP256PublicKeyLike, ES256PublicKey, RS256PublicKey, RSAPublicKeyLike,
};
use p256::ecdsa::signature::Verifier as _;
use serde_json::{Map, Value};
use superboring::{hash::MessageDigest, pkey, rsa::Padding, sign};

use crate::json;
use crate::token::algorithm::Algorithm;

/// Most keys that one token is tried with. A token without `kid` may fit many keys, and each try
/// costs as much as a signature; issuers publish two or three.
pub const MAX_TRIES: usize = 8;

/// The keys of one issuer.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    /// How many JWKs of the document were left out: of another kind or use, or broken.
    pub skipped: usize,
}

/// A public key and what it may be used for.
#[derive(Debug)]
pub struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    material: Material,
}

/// Why a JWKS document cannot be used at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwksError {
    /// It is not a JSON object with an array `keys`.
    NotAJwks,
    /// None of its keys can be used.
    NoUsableKey,
}

impl fmt::Display for JwksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAJwks => "the answer is not a JWKS: no JSON object with an array `keys`",
            Self::NoUsableKey => "the JWKS has no key that can be used",
        })
    }
}

impl KeySet {
    /// Reads a JWKS. A JWK that is not understood is skipped (RFC 7517 section 5).
    ///
    /// # Errors
    /// Where there is then no key at all.
    pub fn parse(document: &[u8]) -> Result<Self, JwksError> {
        let document = json::parse_object(document).map_err(|_| JwksError::NotAJwks)?;
        let Some(Value::Array(jwks)) = document.get("keys") else {
            return Err(JwksError::NotAJwks);
        };
        let keys: Vec<Key> =
            jwks.iter().filter_map(Value::as_object).filter_map(Key::parse).collect();
        if keys.is_empty() {
            return Err(JwksError::NoUsableKey);
        }
        Ok(Self { skipped: jwks.len().saturating_sub(keys.len()), keys })
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none, which [`Self::parse`] rules out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that a token with this header may be signed with. Where the token names a key, a
    /// key with another name is none of them.
    pub fn candidates<'a>(
        &'a self,
        algorithm: Algorithm,
        kid: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Key> {
        self.keys
            .iter()
            .filter(move |key| key.algorithm == algorithm)
            .filter(move |key| match (kid, &key.kid) {
                (Some(kid), Some(own)) => kid == own,
                (None, _) | (Some(_), None) => true,
            })
            .take(MAX_TRIES)
    }
}

enum Material {
    Rsa(Box<RS256PublicKey>),
    P256(ES256PublicKey),
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa(_) => "Rsa",
            Self::P256(_) => "P256",
        })
    }
}

impl Key {
    fn parse(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        // RFC 7517 section 4.2 and 4.3: a key that is marked for something else is not for this.
        if jwk.get("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        if let Some(operations) = jwk.get("key_ops")
            && !operations.as_array()?.iter().any(|op| op == "verify")
        {
            return None;
        }
        let kid = match jwk.get("kid") {
            None => None,
            Some(kid) => Some(kid.as_str()?.to_owned()),
        };
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let (algorithm, material) = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                // `jwt-simple` refuses a modulus under 2048 or over 4096 bits, and any exponent
                // but 65537.
                let key = RS256PublicKey::from_components(&bytes("n")?, &bytes("e")?).ok()?;
                (Algorithm::Rs256, Material::Rsa(Box::new(key)))
            }
            ("EC", Some("P-256")) => {
                // RFC 7518 section 6.2.1.2: the length of a coordinate is that of the curve.
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != 32 || y.len() != 32 {
                    return None;
                }
                let point = [&[4][..], &x, &y].concat();
                let key = ES256PublicKey::from_bytes(&point).ok()?;
                (Algorithm::Es256, Material::P256(key))
            }
            (_, _) => return None,
        };
        // RFC 8725 section 3.1: a key is used with one algorithm.
        if jwk.get("alg").is_some_and(|alg| alg != algorithm.name()) {
            return None;
        }
        Some(Self { kid, algorithm, material })
    }

    /// Whether this key made `signature` over `input` with `algorithm`.
    #[must_use]
    pub fn made(&self, algorithm: Algorithm, input: &[u8], signature: &[u8]) -> bool {
        match (algorithm, &self.material) {
            (Algorithm::Rs256, Material::Rsa(key)) => {
                made_by_rsa(key, input, signature).unwrap_or(false)
            }
            (Algorithm::Es256, Material::P256(key)) => {
                p256::ecdsa::Signature::from_slice(signature).is_ok_and(|signature| {
                    key.public_key().as_ref().verify(input, &signature).is_ok()
                })
            }
            (Algorithm::Rs256, Material::P256(_)) | (Algorithm::Es256, Material::Rsa(_)) => false,
        }
    }
}

/// Whether the key made an RSASSA-PKCS1-v1_5 signature with SHA-256; `None` where that cannot be told.
fn made_by_rsa(key: &RS256PublicKey, input: &[u8], signature: &[u8]) -> Option<bool> {
    let key = pkey::PKey::from_rsa(key.public_key().as_ref().clone()).ok()?;
    let mut verifier = sign::Verifier::new(MessageDigest::sha256(), &key).ok()?;
    verifier.set_rsa_padding(Padding::PKCS1).ok()?;
    verifier.update(input).ok()?;
    verifier.verify(signature).ok()
}

#[cfg(test)]
mod tests;
