//! A JWS in its compact form (RFC 7515 section 7.1), taken apart but not believed.

use std::fmt;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::TokenError;
use super::algorithm::Algorithm;
use super::claims::Claims;
use crate::json;

/// A token that could be read. Nothing in it has been verified.
pub struct CompactJws {
    /// The token's text.
    pub text: Rc<[u8]>,
    /// How much of it was signed: header and payload.
    signed: usize,
    /// The algorithm that the header names.
    pub algorithm: Algorithm,
    /// The kind of token that the header names.
    pub typ: Option<String>,
    /// The key that the header names.
    pub kid: Option<String>,
    /// The payload.
    pub claims: Claims,
    /// The signature.
    pub signature: Vec<u8>,
}

impl fmt::Debug for CompactJws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompactJws({}, {} bytes)", self.algorithm, self.text.len())
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
        let optional = |name: &str, why| match header_fields.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(TokenError::Malformed(why)),
        };
        let kid = optional("kid", "its `kid` is not a string")?;
        let typ = optional("typ", "its `typ` is not a string")?;
        let claims = Claims::new(object(&decode(payload)?, "its payload is not a JSON object")?)?;
        let signature = decode(signature)?;
        Ok(Self {
            signed: header.len().saturating_add(1).saturating_add(payload.len()),
            text: text.into(),
            algorithm,
            typ,
            kid,
            claims,
            signature,
        })
    }

    /// What was signed: header and payload as they stood in the token.
    #[must_use]
    pub fn signing_input(&self) -> &[u8] {
        self.text.get(..self.signed).unwrap_or_default()
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
