//! Every way in which a request ends here, and what the client is told. One table.

use serde_json::json;

use crate::account::Who;
use crate::token::TokenError;

/// Why a request is refused. The name is the `code` of the answer, the metric's label, and what
/// `docs` and runbooks speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// A user is required and there is no token.
    TokenMissing,
    /// The token cannot be read.
    TokenMalformed,
    /// The token's `alg` may not be used with its provider.
    AlgorithmNotAllowed,
    /// The issuer publishes no such key.
    KeyUnknown,
    /// The signature is not the issuer's.
    SignatureInvalid,
    /// No provider has this `iss`.
    IssuerUnknown,
    /// `aud` does not name us.
    AudienceMismatch,
    /// `azp` is not one of the authorized parties.
    AuthorizedPartyMismatch,
    /// A claim has not the value that is asked for.
    ClaimMismatch,
    /// `exp` is past.
    TokenExpired,
    /// `nbf` or `iat` is to come.
    TokenNotYetValid,
    /// The token is revoked, or its issuer says that it is not active.
    TokenRevoked,
    /// Two different tokens.
    TokenAmbiguous,
    /// The users service knows no such user.
    UserUnknown,
    /// The user may not act.
    UserDisabled,
    /// The user has none of the roles.
    RoleRequired,
    /// The user lacks a permission.
    PermissionRequired,
    /// The hop is not who it says it is, or may not say what it says.
    UntrustedPeer,
    /// A service must have proved who it is.
    ServiceRequired,
    /// The service speaks for another user than it was asked by.
    ContextMismatch,
    /// The issuer's keys cannot be had.
    KeysUnavailable,
    /// The issuer cannot be asked about the token.
    IntrospectionUnavailable,
    /// What is revoked cannot be known.
    RevocationUnavailable,
    /// The users service cannot be asked, or makes no sense.
    UserLookupUnavailable,
    /// The service's own token cannot be had.
    ServiceTokenUnavailable,
    /// The path can be read in too many ways.
    PathRefused,
    /// What meshgate itself serves on this path is only read.
    MethodNotAllowed,
    /// Too many requests wait already.
    Overloaded,
    /// Envoy did not carry out what was decided. It never should; if it does not, nothing passes.
    InternalError,
}

impl Code {
    /// Every code there is.
    pub const ALL: [Self; 29] = [
        Self::TokenMissing,
        Self::TokenMalformed,
        Self::AlgorithmNotAllowed,
        Self::KeyUnknown,
        Self::SignatureInvalid,
        Self::IssuerUnknown,
        Self::AudienceMismatch,
        Self::AuthorizedPartyMismatch,
        Self::ClaimMismatch,
        Self::TokenExpired,
        Self::TokenNotYetValid,
        Self::TokenRevoked,
        Self::TokenAmbiguous,
        Self::UserUnknown,
        Self::UserDisabled,
        Self::RoleRequired,
        Self::PermissionRequired,
        Self::UntrustedPeer,
        Self::ServiceRequired,
        Self::ContextMismatch,
        Self::KeysUnavailable,
        Self::IntrospectionUnavailable,
        Self::RevocationUnavailable,
        Self::UserLookupUnavailable,
        Self::ServiceTokenUnavailable,
        Self::PathRefused,
        Self::MethodNotAllowed,
        Self::Overloaded,
        Self::InternalError,
    ];

