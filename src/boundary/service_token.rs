//! A service's own tokens, by which it shows others who it is: fetched by client credentials (RFC 6749
//! section 4.4), or signed here.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::callout::{Answer, CallRequest, Failure};
use crate::config::{ClientCredentials, Limits, OwnToken, Secret, Signing};
use crate::headers::Edit;
use crate::json;
use crate::time::UnixTime;

/// One of the config's `service_tokens`, by its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServiceTokenId(usize);

impl ServiceTokenId {
    /// The ids of so many.
    pub fn all(count: usize) -> impl Iterator<Item = Self> {
        (0..count).map(Self)
    }

    /// The token of this name, and its id.
    #[must_use]
    pub fn named<'a>(tokens: &'a [OwnToken], name: &str) -> Option<(Self, &'a OwnToken)> {
        let place = tokens.iter().position(|token| token.name == name)?;
        Some((Self(place), tokens.get(place)?))
    }

    /// What belongs to it in a list that has one for each.
    pub fn pick<T>(self, list: &[T]) -> Option<&T> {
        list.get(self.0)
    }

    /// The same, to be changed.
    pub fn pick_mut<T>(self, list: &mut [T]) -> Option<&mut T> {
        list.get_mut(self.0)
    }
}

/// How long before its end a token is not shown any more: the request is on its way for a while, and
/// clocks differ.
const MARGIN: Duration = Duration::from_secs(5);
/// Longest time a fetched token is used, whatever its issuer says.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// What may stand around the token in an answer, in bytes.
const MAX_AROUND_TOKEN: usize = 8 * 1024;

/// A token, and how long it is good. It never prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    token: Secret,
    /// Another one is wanted from then on.
    renew: UnixTime,
    /// It is shown until then.
    ends: UnixTime,
}

impl Held {
    fn new(token: String, from: UnixTime, life: Duration) -> Self {
        let ends = from.after(life).before(MARGIN);
        let renew = from.after(life.mul_f64(0.8)).min(ends);
        Self { token: Secret::new(token), renew, ends }
    }

    /// Whether it may be shown.
    #[must_use]
    pub fn is_usable(&self, now: UnixTime) -> bool {
        now < self.ends
    }

    /// Whether another one is wanted.
    #[must_use]
    pub fn is_due(&self, now: UnixTime) -> bool {
        self.renew <= now
    }

    /// What shows it.
    #[must_use]
    pub fn edit(&self, config: &OwnToken) -> Edit {
        let value = format!("{}{}", config.header.value_prefix, self.token.reveal());
        Edit::Set(config.header.name.as_str().to_owned(), value.into_bytes())
    }
}

/// Signs a token for `service`.
#[must_use]
pub fn sign(config: &Signing, service: &str, now: UnixTime) -> Held {
    let mut header = json!({"typ": "JWT", "alg": config.signer.algorithm().name()});
    if let (Some(kid), Some(members)) = (&config.kid, header.as_object_mut()) {
        members.insert("kid".to_owned(), Value::from(kid.as_str()));
    }
    // RFC 7519 section 2: whole seconds. It is issued in the past by less than one, and ends sooner by it.
    let issued = now.as_millis().div_euclid(1_000);
    let claims = json!({
        "iss": config.issuer,
        "sub": service,
        "aud": config.audience,
        "type": "service",
        "permissions": config.permissions,
        "iat": issued,
        "exp": issued.saturating_add(config.ttl.as_secs()),
    });
    let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let input = format!("{}.{}", encoded(&header), encoded(&claims));
    let signature = URL_SAFE_NO_PAD.encode(config.signer.sign(input.as_bytes()));
    Held::new(format!("{input}.{signature}"), UnixTime::from_secs(issued), config.ttl)
}

/// The call that asks for a token (RFC 6749 section 4.4.2).
#[must_use]
pub fn request(config: &ClientCredentials, limits: &Limits) -> CallRequest {
    let max_body = limits.max_token_bytes.saturating_add(MAX_AROUND_TOKEN);
    CallRequest::form(&config.endpoint, config.form.clone(), max_body)
}

/// Why an answer brought no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoToken {
    /// None came.
    Failed(Failure),
    /// Its status is not 200.
    Status(u16),
    /// It is not a JSON object.
    NotJson,
    /// It has no `access_token` that could be sent.
    Token,
    /// Its `token_type` is not `bearer`.
    Type,
    /// Its `expires_in` is not a number of seconds, or so few that the token could not be used when it came.
    Life,
}

impl fmt::Display for NoToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => failure.fmt(f),
            Self::Status(status) => write!(f, "it answered with status {status}"),
            Self::NotJson => f.write_str("its answer is not a JSON object"),
            Self::Token => f.write_str("its answer has no `access_token` that could be sent"),
            Self::Type => f.write_str("the `token_type` of its answer is not `bearer`"),
            Self::Life => f.write_str(
                "its answer has no `expires_in` that is 5 seconds longer than the answer took",
            ),
        }
    }
}

/// Reads the answer to a question of `asked` (RFC 6749 section 5.1). A token lives from then on, not from
/// when it came.
///
/// # Errors
/// Where it brings no token that can be used.
pub fn read_answer(
    answer: &Answer,
    limits: &Limits,
    asked: UnixTime,
    now: UnixTime,
) -> Result<Held, NoToken> {
    let body = match answer {
        Answer::Response { status: 200, body, .. } => body,
        Answer::Response { status, .. } => return Err(NoToken::Status(*status)),
        Answer::Failed(failure) => return Err(NoToken::Failed(*failure)),
    };
    let members = json::parse_object(body).map_err(|_| NoToken::NotJson)?;
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    // RFC 6749 section 5.1: the type's case is of no matter.
    if !text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return Err(NoToken::Type);
    }
    let fits = |token: &&str| {
        let length = 1..=limits.max_token_bytes;
        length.contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let token = text("access_token").filter(fits).ok_or(NoToken::Token)?;
    let life = members.get("expires_in").and_then(Value::as_u64).ok_or(NoToken::Life)?;
    let life = Duration::from_secs(life).min(LONGEST_LIFE);
    let held = Held::new(token.to_owned(), asked, life);
    if held.is_usable(now) { Ok(held) } else { Err(NoToken::Life) }
}
