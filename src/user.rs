//! The user lookup: a request out, and what its answer says about the user.

pub mod cache;
pub mod stored;
pub mod table;

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::callout::{Answer, CallRequest, Failure};
use crate::config::names::JsonPointer;
use crate::config::{Active, Limits, Lookup};
use crate::json;
use crate::token::ProviderId;
use crate::token::claims::Claims;

/// Who a token speaks of: its provider, since two issuers may use one name for two users, its subject,
/// the value of its key claim, and those of the claims that the path of the lookup names. It does not
/// print.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UserKey {
    provider: ProviderId,
    subject: Option<String>,
    value: String,
    claims: Vec<String>,
}

impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserKey")
    }
}

impl UserKey {
    /// The key for the claims of `token`: the first of the configured claims that is there and is a text. None
    /// where no claim names the user, or one that the path needs is not a text.
    #[must_use]
    pub fn of(config: &Lookup, provider: ProviderId, token: &Claims) -> Option<Self> {
        let value = config.key.iter().find_map(|name| token.text(name))?;
        let claims: Vec<String> = config
            .path
            .claims()
            .map(|pointer| pointer.find(token.members())?.as_str().map(str::to_owned))
            .collect::<Option<_>>()?;
        let complete = !value.is_empty() && !claims.iter().any(String::is_empty);
        let subject = token.text("sub").map(str::to_owned);
        complete.then(|| Self { provider, subject, value: value.to_owned(), claims })
    }

    /// Whether it stands in this field of a record, as a text or a number.
    fn is_at(&self, field: &JsonPointer, record: &UserRecord) -> bool {
        match field.find(record.members()) {
            Some(Value::String(text)) => *text == self.value,
            Some(Value::Number(number)) => number.to_string() == self.value,
            Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | None => false,
        }
    }

    /// Whose issuer it is.
    #[must_use]
    pub fn provider(&self) -> ProviderId {
        self.provider
    }

    /// The token's `sub`.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// All that a record depends on: user, issuer and lookup. By this, those who share records know
    /// that they mean the same.
    #[must_use]
    pub fn identity(&self, config: &Lookup, issuer: &str) -> String {
        let Self { provider: _, subject, value, claims } = self;
        json!([issuer, subject, value, claims, config.identity.reveal()]).to_string()
    }

    /// The name of the record in Redis, which people can read: behind the prefix the provider, the key
    /// and the claims. Two users can have one name here, and are told apart by what is stored.
    #[must_use]
    pub fn redis_name(&self, prefix: &str, provider: &str) -> String {
        let name = format!("{prefix}{provider}:{}", self.value);
        self.claims.iter().fold(name, |name, claim| name + ":" + claim)
    }
}

/// A user's record: a JSON object. It does not print.
#[derive(Clone, PartialEq)]
pub struct UserRecord(Map<String, Value>);

impl fmt::Debug for UserRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserRecord({} members)", self.0.len())
    }
}

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
    /// It is the record of somebody else.
    WrongUser,
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(failure) => failure.fmt(f),
            Self::Status(status) => write!(f, "it answered with status {status}"),
            Self::NotARecord => f.write_str("its answer is not a JSON object"),
            Self::WrongUser => f.write_str("its answer is another user's record, by `key_field`"),
        }
    }
}

impl LookupError {
    /// Whether the service is down, rather than wrong: then a record from before may stand in.
    #[must_use]
    pub fn is_outage(self) -> bool {
        match self {
            Self::NoAnswer(failure) => failure != Failure::TooLong,
            Self::Status(status) => status >= 500,
            Self::NotARecord | Self::WrongUser => false,
        }
    }
}

/// The call that asks for `key`.
#[must_use]
pub fn lookup_request(config: &Lookup, key: &UserKey, limits: &Limits) -> CallRequest {
    let request = CallRequest::get(
        &config.cluster,
        "http",
        &config.authority,
        config.path.fill(&key.value, &key.claims),
        config.timeout,
        limits.max_user_bytes,
    );
    match &config.body {
        Some(body) => {
            let body = with_key(body, &key.value).to_string().into_bytes();
            request.post("application/json", body)
        }
        None => request,
    }
    .with_headers(&config.headers)
}

