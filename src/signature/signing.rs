//! Signing: the other half of what [`super`] checks, with the same primitives.
//!
//! Both algorithms are deterministic (RFC 8032 section 5.1.6, RFC 6979), so no randomness is wanted.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jwt_simple::prelude::{ECDSAP256KeyPairLike, ES256KeyPair, Ed25519KeyPair, EdDSAKeyPairLike};
use p256::ecdsa::signature::Signer as _;
use serde_json::{Map, Value, json};

use crate::token::algorithm::{Algorithm, Hash};

/// A key that signs.
pub struct SigningKey(Pair);

enum Pair {
    Ed25519(Box<Ed25519KeyPair>),
    P256(Box<ES256KeyPair>),
}

/// Without the key.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.algorithm())
    }
}

/// Why a JWK is no key to sign with. Nothing of the key is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningKeyError {
    /// It is neither an Ed25519 nor a P-256 key.
    Kind,
    /// It is marked for something else.
    Use,
    /// It has no private part.
    Public,
    /// Its parts are no key, or not of one key.
    Broken,
}

impl fmt::Display for SigningKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "is neither an Ed25519 key (`kty: OKP`) nor a P-256 key (`kty: EC`)",
            Self::Use => "is marked for something else by its `use`, `key_ops` or `alg`",
            Self::Public => "has no private part `d`",
            Self::Broken => "has parts that are no key, or not of the same key",
        })
    }
}

impl SigningKey {
    /// Reads a private JWK (RFC 7517, RFC 7518 section 6.2, RFC 8037 section 2).
    ///
    /// # Errors
    /// Where it is none, or none that may sign.
    pub fn from_jwk(jwk: &Map<String, Value>) -> Result<Self, SigningKeyError> {
        use SigningKeyError::{Broken, Kind, Public, Use};
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name).unwrap_or_default());
        // RFC 7517 sections 4.2 and 4.3: a key that is marked for something else is not for this.
        let operations = jwk.get("key_ops").map(Value::as_array);
        let may_sign =
            |all: Option<&Vec<Value>>| all.is_some_and(|all| all.iter().any(|op| op == "sign"));
        if jwk.get("use").is_some_and(|usage| usage != "sig")
            || operations.is_some_and(|all| !may_sign(all))
        {
            return Err(Use);
        }
        let (kty, crv) = (text("kty"), text("crv"));
        if !matches!((kty, crv), (Some("OKP"), Some("Ed25519")) | (Some("EC"), Some("P-256"))) {
            return Err(Kind);
        }
        if text("d").is_none() {
            return Err(Public);
        }
        let (d, x) = (bytes("d").map_err(|_| Broken)?, bytes("x").map_err(|_| Broken)?);
        let key = if kty == Some("OKP") {
            // Seed and public key; that they belong together is checked there.
            let pair = Ed25519KeyPair::from_bytes(&[d, x].concat()).map_err(|_| Broken)?;
            Self(Pair::Ed25519(Box::new(pair)))
        } else {
            let y = bytes("y").map_err(|_| Broken)?;
            let pair = ES256KeyPair::from_bytes(&d).map_err(|_| Broken)?;
            let point = [&[4][..], &x, &y].concat();
            if pair.key_pair().public_key().to_bytes_uncompressed() != point {
                return Err(Broken);
            }
            Self(Pair::P256(Box::new(pair)))
        };
        match jwk.get("alg") {
            Some(alg) if alg.as_str().and_then(Algorithm::named) != Some(key.algorithm()) => {
                Err(Use)
            }
            Some(_) | None => Ok(key),
        }
    }

    /// What it signs with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Pair::Ed25519(_) => Algorithm::EdDsa,
            Pair::P256(_) => Algorithm::Es(Hash::Sha256),
        }
    }

    /// The signature over `input`, as a JWS has it.
    #[must_use]
    pub fn sign(&self, input: &[u8]) -> Vec<u8> {
        match &self.0 {
            Pair::Ed25519(pair) => pair.key_pair().as_ref().sk.sign(input, None).to_vec(),
            Pair::P256(pair) => {
                let signature: p256::ecdsa::Signature = pair.key_pair().as_ref().sign(input);
                signature.to_bytes().to_vec()
            }
        }
    }

    /// The JWK of its public key, under this name.
    #[must_use]
    pub fn public_jwk(&self, kid: &str) -> Value {
        let alg = self.algorithm().name();
        match &self.0 {
            Pair::Ed25519(pair) => {
                let x = URL_SAFE_NO_PAD.encode(pair.public_key().to_bytes());
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "alg": alg, "x": x})
            }
            Pair::P256(pair) => {
                // The point uncompressed: a byte that says so, then its coordinates.
                let point = pair.key_pair().public_key().to_bytes_uncompressed();
                let point = point.get(1..).unwrap_or_default();
                let (x, y) = point.split_at_checked(32).unwrap_or_default();
                let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "alg": alg, "x": x, "y": y})
            }
        }
    }
}
