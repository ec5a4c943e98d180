//! Users of whom what was known before a certain time is not used any more.
//!
//! An entry of the feed that names a user makes the user's records void: those that this worker holds, and
//! those on the board and in Redis, which it cannot take away. So the time is kept, for as long as such a
//! record could be used, whether or not the entry is still there.

use std::collections::HashMap;
use std::time::Duration;

use crate::time::UnixTime;

/// Since when records are good.
#[derive(Debug)]
pub struct Renewals {
    /// Of users with an entry.
    users: HashMap<String, UnixTime>,
    /// Of all others.
    all: UnixTime,
}

impl Default for Renewals {
    fn default() -> Self {
        Self { users: HashMap::new(), all: UnixTime::from_millis(0) }
    }
}

impl Renewals {
    /// What was asked for before this is not used of the user with this `sub`.
    #[must_use]
    pub fn since(&self, subject: &str) -> UnixTime {
        self.users.get(subject).map_or(self.all, |since| self.all.max(*since))
    }

    /// Makes void what is known of these users. Forgets users of whom no record can be older than that, a
    /// record being used for at most `life`. Where there are still more than `limit`, it makes void what is
    /// known of anybody: that costs lookups, and is never wrong.
    pub fn renew<'a>(
        &mut self,
        subjects: impl Iterator<Item = &'a str>,
        life: Duration,
        limit: usize,
        now: UnixTime,
    ) {
        self.users.retain(|_, since| now <= since.after(life));
        self.users.extend(subjects.map(|subject| (subject.to_owned(), now)));
        if self.users.len() > limit {
            self.users.clear();
            self.all = now;
        }
    }

    /// The clock now says `now`, which is before what it said: nothing is from the future.
    pub fn clock_set_back(&mut self, now: UnixTime) {
        self.all = self.all.min(now);
        for since in self.users.values_mut() {
            *since = (*since).min(now);
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
        renewals.renew(["a"].into_iter(), LIFE, 10, at(1_000));
        renewals.renew(["b"].into_iter(), LIFE, 10, at(1_100));
        assert_eq!(["a", "b", "c"].map(|user| renewals.since(user)), [at(1_000), at(1_100), at(0)]);
        renewals.renew([].into_iter(), LIFE, 10, at(1_101));
        assert_eq!(renewals.since("a"), at(0));
        renewals.clock_set_back(at(5));
        assert_eq!(renewals.since("b"), at(5));
    }

    #[test]
    fn too_many_users_are_everybody() {
        let mut renewals = Renewals::default();
        let names: Vec<String> = (0..11).map(|n| n.to_string()).collect();
        renewals.renew(names.iter().map(String::as_str), LIFE, 10, at(1_000));
        assert_eq!(renewals.since("0"), at(1_000));
        assert_eq!(renewals.since("nobody"), at(1_000));
        renewals.renew(["a"].into_iter(), LIFE, 10, at(2_000));
        assert_eq!(renewals.since("a"), at(2_000));
        assert_eq!(renewals.since("0"), at(1_000));
    }
}
