//! Whether a key made a signature.
//!
//! RSASSA-PKCS1-v1_5 and ECDSA on the NIST curves are checked by Envoy's own BoringSSL, where the
//! host has the foreign function `verify_signature` and passed a test of it; everything else, and
//! everything on other hosts, in this module. Both ways give the same verdict.
//!
//! In this module the primitives are `jwt-simple`'s own: its key types read and judge RSA and Ed25519 keys,
//! and the implementations beneath them (`superboring`, the RustCrypto curves) check the signature. Its
//! `verify_token` is not used, since it brings a second reading of header and claims with it, and a
//! token must have one reading whoever checks its signature.

mod known_answers;
pub mod signing;

use std::fmt;

use jwt_simple::prelude::{
    Ed25519PublicKey, EdDSAPublicKeyLike, HS256Key, HS384Key, HS512Key, MACLike, RS256PublicKey,
    RSAPublicKeyLike,
};
use p256::ecdsa::signature::Verifier as _;
use p256::elliptic_curve::point::AffineCoordinates;
use p256::elliptic_curve::{self, AffinePoint, CurveArithmetic, FieldBytes};
use p256::pkcs8::EncodePublicKey;
use superboring::hash::MessageDigest;
use superboring::mldsa::{self, MlDsaPublicKey};
use superboring::pkey::{PKey, Public};
use superboring::rsa::Padding;
use superboring::sign;

use crate::token::algorithm::{Algorithm, Hash, MlDsa};

/// What Envoy's `verify_signature` offers.
pub trait Host {
    /// Whether `key` (a DER `SubjectPublicKeyInfo`) made `signature` (for ECDSA in DER) over `text`,
    /// hashed by `hash` (`sha256`, ...). `false` too where the host cannot tell.
    fn verify_signature(&self, hash: &str, key: &[u8], signature: &[u8], text: &[u8]) -> bool;
}

/// Who checks the signatures that both could.
pub enum Crypto {
    /// The host.
    Host(Box<dyn Host>),
    /// This module.
    Module,
}

impl fmt::Debug for Crypto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a config says about that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// The host where it can, else this module.
    Auto,
    /// The host, or the config is refused.
    Host,
    /// This module.
    Module,
}

/// The host was asked for, and does not know a good signature from a bad one.
#[derive(Debug, PartialEq, Eq)]
pub struct HostUnfit;

impl fmt::Display for HostUnfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "crypto: `host` needs an Envoy with the foreign function `verify_signature`, write `auto` or `module`",
        )
    }
}

impl Crypto {
    /// Chooses once, by a test of the host with answers that are known.
    ///
    /// # Errors
    /// Where the config wants the host and it fails the test.
    pub fn choose(preference: Preference, host: Box<dyn Host>) -> Result<Self, HostUnfit> {
        match preference {
            Preference::Auto | Preference::Host if known_answers::are_given_by(&*host) => {
                Ok(Self::Host(host))
            }
            Preference::Auto | Preference::Module => Ok(Self::Module),
            Preference::Host => Err(HostUnfit),
        }
    }

    /// Its name in the log.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Host(_) => "host",
            Self::Module => "module",
        }
    }

    /// Whether the host checks signatures of this algorithm.
    #[must_use]
    pub fn is_hosts(&self, algorithm: Algorithm) -> bool {
        matches!((self, algorithm), (Self::Host(_), Algorithm::Rs(_) | Algorithm::Es(_)))
    }

    /// Whether `key` made `signature` over `input` with `algorithm`. A key of another kind did not.
    #[must_use]
    pub fn verify(
        &self,
        key: &PublicKey,
        algorithm: Algorithm,
        input: &[u8],
        signature: &[u8],
    ) -> bool {
        match (self, algorithm) {
            (Self::Host(host), Algorithm::Rs(hash) | Algorithm::Es(hash)) => {
                key.for_host(algorithm, signature).is_some_and(|(spki, signature)| {
                    host.verify_signature(host_name(hash), spki, &signature, input)
                })
            }
            (Self::Host(_) | Self::Module, _) => {
                key.made(algorithm, input, signature).unwrap_or(false)
            }
        }
    }
}

/// The name of a hash function in BoringSSL's words.
fn host_name(hash: Hash) -> &'static str {
    match hash {
        Hash::Sha256 => "sha256",
        Hash::Sha384 => "sha384",
        Hash::Sha512 => "sha512",
    }
}

/// A key that signatures are checked with, and its DER form for the host where that may be asked.
pub struct PublicKey {
    material: Material,
    spki: Vec<u8>,
}

