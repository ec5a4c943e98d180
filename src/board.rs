//! What the workers of one process tell each other, so that one of them asks and all of them know.
//!
//! Each worker of Envoy has a VM of its own. What they share is Envoy's shared data: named slots of
//! bytes, without ownership, and without an end: a slot once made stays. So there is a fixed number of
//! them, and each is overwritten in place. Other plugins may write there too, so a note counts only if
//! it carries a MAC under a key from the config; without that key nothing is shared, and each worker
//! asks for itself.
//!
//! A note says what it is about, whose turn it is to ask (which ends by itself should its holder die),
//! and what the last answer was. Notes about different things may meet in one slot: the later one
//! stands, but a turn is not taken from its holder.

use std::fmt::{self, Write as _};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jwt_simple::prelude::{HS256Key, MACLike};

use crate::config::Secret;
use crate::time::{NUDGE, UnixTime, millis};

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

/// Where notes about one thing stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    slot: String,
    subject: [u8; SUBJECT_BYTES],
}

impl Place {
    /// The slot's name.
    #[must_use]
    pub fn slot(&self) -> &str {
        &self.slot
    }
}

/// The last answer, as it was posted.
#[derive(Clone, PartialEq, Eq)]
pub struct Posted {
    /// When it came.
    pub at: UnixTime,
    /// How long its sender lets it be kept.
    pub max_age: Option<Duration>,
    /// The answer.
    pub body: Vec<u8>,
}

/// Without the body, which may be a user's record.
impl fmt::Debug for Posted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Posted({} bytes at {})", self.body.len(), self.at.as_millis())
    }
}

/// Why asking brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Who was asked is down.
    Outage,
    /// The answer made no sense.
    Senseless,
}

/// What stands in a place.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct View {
    /// Whether it is another worker's turn to ask.
    pub theirs: bool,
    /// The last answer.
    pub posted: Option<Posted>,
    /// That asking failed after it.
    pub failed: Option<(UnixTime, Fault)>,
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
    /// This worker's, if it wants it.
    Mine,
    /// Another's.
    Theirs(Theirs),
    /// Nobody's: there is an answer that will do.
    Answered(Posted),
}

/// Another worker's turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Theirs {
    /// Where it says so.
    pub place: Place,
    /// When it ends at the latest.
    pub until: UnixTime,
    /// In this version of the slot.
    pub version: u32,
}

/// What became of a post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The time that it stands under.
    pub at: UnixTime,
    /// Whether another worker waits for it.
    pub watched: bool,
    /// Whether it stands there. It need not: who finds nothing asks itself.
    pub written: bool,
}

/// Shortest sharing key, in bytes: that of the MAC's security, SHA-256 halved.
pub const MIN_KEY_BYTES: usize = 16;

const VERSION: u8 = 2;
const TAG_BYTES: usize = 32;
/// Enough of a MAC that no two things are taken for one.
const SUBJECT_BYTES: usize = 16;
/// How often a write is tried again. Each try is lost to another worker that got further, so few are.
const TRIES: usize = 8;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Note {
    holder: u64,
    until: u64,
    /// Whether another worker waits for the end of the turn.
    watched: bool,
    /// When something was last told here, an answer or a failure. It outlives both, so that whatever is told
    /// next stands under a later time, though the clock was set back.
    told: u64,
    /// How asking failed, where it has since the last answer.
    failed: Option<Fault>,
    posted: Option<Posted>,
}

/// What a slot holds, for somebody who looks for one thing.
enum Found {
    /// A note about it.
    This(Note),
    /// A note about something else.
    Other(Note),
    /// No note of ours.
    Nothing,
}

impl Note {
    /// The end of another worker's turn, where it has not come. A turn that would last longer than one
    /// that began now, which is until `longest`, is of another time: the clock was set back since. But
    /// its holder may have read the clock a moment after us, and yet been the first to write.
    fn theirs(&self, me: u64, now: UnixTime, longest: UnixTime) -> Option<UnixTime> {
        let until = UnixTime::from_millis(self.until);
        (self.holder != me && now < until && until <= longest.after(NUDGE)).then_some(until)
    }
}

/// How long any turn lasts at most. For those who do not know how long this one may.
const LONGEST_TURN: Duration = Duration::from_secs(300);

