//! A JWS in its compact form (RFC 7515 section 7.1), taken apart but not believed.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::TokenError;
use super::algorithm::Algorithm;
use super::claims::Claims;
use crate::json;

/// A token that could be read. Nothing in it has been verified.
pub struct CompactJws {
    /// What was signed: header and payload as they stood in the token.
    pub signing_input: Vec<u8>,
    /// The algorithm that the header names.
    pub algorithm: Algorithm,
    /// The key that the header names.
    pub kid: Option<String>,
    /// The payload.
    pub claims: Claims,
    /// The signature.
    pub signature: Vec<u8>,
}

impl fmt::Debug for CompactJws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompactJws({}, {} bytes)", self.algorithm, self.signing_input.len())
    }
}

impl CompactJws {
    /// Reads the text of a token.
    ///
    /// `jku`, `x5u`, `jwk` and `x5c` in the header are not looked at: keys come from the config
    /// alone (RFC 8725 section 3.10).
    ///
    /// # Errors
    /// [`TokenError::Malformed`] where it is not three parts of strict base64url (no padding, no
    /// line breaks, no trailing bits) holding JSON objects without duplicate names, or has a `crit`;
    /// [`TokenError::AlgorithmNotAllowed`] where its `alg` is none of ours.
    pub fn parse(text: &[u8]) -> Result<Self, TokenError> {
        let mut parts = text.split(|byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed("it is not three parts with dots between them"));
        };
        let header_fields = object(&decode(header)?, "its header is not a JSON object")?;
        let Some(Value::String(alg)) = header_fields.get("alg") else {
            return Err(TokenError::Malformed("its header has no `alg`"));
        };
        let algorithm = Algorithm::named(alg).ok_or(TokenError::AlgorithmNotAllowed)?;
        // RFC 7515 section 4.1.11: if any of the listed extension Header Parameters are not
        // understood and supported by the recipient, then the JWS is invalid. None is.
        if header_fields.contains_key("crit") {
            return Err(TokenError::Malformed("its header has a `crit` that is not supported"));
        }
        let kid = match header_fields.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(TokenError::Malformed("its `kid` is not a string")),
        };
        let claims = Claims::new(object(&decode(payload)?, "its payload is not a JSON object")?)?;
        let signature = decode(signature)?;
        let mut signing_input = Vec::with_capacity(header.len() + 1 + payload.len());
        signing_input.extend_from_slice(header);
        signing_input.push(b'.');
        signing_input.extend_from_slice(payload);
        Ok(Self { signing_input, algorithm, kid, claims, signature })
    }
}

fn decode(part: &[u8]) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenError::Malformed("a part of it is not base64url without padding"))
}

fn object(bytes: &[u8], why: &'static str) -> Result<Map<String, Value>, TokenError> {
    json::parse_object(bytes).map_err(|_| TokenError::Malformed(why))
}