enum Material {
    Rsa(Box<PKey<Public>>),
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    P521(Box<p521::ecdsa::VerifyingKey>),
    K256(k256::ecdsa::VerifyingKey),
    Ed25519(Ed25519PublicKey),
    MlDsa(MlDsa, Box<MlDsaPublicKey>),
    Hmac(Vec<u8>),
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.material {
            Material::Rsa(_) => "Rsa",
            Material::P256(_) => "P256",
            Material::P384(_) => "P384",
            Material::P521(_) => "P521",
            Material::K256(_) => "K256",
            Material::Ed25519(_) => "Ed25519",
            Material::MlDsa(..) => "MlDsa",
            Material::Hmac(_) => "Hmac",
        })
    }
}

/// Shortest HMAC key, in bytes, for each hash: its own length (RFC 7518 section 3.2).
const fn shortest_hmac_key(hash: Hash) -> usize {
    match hash {
        Hash::Sha256 => 32,
        Hash::Sha384 => 48,
        Hash::Sha512 => 64,
    }
}

impl PublicKey {
    /// An RSA key. `jwt-simple` refuses a modulus under 2048 bits (RFC 7518 section 3.3) or over
    /// 4096, and any exponent but 65537.
    #[must_use]
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let key = RS256PublicKey::from_components(modulus, exponent).ok()?;
        Some(Self {
            spki: key.to_der().ok()?,
            material: Material::Rsa(Box::new(
                PKey::from_rsa(key.public_key().as_ref().clone()).ok()?,
            )),
        })
    }

    /// A key on the curve called `crv`, by the coordinates of its point.
    #[must_use]
    pub fn ec(crv: &str, x: &[u8], y: &[u8]) -> Option<Self> {
        let (material, spki) = match crv {
            "P-256" => {
                let key: p256::PublicKey = ec_key(x, y)?;
                (Material::P256(key.into()), spki(&key)?)
            }
            "P-384" => {
                let key: p384::PublicKey = ec_key(x, y)?;
                (Material::P384(key.into()), spki(&key)?)
            }
            "P-521" => {
                let key: p521::PublicKey = ec_key(x, y)?;
                (Material::P521(Box::new(key.into())), spki(&key)?)
            }
            "secp256k1" => {
                let key: k256::PublicKey = ec_key(x, y)?;
                (Material::K256(key.into()), Vec::new())
            }
            _ => return None,
        };
        Some(Self { material, spki })
    }

    /// An Ed25519 key.
    #[must_use]
    pub fn ed25519(key: &[u8]) -> Option<Self> {
        let key = Ed25519PublicKey::from_bytes(key).ok()?;
        Some(Self { material: Material::Ed25519(key), spki: Vec::new() })
    }

    /// An ML-DSA key.
    #[must_use]
    pub fn ml_dsa(level: MlDsa, key: &[u8]) -> Option<Self> {
        let algorithm = match level {
            MlDsa::L44 => mldsa::Algorithm::MlDsa44,
            MlDsa::L65 => mldsa::Algorithm::MlDsa65,
            MlDsa::L87 => mldsa::Algorithm::MlDsa87,
        };
        let key = MlDsaPublicKey::from_slice(algorithm, key).ok()?;
        Some(Self { material: Material::MlDsa(level, Box::new(key)), spki: Vec::new() })
    }

    /// An HMAC key.
    #[must_use]
    pub fn hmac(key: &[u8]) -> Option<Self> {
        (key.len() >= shortest_hmac_key(Hash::Sha256))
            .then(|| Self { material: Material::Hmac(key.to_vec()), spki: Vec::new() })
    }

    /// Whether signatures of `algorithm` can be made with such a key.
    #[must_use]
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        match (&self.material, algorithm) {
            (Material::Rsa(_), Algorithm::Rs(_) | Algorithm::Ps(_))
            | (Material::P256(_), Algorithm::Es(Hash::Sha256))
            | (Material::P384(_), Algorithm::Es(Hash::Sha384))
            | (Material::P521(_), Algorithm::Es(Hash::Sha512))
            | (Material::K256(_), Algorithm::Es256k)
            | (Material::Ed25519(_), Algorithm::EdDsa) => true,
            (Material::MlDsa(own, _), Algorithm::MlDsa(level)) => *own == level,
            (Material::Hmac(key), Algorithm::Hs(hash)) => key.len() >= shortest_hmac_key(hash),
            (
                _,
                Algorithm::Rs(_)
                | Algorithm::Ps(_)
                | Algorithm::Es(_)
                | Algorithm::Es256k
                | Algorithm::EdDsa
                | Algorithm::Hs(_)
                | Algorithm::MlDsa(_),
            ) => false,
        }
    }

    /// This key and `signature` as the host wants them. An ECDSA signature with `r` or `s` out of
    /// range is none.
    fn for_host(&self, algorithm: Algorithm, signature: &[u8]) -> Option<(&[u8], Vec<u8>)> {
        let signature = match (&self.material, algorithm) {
            (Material::Rsa(_), Algorithm::Rs(_)) => signature.to_vec(),
            (Material::P256(_), Algorithm::Es(Hash::Sha256)) => {
                p256::ecdsa::Signature::from_slice(signature).ok()?.to_der().as_bytes().to_vec()
            }
            (Material::P384(_), Algorithm::Es(Hash::Sha384)) => {
                p384::ecdsa::Signature::from_slice(signature).ok()?.to_der().as_bytes().to_vec()
            }
            (Material::P521(_), Algorithm::Es(Hash::Sha512)) => {
                p521::ecdsa::Signature::from_slice(signature).ok()?.to_der().as_bytes().to_vec()
            }
            (_, _) => return None,
        };
        Some((&self.spki, signature))
    }

    /// The check in this module; `None` where the key is of another kind or the signature no
    /// signature at all.
    fn made(&self, algorithm: Algorithm, input: &[u8], signature: &[u8]) -> Option<bool> {
        match (&self.material, algorithm) {
            (Material::Rsa(key), Algorithm::Rs(hash)) => {
                made_by_rsa(key, hash, Padding::PKCS1, input, signature)
            }
            (Material::Rsa(key), Algorithm::Ps(hash)) => {
                made_by_rsa(key, hash, Padding::PKCS1_PSS, input, signature)
            }
            (Material::P256(key), Algorithm::Es(Hash::Sha256)) => {
                let signature = p256::ecdsa::Signature::from_slice(signature).ok()?;
                Some(key.verify(input, &signature).is_ok())
            }
            (Material::P384(key), Algorithm::Es(Hash::Sha384)) => {
                let signature = p384::ecdsa::Signature::from_slice(signature).ok()?;
                Some(key.verify(input, &signature).is_ok())
            }
            (Material::P521(key), Algorithm::Es(Hash::Sha512)) => {
                let signature = p521::ecdsa::Signature::from_slice(signature).ok()?;
                Some(key.verify(input, &signature).is_ok())
            }
            (Material::K256(key), Algorithm::Es256k) => {
                let signature = k256::ecdsa::Signature::from_slice(signature).ok()?;
                // Unlike the NIST curves' code, this one takes a high `s` only after the caller
                // made it low; RFC 8812 section 3.2 leaves both valid.
                let signature = signature.normalize_s();
                Some(key.verify(input, &signature).is_ok())
            }
            (Material::Ed25519(key), Algorithm::EdDsa) => {
                let signature = ed25519_compact::Signature::from_slice(signature).ok()?;
                Some(key.public_key().as_ref().verify(input, &signature).is_ok())
            }
            (Material::MlDsa(own, key), Algorithm::MlDsa(level)) if *own == level => {
                Some(key.verify(input, signature).is_ok())
            }
            (Material::Hmac(key), Algorithm::Hs(hash)) => {
                let tag = match hash {
                    Hash::Sha256 => HS256Key::from_bytes(key).authentication_tag(input),
                    Hash::Sha384 => HS384Key::from_bytes(key).authentication_tag(input),
                    Hash::Sha512 => HS512Key::from_bytes(key).authentication_tag(input),
                };
                Some(ct_codecs::verify(&tag, signature))
            }
            (_, _) => None,
        }
    }
}

