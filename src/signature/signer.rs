//! Keys that sign: Ed25519 and P-256.
//!
//! As for checking, the key types are `jwt-simple`'s and the signatures those of the implementations
//! beneath. Both algorithms are deterministic there (RFC 8032; RFC 6979), so signing needs no randomness.

use std::fmt;

use jwt_simple::prelude::{
    ECDSAP256KeyPairLike as _, ES256KeyPair, Ed25519KeyPair, EdDSAKeyPairLike as _,
};
use p256::ecdsa::signature::Signer as _;

/// A private key, and the one algorithm it signs with.
pub struct Signer(Material);

enum Material {
    Ed25519(Box<Ed25519KeyPair>),
    P256(Box<ES256KeyPair>),
}

/// Without the key.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.algorithm())
    }
}

impl Signer {
    /// The private key that a JWK is (RFC 8037 section 2 with `crv` Ed25519, RFC 7518 section 6.2 with P-256).
    /// `None` where it is none, or its public half is another key's.
    #[must_use]
    pub fn from_jwk(jwk: &str) -> Option<Self> {
        let ed25519 = || Ed25519KeyPair::from_jwk(jwk).ok().map(Box::new).map(Material::Ed25519);
        let p256 = || ES256KeyPair::from_jwk(jwk).ok().map(Box::new).map(Material::P256);
        ed25519().or_else(p256).map(Self)
    }

    /// Its name in a JWS's `alg`.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self.0 {
            Material::Ed25519(_) => "EdDSA",
            Material::P256(_) => "ES256",
        }
    }

    /// The `kid` that the JWK has.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        match &self.0 {
            Material::Ed25519(key) => key.key_id().as_deref(),
            Material::P256(key) => key.key_id().as_deref(),
        }
    }

    /// The signature over `input`, as a JWS has it (RFC 7518 section 3.4, RFC 8037 section 3.1).
    #[must_use]
    pub fn sign(&self, input: &[u8]) -> Vec<u8> {
        match &self.0 {
            Material::Ed25519(key) => key.key_pair().as_ref().sk.sign(input, None).to_vec(),
            Material::P256(key) => {
                let signature: p256::ecdsa::Signature = key.key_pair().as_ref().sign(input);
                signature.to_bytes().to_vec()
            }
        }
    }
}