impl Exchange {
    /// Access for the worker called `me`, which shares with all that have this key.
    #[must_use]
    pub fn new(board: Box<dyn Board>, key: &Secret, me: u64) -> Self {
        let key = HS256Key::from_bytes(key.reveal().as_bytes());
        let digest = key.authentication_tag(b"namespace");
        let prefix = format!("meshgate.{}", hex(digest.iter().take(8)));
        Self { board, key, prefix, me }
    }

    /// The place of `subject`, which has a slot of its own. What the subject is must say all that the
    /// answer depends on, so that configs which differ in that do not share.
    #[must_use]
    pub fn place(&self, kind: &str, subject: &str) -> Place {
        let digest = self.key.authentication_tag(subject.as_bytes());
        let slot = format!("{}.{kind}.{}", self.prefix, hex(digest.iter().take(8)));
        Place { slot, subject: first_bytes(&digest) }
    }

    /// The place of `subject` in a table of `size` slots, which others may have too.
    #[must_use]
    pub fn seat(&self, table: &str, size: usize, subject: &str) -> Place {
        let digest = self.key.authentication_tag(subject.as_bytes());
        let number = u64::from_le_bytes(last_bytes(&digest));
        let seat = number.checked_rem(u64::try_from(size).unwrap_or(u64::MAX)).unwrap_or(0);
        let slot = format!("{}.{table}.{seat}", self.prefix);
        Place { slot, subject: first_bytes(&digest) }
    }

    /// Makes the slots of a table. Envoy compares versions only of slots that exist, so two workers that
    /// make one at the same time would both have its first turn. The first VM to be configured is
    /// alone: Envoy tries a config out in its main thread before any worker has it.
    pub fn lay(&self, table: &str, size: usize) {
        let marker = format!("{}.{table}", self.prefix);
        let size = u64::try_from(size).unwrap_or(u64::MAX);
        let laid = self.board.read(&marker).and_then(|(bytes, _)| Some(number(&bytes)?.0));
        for seat in laid.unwrap_or(0)..size {
            let slot = format!("{marker}.{seat}");
            if self.board.read(&slot).is_none() {
                self.board.write(&slot, &[0], None);
            }
        }
        if laid < Some(size) {
            self.board.write(&marker, &size.to_le_bytes(), None);
        }
    }

    /// Takes the turn to ask until `until`, unless it is another's, or `answers` says that what was
    /// posted will do. Without `until`, a turn that is nobody's is left there.
    #[must_use]
    pub fn claim(
        &self,
        place: &Place,
        now: UnixTime,
        until: Option<UnixTime>,
        answers: impl Fn(&Posted) -> bool,
    ) -> Claim {
        let longest = until.unwrap_or_else(|| now.after(LONGEST_TURN));
        for _ in 0..TRIES {
            let (found, version) = self.find(place);
            let note = match found {
                Found::This(note) => note,
                // What comes of this turn cannot be shared, so it need not be noted.
                Found::Other(note) if note.theirs(self.me, now, longest).is_some() => {
                    return Claim::Mine;
                }
                Found::Other(_) | Found::Nothing => Note::default(),
            };
            if let Some(posted) = note.posted.as_ref().filter(|posted| answers(posted)) {
                return Claim::Answered(posted.clone());
            }
            let theirs = note.theirs(self.me, now, longest);
            let next = match (theirs, version) {
                (Some(until), Some(version)) if note.watched => {
                    return Claim::Theirs(Theirs { place: place.clone(), until, version });
                }
                (Some(_), _) => Note { watched: true, ..note },
                (None, _) => match until {
                    Some(until) => Note {
                        holder: self.me,
                        until: until.as_millis(),
                        watched: false,
                        failed: None,
                        ..note
                    },
                    None => return Claim::Mine,
                },
            };
            if self.put(place, &next, version) && theirs.is_none() {
                return Claim::Mine;
            }
        }
        // Asking once too often is better than not at all.
        Claim::Mine
    }

    /// Posts an answer, and gives the turn back. It takes the place of no later one: the worker that was
    /// told may have been asleep since, and its turn gone to another.
    #[must_use]
    pub fn post(&self, place: &Place, answer: &Posted, now: UnixTime) -> Receipt {
        self.give_back(place, now, |_, note| {
            let later =
                note.posted.filter(|posted| answer.at < posted.at && posted.at <= now.after(NUDGE));
            let posted = later.unwrap_or_else(|| answer.clone());
            Some(Note { posted: Some(posted), ..Note::default() })
        })
    }

