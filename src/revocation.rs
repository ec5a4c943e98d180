//! What was revoked before its time: a list from a feed, and names on a blacklist.

pub mod blacklist;
pub mod feed;
pub mod renewal;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::names::JsonPointer;
use crate::config::{Config, Lookup};
use crate::time::UnixTime;
use crate::token::VerifiedToken;
use crate::token::claims::NumericDate;

/// How long an entry is kept after its end, should the clock be set back.
pub const KEPT: Duration = Duration::from_secs(3_600);

/// Most entries that name none of `jti`, `sid`, `sub` and `kid`: every token is held against each.
pub const MAX_UNNAMED: usize = 256;

/// One thing that is revoked: every token for which all of it holds. It does not print: it names a user.
#[derive(Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Entry {
    /// The token's `iss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// The token's `jti`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The token's `sid`: a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// The token's `sub`: a user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The key that signed the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// The token's `iat` is before this, in seconds since the epoch, or there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iat_before: Option<f64>,
    /// JSON Pointers into the claims, and what stands there.
    #[serde(rename = "match", skip_serializing_if = "BTreeMap::is_empty")]
    pub matches: BTreeMap<String, Value>,
    /// When the entry ends, in seconds since the epoch: when the last token that it can mean has expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<f64>,
    /// For those who read the feed. It means nothing here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entry")
    }
}

/// Why a list of entries is no use. An entry that is left out could be the one that matters, so the
/// whole list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadEntry {
    /// It says of no token what is revoked.
    Empty,
    /// A name of its `match` is not a JSON Pointer.
    Pointer,
    /// There are more than `limits.max_revocations`, or than [`MAX_UNNAMED`] that name nothing.
    TooMany,
}

impl fmt::Display for BadEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str(
                "an entry has none of `jti`, `sid`, `sub`, `kid`, `iss`, `iat_before` and `match`",
            ),
            Self::Pointer => f.write_str("a name in a `match` is not a JSON Pointer"),
            Self::TooMany => write!(
                f,
                "it has more entries than `limits.max_revocations`, or more than {MAX_UNNAMED} without `jti`, `sid`, `sub` and `kid`"
            ),
        }
    }
}

/// What a list is held to.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Most entries.
    pub max_entries: usize,
    /// How long after its `exp` a token is accepted, by the provider that allows most. An entry ends
    /// with the last token that it means, so it holds as long.
    pub clock_skew: Duration,
    /// How long what is known of a user may be used, whatever happens.
    pub record_life: Duration,
}

impl Terms {
    /// Those of a config.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let skews = config.providers.iter().map(|provider| provider.clock_skew);
        Self {
            max_entries: config.limits.max_revocations,
            clock_skew: skews.max().unwrap_or_default(),
            record_life: config.user.lookup().map_or(Duration::ZERO, Lookup::longest_life),
        }
    }
}

/// A list of entries, by what they name.
#[derive(Default)]
pub struct Revocations {
    /// Those that hold, and behind them those that have ended lately.
    entries: Vec<Known>,
    /// How many of them hold.
    live: usize,
    /// The latest end of those that were left out.
    lacks: Option<UnixTime>,
    by_jti: Index,
    by_sid: Index,
    by_sub: Index,
    by_kid: Index,
    unnamed: Vec<usize>,
}

type Index = HashMap<String, Vec<usize>>;

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revocations({} entries)", self.live)
    }
}

struct Known {
    entry: Entry,
    matches: Vec<(JsonPointer, Value)>,
    issued_before: Option<NumericDate>,
    ends: Option<UnixTime>,
}

impl Revocations {
    /// The list of `entries`. Those that have ended are kept for [`KEPT`], as far as there is room.
    ///
    /// # Errors
    /// Where one cannot be understood, or there are too many that hold.
    pub fn new(entries: Vec<Entry>, terms: Terms, now: UnixTime) -> Result<Self, BadEntry> {
        let mut list = Self::default();
        let mut ended = Vec::new();
        for entry in entries {
            let known = Known::new(entry, terms.clock_skew)?;
            if known.is_live(now) {
                list.add(known, terms)?;
            } else {
                ended.push(known);
            }
        }
        list.live = list.entries.len();
        for known in ended {
            let ends = known.ends;
            if !known.is_live(now.before(KEPT)) || list.add(known, terms).is_err() {
                list.lacks = list.lacks.max(ends);
            }
        }
        Ok(list)
    }

    fn add(&mut self, known: Known, terms: Terms) -> Result<(), BadEntry> {
        let entry = &known.entry;
        let place = self.entries.len();
        let is_named = [&entry.jti, &entry.sid, &entry.sub, &entry.kid].iter().any(|n| n.is_some());
        if place >= terms.max_entries || (!is_named && self.unnamed.len() >= MAX_UNNAMED) {
            return Err(BadEntry::TooMany);
        }
        // One index for each entry: it must hold as a whole, so any of its names finds it.
        match (&entry.jti, &entry.sid, &entry.sub, &entry.kid) {
            (Some(jti), _, _, _) => self.by_jti.entry(jti.clone()).or_default().push(place),
            (_, Some(sid), _, _) => self.by_sid.entry(sid.clone()).or_default().push(place),
            (_, _, Some(sub), _) => self.by_sub.entry(sub.clone()).or_default().push(place),
            (_, _, _, Some(kid)) => self.by_kid.entry(kid.clone()).or_default().push(place),
            (None, None, None, None) => self.unnamed.push(place),
        }
        self.entries.push(known);
        Ok(())
    }

