//! Every way in which a request ends here, and what the client is told. One table.

use std::borrow::Cow;

use serde_json::json;

use crate::account::Who;
use crate::answers::Words;
use crate::answers::body::Values;
use crate::headers::Edit;
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
    /// The token lacks a scope.
    ScopeRequired,
    /// The token lacks a claim that the path asks for.
    ClaimRequired,
    /// The user was authenticated too long ago, or nobody says when.
    AuthenticationTooOld,
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
    /// The service's exit cannot be told of the request.
    PropagationUnavailable,
    /// The path can be read in too many ways.
    PathRefused,
    /// It cannot be told what request another proxy asks about.
    CheckRefused,
    /// What meshgate itself serves on this path is only read.
    MethodNotAllowed,
    /// Too many requests wait already.
    Overloaded,
    /// Envoy did not carry out what was decided. It never should; if it does not, nothing passes.
    InternalError,
}

impl Code {
    /// Every code there is.
    pub const ALL: [Self; 34] = [
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
        Self::ScopeRequired,
        Self::ClaimRequired,
        Self::AuthenticationTooOld,
        Self::UntrustedPeer,
        Self::ServiceRequired,
        Self::ContextMismatch,
        Self::KeysUnavailable,
        Self::IntrospectionUnavailable,
        Self::RevocationUnavailable,
        Self::UserLookupUnavailable,
        Self::ServiceTokenUnavailable,
        Self::PropagationUnavailable,
        Self::PathRefused,
        Self::CheckRefused,
        Self::MethodNotAllowed,
        Self::Overloaded,
        Self::InternalError,
    ];

    #[rustfmt::skip] // a table
    const fn row(self) -> Row {
        use Challenge::{
            InsufficientScope, InvalidRequest, InvalidToken, NoToken, None, OnlyRead, StepUp, TryLater,
        };
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
            Self::TokenAmbiguous => Row("token_ambiguous", 401, InvalidRequest, "the request has two different tokens"),
            Self::UserUnknown => Row("user_unknown", 403, None, "the token is valid, but its user is not known"),
            Self::UserDisabled => Row("user_disabled", 403, None, "the user is not active"),
            Self::RoleRequired => Row("role_required", 403, None, "the user does not have a role that this path requires"),
            Self::PermissionRequired => Row("permission_required", 403, InsufficientScope, "the user does not have a permission that this path requires"),
            Self::ScopeRequired => Row("scope_required", 403, InsufficientScope, "the token does not have a scope that this path requires"),
            Self::ClaimRequired => Row("claim_required", 403, None, "the token does not have a claim that this path requires"),
            Self::AuthenticationTooOld => Row("authentication_too_old", 401, StepUp, "the user must be authenticated anew for this path"),
            Self::UntrustedPeer => Row("untrusted_peer", 403, None, "the caller is not trusted to say what it says"),
            Self::ServiceRequired => Row("service_required", 403, None, "this path is for services that prove who they are"),
            Self::ContextMismatch => Row("context_mismatch", 403, None, "the request speaks for another user than the one that it is made for"),
            Self::KeysUnavailable => Row("keys_unavailable", 503, TryLater, "the issuer's keys cannot be fetched at present"),
            Self::IntrospectionUnavailable => Row("introspection_unavailable", 503, TryLater, "the issuer cannot be asked about the token at present"),
            Self::RevocationUnavailable => Row("revocation_unavailable", 503, TryLater, "it cannot be known at present whether the token is revoked"),
            Self::UserLookupUnavailable => Row("user_lookup_unavailable", 503, TryLater, "the user cannot be looked up at present"),
            Self::ServiceTokenUnavailable => Row("service_token_unavailable", 503, TryLater, "the service's own token cannot be had at present"),
            Self::PropagationUnavailable => Row("propagation_unavailable", 503, TryLater, "it cannot be noted at present whom the request is for"),
            Self::PathRefused => Row("path_refused", 400, None, "the path can be read in too many ways"),
            Self::CheckRefused => Row("check_refused", 403, None, "the request that is asked about cannot be told"),
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

    /// The code of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.name() == name)
    }

