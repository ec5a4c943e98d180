//! What a worker holds of one provider's keys, and when it fetches them.
//!
//! What is held and what is being fetched are told apart: a fetch never takes usable keys away,
//! whatever it brings.

use std::rc::Rc;
use std::time::Duration;

use super::KeySet;
use crate::config::RemoteJwks;
use crate::time::UnixTime;

/// The first wait after a failed fetch. It doubles with each further failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait between failed fetches: an issuer that is back is noticed within it.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// One provider's keys.
#[derive(Debug)]
pub struct ProviderKeys {
    held: Held,
    fetch: Fetch,
    failures: u32,
}

#[derive(Debug)]
enum Held {
    Nothing,
    Keys { set: Rc<KeySet>, fetched: UnixTime },
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
    /// These.
    Ready(Rc<KeySet>),
    /// None yet, but a fetch can be waited for.
    Await,
    /// None, and the last fetch failed a moment ago. The next one is due in so long.
    Unavailable(Duration),
}

impl ProviderKeys {
    /// No keys yet; the first fetch is due at once.
    #[must_use]
    pub fn new() -> Self {
        Self {
            held: Held::Nothing,
            fetch: Fetch::Idle { next: UnixTime::from_millis(0) },
            failures: 0,
        }
    }

    /// The keys to check a token with now.
    #[must_use]
    pub fn usable(&self, config: &RemoteJwks, now: UnixTime) -> Keys {
        match &self.held {
            Held::Keys { set, fetched } if now < end_of_use(config, *fetched) => {
                Keys::Ready(Rc::clone(set))
            }
            Held::Keys { .. } | Held::Nothing => match self.fetch {
                Fetch::Idle { next } if now < next => Keys::Unavailable(next.since(now)),
                Fetch::Idle { .. } | Fetch::InFlight => Keys::Await,
            },
        }
    }

    /// Whether a token whose `kid` is not among the keys held may cause a fetch, or wait for the one
    /// under way: the issuer may have added it since. Strangers choose `kid`, so not more often than
    /// once in the cooldown.
    #[must_use]
    pub fn may_refetch(&self, config: &RemoteJwks, now: UnixTime) -> bool {
        match (&self.fetch, &self.held) {
            (Fetch::InFlight, _) => true,
            (Fetch::Idle { next }, Held::Nothing) => *next <= now,
            (Fetch::Idle { next }, Held::Keys { fetched, .. }) => {
                now >= fetched.after(config.unknown_kid_cooldown)
                    && (self.failures == 0 || *next <= now)
            }
        }
    }

    /// Whether a fetch is due by itself, to keep the keys fresh.
    #[must_use]
    pub fn is_due(&self, now: UnixTime) -> bool {
        matches!(self.fetch, Fetch::Idle { next } if next <= now)
    }

    /// Notes that a fetch is under way.
    pub fn started(&mut self) {
        self.fetch = Fetch::InFlight;
    }

    /// Takes a fetched set over.
    pub fn arrived(&mut self, set: KeySet, config: &RemoteJwks, now: UnixTime) {
        self.held = Held::Keys { set: Rc::new(set), fetched: now };
        self.failures = 0;
        // Refreshed after nine tenths of its life, so that the next set is here before it ends.
        self.fetch = Fetch::Idle { next: now.after(config.cache_duration.mul_f64(0.9)) };
    }

    /// Notes that a fetch failed. `jitter` from 0 to 1 spreads the workers' next attempts.
    pub fn failed(&mut self, jitter: f64, now: UnixTime) {
        let wait = FIRST_RETRY
            .saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX))
            .min(LAST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.fetch =
            Fetch::Idle { next: now.after(wait.mul_f64(jitter.clamp(0.0, 1.0).mul_add(0.5, 0.5))) };
    }
}

impl Default for ProviderKeys {
    fn default() -> Self {
        Self::new()
    }
}

fn end_of_use(config: &RemoteJwks, fetched: UnixTime) -> UnixTime {
    fetched.after(config.cache_duration).after(config.max_stale)
}
