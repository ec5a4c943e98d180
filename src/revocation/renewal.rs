//! Users of whom what was known before a certain time is not used any more.
//!
//! An entry of the feed that names a user makes the user's records void: those that this worker holds, and
//! those on the board and in Redis, which it cannot take away. So the time is kept, for as long as such a
//! record could be used, whether or not the entry is still there.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::{NUDGE, UnixTime};

/// Since when records are good.
#[derive(Clone, Default, Deserialize, Serialize)]
pub struct Renewals {
    /// Of users with an entry, in milliseconds since the epoch.
    users: HashMap<String, u64>,
    /// Of all others.
    all: u64,
}

impl fmt::Debug for Renewals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Renewals({} users)", self.users.len())
    }
}

impl Renewals {
    /// What was asked for before this is not used of the user with this `sub`.
    #[must_use]
    pub fn since(&self, subject: &str) -> UnixTime {
        let user = self.users.get(subject).copied().unwrap_or(0);
        UnixTime::from_millis(user.max(self.all))
    }

    /// Makes void what is known of these users.
    pub fn renew<'a>(&mut self, subjects: impl Iterator<Item = &'a str>, now: UnixTime) {
        self.users.extend(subjects.map(|subject| (subject.to_owned(), now.as_millis())));
    }

    /// Makes void what another worker has made so.
    pub fn join(&mut self, others: Self) {
        self.all = self.all.max(others.all);
        for (subject, since) in others.users {
            let held = self.users.entry(subject).or_insert(since);
            *held = (*held).max(since);
        }
    }

    /// Forgets users of whom no record can be older than that, a record being used for at most `life`. Where
    /// there are still more than `limit`, makes void what is known of anybody: that costs lookups, and is
    /// never wrong.
    pub fn tidy(&mut self, life: Duration, limit: usize, now: UnixTime) {
        let oldest = now.before(life).before(NUDGE).as_millis();
        self.users.retain(|_, since| *since >= oldest);
        if self.users.len() > limit {
            self.users.clear();
            self.all = now.as_millis();
        }
    }

    /// The clock now says `now`, which is before what it said: nothing is from the future.
    pub fn clock_set_back(&mut self, now: UnixTime) {
        for since in self.users.values_mut().chain([&mut self.all]) {
            *since = (*since).min(now.as_millis());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_millis(100);

    fn at(millis: u64) -> UnixTime {
        UnixTime::from_millis(millis)
    }

    #[test]
    fn a_user_is_kept_for_as_long_as_a_record_could_be_used() {
        let mut renewals = Renewals::default();
        renewals.renew(["a"].into_iter(), at(10_000));
        renewals.renew(["b"].into_iter(), at(10_100));
        renewals.tidy(LIFE, 10, at(11_100));
        assert_eq!(
            ["a", "b", "c"].map(|user| renewals.since(user)),
            [at(10_000), at(10_100), at(0)]
        );
        renewals.tidy(LIFE, 10, at(11_101));
        assert_eq!(renewals.since("a"), at(0));
        renewals.clock_set_back(at(5));
        assert_eq!(renewals.since("b"), at(5));
    }

    #[test]
    fn too_many_users_are_everybody() {
        let mut renewals = Renewals::default();
        let names: Vec<String> = (0..11).map(|n| n.to_string()).collect();
        renewals.renew(names.iter().map(String::as_str), at(1_000));
        renewals.tidy(LIFE, 10, at(1_000));
        assert_eq!(renewals.since("0"), at(1_000));
        assert_eq!(renewals.since("nobody"), at(1_000));
        renewals.renew(["a"].into_iter(), at(2_000));
        renewals.tidy(LIFE, 10, at(2_000));
        assert_eq!(renewals.since("a"), at(2_000));
        assert_eq!(renewals.since("0"), at(1_000));
    }

    #[test]
    fn what_another_worker_made_void_is_void_here() {
        let [mut one, mut two] = [Renewals::default(), Renewals::default()];
        one.renew(["a", "b"].into_iter(), at(1_000));
        two.renew(["b", "c"].into_iter(), at(2_000));
        two.join(one);
        assert_eq!(["a", "b", "c"].map(|user| two.since(user)), [at(1_000), at(2_000), at(2_000)]);
    }
}