    /// The HTTP status of its answer.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.row().1
    }

    /// What its answer says, as far as that is the same for all.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        self.row().3
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
    /// Come with one token. RFC 6750 section 3.1: another one would not help a request that has two, so
    /// the client must not think that its token is at fault. The status is 401 all the same, as Envoy's own filter has it:
    /// which of the two is its own is what is not known.
    InvalidRequest,
    /// Come with a better token.
    InvalidToken,
    /// Come with a token that may do more.
    InsufficientScope,
    /// Come with a token of a fresher authentication (RFC 9470 section 3).
    StepUp,
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
    /// What makes the request's own header say the same, where it does not: every access log shows that.
    pub id_edits: Vec<Edit>,
    /// Whether the client speaks gRPC.
    pub grpc: bool,
    /// What would do, where the challenge can say so.
    pub wanted: Option<Wanted>,
    /// Whom it is about. The client is not told.
    pub who: Who,
}

/// What a token would have to be. It becomes a parameter of the challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Of somebody who signed in at most so many seconds ago (RFC 9470 section 3).
    MaxAge(u64),
    /// Of these scopes, with spaces between them (RFC 6750 section 3). For what a client can ask the issuer for:
    /// the permissions of a user's record are none.
    Scope(String),
}

/// `Retry-After` of an answer for which nothing better is known, in seconds.
const RETRY_AFTER_SECS: &str = "1";

/// A header of an answer.
pub type Header = (Cow<'static, str>, String);

/// An answer, as the shell sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// `grpc-status` (see [`Denial::reply`]) for a client that speaks gRPC.
    pub grpc_status: Option<u8>,
    /// The headers.
    pub headers: Vec<Header>,
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
            id_edits: Vec::new(),
            grpc: false,
            wanted: None,
            who: Who::default(),
        }
    }

    /// The answer: problem details (RFC 9457) or what `words` has instead, or for gRPC a status of 16
    /// (unauthenticated), 7 (permission denied), 14 (unavailable), 3 (invalid argument), 12 (unimplemented)
    /// or 13 (internal) with a message.
    #[must_use]
    pub fn reply(&self, words: &Words) -> Reply {
        let Row(code, status, challenge, explanation) = self.code.row();
        let detail = match self.detail {
            Some(detail) => format!("{explanation}: {detail}"),
            None => explanation.to_owned(),
        };
        let mut headers = vec![("cache-control".into(), "no-store".to_owned())];
        let custom = words.customs.of(self.code).filter(|_| !self.grpc);
        let told = custom.and_then(|custom| custom.status).unwrap_or(status);
        let error = match challenge {
            Challenge::None | Challenge::TryLater | Challenge::OnlyRead => None,
            Challenge::NoToken => Some(None),
            Challenge::InvalidRequest => Some(Some("invalid_request")),
            Challenge::InvalidToken => Some(Some("invalid_token")),
            Challenge::InsufficientScope => Some(Some("insufficient_scope")),
            Challenge::StepUp => Some(Some("insufficient_user_authentication")),
        };
        match (challenge, error) {
            (Challenge::TryLater, _) => {
                headers.push(("retry-after".into(), RETRY_AFTER_SECS.to_owned()));
            }
            (Challenge::OnlyRead, _) => headers.push(("allow".into(), "GET, HEAD".to_owned())),
            // A status that hides why the request is refused is not given away by a challenge.
            (_, Some(error)) if told == status => {
                headers.push(self.challenge(words, error.map(|error| (error, explanation))));
            }
            (_, Some(_) | None) => {}
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
        let body = if let Some(custom) = custom.and_then(|custom| custom.body.as_ref()) {
            let request_id = &self.request_id;
            headers.push(("content-type".into(), custom.content_type.clone()));
            // What is in it is of the type that the operator says, whatever a browser makes of it.
            headers.push(("x-content-type-options".into(), "nosniff".to_owned()));
            custom.content.fill(Values { code, status: told, detail: &detail, request_id })
        } else {
            headers.push(("content-type".into(), "application/problem+json".to_owned()));
            json!({
                "type": format!("{}{code}", words.type_prefix),
                "title": title(told),
                "status": told,
                "code": code,
                "detail": detail,
                "request_id": self.request_id,
            })
            .to_string()
        };
        Reply { status: told, grpc_status: None, headers, body }
    }

    /// A challenge (RFC 6750 section 3). None of our explanations has a quote or a backslash in it, and
    /// neither has anything else here: the realm and the scopes are the config's, which sees to that.
    fn challenge(&self, words: &Words, error: Option<(&str, &str)>) -> Header {
        let error = error.map_or_else(String::new, |(error, description)| {
            format!(", error=\"{error}\", error_description=\"{description}\"")
        });
        let wanted = match &self.wanted {
            None => String::new(),
            Some(Wanted::MaxAge(seconds)) => format!(", max_age=\"{seconds}\""),
            Some(Wanted::Scope(scope)) => format!(", scope=\"{scope}\""),
        };
        let value = format!("Bearer realm=\"{}\"{error}{wanted}", words.realm);
        ("www-authenticate".into(), value)
    }
}