    /// All entries, to be told to others.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|known| &known.entry)
    }

    /// How many held when it was made.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether none did.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Until when one would hold that was left out since it had ended. Before that, which is where a clock may
    /// be that was set back, what this list does not say means nothing.
    #[must_use]
    pub fn lacks(&self) -> Option<UnixTime> {
        self.lacks
    }

    /// Lacks what another list, of which this one was made, lacked already.
    #[must_use]
    pub fn lacking(self, lacks: Option<UnixTime>) -> Self {
        Self { lacks: self.lacks.max(lacks), ..self }
    }

    /// Whether a token is revoked.
    #[must_use]
    pub fn cover(&self, token: &VerifiedToken, now: UnixTime) -> bool {
        let claims = token.claims();
        let named = |index: &Index, name: Option<&str>| {
            let places = name.filter(|_| !index.is_empty()).and_then(|name| index.get(name));
            places.is_some_and(|places| self.any_holds(places, token, now))
        };
        named(&self.by_jti, claims.text("jti"))
            || named(&self.by_sid, claims.text("sid"))
            || named(&self.by_sub, claims.text("sub"))
            || named(&self.by_kid, token.kid())
            || self.any_holds(&self.unnamed, token, now)
    }

    fn any_holds(&self, places: &[usize], token: &VerifiedToken, now: UnixTime) -> bool {
        places
            .iter()
            .filter_map(|place| self.entries.get(*place))
            .any(|known| known.is_live(now) && known.holds_for(token))
    }

    /// The subjects of the entries that `before` has not.
    pub fn new_subjects<'a>(&'a self, before: &Self) -> impl Iterator<Item = &'a str> {
        let state = RandomState::new();
        let known: HashSet<u64> = before.entries().map(|entry| entry.digest(&state)).collect();
        self.entries()
            .filter(move |entry| !known.contains(&entry.digest(&state)))
            .filter_map(|entry| entry.sub.as_deref())
    }

    /// Its entries that are not among `others`: said twice is said once.
    #[must_use]
    pub fn without(&self, others: &[Entry]) -> Vec<Entry> {
        let state = RandomState::new();
        let others: HashSet<u64> = others.iter().map(|entry| entry.digest(&state)).collect();
        self.entries().filter(|entry| !others.contains(&entry.digest(&state))).cloned().collect()
    }
}

impl Entry {
    /// A number that two different entries do not share.
    fn digest(&self, state: &RandomState) -> u64 {
        let Self { iss, jti, sid, sub, kid, iat_before, matches, exp, reason } = self;
        let mut hasher = state.build_hasher();
        (iss, jti, sid, sub, kid, reason).hash(&mut hasher);
        (iat_before.map(f64::to_bits), exp.map(f64::to_bits)).hash(&mut hasher);
        for (pointer, value) in matches {
            (pointer, value.to_string()).hash(&mut hasher);
        }
        hasher.finish()
    }
}

impl Known {
    fn new(entry: Entry, clock_skew: Duration) -> Result<Self, BadEntry> {
        if entry == (Entry { exp: entry.exp, reason: entry.reason.clone(), ..Entry::default() }) {
            return Err(BadEntry::Empty);
        }
        let matches = entry
            .matches
            .iter()
            .map(|(pointer, value)| {
                let pointer = pointer.parse().map_err(|_| BadEntry::Pointer)?;
                Ok((pointer, value.clone()))
            })
            .collect::<Result<_, BadEntry>>()?;
        Ok(Self {
            matches,
            issued_before: entry.iat_before.map(NumericDate::from_secs),
            ends: entry.exp.map(|exp| NumericDate::from_secs(exp).to_unix().after(clock_skew)),
            entry,
        })
    }

    fn is_live(&self, now: UnixTime) -> bool {
        self.ends.is_none_or(|ends| now < ends)
    }

    fn holds_for(&self, token: &VerifiedToken) -> bool {
        let claims = token.claims();
        let Entry { iss, jti, sid, sub, kid, iat_before: _, matches: _, exp: _, reason: _ } =
            &self.entry;
        let is = |wanted: &Option<String>, name: &str| {
            wanted.as_deref().is_none_or(|wanted| claims.text(name) == Some(wanted))
        };
        iss.as_deref().is_none_or(|iss| token.issuer() == iss)
            && is(jti, "jti")
            && is(sid, "sid")
            && is(sub, "sub")
            && kid.as_deref().is_none_or(|kid| token.kid() == Some(kid))
            && self.issued_before.is_none_or(|date| claims.issued_before(date))
            && self.matches.iter().all(|(pointer, value)| {
                pointer.find(claims.members()).is_some_and(|v| same(v, value))
            })
    }
}

/// Whether two JSON values are the same; as numbers, `1` and `1.0` are (RFC 8259 section 6).
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || one.as_f64() == other.as_f64()
        }
        (one, other) => one == other,
    }
}
