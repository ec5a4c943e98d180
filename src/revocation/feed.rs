//! The revocation feed: a list that is asked for again and again, and how long it may be believed.
//!
//! An answer is `{"v": 1, "entries": [...]}`. With an `ETag`, an unchanged list costs no more than a 304.
//! With a `next`, which means something to the feed alone, the following polls carry it as `since` and
//! bring only what is new; 410 says that they can do so no longer.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::renewal::Renewals;
use super::{BadEntry, Entry, Revocations, Terms};
use crate::callout::{Answer, CallRequest, Failure};
use crate::config::Feed as Config;
use crate::config::names::{form_encoded, is_header_value};
use crate::json::{self, shape};
use crate::time::UnixTime;

/// Longest `etag` and `next`, in bytes: they are sent with every poll.
const MAX_BOOKMARK_BYTES: usize = 1_024;

/// The feed, as one worker knows it.
#[derive(Debug)]
pub struct Feed {
    held: Option<Held>,
    poll: Poll,
    renewals: Renewals,
}

#[derive(Debug)]
struct Held {
    list: Revocations,
    bookmark: Bookmark,
    /// When the feed last said that this is all.
    confirmed: UnixTime,
}

impl Held {
    /// Whether a token that it does not name is not revoked.
    fn is_good(&self, config: &Config, now: UnixTime) -> bool {
        now < self.confirmed.after(config.max_age) && self.list.lacks() <= Some(now)
    }
}

/// What the next poll tells the feed of the last one.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize, Serialize)]
struct Bookmark {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Debug)]
enum Poll {
    /// The next one is due then.
    Idle { next: UnixTime },
    /// One is under way.
    InFlight,
}

/// What a token's check may go on with.
#[derive(Debug)]
pub enum Known {
    /// The list that is held.
    List,
    /// None yet, but the first poll can be waited for.
    Await,
    /// None that is young enough.
    Unavailable,
}

/// Why a poll brought nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum FeedError {
    /// No usable answer came.
    NoAnswer(Failure),
    /// Its status is none that a feed answers with.
    Status(u16),
    /// It cannot tell what came since the last poll; the next one asks for all.
    Since,
    /// Its body is not `{"v": 1, "entries": [...]}`; the text says what is wrong and quotes no value.
    NotAFeed,
    /// An entry cannot be understood.
    Entry(BadEntry),
}

impl fmt::Display for FeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(failure) => failure.fmt(f),
            Self::Status(status) => write!(f, "it answered with status {status}"),
            Self::Since => f.write_str("it cannot tell what came since, all of it is asked for"),
            Self::NotAFeed => {
                f.write_str("its answer is not a feed: `{\"v\": 1, \"entries\": [...]}`, see the documentation for what an entry may have")
            }
            Self::Entry(error) => error.fmt(f),
        }
    }
}

/// An answer, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    v: u8,
    entries: Vec<Entry>,
    #[serde(default)]
    next: Option<String>,
}

/// A list as workers tell each other of it.
#[derive(Deserialize, Serialize)]
struct State {
    entries: Vec<Entry>,
    /// In milliseconds since the epoch.
    lacks: Option<u64>,
    renewals: Renewals,
}

/// What workers tell each other of every poll: which list the feed vouched for.
#[derive(Deserialize, Serialize)]
pub struct Pulse {
    list: u64,
    bookmark: Bookmark,
}

impl Pulse {
    /// From bytes.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        document(bytes).ok()
    }

    /// The time under which the list was posted.
    #[must_use]
    pub fn list(&self) -> UnixTime {
        UnixTime::from_millis(self.list)
    }
}

impl Default for Feed {
    fn default() -> Self {
        let poll = Poll::Idle { next: UnixTime::from_millis(0) };
        Self { held: None, poll, renewals: Renewals::default() }
    }
}

impl Feed {
    /// What there is to check tokens with.
    #[must_use]
    pub fn known(&self, config: &Config, now: UnixTime) -> Known {
        match (&self.held, &self.poll) {
            (Some(held), _) if held.is_good(config, now) => Known::List,
            (None, Poll::InFlight) => Known::Await,
            (None, Poll::Idle { next }) if *next <= now => Known::Await,
            (None, Poll::Idle { .. }) | (Some(_), _) => Known::Unavailable,
        }
    }

