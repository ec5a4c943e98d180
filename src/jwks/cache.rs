//! What a worker holds of one provider's keys, and when it fetches them.
//!
//! What is held and what is being fetched are told apart: a fetch never takes usable keys away,
//! whatever it brings.

use std::rc::Rc;
use std::time::Duration;

use super::KeySet;
use crate::config::names::HttpUri;
use crate::config::{KeySource, Location, RemoteJwks};
use crate::time::UnixTime;

/// The first wait after a failed fetch. It doubles with each further failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait between failed fetches: an issuer that is back is noticed within it.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// The shortest life of a fetched set, however short the issuer says it is: `no-store` on a JWKS is a
/// habit of frameworks, and each fetch costs the issuer, too.
const SHORTEST_LIFE: Duration = Duration::from_secs(60);

/// One provider's keys.
#[derive(Debug)]
pub enum ProviderKeys {
    /// There are none: its tokens are introspected.
    None,
    /// They are the config's and never change.
    Local(Rc<KeySet>),
    /// They are fetched.
    Remote(Box<RemoteKeys>),
}

/// Keys behind a URI.
#[derive(Debug)]
pub struct RemoteKeys {
    terms: Terms,
    /// Where the JWKS is; unknown until it is discovered, and again after a failure.
    jwks: Option<HttpUri>,
    held: Held,
    /// Counts the different sets that were held.
    generation: u64,
    fetch: Fetch,
    failures: u32,
}

#[derive(Debug)]
struct Terms {
    location: Location,
    cache_duration: Duration,
    max_stale: Duration,
    unknown_kid_cooldown: Duration,
}

#[derive(Debug)]
enum Held {
    Nothing,
    Keys { set: Rc<KeySet>, fetched: UnixTime, fresh_until: UnixTime },
}

#[derive(Debug)]
enum Fetch {
    /// The next one is due then, and not before where the last one failed.
    Idle { next: UnixTime },
    /// One is under way.
    InFlight,
}

/// What a token's check may go on with.
#[derive(Debug)]
pub enum Keys {
    /// These, the set of that generation.
    Ready(Rc<KeySet>, u64),
    /// None yet, but a fetch can be waited for.
    Await,
    /// None, and the last fetch failed a moment ago.
    Unavailable,
}

impl ProviderKeys {
    /// What there is before anything was fetched; the first fetch is due at once.
    #[must_use]
    pub fn new(source: Option<&KeySource>) -> Self {
        match source {
            None => Self::None,
            Some(KeySource::Local(set)) => Self::Local(Rc::clone(set)),
            Some(KeySource::Remote(config)) => Self::Remote(Box::new(RemoteKeys::new(config))),
        }
    }

    /// The keys to check a token with now.
    #[must_use]
    pub fn usable(&self, now: UnixTime) -> Keys {
        match self {
            Self::None => Keys::Unavailable,
            Self::Local(set) => Keys::Ready(Rc::clone(set), 0),
            Self::Remote(keys) => keys.usable(now),
        }
    }

    /// Whether a token whose `kid` is not among the keys held may cause a fetch, or wait for the one
    /// under way.
    #[must_use]
    pub fn may_refetch(&self, now: UnixTime) -> bool {
        self.remote().is_some_and(|keys| keys.may_refetch(now))
    }

    /// Whether a fetch is due by itself, to keep the keys fresh.
    #[must_use]
    pub fn is_due(&self, now: UnixTime) -> bool {
        self.remote().is_some_and(|keys| matches!(keys.fetch, Fetch::Idle { next } if next <= now))
    }

    /// Whether what is held is past its life.
    #[must_use]
    pub fn is_stale(&self, now: UnixTime) -> bool {
        self.remote().is_some_and(|keys| keys.is_stale(now))
    }

    /// The keys that are fetched, where they are.
    #[must_use]
    pub fn remote(&self) -> Option<&RemoteKeys> {
        match self {
            Self::Remote(keys) => Some(keys),
            Self::None | Self::Local(_) => None,
        }
    }

    /// As [`Self::remote`], to be changed.
    pub fn remote_mut(&mut self) -> Option<&mut RemoteKeys> {
        match self {
            Self::Remote(keys) => Some(keys),
            Self::None | Self::Local(_) => None,
        }
    }
}

impl RemoteKeys {
    fn new(config: &RemoteJwks) -> Self {
        Self {
            jwks: known_location(&config.location),
            terms: Terms {
                location: config.location.clone(),
                cache_duration: config.cache_duration,
                max_stale: config.max_stale,
                unknown_kid_cooldown: config.unknown_kid_cooldown,
            },
            held: Held::Nothing,
            generation: 0,
            fetch: Fetch::Idle { next: UnixTime::from_millis(0) },
            failures: 0,
        }
    }

