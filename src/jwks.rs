//! A JWKS document in, a [`KeySet`] out (RFC 7517).

pub mod cache;
pub mod discovery;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::json;
use crate::signature::PublicKey;
use crate::token::algorithm::Algorithm;

/// Most keys that one token is tried with. A token without `kid` may fit many keys, and each try
/// costs as much as a signature; issuers publish two or three.
pub const MAX_TRIES: usize = 8;

/// The keys of one issuer.
pub struct KeySet {
    keys: Vec<Key>,
    /// How many JWKs of the document were left out: of another kind or use, or broken.
    pub skipped: usize,
    document: Box<[u8]>,
}

/// Without the document: one of the config's may hold HMAC keys.
impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({} keys, {} skipped)", self.keys.len(), self.skipped)
    }
}

/// Two sets are the same where their documents are.
impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.document == other.document
    }
}

/// A key and what it may be used for.
#[derive(Debug)]
pub struct Key {
    kid: Option<String>,
    /// The one algorithm that the issuer names for it.
    algorithm: Option<Algorithm>,
    public: PublicKey,
}

/// Where a JWKS comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The config.
    Local,
    /// The network. A symmetric key from there is never a key: whoever can read it can sign with it
    /// (RFC 8725 section 3.1).
    Remote,
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
    pub fn parse(document: &[u8], origin: Origin) -> Result<Self, JwksError> {
        let members = json::parse_object(document).map_err(|_| JwksError::NotAJwks)?;
        let Some(Value::Array(jwks)) = members.get("keys") else {
            return Err(JwksError::NotAJwks);
        };
        let keys: Vec<Key> = jwks
            .iter()
            .filter_map(Value::as_object)
            .filter_map(|jwk| Key::parse(jwk, origin))
            .collect();
        if keys.is_empty() {
            return Err(JwksError::NoUsableKey);
        }
        Ok(Self { skipped: jwks.len().saturating_sub(keys.len()), keys, document: document.into() })
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys, in the order of the document.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// Whether there is none, which [`Self::parse`] rules out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether there is a key of exactly this name.
    #[must_use]
    pub fn names(&self, kid: Option<&str>) -> bool {
        kid.is_some_and(|kid| self.keys.iter().any(|key| key.kid.as_deref() == Some(kid)))
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
            .filter(move |key| key.fits(algorithm))
            .filter(move |key| match (kid, &key.kid) {
                (Some(kid), Some(own)) => kid == own,
                (None, _) | (Some(_), None) => true,
            })
            .take(MAX_TRIES)
    }
}

impl Key {
    fn parse(jwk: &Map<String, Value>, origin: Origin) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        // RFC 7517 sections 4.2 and 4.3: a key that is marked for something else is not for this.
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
        // RFC 8725 section 3.1: where the issuer names the key's algorithm, it is the only one.
        let algorithm = match jwk.get("alg") {
            None => None,
            Some(alg) => Some(Algorithm::named(alg.as_str()?)?),
        };
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let public = match (text("kty")?, origin) {
            ("RSA", _) => PublicKey::rsa(&bytes("n")?, &bytes("e")?)?,
            ("EC", _) => PublicKey::ec(text("crv")?, &bytes("x")?, &bytes("y")?)?,
            ("OKP", _) if text("crv")? == "Ed25519" => PublicKey::ed25519(&bytes("x")?)?,
            ("AKP", _) => {
                let Some(Algorithm::MlDsa(level)) = algorithm else {
                    return None;
                };
                PublicKey::ml_dsa(level, &bytes("pub")?)?
            }
            ("oct", Origin::Local) => PublicKey::hmac(&bytes("k")?)?,
            _ => return None,
        };
        let key = Self { kid, algorithm, public };
        algorithm.is_none_or(|algorithm| key.public.fits(algorithm)).then_some(key)
    }

    /// Whether a token with this `alg` may be signed with this key.
    fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|own| own == algorithm) && self.public.fits(algorithm)
    }

    /// Its name.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The key itself.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }
}

#[cfg(test)]
mod tests;
