//! The signature algorithms, by their names in JOSE (RFC 7518 section 3.1, RFC 8037, RFC 8812,
//! RFC 9864, draft-ietf-cose-dilithium).
//!
//! `none` does not exist here, so no token and no config can ask for it.

use std::fmt;
use std::str::FromStr;

use crate::config::names::BadName;

/// A signature algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5.
    Rs(Hash),
    /// RSASSA-PSS, with MGF1 of the same hash and a salt as long as it.
    Ps(Hash),
    /// ECDSA on the NIST curve of the hash's strength: P-256, P-384, P-521.
    Es(Hash),
    /// ECDSA on secp256k1 with SHA-256.
    Es256k,
    /// Ed25519, called `EdDSA` or `Ed25519`.
    EdDsa,
    /// HMAC, for keys of the config alone.
    Hs(Hash),
    /// ML-DSA.
    MlDsa(MlDsa),
}

/// A hash function of the SHA-2 family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// A parameter set of ML-DSA (FIPS 204).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MlDsa {
    /// ML-DSA-44.
    L44,
    /// ML-DSA-65.
    L65,
    /// ML-DSA-87.
    L87,
}

use Hash::{Sha256, Sha384, Sha512};

/// Every algorithm and its `alg`.
const NAMES: [(&str, Algorithm); 18] = [
    ("RS256", Algorithm::Rs(Sha256)),
    ("RS384", Algorithm::Rs(Sha384)),
    ("RS512", Algorithm::Rs(Sha512)),
    ("PS256", Algorithm::Ps(Sha256)),
    ("PS384", Algorithm::Ps(Sha384)),
    ("PS512", Algorithm::Ps(Sha512)),
    ("ES256", Algorithm::Es(Sha256)),
    ("ES384", Algorithm::Es(Sha384)),
    ("ES512", Algorithm::Es(Sha512)),
    ("ES256K", Algorithm::Es256k),
    ("EdDSA", Algorithm::EdDsa),
    ("Ed25519", Algorithm::EdDsa),
    ("HS256", Algorithm::Hs(Sha256)),
    ("HS384", Algorithm::Hs(Sha384)),
    ("HS512", Algorithm::Hs(Sha512)),
    ("ML-DSA-44", Algorithm::MlDsa(MlDsa::L44)),
    ("ML-DSA-65", Algorithm::MlDsa(MlDsa::L65)),
    ("ML-DSA-87", Algorithm::MlDsa(MlDsa::L87)),
];

impl Algorithm {
    /// Every algorithm with a public key: what a provider may use unless it says otherwise.
    #[must_use]
    pub fn asymmetric() -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for (_, algorithm) in NAMES {
            if !matches!(algorithm, Self::Hs(_)) && !all.contains(&algorithm) {
                all.push(algorithm);
            }
        }
        all
    }

    /// Its `alg`.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, algorithm)| *algorithm == self).map_or("", |(name, _)| name)
    }

    /// The algorithm called `name`, which is compared byte for byte (RFC 7515 section 4.1.1).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(own, _)| *own == name).map(|(_, algorithm)| *algorithm)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::named(text).ok_or_else(|| {
            let all: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            BadName(format!("`{text}` is not an algorithm, there are `{}`", all.join("`, `")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_has_a_name_and_every_name_an_algorithm() {
        for (name, algorithm) in NAMES {
            assert_eq!(Algorithm::named(name), Some(algorithm));
            assert_eq!(Algorithm::named(algorithm.name()), Some(algorithm), "{name}");
        }
        for name in ["none", "None", "", "rs256", "RS256 ", "HS1", "RSA-OAEP"] {
            assert_eq!(Algorithm::named(name), None);
        }
    }
}