    fn usable(&self, now: UnixTime) -> Keys {
        match &self.held {
            Held::Keys { set, fresh_until, .. }
                if now < fresh_until.after(self.terms.max_stale) =>
            {
                Keys::Ready(Rc::clone(set), self.generation)
            }
            Held::Keys { .. } | Held::Nothing => match self.fetch {
                Fetch::Idle { next } if now < next => Keys::Unavailable,
                Fetch::Idle { .. } | Fetch::InFlight => Keys::Await,
            },
        }
    }

    /// The issuer may have added the key since the set was fetched. Strangers choose `kid`, so not
    /// more often than once in the cooldown.
    fn may_refetch(&self, now: UnixTime) -> bool {
        match (&self.fetch, &self.held) {
            (Fetch::InFlight, _) => true,
            (Fetch::Idle { next }, Held::Nothing) => *next <= now,
            (Fetch::Idle { next }, Held::Keys { fetched, .. }) => {
                now >= fetched.after(self.terms.unknown_kid_cooldown)
                    && (self.failures == 0 || *next <= now)
            }
        }
    }

    /// What to fetch next: the JWKS, or the metadata that says where it is.
    #[must_use]
    pub fn target(&self) -> &HttpUri {
        match (&self.jwks, &self.terms.location) {
            (Some(uri), _) | (None, Location::Jwks(uri) | Location::Discovery(uri)) => uri,
        }
    }

    /// Whether the JWKS is found by discovery.
    #[must_use]
    pub fn discovers(&self) -> bool {
        matches!(self.terms.location, Location::Discovery(_))
    }

    /// Whether the JWKS must be found first.
    #[must_use]
    pub fn must_discover(&self) -> bool {
        self.jwks.is_none()
    }

    /// Notes where the JWKS is.
    pub fn discovered(&mut self, jwks: HttpUri) {
        self.jwks = Some(jwks);
    }

    /// When the set that is held was fetched.
    #[must_use]
    pub fn fetched(&self) -> Option<UnixTime> {
        match &self.held {
            Held::Keys { fetched, .. } => Some(*fetched),
            Held::Nothing => None,
        }
    }

    fn is_stale(&self, now: UnixTime) -> bool {
        matches!(self.held, Held::Keys { fresh_until, .. } if fresh_until <= now)
    }

    /// The clock now says `now`, which is before what it said: the keys are asked for anew, and are kept
    /// no longer than if they had just been fetched.
    pub fn clock_set_back(&mut self, now: UnixTime) {
        if let Held::Keys { fetched, fresh_until, .. } = &mut self.held {
            *fetched = (*fetched).min(now.before(self.terms.unknown_kid_cooldown));
            *fresh_until = (*fresh_until).min(now.after(self.terms.cache_duration));
        }
        if let Fetch::Idle { next } = &mut self.fetch {
            *next = (*next).min(now);
        }
        // Those verified before are verified again.
        self.generation = self.generation.wrapping_add(1);
    }

    /// Notes that a fetch is under way.
    pub fn started(&mut self) {
        self.fetch = Fetch::InFlight;
    }

    /// Takes a set over that was fetched at `fetched` and that its issuer gives `max_age`.
    pub fn arrived(&mut self, set: KeySet, max_age: Option<Duration>, fetched: UnixTime) {
        let longest = self.terms.cache_duration;
        let life = max_age.map_or(longest, |age| age.max(SHORTEST_LIFE).min(longest));
        let same = matches!(&self.held, Held::Keys { set: held, .. } if **held == set);
        if !same {
            self.generation = self.generation.wrapping_add(1);
        }
        self.held = Held::Keys { set: Rc::new(set), fetched, fresh_until: fetched.after(life) };
        self.failures = 0;
        // Refreshed after nine tenths of its life, so that the next set is here before it ends.
        self.fetch = Fetch::Idle { next: fetched.after(life.mul_f64(0.9)) };
    }

    /// Notes that a fetch failed. `jitter` from 0 to 1 spreads the workers' next attempts.
    pub fn failed(&mut self, jitter: f64, now: UnixTime) {
        let wait = FIRST_RETRY
            .saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX))
            .min(LAST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.fetch =
            Fetch::Idle { next: now.after(wait.mul_f64(jitter.clamp(0.0, 1.0).mul_add(0.5, 0.5))) };
        // The issuer may have moved.
        self.jwks = known_location(&self.terms.location);
    }
}

fn known_location(location: &Location) -> Option<HttpUri> {
    match location {
        Location::Jwks(uri) => Some(uri.clone()),
        Location::Discovery(_) => None,
    }
}