/// The usual words for a status.
const fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ if status < 500 => "Client Error",
        _ => "Server Error",
    }
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
        Denial {
            code,
            detail: None,
            request_id: "r-1".to_owned(),
            id_edits: Vec::new(),
            grpc,
            wanted: None,
            who: Who::default(),
        }
    }

    fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
        let found = reply.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn every_code_has_its_own_name_and_a_fitting_answer() {
        let mut names = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(names.insert(code.name()), "{}", code.name());
            let reply = denial(code, false).reply(&Words::default());
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
        let reply = denial(Code::TokenMissing, false).reply(&Words::default());
        assert_eq!(header(&reply, "www-authenticate"), Some("Bearer realm=\"meshgate\""));
    }

    #[test]
    fn a_challenge_says_what_would_do() {
        for (code, wanted, challenge) in [
            (
                Code::TokenExpired,
                None,
                "Bearer realm=\"api\", error=\"invalid_token\", error_description=\"the token has expired\"",
            ),
            (
                Code::TokenAmbiguous,
                None,
                "Bearer realm=\"api\", error=\"invalid_request\", error_description=\"the request has two different tokens\"",
            ),
            (
                Code::PermissionRequired,
                Some(Wanted::Scope("video:create video:read".to_owned())),
                "Bearer realm=\"api\", error=\"insufficient_scope\", error_description=\"the user does not have a permission that this path requires\", scope=\"video:create video:read\"",
            ),
            (
                Code::TokenExpired,
                Some(Wanted::MaxAge(600)),
                "Bearer realm=\"api\", error=\"invalid_token\", error_description=\"the token has expired\", max_age=\"600\"",
            ),
        ] {
            let words = Words { realm: "api".to_owned(), ..Words::default() };
            let reply = Denial { wanted, ..denial(code, false) }.reply(&words);
            assert_eq!(header(&reply, "www-authenticate"), Some(challenge));
        }
    }

    #[test]
    fn grpc_clients_get_a_grpc_status() {
        for (code, status) in [
            (Code::TokenExpired, 16),
            (Code::RoleRequired, 7),
            (Code::KeysUnavailable, 14),
            (Code::InternalError, 13),
        ] {
            let reply = denial(code, true).reply(&Words::default());
            assert_eq!((reply.status, reply.grpc_status), (200, Some(status)));
            assert!(reply.body.starts_with(code.name()));
        }
    }
}
