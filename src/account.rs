//! What the access log is told of a request: the decision, and whom it was about.
//!
//! The shell sets each fact as filter state before the request goes on or is answered, so that an access log
//! finds it as `%FILTER_STATE(wasm.meshgate.code:PLAIN)%`, say. There is one host call for each, so only those
//! are set that there are and that the config does not leave out. No fact ever holds text of a token but its
//! `sub`, and that only once the token is verified.

use std::borrow::Cow;

use crate::config::Config;
use crate::denial::Denial;
use crate::headers::Edit;
use crate::token::{ProviderId, VerifiedToken};
use crate::worker::Disposition;

/// The header whose value access logs know as the user's id.
pub const USER_ID: &str = "x-user-id";

/// Longest value, in bytes. An issuer may put any text into `sub`; a line of a log must stay one.
const MAX_VALUE_BYTES: usize = 256;

/// What the access log can be told of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// What meshgate decided.
    Decision,
    /// The code of a refusal.
    Code,
    /// Whose token came last.
    Provider,
    /// That token's `sub`, once it is verified.
    Subject,
    /// The user's id.
    UserId,
    /// The id of a request that was refused.
    RequestId,
}

impl Fact {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Decision, Self::Code, Self::Provider, Self::Subject, Self::UserId, Self::RequestId];

    /// The name of its filter state, to which Envoy adds `wasm.`.
    #[must_use]
    pub const fn state(self) -> &'static str {
        match self {
            Self::Decision => "meshgate.decision",
            Self::Code => "meshgate.code",
            Self::Provider => "meshgate.provider",
            Self::Subject => "meshgate.subject",
            Self::UserId => "meshgate.user_id",
            Self::RequestId => "meshgate.request_id",
        }
    }

    /// The fact that a config means by this word.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fact| fact.state().strip_prefix("meshgate.") == Some(word))
    }
}

/// Whom a request is about, as far as that is known.
#[derive(Debug, Clone, Default)]
pub struct Who {
    /// Whose token was looked at last.
    provider: Option<ProviderId>,
    /// That token, once it is verified.
    token: Option<VerifiedToken>,
    /// The user's id, where the request is refused though it is known.
    user: Option<String>,
}

impl PartialEq for Who {
    fn eq(&self, other: &Self) -> bool {
        (self.provider, self.subject(), &self.user)
            == (other.provider, other.subject(), &other.user)
    }
}

impl Eq for Who {}

impl Who {
    /// A token of this provider is looked at.
    pub fn claims_to_be(&mut self, provider: ProviderId) {
        self.provider = Some(provider);
        self.token = None;
    }

    /// This token is verified.
    pub fn is(&mut self, token: &VerifiedToken) {
        self.provider = Some(token.provider());
        self.token = Some(token.clone());
    }

    /// The user is known by this id.
    pub fn is_user(&mut self, id: Option<&str>) {
        self.user = id.map(str::to_owned);
    }

    fn subject(&self) -> Option<&str> {
        self.token.as_ref().and_then(|token| token.claims().text("sub"))
    }
}

/// The facts of one request. What is not known is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account<'a> {
    /// `allowed`, `denied` or `answered`.
    pub decision: &'static str,
    /// The code of the refusal.
    pub code: Option<&'static str>,
    /// The name of the provider whose token came last.
    pub provider: Option<Cow<'a, str>>,
    /// The verified token's `sub`.
    pub subject: Option<Cow<'a, str>>,
    /// The user's id, as the upstream is told it.
    pub user_id: Option<Cow<'a, str>>,
    /// The id that the answer carries.
    pub request_id: Option<&'a str>,
    /// Which of these the access log is told.
    told: &'a [Fact],
}

impl<'a> Account<'a> {
    /// The account of what is done with a request; none while it is held.
    #[must_use]
    pub fn of(disposition: &'a Disposition, config: &'a Config) -> Option<Self> {
        match disposition {
            Disposition::Forward(edits, who) => {
                Some(Self { user_id: user_id(edits), ..Self::about(who, "allowed", config) })
            }
            Disposition::Allow(reply, who) => {
                let told = reply.headers.iter().find(|(name, _)| name == USER_ID);
                let user_id = told.map(|(_, value)| plain(value));
                Some(Self { user_id, ..Self::about(who, "allowed", config) })
            }
            Disposition::Deny(denial) => Some(Self::of_denial(denial, config)),
            Disposition::Answer(_) => {
                let told = &config.access_log;
                Some(Self { decision: "answered", told, ..Self::default() })
            }
            Disposition::Pause => None,
        }
    }

    fn of_denial(denial: &'a Denial, config: &'a Config) -> Self {
        Self {
            code: Some(denial.code.name()),
            user_id: denial.who.user.as_deref().map(plain),
            request_id: Some(denial.request_id.as_str()).filter(|id| !id.is_empty()),
            ..Self::about(&denial.who, "denied", config)
        }
    }

    fn about(who: &'a Who, decision: &'static str, config: &'a Config) -> Self {
        let provider = who.provider.and_then(|id| id.pick(&config.providers));
        Self {
            decision,
            provider: provider.map(|provider| plain(&provider.name)),
            subject: who.subject().map(plain),
            told: &config.access_log,
            ..Self::default()
        }
    }

    /// Each fact that is to be told, by the name of its filter state.
    pub fn facts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.told.iter().filter_map(|fact| Some((fact.state(), self.value(*fact)?)))
    }

    fn value(&self, fact: Fact) -> Option<&str> {
        match fact {
            Fact::Decision => Some(self.decision),
            Fact::Code => self.code,
            Fact::Provider => self.provider.as_deref(),
            Fact::Subject => self.subject.as_deref(),
            Fact::UserId => self.user_id.as_deref(),
            Fact::RequestId => self.request_id,
        }
    }
}

/// The user's id among the edits that tell the upstream.
fn user_id(edits: &[Edit]) -> Option<Cow<'_, str>> {
    edits.iter().find_map(|edit| match edit {
        Edit::Set(name, value) if name == USER_ID => std::str::from_utf8(value).ok().map(plain),
        Edit::Set(..) | Edit::Remove(_) => None,
    })
}

/// The text as a log can hold it: what could end a line, a field or a quotation is percent-encoded, as is what
/// is not ASCII, and what is too long is cut off.
fn plain(text: &str) -> Cow<'_, str> {
    let stands = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'%');
    if text.len() <= MAX_VALUE_BYTES && text.bytes().all(stands) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::new();
    for byte in text.bytes() {
        let more = if stands(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        if plain.len() + more.len() > MAX_VALUE_BYTES {
            break;
        }
        plain.push_str(&more);
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_can_end_a_line_a_field_or_a_quotation() {
        for (text, logged) in [
            ("user_2abc", "user_2abc"),
            ("auth0|5f7c", "auth0|5f7c"),
            ("", ""),
            ("a\r\nGET / 200", "a%0D%0AGET%20/%20200"),
            ("\",\"code\":\"x", "%22,%22code%22:%22x"),
            ("back\\slash", "back%5Cslash"),
            ("100%", "100%25"),
            ("\u{1b}[31m\u{7f}\0", "%1B[31m%7F%00"),
            ("zoë", "zo%C3%AB"),
            ("\u{202e}", "%E2%80%AE"),
        ] {
            assert_eq!(plain(text), logged);
        }
    }

    #[test]
    fn a_long_text_is_cut_off_and_never_within_a_sign() {
        assert_eq!(plain(&"a".repeat(10_000)), "a".repeat(256));
        let cut = plain(&"\n".repeat(10_000)).into_owned();
        assert_eq!(cut, "%0A".repeat(85));
    }
}
