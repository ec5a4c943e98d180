//! The world around the filter: its config, who signs, and the head of a request.

use meshgate::callout::Answer;
use meshgate::config::{Config, Provider};
use meshgate::headers::Field;
use meshgate::jwks::{KeySet, Origin};
use meshgate::signature::Crypto;
use meshgate::time::UnixTime;
use meshgate::token::{TokenError, UnverifiedToken, VerifiedToken};
use serde_json::{Value, json};

use crate::flow::{self, Key, START};

/// What the clock says.
pub const NOW: UnixTime = UnixTime::from_secs(START);

/// A config and the keys of its issuer, read once.
pub struct World {
    /// Of [`flow::config`], with more of everything.
    pub config: Config,
    /// The one key that the issuer has.
    pub key: Key,
    /// Somebody else's.
    pub stranger: Key,
    /// What the issuer publishes.
    pub keys: KeySet,
}

thread_local! {
    /// The world.
    pub static WORLD: World = World::new();
}

impl World {
    fn new() -> Self {
        let key = Key::new("k1");
        let keys = KeySet::parse(&flow::jwks(&[&key]), Origin::Remote);
        Self {
            config: parsed(&rich_config()),
            stranger: Key::new("stranger"),
            keys: keys.unwrap_or_else(|error| panic!("{error}")),
            key,
        }
    }

    /// The one provider.
    #[must_use]
    pub fn provider(&self) -> &Provider {
        &self.config.providers[0]
    }

    /// What the filter makes of a token.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, token: &[u8]) -> Result<VerifiedToken, TokenError> {
        let limit = self.config.limits.max_token_bytes;
        let read = UnverifiedToken::parse(token, limit, &self.config.providers)?;
        read.verify(self.provider(), &self.keys, &Crypto::Module, NOW)
    }
}

fn rich_config() -> Value {
    let mut config = flow::config();
    config["providers"]["clerk"]["algorithms"] = json!(["ES256", "RS256"]);
    config["context"] = json!({"headers": {
        "x-user-id": {"user": "/id", "required": true},
        "x-user-clerk-id": {"claim": "/clerkId"},
        "x-user-role": {"user": "/role", "required": true},
        "x-user-channel-id": {"user": "/channels/0/id"},
        "x-user-permissions": {"user": "/permissions", "join": ","},
        "x-user-tags": {"user": "/tags", "join": "; "},
    }});
    config["revocation"] =
        json!({"feed": {"uri": "http://auth.internal/revocations", "cluster": "auth"}});
    config["limits"] = json!({"max_revocations": 16});
    config
}

/// A config that is known to be good.
///
/// # Panics
/// Where it is not.
#[must_use]
pub fn parsed(config: &Value) -> Config {
    Config::parse(config.to_string().as_bytes(), &|_| None)
        .unwrap_or_else(|error| panic!("{error}"))
}

/// An answer of 200 with this body.
#[must_use]
pub fn ok(body: &[u8]) -> Answer {
    Answer::Response { status: 200, max_age: None, etag: None, body: body.to_vec() }
}

/// A field of a head.
#[must_use]
pub fn field(name: &str, value: &[u8]) -> Field {
    Field { name: name.to_ascii_lowercase(), value: value.to_vec() }
}

/// `text` up to its first line break, and what follows it.
#[must_use]
pub fn line(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    (&text[..end], text.get(end + 1..).unwrap_or_default())
}