/// The key with these coordinates, where that is a point on the curve. Not read as the encoding of a point
/// would be: that may have one coordinate alone, and what finds the other is much code for nothing.
fn ec_key<C>(x: &[u8], y: &[u8]) -> Option<elliptic_curve::PublicKey<C>>
where
    C: CurveArithmetic,
    AffinePoint<C>: AffineCoordinates<FieldRepr = FieldBytes<C>>,
{
    // RFC 7518 section 6.2.1.2: the length of a coordinate is that of the curve.
    let (x, y) = (FieldBytes::<C>::try_from(x).ok()?, FieldBytes::<C>::try_from(y).ok()?);
    let point = AffinePoint::<C>::from_coordinates(&x, &y).into_option()?;
    elliptic_curve::PublicKey::from_affine(point).ok()
}

fn spki(key: &impl EncodePublicKey) -> Option<Vec<u8>> {
    Some(key.to_public_key_der().ok()?.into_vec())
}

fn made_by_rsa(
    key: &PKey<Public>,
    hash: Hash,
    padding: Padding,
    input: &[u8],
    signature: &[u8],
) -> Option<bool> {
    let digest = match hash {
        Hash::Sha256 => MessageDigest::sha256(),
        Hash::Sha384 => MessageDigest::sha384(),
        Hash::Sha512 => MessageDigest::sha512(),
    };
    let mut verifier = sign::Verifier::new(digest, key).ok()?;
    verifier.set_rsa_padding(padding).ok()?;
    verifier.update(input).ok()?;
    verifier.verify(signature).ok()
}

#[cfg(test)]
mod tests;
