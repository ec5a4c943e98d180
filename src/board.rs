//! What the workers of one process tell each other, so that one of them asks and all of them know.
//!
//! Each worker of Envoy has a VM of its own. What they share is Envoy's shared data: named slots of
//! bytes, without ownership. Other plugins may write there too, so a note counts only if it carries
//! a MAC under a key from the config; without that key nothing is shared, and each worker asks for
//! itself. A note says who is asking now (a lease, which ends by itself should its holder die) and
//! what the last answer was.

use std::fmt::{self, Write as _};
use std::time::Duration;

use jwt_simple::prelude::{HS256Key, MACLike};

use crate::config::Secret;
use crate::time::{UnixTime, millis};

/// Named slots of bytes that every worker of the process sees.
pub trait Board {
    /// The slot's bytes and their version.
    fn read(&self, slot: &str) -> Option<(Vec<u8>, u32)>;
    /// Writes the slot, if its version is still this one; whether it was.
    fn write(&self, slot: &str, bytes: &[u8], version: Option<u32>) -> bool;
}

/// One worker's access to the board.
pub struct Exchange {
    board: Box<dyn Board>,
    key: HS256Key,
    prefix: String,
    me: u64,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exchange({})", self.prefix)
    }
}

/// The last answer, as it was posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// When it came.
    pub at: UnixTime,
    /// How long its sender lets it be kept.
    pub max_age: Option<Duration>,
    /// The answer.
    pub body: Vec<u8>,
}

/// What another worker has posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// An answer.
    Answer(Posted),
    /// That it asked at this time, and in vain.
    Failure(UnixTime),
}

/// Whose turn it is to ask.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// This worker's.
    Mine,
    /// Another's, until then.
    Theirs(UnixTime),
    /// Nobody's: there is an answer that this worker has not seen.
    Answered,
}

/// Shortest sharing key, in bytes: that of the MAC's security, SHA-256 halved.
pub const MIN_KEY_BYTES: usize = 16;

const VERSION: u8 = 1;
const TAG_BYTES: usize = 32;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Note {
    holder: u64,
    until: u64,
    /// When asking last failed; zero where it has not since the last answer.
    failed: u64,
    posted: Option<Posted>,
}

impl Exchange {
    /// Access for the worker called `me`, which shares with the workers of the same `config` only.
    #[must_use]
    pub fn new(board: Box<dyn Board>, key: &Secret, config: &[u8], me: u64) -> Self {
        let key = HS256Key::from_bytes(key.reveal().as_bytes());
        let digest = key.authentication_tag(config);
        let prefix = digest.iter().take(8).fold("meshgate.".to_owned(), |mut prefix, byte| {
            // Writing to a string cannot fail.
            let _ = write!(prefix, "{byte:02x}");
            prefix
        });
        Self { board, key, prefix, me }
    }

    /// Takes the turn to ask for `slot` until `until`, unless it is another's or an answer newer than
    /// `seen` is there.
    #[must_use]
    pub fn claim(
        &self,
        slot: &str,
        seen: Option<UnixTime>,
        now: UnixTime,
        until: UnixTime,
    ) -> Claim {
        // Each round is lost to another worker that got further, so there are few.
        for _ in 0..8 {
            let (note, version) = self.note(slot);
            if note.posted.as_ref().is_some_and(|posted| Some(posted.at) > seen) {
                return Claim::Answered;
            }
            // A turn that would last longer than one that began now is of another time: the clock
            // was set back since.
            let theirs = UnixTime::from_millis(note.until);
            if note.holder != self.me && now < theirs && theirs <= until {
                return Claim::Theirs(theirs);
            }
            let mine = Note { holder: self.me, until: until.as_millis(), ..note };
            if self.put(slot, &mine, version) {
                return Claim::Mine;
            }
        }
        // Asking once too often is better than not at all.
        Claim::Mine
    }

    /// Posts an answer that came at `now`, and gives the turn back. Says the time it stands under: later
    /// than all that stood there, so that it is news to everybody though the clock was set back.
    #[must_use]
    pub fn post(
        &self,
        slot: &str,
        max_age: Option<Duration>,
        body: &[u8],
        now: UnixTime,
    ) -> UnixTime {
        self.give_back(slot, now, |at, _| Note {
            posted: Some(Posted { at, max_age, body: body.to_vec() }),
            ..Note::default()
        })
    }

    /// Posts that asking failed, likewise. The last answer stays.
    #[must_use]
    pub fn post_failure(&self, slot: &str, now: UnixTime) -> UnixTime {
        self.give_back(slot, now, |at, note| Note {
            failed: at.as_millis(),
            posted: note.posted,
            ..Note::default()
        })
    }

