//! A blacklist in Redis: a token is revoked where one of its names has a value there.

use std::fmt;
use std::rc::Rc;

use super::super::config::names::KeyTemplate;
use crate::bounded::BoundedMap;
use crate::callout::{Answer, CallRequest};
use crate::config::Blacklist as Config;
use crate::redis;
use crate::time::UnixTime;
use crate::token::claims::Claims;

/// What a token goes by on the blacklist. It does not print: it names a user.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Names(Rc<[String]>);

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Names({})", self.0.len())
    }
}

impl Names {
    /// The names of a token with these claims: of the configured ones, those whose claims it has. `None`
    /// where it has none, and so could not be revoked at all.
    #[must_use]
    pub fn of(config: &Config, claims: &Claims) -> Option<Self> {
        let fill = |key: &KeyTemplate| key.fill(|claim| claims.text(claim));
        let names: Rc<[String]> = config.keys.iter().filter_map(fill).collect();
        (!names.is_empty()).then_some(Self(names))
    }
}

/// The call that asks for all of `names` at once.
#[must_use]
pub fn request(config: &Config, names: &Names) -> CallRequest {
    redis::many(&config.redis, &names.0)
}

/// Reads the answer: whether one of the names is there.
#[must_use]
pub fn read_answer(answer: &Answer, names: &Names) -> Option<bool> {
    let values = redis::values(answer, names.0.len())?;
    Some(values.iter().any(Option::is_some))
}

/// What is known of names, each for a moment.
pub struct Listed(BoundedMap<Names, (bool, UnixTime)>);

impl Listed {
    /// Knowledge of at most `max_entries` tokens' names.
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        Self(BoundedMap::new(max_entries))
    }

    /// Whether one of `names` is on the blacklist, where that is known.
    pub fn get(&mut self, names: &Names, now: UnixTime) -> Option<bool> {
        self.0.get(names).filter(|(_, until)| now < *until).map(|(listed, _)| *listed)
    }

    /// Remembers it.
    pub fn remember(&mut self, names: Names, listed: bool, until: UnixTime) {
        self.0.insert(names, (listed, until));
    }
}
