//! Since when what is known of users is old: since something of theirs was revoked.
//!
//! That outlives the entry that said so, for as long as a record from before it could be used.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Terms;
use crate::time::UnixTime;

/// By subject, since when what was known before is not used any more.
#[derive(Debug, Default)]
pub struct Purges {
    users: HashMap<String, Since>,
    /// The same for everybody, where there were too many to be told apart.
    everybody: Option<UnixTime>,
    len: usize,
}

#[derive(Debug, Default)]
struct Since {
    of_any_issuer: Option<UnixTime>,
    of_issuer: HashMap<String, UnixTime>,
}

/// One purge, as workers tell each other of it.
#[derive(Debug, Deserialize, Serialize)]
pub struct Purge {
    sub: Option<String>,
    iss: Option<String>,
    since: u64,
}

impl Purges {
    /// Notes that what was known of a user before `since` is old.
    pub fn add(&mut self, sub: &str, iss: Option<&str>, since: UnixTime) {
        let mut is_new = false;
        let mut first = || {
            is_new = true;
            since
        };
        let user = self.users.entry(sub.to_owned()).or_default();
        let held = match iss {
            None => user.of_any_issuer.get_or_insert_with(&mut first),
            Some(iss) => user.of_issuer.entry(iss.to_owned()).or_insert_with(&mut first),
        };
        *held = (*held).max(since);
        self.len = self.len.saturating_add(usize::from(is_new));
    }

    /// Keeps what `before` says, for as long as it matters. Where that is too much, everybody is purged.
    pub fn keep(&mut self, before: &Self, terms: Terms, now: UnixTime) {
        for (sub, iss, since) in before.all() {
            if since.after(terms.record_life) <= now {
                continue;
            }
            match sub {
                Some(sub) if self.len < terms.max_entries.saturating_mul(2) => {
                    self.add(sub, iss, since);
                }
                Some(_) | None => self.everybody = self.everybody.max(Some(since)),
            }
        }
    }

    /// Since when what is known of this user counts; the beginning of time where nothing was purged.
    #[must_use]
    pub fn since(&self, issuer: &str, subject: &str) -> UnixTime {
        let user = self.users.get(subject);
        let of_any_issuer = user.and_then(|user| user.of_any_issuer);
        let of_issuer = user.and_then(|user| user.of_issuer.get(issuer).copied());
        of_any_issuer.max(of_issuer).max(self.everybody).unwrap_or(UnixTime::from_millis(0))
    }

    /// Nothing is from after `now`.
    pub fn clock_set_back(&mut self, now: UnixTime) {
        let users = self
            .users
            .values_mut()
            .flat_map(|user| user.of_any_issuer.iter_mut().chain(user.of_issuer.values_mut()));
        for since in users.chain(&mut self.everybody) {
            *since = (*since).min(now);
        }
    }

    /// All of them, to be told to others.
    #[must_use]
    pub fn told(&self) -> Vec<Purge> {
        let purge = |(sub, iss, since): (Option<&str>, Option<&str>, UnixTime)| Purge {
            sub: sub.map(str::to_owned),
            iss: iss.map(str::to_owned),
            since: since.as_millis(),
        };
        self.all().map(purge).collect()
    }

    /// Those that another worker told.
    #[must_use]
    pub fn heard(all: &[Purge]) -> Self {
        let mut purges = Self::default();
        for Purge { sub, iss, since } in all {
            let since = UnixTime::from_millis(*since);
            match sub {
                Some(sub) => purges.add(sub, iss.as_deref(), since),
                None => purges.everybody = purges.everybody.max(Some(since)),
            }
        }
        purges
    }

    fn all(&self) -> impl Iterator<Item = (Option<&str>, Option<&str>, UnixTime)> {
        let users = self.users.iter().flat_map(|(sub, user)| {
            let sub = Some(sub.as_str());
            let any = user.of_any_issuer.iter().map(move |since| (sub, None, *since));
            let of_issuer = user.of_issuer.iter();
            any.chain(of_issuer.map(move |(iss, since)| (sub, Some(iss.as_str()), *since)))
        });
        users.chain(self.everybody.iter().map(|since| (None, None, *since)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(secs)
    }

    fn terms() -> Terms {
        let record_life = Duration::from_secs(300);
        Terms { max_entries: 2, clock_skew: Duration::ZERO, record_life }
    }

    #[test]
    fn the_last_purge_of_a_user_counts_by_issuer_or_for_all_of_them() {
        let mut purges = Purges::default();
        purges.add("u", Some("a"), at(20));
        purges.add("u", Some("a"), at(10));
        purges.add("u", None, at(15));
        let since = |iss, sub| purges.since(iss, sub);
        assert_eq!((since("a", "u"), since("b", "u"), since("a", "v")), (at(20), at(15), at(0)));
        assert_eq!(purges.len, 2);
        let told = Purges::heard(&purges.told());
        assert_eq!((told.since("a", "u"), told.since("b", "u")), (at(20), at(15)));
    }

    #[test]
    fn what_is_kept_is_bounded_in_time_and_number_and_forgets_nothing() {
        let mut purges = Purges::default();
        for round in 0..1_000 {
            let mut next = Purges::default();
            next.add(&round.to_string(), None, at(round));
            next.keep(&purges, terms(), at(round));
            purges = next;
            assert!(purges.len <= 5);
            for user in round.saturating_sub(299)..=round {
                assert!(purges.since("a", &user.to_string()) >= at(user), "{user} {round}");
            }
        }
        let mut later = Purges::default();
        later.keep(&purges, terms(), at(2_000));
        assert_eq!(later.since("a", "999"), at(0), "no record is as old");
    }
}