    #[rustfmt::skip] // a table
    const fn row(self) -> Row {
        use Challenge::{InsufficientScope, InvalidToken, NoToken, None, OnlyRead, TryLater};
        match self {
            Self::TokenMissing => Row("token_missing", 401, NoToken, "this path requires a bearer token"),
            Self::TokenMalformed => Row("token_malformed", 401, InvalidToken, "the token cannot be read"),
            Self::AlgorithmNotAllowed => Row("algorithm_not_allowed", 401, InvalidToken, "the token's algorithm is not accepted"),
            Self::KeyUnknown => Row("key_unknown", 401, InvalidToken, "the token names a key that its issuer does not publish"),
            Self::SignatureInvalid => Row("signature_invalid", 401, InvalidToken, "the token's signature is not valid"),
            Self::IssuerUnknown => Row("issuer_unknown", 401, InvalidToken, "the token's issuer is not accepted"),
            Self::AudienceMismatch => Row("audience_mismatch", 401, InvalidToken, "the token is meant for another audience"),
            Self::AuthorizedPartyMismatch => Row("authorized_party_mismatch", 401, InvalidToken, "the token was issued to a party that is not accepted"),
            Self::ClaimMismatch => Row("claim_mismatch", 401, InvalidToken, "the token lacks a claim that is asked for, or has another value there"),
            Self::TokenExpired => Row("token_expired", 401, InvalidToken, "the token has expired"),
            Self::TokenNotYetValid => Row("token_not_yet_valid", 401, InvalidToken, "the token is not valid yet"),
            Self::TokenRevoked => Row("token_revoked", 401, InvalidToken, "the token is not active any more"),
            Self::TokenAmbiguous => Row("token_ambiguous", 401, InvalidToken, "the request has two different tokens"),
            Self::UserUnknown => Row("user_unknown", 403, None, "the token is valid, but its user is not known"),
            Self::UserDisabled => Row("user_disabled", 403, None, "the user is not active"),
            Self::RoleRequired => Row("role_required", 403, None, "the user does not have a role that this path requires"),
            Self::PermissionRequired => Row("permission_required", 403, InsufficientScope, "the user does not have a permission that this path requires"),
            Self::UntrustedPeer => Row("untrusted_peer", 403, None, "the caller is not trusted to say what it says"),
            Self::ServiceRequired => Row("service_required", 403, None, "this path is for services that prove who they are"),
            Self::ContextMismatch => Row("context_mismatch", 403, None, "the request speaks for another user than the one that it is made for"),
            Self::KeysUnavailable => Row("keys_unavailable", 503, TryLater, "the issuer's keys cannot be fetched at present"),
            Self::IntrospectionUnavailable => Row("introspection_unavailable", 503, TryLater, "the issuer cannot be asked about the token at present"),
            Self::RevocationUnavailable => Row("revocation_unavailable", 503, TryLater, "it cannot be known at present whether the token is revoked"),
            Self::UserLookupUnavailable => Row("user_lookup_unavailable", 503, TryLater, "the user cannot be looked up at present"),
            Self::ServiceTokenUnavailable => Row("service_token_unavailable", 503, TryLater, "the service's own token cannot be had at present"),
            Self::PathRefused => Row("path_refused", 400, None, "the path can be read in too many ways"),
            Self::MethodNotAllowed => Row("method_not_allowed", 405, OnlyRead, "this path is only read"),
            Self::Overloaded => Row("overloaded", 503, TryLater, "too many requests are waiting"),
            Self::InternalError => Row("internal_error", 500, None, "the request could not be processed"),
        }
    }

    /// Its name, in the answer's `code`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status of its answer.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.row().1
    }
}

/// Name, status, what the headers add, and the explanation.
struct Row(&'static str, u16, Challenge, &'static str);

/// What the answer's headers say about trying again (RFC 6750 section 3, RFC 9110 section 10.2.3).
#[derive(Clone, Copy)]
enum Challenge {
    /// Nothing: another token would not help.
    None,
    /// Come with a token. RFC 6750 section 3.1: without one, no error code is given.
    NoToken,
    /// Come with a better token.
    InvalidToken,
    /// Come with a token that may do more.
    InsufficientScope,
    /// Come again later.
    TryLater,
    /// Come with `GET` or `HEAD` (RFC 9110 section 15.5.6).
    OnlyRead,
}

/// The end of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub code: Code,
    /// What exactly, where there is more to say than the code does. Never text of the request's.
    pub detail: Option<&'static str>,
    /// The request's id, by which the client and the log speak of it.
    pub request_id: String,
    /// Whether the client speaks gRPC.
    pub grpc: bool,
    /// Whom it is about. The client is not told.
    pub who: Who,
}

/// `Retry-After` of an answer for which nothing better is known, in seconds.
const RETRY_AFTER_SECS: &str = "1";

/// An answer, as the shell sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// `grpc-status` (see [`Denial::reply`]) for a client that speaks gRPC.
    pub grpc_status: Option<u8>,
    /// The headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body; for gRPC the `grpc-message`.
    pub body: String,
}

impl Denial {
    /// The end of a request of which nothing is known.
    #[must_use]
    pub fn internal() -> Self {
        Self {
            code: Code::InternalError,
            detail: None,
            request_id: String::new(),
            grpc: false,
            who: Who::default(),
        }
    }