    /// How many entries are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list().map_or(0, Revocations::len)
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the feed last said that the list that is held is all.
    #[must_use]
    pub fn confirmed_at(&self) -> Option<UnixTime> {
        self.held.as_ref().map(|held| held.confirmed)
    }

    /// What was asked for before this is not used of the user with this `sub`.
    #[must_use]
    pub fn user_since(&self, subject: &str) -> UnixTime {
        self.renewals.since(subject)
    }

    /// The list that is held, however old it is: what it revokes is revoked.
    #[must_use]
    pub fn list(&self) -> Option<&Revocations> {
        self.held.as_ref().map(|held| &held.list)
    }

    /// Whether a poll is due.
    #[must_use]
    pub fn is_due(&self, now: UnixTime) -> bool {
        matches!(self.poll, Poll::Idle { next } if next <= now)
    }

    /// Notes that a poll is under way.
    pub fn started(&mut self) {
        self.poll = Poll::InFlight;
    }

    /// The poll, as it is to be made now.
    #[must_use]
    pub fn request(&self, config: &Config, max_bytes: usize) -> CallRequest {
        let bookmark = self.held.as_ref().map(|held| held.bookmark.clone()).unwrap_or_default();
        let path = match &bookmark.next {
            None => config.uri.path.clone(),
            Some(next) => {
                let sign = if config.uri.path.contains('?') { '&' } else { '?' };
                format!("{}{sign}since={}", config.uri.path, form_encoded(next))
            }
        };
        let request = CallRequest::get(
            &config.cluster,
            config.uri.scheme,
            &config.uri.authority,
            path,
            config.timeout,
            max_bytes,
        )
        .with_headers(&config.headers);
        match &bookmark.etag {
            Some(etag) => request.with_header("if-none-match", etag),
            None => request,
        }
    }

    /// Takes an answer to this worker's own poll; whether the list is another one now.
    ///
    /// # Errors
    /// Where it brings nothing. What is held stays, and grows old.
    pub fn answered(
        &mut self,
        config: &Config,
        terms: Terms,
        answer: &Answer,
        now: UnixTime,
    ) -> Result<bool, FeedError> {
        self.poll = Poll::Idle { next: now.after(config.interval) };
        match answer {
            Answer::Response { status: 200, body, etag, .. } => {
                let document = read(body)?;
                let bookmark = Bookmark {
                    etag: etag.clone().filter(|etag| etag.len() <= MAX_BOOKMARK_BYTES),
                    next: document.next,
                };
                self.add(document.entries, bookmark, terms, now)
            }
            // Only to a poll that named a list can this say that it is still the same.
            Answer::Response { status: 304, .. } => match &mut self.held {
                Some(held) if held.bookmark.etag.is_some() => {
                    held.confirmed = now;
                    Ok(false)
                }
                Some(_) | None => Err(FeedError::Status(304)),
            },
            // It cannot tell what came since: the whole list is asked for at once.
            Answer::Response { status: 410, .. } => {
                if let Some(held) = &mut self.held
                    && held.bookmark.next.is_some()
                {
                    held.bookmark = Bookmark::default();
                    self.poll = Poll::Idle { next: now };
                    return Err(FeedError::Since);
                }
                Err(FeedError::Status(410))
            }
            Answer::Response { status, .. } => Err(FeedError::Status(*status)),
            Answer::Failed(failure) => Err(FeedError::NoAnswer(*failure)),
        }
    }

