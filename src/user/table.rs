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
            // Whoever posts looks there after it has posted; this looks back after it has written there. So one
            // of them sees the other, and no older record stays beside a younger one.
            if read(&self.once).as_ref() != Some(once) {
                let _ = exchange.pass(&self.again, now);
            }
        }
        [once, again].into_iter().flatten().max_by_key(|stored| stored.fetched)
    }

    /// Takes the turn to ask until `until`, where that is given, unless it is another's, or there is a
    /// record that was asked for at `since` or later.
    #[must_use]
    pub fn claim(
        &self,
        exchange: &Exchange,
        config: &Lookup,
        since: UnixTime,
        now: UnixTime,
        until: Option<UnixTime>,
    ) -> Claim {
        exchange.claim(&self.once, now, until, |posted| {
            Stored::from_bytes(&posted.body)
                .is_some_and(|stored| stored.is_fresh(config, since, now))
        })
    }

    /// Posts a record, and gives the turn back.
    #[must_use]
    pub fn post(&self, exchange: &Exchange, record: &Stored, now: UnixTime) -> Receipt {
        let post = posted(record);
        let put = |place| match post.body.len() {
            ..=MAX_RECORD_BYTES => exchange.post(place, &post, now),
            _ => exchange.pass(place, now),
        };
        let receipt = put(&self.once);
        // An older one may not stay beside it.
        if exchange.look(&self.again, None, now).and_then(stored).is_some() {
            let _ = put(&self.again);
        }
        receipt
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

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::HashMap;
    use std::rc::Rc;

    use serde_json::json;

    use super::super::{Known, UserRecord};
    use super::*;
    use crate::board::Board;
    use crate::config::Secret;

    type Slots = Rc<RefCell<HashMap<String, (Vec<u8>, u32)>>>;

    /// A board on which another worker does something before the first write to a better place.
    struct Interrupted {
        slots: Slots,
        by: Cell<Option<Box<dyn FnOnce()>>>,
    }

    impl Board for Interrupted {
        fn read(&self, slot: &str) -> Option<(Vec<u8>, u32)> {
            self.slots.borrow().get(slot).cloned()
        }

        fn write(&self, slot: &str, bytes: &[u8], version: Option<u32>) -> bool {
            if slot.contains(AGAIN)
                && let Some(other) = self.by.take()
            {
                other();
            }
            let mut slots = self.slots.borrow_mut();
            let held = slots.get(slot).map(|(_, version)| *version);
            if held.is_some() && version.is_some() && held != version {
                return false;
            }
            slots.insert(slot.to_owned(), (bytes.to_vec(), held.unwrap_or(0) + 1));
            true
        }
    }

    fn exchange(slots: &Slots, me: u64, by: Option<Box<dyn FnOnce()>>) -> Exchange {
        let board = Interrupted { slots: Rc::clone(slots), by: Cell::new(by) };
        Exchange::new(Box::new(board), &Secret::new("sixteen random bytes".to_owned()), me)
    }

    fn seats(exchange: &Exchange) -> Seats {
        let seat = |table| exchange.seat(table, 1, "a user");
        Seats { once: seat(ONCE), again: seat(AGAIN) }
    }

    fn record(at: u64, about: &str) -> Stored {
        let members = json!({ "about": about }).as_object().unwrap().clone();
        let known = Known::Record(Rc::new(UserRecord::new(members)));
        Stored { fetched: UnixTime::from_millis(at), known }
    }

    #[test]
    fn an_older_record_gets_no_better_place_while_a_younger_one_comes() {
        let (beginning, now) = (UnixTime::from_millis(0), UnixTime::from_millis(30));
        for younger in [record(20, "young"), record(20, &"too long to share ".repeat(1_000))] {
            let slots = Slots::default();
            let one = exchange(&slots, 1, None);
            let _ = seats(&one).post(&one, &record(10, "old"), now);
            let two = exchange(&slots, 2, None);
            let others = Box::new(move || {
                let _ = seats(&two).post(&two, &younger, now);
            });
            let three = exchange(&slots, 3, Some(others));
            let _ = seats(&three).find(&three, beginning, now);
            // Another user takes the first place.
            slots.borrow_mut().retain(|slot, _| slot.contains(AGAIN));
            let found = seats(&one).find(&one, beginning, now);
            assert!(found.is_none_or(|found| found.fetched == UnixTime::from_millis(20)));
        }
    }
}
