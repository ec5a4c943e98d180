//! The user lookup: a request out, and what its answer says about the user.

pub mod cache;

use std::rc::Rc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::callout::{Answer, CallRequest, Failure};
use crate::config::{Active, Limits, Lookup};
use crate::json;
use crate::token::ProviderId;
use crate::token::claims::Claims;

/// Who a token speaks of: its provider, since two issuers may use one name for two users, and the
/// value of its key claim.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserKey {
    provider: ProviderId,
    value: String,
}

impl UserKey {
    /// The key for `claims`: the first of the configured claims that is there and is a text.
    #[must_use]
    pub fn of(config: &Lookup, provider: ProviderId, claims: &Claims) -> Option<Self> {
        config
            .key
            .iter()
            .find_map(|name| claims.text(name))
            .filter(|value| !value.is_empty())
            .map(|value| Self { provider, value: value.to_owned() })
    }
}

/// A user's record: a JSON object.
#[derive(Debug, Clone, PartialEq)]
pub struct UserRecord(Map<String, Value>);

impl UserRecord {
    /// The record whose fields are `members`.
    #[must_use]
    pub fn new(members: Map<String, Value>) -> Self {
        Self(members)
    }

    /// Its fields.
    #[must_use]
    pub fn members(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Whether the user may act.
    #[must_use]
    pub fn is_active(&self, active: Option<&Active>) -> bool {
        active.is_none_or(|active| active.field.find(&self.0) == Some(&active.equals))
    }
}

/// What the users service said of a user.
#[derive(Debug, Clone, PartialEq)]
pub enum Known {
    /// This is the record.
    Record(Rc<UserRecord>),
    /// There is no such user.
    Unknown,
}

impl Known {
    /// How long this may be believed.
    #[must_use]
    pub fn lifetime(&self, config: &Lookup) -> Duration {
        match self {
            Self::Record(_) => config.ttl,
            Self::Unknown => config.negative_ttl,
        }
    }
}

/// Why the users service told nothing of a user. For the log; the client learns that it is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupError {
    /// No usable answer came.
    NoAnswer(Failure),
    /// Its status says nothing about the user.
    Status(u16),
    /// Its body is not a JSON object.
    NotARecord,
}

impl LookupError {
    /// Whether the service is down, rather than wrong: then a record from before may stand in.
    #[must_use]
    pub fn is_outage(self) -> bool {
        match self {
            Self::NoAnswer(failure) => failure != Failure::TooLong,
            Self::Status(status) => status >= 500,
            Self::NotARecord => false,
        }
    }
}

/// The call that asks for `key`.
#[must_use]
pub fn lookup_request(config: &Lookup, key: &UserKey, limits: &Limits) -> CallRequest {
    CallRequest::get(
        &config.cluster,
        "http",
        &config.authority,
        config.path.fill(&key.value),
        config.timeout,
        limits.max_user_bytes,
    )
    .with_headers(&config.headers)
}

/// Reads the users service's answer: 200 with a record, 404 (or 410) for a user it does not know,
/// and anything else tells nothing.
///
/// # Errors
/// Where it tells nothing.
pub fn read_answer(answer: &Answer) -> Result<Known, LookupError> {
    match answer {
        Answer::Response { status: 200, body, .. } => json::parse_object(body)
            .map(|members| Known::Record(Rc::new(UserRecord(members))))
            .map_err(|_| LookupError::NotARecord),
        Answer::Response { status: 404 | 410, .. } => Ok(Known::Unknown),
        Answer::Response { status, .. } => Err(LookupError::Status(*status)),
        Answer::Failed(failure) => Err(LookupError::NoAnswer(*failure)),
    }
}