/// `body` with the key in place of `{key}`. It is put into JSON's texts, not into JSON's text, so
/// nothing in it can be taken for JSON.
fn with_key(body: &Value, key: &str) -> Value {
    match body {
        Value::String(text) => Value::String(text.replace("{key}", key)),
        Value::Array(items) => items.iter().map(|item| with_key(item, key)).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, member)| (name.clone(), with_key(member, key)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => body.clone(),
    }
}

/// Reads the users service's answer: 200 with a record, 404 (or 410) for a user it does not know,
/// and anything else tells nothing.
///
/// # Errors
/// Where it tells nothing.
pub fn read_answer(config: &Lookup, key: &UserKey, answer: &Answer) -> Result<Known, LookupError> {
    match answer {
        Answer::Response { status: 200, body, .. } => {
            let document = json::parse(body).map_err(|_| LookupError::NotARecord)?;
            let known = record_in(document, config.record.as_ref())?;
            match (&known, &config.key_field) {
                (Known::Record(record), Some(field)) if !key.is_at(field, record) => {
                    Err(LookupError::WrongUser)
                }
                (Known::Record(_) | Known::Unknown, _) => Ok(known),
            }
        }
        Answer::Response { status: 404 | 410, .. } => Ok(Known::Unknown),
        Answer::Response { status, .. } => Err(LookupError::Status(*status)),
        Answer::Failed(failure) => Err(LookupError::NoAnswer(*failure)),
    }
}

/// The record within an answer. Where the config says where, an answer that has that place but
/// nothing in it knows no such user: an empty array, a `null` of GraphQL's. One with `errors` has
/// nothing to say, whatever else it has.
fn record_in(document: Value, place: Option<&JsonPointer>) -> Result<Known, LookupError> {
    let Some(place) = place else {
        return match document {
            Value::Object(members) => Ok(Known::Record(Rc::new(UserRecord(members)))),
            _ => Err(LookupError::NotARecord),
        };
    };
    if document.get("errors").is_some_and(|errors| !errors.is_null()) {
        return Err(LookupError::NotARecord);
    }
    match place.find_in(&document) {
        Some((_, Some(Value::Object(members)))) => {
            Ok(Known::Record(Rc::new(UserRecord(members.clone()))))
        }
        Some((Value::Object(_) | Value::Array(_), None | Some(Value::Null))) => Ok(Known::Unknown),
        Some((_, _)) | None => Err(LookupError::NotARecord),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_is_found_where_the_config_says() {
        let record = || json!({"id": "u-1"});
        let known = |document: Value, place: Option<&str>| {
            let place = place.map(|text| text.parse().unwrap());
            match record_in(document, place.as_ref()) {
                Ok(Known::Record(found)) => {
                    assert_eq!(Value::Object(found.members().clone()), record());
                    "record"
                }
                Ok(Known::Unknown) => "unknown",
                Err(_) => "nothing",
            }
        };
        for (document, place, told) in [
            (record(), None, "record"),
            (json!([record()]), None, "nothing"),
            (json!([record()]), Some("/0"), "record"),
            (json!([]), Some("/0"), "unknown"),
            (json!({}), Some("/0"), "unknown"),
            (json!({"data": {"user": record()}}), Some("/data/user"), "record"),
            (json!({"data": {"user": null}}), Some("/data/user"), "unknown"),
            (json!({"data": {}}), Some("/data/user"), "unknown"),
            (json!({"data": null}), Some("/data/user"), "nothing"),
            (json!({}), Some("/data/user"), "nothing"),
            (json!({"data": {"user": "x"}}), Some("/data/user"), "nothing"),
            (json!({"data": {"user": null}, "errors": [{}]}), Some("/data/user"), "nothing"),
            (json!("x"), Some("/0"), "nothing"),
            (json!(null), Some("/0"), "nothing"),
        ] {
            assert_eq!(known(document.clone(), place), told, "{document} {place:?}");
        }
    }

    #[test]
    fn a_key_is_put_into_the_texts_of_a_body_whatever_it_holds() {
        let body = json!({"query": "q", "variables": {"ids": ["{key}"], "n": 1}});
        let key = r#"x", "admin": true, "y": "{key}"#;
        let sent = with_key(&body, key);
        assert_eq!(sent, json!({"query": "q", "variables": {"ids": [key], "n": 1}}));
        let again: Value = serde_json::from_str(&sent.to_string()).unwrap();
        assert_eq!(again, sent);
    }
}
