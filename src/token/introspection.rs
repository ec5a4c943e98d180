//! The issuer asked about a token: a request out, and what its answer says (RFC 7662).

use std::fmt;
use std::rc::Rc;

use serde_json::Value;

use super::ProviderId;
use super::claims::Claims;
use crate::callout::{Answer, CallRequest};
use crate::config::names::form_encoded;
use crate::config::{Introspection, Limits};
use crate::json;

/// A token as a key: it does not print.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct OpaqueToken(pub Rc<[u8]>);

impl fmt::Debug for OpaqueToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpaqueToken({} bytes)", self.0.len())
    }
}

/// A token of which a provider is to be asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// Who is asked.
    pub provider: ProviderId,
    /// About what.
    pub token: OpaqueToken,
}

/// What the issuer said.
#[derive(Debug)]
pub enum Said {
    /// The token is active, and this is what it stands for.
    Active(Claims),
    /// It is not.
    Inactive,
}

/// Its answer cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unclear;

/// The call that asks. `None` where the token cannot be one: it is not visible ASCII
/// (`token` of RFC 6749 appendix A.12).
#[must_use]
pub fn request(
    config: &Introspection,
    token: &OpaqueToken,
    limits: &Limits,
) -> Option<CallRequest> {
    let text = std::str::from_utf8(&token.0).ok()?;
    let form = format!("token={}&token_type_hint=access_token", form_encoded(text));
    Some(CallRequest::form(&config.endpoint, form, limits.max_user_bytes))
}

/// Reads the answer: 200 with `active`.
///
/// # Errors
/// Where it is anything else.
pub fn read_answer(answer: &Answer) -> Result<Said, Unclear> {
    let Answer::Response { status: 200, body, .. } = answer else {
        return Err(Unclear);
    };
    let members = json::parse_object(body).map_err(|_| Unclear)?;
    match members.get("active") {
        Some(Value::Bool(true)) => Claims::new(members).map(Said::Active).map_err(|_| Unclear),
        Some(Value::Bool(false)) => Ok(Said::Inactive),
        Some(_) | None => Err(Unclear),
    }
}
