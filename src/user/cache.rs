//! The users a worker remembers, each for as long as was promised.

use super::{Known, UserKey};
use crate::bounded::BoundedMap;
use crate::config::Lookup;
use crate::time::UnixTime;

/// What is known of users, and until when.
pub struct UserCache(BoundedMap<UserKey, Entry>);

struct Entry {
    known: Known,
    expires: UnixTime,
}

impl UserCache {
    /// A cache for at most `max_entries` users.
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        Self(BoundedMap::new(max_entries))
    }

    /// What is known of `key` now.
    pub fn get(&mut self, key: &UserKey, now: UnixTime) -> Option<Known> {
        self.0.get(key).filter(|entry| now < entry.expires).map(|entry| entry.known.clone())
    }

    /// Remembers what the users service said.
    pub fn remember(&mut self, key: UserKey, known: Known, config: &Lookup, now: UnixTime) {
        let expires = now.after(known.lifetime(config));
        self.0.insert(key, Entry { known, expires });
    }

    /// How many users are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
