//! The claims of a token and the one policy they are held to (RFC 7519 section 4.1).

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use super::TokenError;
use crate::config::{Provider, TokenKind};
use crate::time::{UnixTime, millis};

/// Milliseconds since the epoch, as a claim says them: before 1970 too, and fractions of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NumericDate(i128);

impl NumericDate {
    fn of(value: &Value) -> Option<Self> {
        let Value::Number(number) = value else {
            return None;
        };
        match number.as_i64() {
            Some(secs) => Some(Self(i128::from(secs) * 1_000)),
            None => number.as_f64().map(Self::from_secs),
        }
    }

    /// The date so many seconds after the epoch; what is no number is never.
    #[must_use]
    pub fn from_secs(secs: f64) -> Self {
        /// A year that no calendar reaches; what lies beyond it is as good as never.
        const NEVER: f64 = 1e15;
        let millis = secs.clamp(-NEVER, NEVER) * 1_000.0;
        Self(format!("{millis:.0}").parse().unwrap_or(i128::MAX))
    }

    /// The same as a moment; the epoch where it is before that.
    #[must_use]
    pub fn to_unix(self) -> UnixTime {
        let millis = self.0.clamp(0, i128::from(u64::MAX));
        UnixTime::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    fn plus(self, span: Duration) -> i128 {
        self.0.saturating_add(i128::from(millis(span)))
    }

    fn minus(self, span: Duration) -> i128 {
        self.0.saturating_sub(i128::from(millis(span)))
    }
}

/// The payload of a token whose registered claims have the right types.
pub struct Claims {
    members: Map<String, Value>,
    expiry: Option<NumericDate>,
    not_before: Option<NumericDate>,
    issued_at: Option<NumericDate>,
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Claims({} members)", self.members.len())
    }
}

impl Claims {
    /// Reads the registered claims.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] where one has the wrong type.
    pub fn new(members: Map<String, Value>) -> Result<Self, TokenError> {
        let date = |name: &str, why| match members.get(name) {
            None => Ok(None),
            Some(value) => NumericDate::of(value).map(Some).ok_or(TokenError::Malformed(why)),
        };
        // RFC 7519 sections 4.1.1 to 4.1.3 and 4.1.7. Where a type is not the claim's own, two
        // readers could take it for two different things: `1` and `"1"` for one user, say.
        let text = |name: &str| members.get(name).is_none_or(Value::is_string);
        if !(text("iss") && text("sub") && text("jti")) {
            return Err(TokenError::Malformed("its `iss`, `sub` or `jti` is not a string"));
        }
        let texts = |value: &Value| match value {
            Value::Array(items) => items.iter().all(Value::is_string),
            other => other.is_string(),
        };
        if !members.get("aud").is_none_or(texts) {
            return Err(TokenError::Malformed("its `aud` is neither a string nor strings"));
        }
        Ok(Self {
            expiry: date("exp", "its `exp` is not a number")?,
            not_before: date("nbf", "its `nbf` is not a number")?,
            issued_at: date("iat", "its `iat` is not a number")?,
            members,
        })
    }

    /// All claims.
    #[must_use]
    pub fn members(&self) -> &Map<String, Value> {
        &self.members
    }