    fn add(
        &mut self,
        mut entries: Vec<Entry>,
        bookmark: Bookmark,
        terms: Terms,
        now: UnixTime,
    ) -> Result<bool, FeedError> {
        let nothing = Revocations::default();
        let before = self.list().unwrap_or(&nothing);
        let mut lacks = None;
        if self.held.as_ref().is_some_and(|held| held.bookmark.next.is_some()) {
            let known = before.without(&entries);
            entries.extend(known);
            lacks = before.lacks();
        }
        let list = Revocations::new(entries, terms, now).map_err(FeedError::Entry)?.lacking(lacks);
        let changed = self.held.as_ref().is_none_or(|held| !held.list.entries().eq(list.entries()));
        let mut renewals = self.renewals.clone();
        renewals.renew(list.new_subjects(before), now);
        renewals.tidy(terms.record_life, terms.max_entries, now);
        self.renewals = renewals;
        self.held = Some(Held { list, bookmark, confirmed: now });
        Ok(changed)
    }

    /// Notes that another worker polled, but its list cannot be taken over: this one polls at once.
    pub fn not_taken(&mut self, now: UnixTime) {
        self.poll = Poll::Idle { next: now };
    }

    /// Notes that another worker polled in vain.
    pub fn failed(&mut self, config: &Config, now: UnixTime) {
        self.poll = Poll::Idle { next: now.after(config.interval) };
    }

    /// Notes that another worker was told at `confirmed` that nothing has changed.
    pub fn confirmed(&mut self, config: &Config, pulse: Pulse, confirmed: UnixTime) {
        if let Some(held) = &mut self.held {
            held.bookmark = pulse.bookmark;
            held.confirmed = held.confirmed.max(confirmed);
        }
        self.poll = Poll::Idle { next: confirmed.after(config.interval) };
    }

    /// The list that is held, for other workers.
    #[must_use]
    pub fn state(&self) -> Option<Vec<u8>> {
        let list = self.list()?;
        let entries = list.entries().cloned().collect();
        let lacks = list.lacks().map(UnixTime::as_millis);
        serde_json::to_vec(&State { entries, lacks, renewals: self.renewals.clone() }).ok()
    }

    /// That the feed vouched for it, for other workers. It was posted under the time `list`.
    #[must_use]
    pub fn pulse(&self, list: UnixTime) -> Option<Vec<u8>> {
        let bookmark = self.held.as_ref()?.bookmark.clone();
        serde_json::to_vec(&Pulse { list: list.as_millis(), bookmark }).ok()
    }

    /// Takes over what another worker holds, and was told at `confirmed`.
    ///
    /// # Errors
    /// Where it is no list that this one could hold. What it took, this one can take.
    pub fn take_over(
        &mut self,
        config: &Config,
        terms: Terms,
        state: &[u8],
        pulse: Pulse,
        confirmed: UnixTime,
        now: UnixTime,
    ) -> Result<(), FeedError> {
        let State { entries, lacks, renewals } = document(state)?;
        let lacks = lacks.map(UnixTime::from_millis);
        let list = Revocations::new(entries, terms, now).map_err(FeedError::Entry)?.lacking(lacks);
        self.renewals.join(renewals);
        self.renewals.tidy(terms.record_life, terms.max_entries, now);
        self.held = Some(Held { list, bookmark: pulse.bookmark, confirmed });
        self.poll = Poll::Idle { next: confirmed.after(config.interval) };
        Ok(())
    }

    /// The clock now says `now`, which is before what it said: the list is believed no longer than if it
    /// had just come, and all of it is asked for at once, since it may lack what had ended by the old clock.
    pub fn clock_set_back(&mut self, now: UnixTime) {
        if let Some(held) = &mut self.held {
            held.bookmark = Bookmark::default();
            held.confirmed = held.confirmed.min(now);
        }
        self.renewals.clock_set_back(now);
        if let Poll::Idle { next } = &mut self.poll {
            *next = (*next).min(now);
        }
    }
}

fn document<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FeedError> {
    let value = json::parse(bytes).map_err(|_| FeedError::NotAFeed)?;
    shape::read(value).map_err(|_| FeedError::NotAFeed)
}

fn read(body: &[u8]) -> Result<Document, FeedError> {
    let document: Document = document(body)?;
    let short = |next: &String| next.len() <= MAX_BOOKMARK_BYTES && is_header_value(next);
    if document.v != 1 || !document.next.as_ref().is_none_or(short) {
        return Err(FeedError::NotAFeed);
    }
    Ok(document)
}
