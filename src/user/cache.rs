//! The users a worker remembers, each for as long as was promised, and no longer.
//!
//! A record is *fresh* for its `ttl`. After that it may be used on two conditions, each with an end:
//! while it is asked for anew (`stale_while_revalidate`), and while the users service is down
//! (`stale_if_error`). That a user is unknown is never stale: it is asked for anew.

use std::rc::Rc;

use super::stored::Stored;
use super::{Known, UserKey, UserRecord};
use crate::bounded::BoundedMap;
use crate::config::Lookup;
use crate::time::UnixTime;

/// What is known of users, and since when.
pub struct UserCache(BoundedMap<UserKey, Stored>);

/// What a request may go on with.
#[derive(Debug, PartialEq)]
pub enum Cached {
    /// This.
    Fresh(Known),
    /// This, but it is to be asked for anew.
    Revalidate(Rc<UserRecord>),
}

impl UserCache {
    /// A cache for at most `max_entries` users.
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        Self(BoundedMap::new(max_entries))
    }

    /// What is known of `key` now, of what was asked for at `since` or later.
    pub fn get(
        &mut self,
        key: &UserKey,
        config: &Lookup,
        since: UnixTime,
        now: UnixTime,
    ) -> Option<Cached> {
        let stored = self.0.get(key).filter(|stored| since <= stored.fetched)?;
        let expires = stored.expires(config);
        match &stored.known {
            known if now < expires => Some(Cached::Fresh(known.clone())),
            Known::Record(record) if now < expires.after(config.stale_while_revalidate) => {
                Some(Cached::Revalidate(Rc::clone(record)))
            }
            Known::Record(_) | Known::Unknown => None,
        }
    }

    /// The record of `key` that may stand in while the users service is down.
    pub fn stand_in(
        &mut self,
        key: &UserKey,
        config: &Lookup,
        since: UnixTime,
        now: UnixTime,
    ) -> Option<Rc<UserRecord>> {
        let stored = self.0.get(key).filter(|stored| since <= stored.fetched)?;
        match &stored.known {
            Known::Record(record) if now < stored.expires(config).after(config.stale_if_error) => {
                Some(Rc::clone(record))
            }
            Known::Record(_) | Known::Unknown => None,
        }
    }

    /// Remembers what the users service said, unless it has said something since.
    pub fn remember(&mut self, key: &UserKey, stored: Stored) {
        if self.0.peek(key).is_none_or(|held| held.fetched <= stored.fetched) {
            self.0.insert(key.clone(), stored);
        }
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