    /// Posts an answer that came at `now`, and gives the turn back. It stands under a time that is later
    /// than all that stood there, so that it is news to everybody though the clock was set back.
    #[must_use]
    pub fn post_news(
        &self,
        place: &Place,
        max_age: Option<Duration>,
        body: &[u8],
        now: UnixTime,
    ) -> Receipt {
        self.give_back(place, now, |at, _| {
            let posted = Some(Posted { at, max_age, body: body.to_vec() });
            Some(Note { posted, ..Note::default() })
        })
    }

    /// Posts what `merged` makes of what stands there about the same thing.
    #[must_use]
    pub fn post_merged(
        &self,
        place: &Place,
        now: UnixTime,
        merged: impl Fn(Option<&Posted>) -> Posted,
    ) -> Receipt {
        self.give_back(place, now, |_, note| {
            Some(Note { posted: Some(merged(note.posted.as_ref())), ..Note::default() })
        })
    }

    /// When the answer came that stands in a place, and whether it is about this.
    #[must_use]
    pub fn standing(&self, place: &Place) -> Option<(UnixTime, bool)> {
        match self.find(place).0 {
            Found::This(note) => Some((note.posted?.at, true)),
            Found::Other(note) => Some((note.posted?.at, false)),
            Found::Nothing => None,
        }
    }

    /// Posts that asking failed, likewise. The last answer stays, and so does the turn of another
    /// worker that took over.
    #[must_use]
    pub fn post_failure(&self, place: &Place, fault: Fault, now: UnixTime) -> Receipt {
        self.give_back(place, now, |_, note| {
            let overtaken = note.theirs(self.me, now, now.after(LONGEST_TURN)).is_some();
            (!overtaken).then(|| Note {
                failed: Some(fault),
                posted: note.posted,
                ..Note::default()
            })
        })
    }

    /// Gives the turn back with nothing to show for it: what came cannot be posted, and what stood there is
    /// not true any more.
    #[must_use]
    pub fn pass(&self, place: &Place, now: UnixTime) -> Receipt {
        self.give_back(place, now, |_, _| Some(Note::default()))
    }

    fn give_back(
        &self,
        place: &Place,
        now: UnixTime,
        done: impl Fn(UnixTime, Note) -> Option<Note>,
    ) -> Receipt {
        let mut receipt = Receipt { at: now, watched: false, written: false };
        for _ in 0..TRIES {
            let (found, version) = self.find(place);
            let note = match found {
                Found::This(note) => note,
                Found::Other(note)
                    if note.theirs(self.me, now, now.after(LONGEST_TURN)).is_some() =>
                {
                    return receipt;
                }
                Found::Other(_) | Found::Nothing => Note::default(),
            };
            let posted = note.posted.as_ref().map_or(0, |posted| posted.at.as_millis());
            let last = posted.max(note.told);
            receipt.at = now.max(UnixTime::from_millis(last.saturating_add(1)));
            receipt.watched = note.watched;
            let Some(next) = done(receipt.at, note) else {
                break;
            };
            if self.put(place, &Note { told: receipt.at.as_millis(), ..next }, version) {
                receipt.written = true;
                break;
            }
        }
        receipt
    }

    /// What was posted after `seen`: the answer first, then that asking has failed since.
    #[must_use]
    pub fn news(&self, place: &Place, seen: Option<UnixTime>, now: UnixTime) -> Option<News> {
        let Found::This(note) = self.find(place).0 else {
            return None;
        };
        let told = UnixTime::from_millis(note.told);
        // What was seen stood under a time that is yet to come, since the clock was set back, and another
        // plugin has written over it: what stands there now is news, though its time is earlier.
        let seen = seen.filter(|seen| *seen <= told.max(now));
        match (note.posted, note.failed) {
            (Some(posted), _) if Some(posted.at) > seen => Some(News::Answer(posted)),
            (_, Some(_)) if Some(told) > seen => Some(News::Failure(told)),
            (_, _) => None,
        }
    }

