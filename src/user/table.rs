//! The users that all workers of a process know: a table on the board.
//!
//! As in each worker's own cache, half of the places are for records that were used again: here, that a
//! second worker took. So a flood of one-time users pushes out only its like. Each record has one place
//! in either half, given by its MAC: who does not know the key cannot choose whom to push out.

use crate::board::{Claim, Exchange, Fault, Place, Posted, Receipt, View};
use crate::config::Lookup;
use crate::time::UnixTime;

use super::stored::Stored;

/// Most places in the table: at a record of 1 KiB each, 64 MiB. Slots are never given back to Envoy.
const MAX_PLACES: usize = 65_536;
/// Longest record that is shared, in bytes. With the most places there are, it bounds the table at 1 GiB.
const MAX_RECORD_BYTES: usize = 16 * 1024;

const ONCE: &str = "user.once";
const AGAIN: &str = "user.again";

fn half(config: &Lookup) -> usize {
    config.max_entries.min(MAX_PLACES).div_ceil(2)
}

/// Makes the table's slots, once a process.
pub fn lay(exchange: &Exchange, config: &Lookup) {
    exchange.lay(ONCE, half(config));
    exchange.lay(AGAIN, half(config));
}

/// One user's two places.
#[derive(Debug)]
pub struct Seats {
    once: Place,
    again: Place,
}

impl Seats {
    /// The places of the user of this [`identity`](super::UserKey::identity).
    #[must_use]
    pub fn of(exchange: &Exchange, config: &Lookup, identity: &str) -> Self {
        let seat = |table| exchange.seat(table, half(config), identity);
        Self { once: seat(ONCE), again: seat(AGAIN) }
    }

    /// The youngest record there that was asked for at `since` or later. That this worker finds it is its
    /// second use, so it gets the better place.
    #[must_use]
    pub fn find(&self, exchange: &Exchange, since: UnixTime, now: UnixTime) -> Option<Stored> {
        let read = |place| {
            let found = stored(exchange.look(place, None, now)?);
            found.filter(|stored| stored.is_from(since, now))
        };
        let (once, again) = (read(&self.once), read(&self.again));
        if let (Some(once), None) = (&once, &again) {
            let _ = exchange.post(&self.again, &posted(once), now);
        }
        [once, again].into_iter().flatten().max_by_key(|stored| stored.fetched)
    }

    /// Takes the turn to ask until `until`, unless it is another's, or there is a record that was asked
    /// for at `since` or later.
    #[must_use]
    pub fn claim(
        &self,
        exchange: &Exchange,
        config: &Lookup,
        since: UnixTime,
        now: UnixTime,
        until: UnixTime,
    ) -> Claim {
        exchange.claim(&self.once, now, until, |posted| {
            Stored::from_bytes(&posted.body)
                .is_some_and(|stored| stored.is_fresh(config, since, now))
        })
    }

    /// What has become of another worker's turn, if anything has since `version`.
    #[must_use]
    pub fn look(&self, exchange: &Exchange, version: u32, now: UnixTime) -> Option<View> {
        exchange.look(&self.once, Some(version), now)
    }

    /// Posts a record, and gives the turn back.
    #[must_use]
    pub fn post(&self, exchange: &Exchange, record: &Stored, now: UnixTime) -> Receipt {
        let post = posted(record);
        let put = |place| match post.body.len() {
            ..=MAX_RECORD_BYTES => exchange.post(place, &post, now),
            _ => exchange.pass(place, now),
        };
        // An older one may not stay beside it.
        if exchange.look(&self.again, None, now).and_then(stored).is_some() {
            let _ = put(&self.again);
        }
        put(&self.once)
    }

    /// Posts that asking failed, and gives the turn back.
    #[must_use]
    pub fn post_failure(&self, exchange: &Exchange, fault: Fault, now: UnixTime) -> Receipt {
        exchange.post_failure(&self.once, fault, now)
    }
}

/// The record that a view shows.
#[must_use]
pub fn stored(view: View) -> Option<Stored> {
    Stored::from_bytes(&view.posted?.body)
}

fn posted(record: &Stored) -> Posted {
    Posted { at: record.fetched, max_age: None, body: record.to_bytes() }
}