    /// The claim `name`, where it is a text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.members.get(name).and_then(Value::as_str)
    }

    /// Holds the claims to `provider`'s terms. `iss` chose the provider, so it fits already.
    ///
    /// # Errors
    /// The first term that is not met.
    pub fn check(&self, provider: &Provider, now: UnixTime) -> Result<(), TokenError> {
        self.check_audience(provider)?;
        self.check_authorized_party(provider)?;
        self.check_lifetime(provider, now)?;
        self.check_values(provider)?;
        self.check_time(provider, provider.require_expiration, now)
    }

    /// Holds the claims that an issuer answered with (RFC 7662 section 2.2) to the same terms, but
    /// for those that only a signed token has: the issuer itself vouches for its time.
    ///
    /// # Errors
    /// The first term that is not met.
    pub fn check_introspected(&self, provider: &Provider, now: UnixTime) -> Result<(), TokenError> {
        if self.members.get("iss").is_some_and(|iss| iss != provider.issuer.as_str()) {
            return Err(TokenError::IssuerUnknown);
        }
        self.check_audience(provider)?;
        self.check_authorized_party(provider)?;
        self.check_lifetime(provider, now)?;
        self.check_values(provider)?;
        self.check_time(provider, false, now)
    }

    /// When the token expires, where it says so: no clock skew added.
    #[must_use]
    pub fn expiry(&self) -> Option<UnixTime> {
        self.expiry.map(NumericDate::to_unix)
    }

    /// Whether the token was issued before `date`, or does not say when.
    #[must_use]
    pub fn issued_before(&self, date: NumericDate) -> bool {
        self.issued_at.is_none_or(|issued| issued < date)
    }

    /// The times again, for a token that was verified earlier.
    ///
    /// # Errors
    /// [`TokenError::Expired`] or [`TokenError::NotYetValid`].
    pub fn check_time(
        &self,
        provider: &Provider,
        require_expiration: bool,
        now: UnixTime,
    ) -> Result<(), TokenError> {
        let skew = provider.clock_skew;
        let now = i128::from(now.as_millis());
        match self.expiry {
            // RFC 7519 section 4.1.4: the current date/time MUST be before the expiration
            // date/time; a small leeway is allowed for.
            Some(expiry) if now >= expiry.plus(skew) => return Err(TokenError::Expired),
            None if require_expiration => {
                return Err(TokenError::Malformed("it has no `exp`"));
            }
            Some(_) | None => {}
        }
        // RFC 7519 section 4.1.5: the current date/time MUST be after or equal to the not-before
        // date/time. The same goes here for `iat`: what is issued in the future is a forgery or a
        // broken clock.
        let future = |date: Option<NumericDate>| date.is_some_and(|date| now < date.minus(skew));
        if future(self.not_before) || future(self.issued_at) {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }

    /// A token that is to live longer than the provider allows was not issued by its rules.
    fn check_lifetime(&self, provider: &Provider, now: UnixTime) -> Result<(), TokenError> {
        let Some(longest) = provider.max_lifetime else {
            return Ok(());
        };
        let latest = now.after(longest).after(provider.clock_skew);
        match self.expiry {
            Some(expiry) if expiry.0 <= i128::from(latest.as_millis()) => Ok(()),
            Some(_) => Err(TokenError::Malformed("its `exp` is later than `max_lifetime` allows")),
            None => Err(TokenError::Malformed("it has no `exp`, which `max_lifetime` needs")),
        }
    }

    /// Whether `scope` is among the token's: a claim `scope` of texts with spaces between them (RFC 8693 section
    /// 4.2), or `scp`, as some issuers name it, which may be an array.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        let holds = |value: &Value| match value {
            Value::String(text) => text.split(' ').any(|one| one == scope),
            Value::Array(items) => items.iter().any(|item| item == scope),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
        };
        ["scope", "scp"].into_iter().filter_map(|name| self.members.get(name)).any(holds)
    }

    /// Whether the claim `name` is one of `values`, or an array that holds one; where there are none, whether it
    /// is there at all.
    #[must_use]
    pub fn has_one_of(&self, name: &str, values: &[Value]) -> bool {
        match self.members.get(name) {
            None | Some(Value::Null) => false,
            Some(_) if values.is_empty() => true,
            Some(Value::Array(items)) => items.iter().any(|item| values.contains(item)),
            Some(value) => values.contains(value),
        }
    }

    /// Whether `auth_time` (OpenID Connect Core section 2) is there and no longer than `max_age` ago.
    #[must_use]
    pub fn authenticated_within(&self, max_age: Duration, skew: Duration, now: UnixTime) -> bool {
        let now = i128::from(now.as_millis());
        self.members.get("auth_time").and_then(NumericDate::of).is_some_and(|date| {
            date.minus(skew) <= now && now <= date.plus(max_age.saturating_add(skew))
        })
    }

    /// Whom the token speaks of, by its claim `type`. That it is a transaction token is told by its header.
    #[must_use]
    pub fn kind(&self) -> TokenKind {
        match self.text("type") {
            Some("service") => TokenKind::Service,
            Some(_) | None => TokenKind::User,
        }
    }

    fn check_values(&self, provider: &Provider) -> Result<(), TokenError> {
        // A user's token is not taken for a service's, nor the other way about.
        match provider.kind {
            TokenKind::User | TokenKind::Service if self.kind() != provider.kind => {
                return Err(TokenError::ClaimMismatch);
            }
            TokenKind::User | TokenKind::Service | TokenKind::Transaction => {}
        }
        for (name, values) in &provider.required_claims {
            let found = self.members.get(name);
            if !found.is_some_and(|found| values.is_empty() || values.contains(found)) {
                return Err(TokenError::ClaimMismatch);
            }
        }
        for (name, value) in &provider.refused_claims {
            if self.members.get(name) == Some(value) {
                return Err(TokenError::ClaimMismatch);
            }
        }
        Ok(())
    }

    fn check_audience(&self, provider: &Provider) -> Result<(), TokenError> {
        let Some(audiences) = &provider.audiences else {
            return Ok(());
        };
        let ours = |value: &Value| {
            value.as_str().is_some_and(|text| audiences.iter().any(|ours| ours == text))
        };
        let named = match self.members.get("aud") {
            Some(Value::Array(items)) => items.iter().any(ours),
            Some(other) => ours(other),
            None => false,
        };
        named.then_some(()).ok_or(TokenError::AudienceMismatch)
    }

    fn check_authorized_party(&self, provider: &Provider) -> Result<(), TokenError> {
        match (&provider.authorized_parties, self.members.get("azp")) {
            (None, _) | (Some(_), None) => Ok(()),
            (Some(parties), Some(azp)) => azp
                .as_str()
                .is_some_and(|azp| parties.iter().any(|party| party == azp))
                .then_some(())
                .ok_or(TokenError::AuthorizedPartyMismatch),
        }
    }
}