    /// The answer: problem details (RFC 9457), or for gRPC a status of 16 (unauthenticated),
    /// 7 (permission denied), 14 (unavailable), 3 (invalid argument), 12 (unimplemented) or 13 (internal)
    /// with a message.
    #[must_use]
    pub fn reply(&self) -> Reply {
        let Row(code, status, challenge, explanation) = self.code.row();
        let detail = match self.detail {
            Some(detail) => format!("{explanation}: {detail}"),
            None => explanation.to_owned(),
        };
        let mut headers = vec![("cache-control", "no-store".to_owned())];
        match challenge {
            Challenge::None => {}
            Challenge::NoToken => {
                headers.push(("www-authenticate", "Bearer realm=\"meshgate\"".to_owned()));
            }
            Challenge::InvalidToken => {
                headers.push(("www-authenticate", bearer("invalid_token", explanation)));
            }
            Challenge::InsufficientScope => {
                headers.push(("www-authenticate", bearer("insufficient_scope", explanation)));
            }
            Challenge::TryLater => headers.push(("retry-after", RETRY_AFTER_SECS.to_owned())),
            Challenge::OnlyRead => headers.push(("allow", "GET, HEAD".to_owned())),
        }
        if self.grpc {
            return Reply {
                status: 200,
                grpc_status: Some(match status {
                    400 => 3,
                    401 => 16,
                    403 => 7,
                    405 => 12,
                    500 => 13,
                    _ => 14,
                }),
                headers,
                body: format!("{code}: {detail}"),
            };
        }
        headers.push(("content-type", "application/problem+json".to_owned()));
        let title = match status {
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            405 => "Method Not Allowed",
            500 => "Internal Server Error",
            _ => "Service Unavailable",
        };
        Reply {
            status,
            grpc_status: None,
            headers,
            body: json!({
                "type": format!("urn:meshgate:error:{code}"),
                "title": title,
                "status": status,
                "code": code,
                "detail": detail,
                "request_id": self.request_id,
            })
            .to_string(),
        }
    }
}

/// A challenge with an error. None of our explanations has a quote or a backslash in it.
fn bearer(error: &str, description: &str) -> String {
    format!("Bearer realm=\"meshgate\", error=\"{error}\", error_description=\"{description}\"")
}

impl From<TokenError> for Code {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Malformed(_) => Self::TokenMalformed,
            TokenError::AlgorithmNotAllowed => Self::AlgorithmNotAllowed,
            TokenError::KeyUnknown => Self::KeyUnknown,
            TokenError::SignatureInvalid => Self::SignatureInvalid,
            TokenError::IssuerUnknown => Self::IssuerUnknown,
            TokenError::AudienceMismatch => Self::AudienceMismatch,
            TokenError::AuthorizedPartyMismatch => Self::AuthorizedPartyMismatch,
            TokenError::ClaimMismatch => Self::ClaimMismatch,
            TokenError::Inactive => Self::TokenRevoked,
            TokenError::Expired => Self::TokenExpired,
            TokenError::NotYetValid => Self::TokenNotYetValid,
            TokenError::Ambiguous => Self::TokenAmbiguous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn denial(code: Code, grpc: bool) -> Denial {
        Denial { code, detail: None, request_id: "r-1".to_owned(), grpc, who: Who::default() }
    }

    fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
        let found = reply.headers.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn every_code_has_its_own_name_and_a_fitting_answer() {
        let mut names = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(names.insert(code.name()), "{}", code.name());
            let reply = denial(code, false).reply();
            let body: Value = serde_json::from_str(&reply.body).unwrap();
            assert_eq!(body["code"], code.name());
            assert_eq!(body["status"], reply.status);
            assert_eq!(body["request_id"], "r-1");
            let challenge = header(&reply, "www-authenticate");
            match reply.status {
                401 => assert!(challenge.is_some(), "{}", code.name()),
                403 => assert!(header(&reply, "retry-after").is_none()),
                503 => assert!(header(&reply, "retry-after").is_some()),
                500 => assert_eq!(code, Code::InternalError),
                400 => assert_eq!(code, Code::PathRefused),
                405 => assert_eq!(header(&reply, "allow"), Some("GET, HEAD")),
                other => panic!("{} has status {other}", code.name()),
            }
            assert!(challenge.unwrap_or_default().chars().filter(|c| *c == '"').count() % 2 == 0);
        }
    }

    #[test]
    fn a_missing_token_is_challenged_without_an_error_code() {
        let reply = denial(Code::TokenMissing, false).reply();
        assert_eq!(header(&reply, "www-authenticate"), Some("Bearer realm=\"meshgate\""));
    }

    #[test]
    fn grpc_clients_get_a_grpc_status() {
        for (code, status) in [
            (Code::TokenExpired, 16),
            (Code::RoleRequired, 7),
            (Code::KeysUnavailable, 14),
            (Code::InternalError, 13),
        ] {
            let reply = denial(code, true).reply();
            assert_eq!((reply.status, reply.grpc_status), (200, Some(status)));
            assert!(reply.body.starts_with(code.name()));
        }
    }
}