    fn give_back(
        &self,
        slot: &str,
        now: UnixTime,
        done: impl Fn(UnixTime, Note) -> Note,
    ) -> UnixTime {
        let mut at = now;
        for _ in 0..8 {
            let (note, version) = self.note(slot);
            let last = note.posted.as_ref().map_or(0, |posted| posted.at.as_millis());
            let last = last.max(note.failed);
            at = now.max(UnixTime::from_millis(last.saturating_add(1)));
            if self.put(slot, &done(at, note), version) {
                break;
            }
        }
        at
    }

    /// What was posted after `seen`: the answer first, then that asking has failed since.
    #[must_use]
    pub fn news(&self, slot: &str, seen: Option<UnixTime>) -> Option<News> {
        let note = self.note(slot).0;
        let failed = UnixTime::from_millis(note.failed);
        match note.posted {
            Some(posted) if Some(posted.at) > seen => Some(News::Answer(posted)),
            Some(_) | None => {
                (note.failed != 0 && Some(failed) > seen).then_some(News::Failure(failed))
            }
        }
    }

    /// What stands in the slot; an empty note where it is nothing of ours.
    fn note(&self, slot: &str) -> (Note, Option<u32>) {
        match self.board.read(&self.name(slot)) {
            Some((bytes, version)) => (self.open(slot, &bytes).unwrap_or_default(), Some(version)),
            None => (Note::default(), None),
        }
    }

    fn put(&self, slot: &str, note: &Note, version: Option<u32>) -> bool {
        self.board.write(&self.name(slot), &self.seal(slot, note), version)
    }

    fn name(&self, slot: &str) -> String {
        format!("{}.{slot}", self.prefix)
    }