    /// What stands there, if it is another version than `seen`.
    #[must_use]
    pub fn look(&self, place: &Place, seen: Option<u32>, now: UnixTime) -> Option<View> {
        let (bytes, version) = self.board.read(&place.slot)?;
        if seen == Some(version) {
            return None;
        }
        Some(match self.open(place, &bytes) {
            Found::This(note) => View {
                theirs: note.theirs(self.me, now, now.after(LONGEST_TURN)).is_some(),
                posted: note.posted,
                failed: note.failed.map(|fault| (UnixTime::from_millis(note.told), fault)),
            },
            Found::Other(_) | Found::Nothing => View::default(),
        })
    }

    /// `body` as a text that shows who wrote it: one who has the key, about `subject`. For places where
    /// others can write, too.
    #[must_use]
    pub fn signed(&self, subject: &str, body: &[u8]) -> String {
        let tag = self.tag(&format!("text {subject}"), body);
        URL_SAFE_NO_PAD.encode([&tag, body].concat())
    }

    /// The body of such a text.
    #[must_use]
    pub fn verified(&self, subject: &str, text: &str) -> Option<Vec<u8>> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (tag, body) = bytes.split_at_checked(TAG_BYTES)?;
        let genuine = ct_codecs::verify(&self.tag(&format!("text {subject}"), body), tag);
        genuine.then(|| body.to_vec())
    }

    fn find(&self, place: &Place) -> (Found, Option<u32>) {
        match self.board.read(&place.slot) {
            Some((bytes, version)) => (self.open(place, &bytes), Some(version)),
            None => (Found::Nothing, None),
        }
    }

    fn put(&self, place: &Place, note: &Note, version: Option<u32>) -> bool {
        self.board.write(&place.slot, &self.seal(place, note), version)
    }

    fn seal(&self, place: &Place, note: &Note) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(place.subject);
        bytes.extend(note.holder.to_le_bytes());
        bytes.extend(note.until.to_le_bytes());
        bytes.push(u8::from(note.watched));
        bytes.extend(note.told.to_le_bytes());
        bytes.push(match note.failed {
            None => 0,
            Some(Fault::Outage) => 1,
            Some(Fault::Senseless) => 2,
        });
        if let Some(posted) = &note.posted {
            bytes.extend(posted.at.as_millis().to_le_bytes());
            bytes.extend(posted.max_age.map_or(u64::MAX, millis).to_le_bytes());
            bytes.extend(&posted.body);
        }
        let tag = self.tag(&place.slot, &bytes);
        bytes.extend(tag);
        bytes
    }

    fn open(&self, place: &Place, bytes: &[u8]) -> Found {
        match self.opened(&place.slot, bytes) {
            Some((subject, note)) if subject == place.subject => Found::This(note),
            Some((_, note)) => Found::Other(note),
            None => Found::Nothing,
        }
    }

    fn opened(&self, slot: &str, bytes: &[u8]) -> Option<([u8; SUBJECT_BYTES], Note)> {
        let (content, tag) = bytes.split_at_checked(bytes.len().checked_sub(TAG_BYTES)?)?;
        if !ct_codecs::verify(&self.tag(slot, content), tag) {
            return None;
        }
        let (version, rest) = content.split_first()?;
        if *version != VERSION {
            return None;
        }
        let (subject, rest) = rest.split_first_chunk::<SUBJECT_BYTES>()?;
        let (holder, rest) = number(rest)?;
        let (until, rest) = number(rest)?;
        let (watched, rest) = rest.split_first()?;
        let (told, rest) = number(rest)?;
        let (fault, rest) = rest.split_first()?;
        let note = Note {
            holder,
            until,
            watched: *watched != 0,
            told,
            failed: match fault {
                0 => None,
                1 => Some(Fault::Outage),
                _ => Some(Fault::Senseless),
            },
            posted: match rest {
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
            },
        };
        Some((*subject, note))
    }

    /// The MAC of a slot's content. It covers the slot's name, so no note can be moved.
    fn tag(&self, slot: &str, content: &[u8]) -> Vec<u8> {
        self.key.authentication_tag(&[slot.as_bytes(), &[0], content].concat())
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

/// The first bytes of a MAC, which has as many.
fn first_bytes<const N: usize>(digest: &[u8]) -> [u8; N] {
    digest.first_chunk().copied().unwrap_or([0; N])
}

/// The last ones.
fn last_bytes<const N: usize>(digest: &[u8]) -> [u8; N] {
    digest.last_chunk().copied().unwrap_or([0; N])
}

fn hex<'a>(bytes: impl Iterator<Item = &'a u8>) -> String {
    bytes.fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests;
