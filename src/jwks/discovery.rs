//! An OpenID provider's metadata in, the place of its JWKS out (OpenID Connect Discovery 1.0).

use std::fmt;

use crate::config::names::HttpUri;
use crate::json;

/// Why the metadata does not lead to keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscoveryError {
    /// It is not a JSON object.
    NotMetadata,
    /// It is another issuer's.
    IssuerMismatch,
    /// It has no `jwks_uri` that is an absolute URI.
    NoJwksUri,
}

impl fmt::Display for DiscoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotMetadata => "the answer to discovery is not a JSON object",
            Self::IssuerMismatch => "the metadata's `issuer` is not the provider's `issuer`",
            Self::NoJwksUri => "the metadata has no absolute `jwks_uri`",
        })
    }
}

/// Where the issuer's keys are, by its metadata.
///
/// # Errors
/// Where the metadata is not this issuer's, or does not say.
pub fn jwks_uri(metadata: &[u8], issuer: &str) -> Result<HttpUri, DiscoveryError> {
    let metadata = json::parse_object(metadata).map_err(|_| DiscoveryError::NotMetadata)?;
    // Section 4.3: the issuer value returned MUST be identical to the one the metadata was asked of.
    if metadata.get("issuer").is_none_or(|named| named != issuer) {
        return Err(DiscoveryError::IssuerMismatch);
    }
    metadata
        .get("jwks_uri")
        .and_then(|uri| uri.as_str())
        .and_then(|uri| uri.parse().ok())
        .ok_or(DiscoveryError::NoJwksUri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_must_be_the_issuers_own() {
        let uri = |metadata: &str| {
            jwks_uri(metadata.as_bytes(), "https://idp")
                .map(|uri| uri.authority.as_str().to_owned())
        };
        assert_eq!(
            uri(r#"{"issuer":"https://idp","jwks_uri":"https://keys/x"}"#),
            Ok("keys".into())
        );
        for (metadata, error) in [
            ("[]", DiscoveryError::NotMetadata),
            ("{}", DiscoveryError::IssuerMismatch),
            (
                r#"{"issuer":"https://idp/","jwks_uri":"https://keys/x"}"#,
                DiscoveryError::IssuerMismatch,
            ),
            (r#"{"issuer":"https://idp"}"#, DiscoveryError::NoJwksUri),
            (r#"{"issuer":"https://idp","jwks_uri":"/x"}"#, DiscoveryError::NoJwksUri),
            (r#"{"issuer":"https://idp","jwks_uri":7}"#, DiscoveryError::NoJwksUri),
        ] {
            assert_eq!(uri(metadata), Err(error), "{metadata}");
        }
    }
}