    fn seal(&self, slot: &str, note: &Note) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(note.holder.to_le_bytes());
        bytes.extend(note.until.to_le_bytes());
        bytes.extend(note.failed.to_le_bytes());
        if let Some(posted) = &note.posted {
            bytes.extend(posted.at.as_millis().to_le_bytes());
            bytes.extend(posted.max_age.map_or(u64::MAX, millis).to_le_bytes());
            bytes.extend(&posted.body);
        }
        let tag = self.tag(slot, &bytes);
        bytes.extend(tag);
        bytes
    }

    fn open(&self, slot: &str, bytes: &[u8]) -> Option<Note> {
        let (content, tag) = bytes.split_at_checked(bytes.len().checked_sub(TAG_BYTES)?)?;
        if !ct_codecs::verify(&self.tag(slot, content), tag) {
            return None;
        }
        let (version, rest) = content.split_first()?;
        let (holder, rest) = number(rest)?;
        let (until, rest) = number(rest)?;
        let (failed, rest) = number(rest)?;
        if *version != VERSION {
            return None;
        }
        let posted = match rest {
            [] => None,
            rest => {
                let (at, rest) = number(rest)?;
                let (max_age, body) = number(rest)?;
                Some(Posted {
                    at: UnixTime::from_millis(at),
                    max_age: (max_age != u64::MAX).then(|| Duration::from_millis(max_age)),
                    body: body.to_vec(),
                })
            }
        };
        Some(Note { holder, until, failed, posted })
    }

    /// The MAC of a slot's content. It covers the slot's name, so no note can be moved.
    fn tag(&self, slot: &str, content: &[u8]) -> Vec<u8> {
        self.key.authentication_tag(&[self.name(slot).as_bytes(), &[0], content].concat())
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::rc::Rc;

    #[derive(Default, Clone)]
    struct Slots(Rc<RefCell<HashMap<String, Versioned>>>);

    type Versioned = (Vec<u8>, u32);

    impl Board for Slots {
        fn read(&self, slot: &str) -> Option<(Vec<u8>, u32)> {
            self.0.borrow().get(slot).cloned()
        }

        fn write(&self, slot: &str, bytes: &[u8], version: Option<u32>) -> bool {
            let mut slots = self.0.borrow_mut();
            let held = slots.get(slot).map(|(_, version)| *version);
            if held.is_some() && held != version {
                return false;
            }
            slots.insert(slot.to_owned(), (bytes.to_vec(), held.unwrap_or(0) + 1));
            true
        }
    }

    fn worker(slots: &Slots, key: &str, me: u64) -> Exchange {
        let key = Secret::new(key.to_owned());
        Exchange::new(Box::new(slots.clone()), &key, b"config", me)
    }

    fn at(millis: u64) -> UnixTime {
        UnixTime::from_millis(millis)
    }

    fn posted(millis: u64) -> Posted {
        Posted { at: at(millis), max_age: None, body: b"keys".to_vec() }
    }

    #[test]
    fn one_worker_asks_and_the_others_see_its_answer() {
        let slots = Slots::default();
        let [one, two] = [1, 2].map(|me| worker(&slots, "a key that is shared", me));
        assert_eq!(one.claim("jwks", None, at(10), at(20)), Claim::Mine);
        assert_eq!(two.claim("jwks", None, at(11), at(21)), Claim::Theirs(at(20)));
        assert_eq!(two.news("jwks", None), None);
        assert_eq!(one.post("jwks", None, b"keys", at(15)), at(15));
        assert_eq!(two.news("jwks", None), Some(News::Answer(posted(15))));
        assert_eq!(two.news("jwks", Some(at(15))), None);
        assert_eq!(two.claim("jwks", None, at(16), at(26)), Claim::Answered);
        assert_eq!(two.claim("jwks", Some(at(15)), at(16), at(26)), Claim::Mine);
        // The answer stays there while the next one is asked for.
        assert_eq!(one.news("jwks", None), Some(News::Answer(posted(15))));
    }

    #[test]
    fn a_turn_ends_by_itself_when_its_holder_dies() {
        let slots = Slots::default();
        let [one, two] = [1, 2].map(|me| worker(&slots, "a key that is shared", me));
        assert_eq!(one.claim("jwks", None, at(10), at(20)), Claim::Mine);
        assert_eq!(two.claim("jwks", None, at(19), at(30)), Claim::Theirs(at(20)));
        assert_eq!(two.claim("jwks", None, at(20), at(30)), Claim::Mine);
        assert_eq!(one.claim("jwks", None, at(21), at(40)), Claim::Theirs(at(30)));
    }

    #[test]
    fn a_turn_does_not_outlast_a_clock_that_is_set_back() {
        let slots = Slots::default();
        let [one, two] = [1, 2].map(|me| worker(&slots, "a key that is shared", me));
        assert_eq!(one.claim("jwks", None, at(100_000), at(100_010)), Claim::Mine);
        assert_eq!(two.claim("jwks", None, at(10), at(20)), Claim::Mine);
    }

    #[test]
    fn what_is_posted_by_a_clock_set_back_is_news_all_the_same() {
        let slots = Slots::default();
        let [one, two] = [1, 2].map(|me| worker(&slots, "a key that is shared", me));
        let _ = one.post("jwks", None, b"keys", at(100));
        assert_eq!(one.post("jwks", None, b"keys", at(15)), at(101));
        assert_eq!(two.news("jwks", Some(at(100))), Some(News::Answer(posted(101))));
        assert_eq!(one.post_failure("jwks", at(16)), at(102));
    }

    #[test]
    fn a_failure_is_told_and_takes_no_answer_away() {
        let slots = Slots::default();
        let [one, two] = [1, 2].map(|me| worker(&slots, "a key that is shared", me));
        assert_eq!(one.post_failure("jwks", at(5)), at(5));
        assert_eq!(two.news("jwks", None), Some(News::Failure(at(5))));
        assert_eq!(one.post("jwks", None, b"keys", at(15)), at(15));
        assert_eq!(one.claim("jwks", Some(at(15)), at(16), at(26)), Claim::Mine);
        assert_eq!(one.post_failure("jwks", at(20)), at(20));
        assert_eq!(two.news("jwks", None), Some(News::Answer(posted(15))));
        assert_eq!(two.news("jwks", Some(at(15))), Some(News::Failure(at(20))));
        assert_eq!(two.news("jwks", Some(at(20))), None);
        assert_eq!(two.claim("jwks", Some(at(20)), at(21), at(31)), Claim::Mine);
    }

    #[test]
    fn what_another_plugin_wrote_is_nothing() {
        let slots = Slots::default();
        let one = worker(&slots, "a key that is shared", 1);
        let stranger = worker(&slots, "a key of its own....", 2);
        assert_eq!(one.post("jwks", None, b"keys", at(15)), at(15));
        let name = one.name("jwks");
        let (good, version) = slots.read(&name).unwrap();
        for place in 0..good.len() {
            let mut altered = good.clone();
            altered[place] ^= 1;
            slots.0.borrow_mut().insert(name.clone(), (altered, version));
            assert_eq!(one.news("jwks", None), None, "byte {place}");
        }
        for bytes in [&b""[..], b"x", &[0; 64], &good[1..]] {
            slots.0.borrow_mut().insert(name.clone(), (bytes.to_vec(), version));
            assert_eq!(one.news("jwks", None), None);
        }
        // A note of ours in another slot is not a note of that slot.
        slots.0.borrow_mut().insert(one.name("other"), (good, 1));
        assert_eq!(one.news("other", None), None);
        assert_ne!(stranger.name("jwks"), name);
        assert_eq!(one.claim("jwks", None, at(1), at(2)), Claim::Mine);
    }
}
