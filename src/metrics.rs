//! What a worker counts, and how that is told to Envoy.
//!
//! A request costs no host call here: what happens is counted in plain integers, and the shell tells Envoy
//! every tick by how much each has grown ([`Report`]). What was counted since the last tick is lost where a
//! VM traps; where one is shut down in order, it is told (`Report::last`).
//!
//! Envoy's metrics belong to the process, and each worker has a VM of its own, so a metric says one thing of
//! all workers, by its `Way`: counters and most gauges are sums, to which each worker adds its part; an age
//! is that of the oldest thing that any of them holds.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use crate::callout::{CallKey, Leg};
use crate::config::{Config, KeySource, Mode};
use crate::denial::Code;
use crate::time::{UnixTime, millis};
use crate::token::ProviderId;

/// How often ages are told: they are in seconds.
const AGES_EVERY: Duration = Duration::from_secs(1);
/// Most samples of a histogram between two ticks. What exceeds it is left out: the shape is the same.
const MAX_SAMPLES: usize = 1_024;
/// Longest part of a metric's name that a config chooses, in bytes.
const MAX_PART_BYTES: usize = 64;

/// Declares a fieldless enum whose variants are places in an array, each with the metric's name.
macro_rules! places {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// All of them, in the order of their places.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its part of the metric's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            #[expect(clippy::as_conversions, reason = "a variant's place among those of its enum")]
            const fn place(self) -> usize {
                self as usize
            }
        }
    };
}

places! {
    /// What is counted of all requests and tokens alike.
    Counter {
        /// A token was known.
        TokenHit = "tokens.cache_hit",
        /// A token had to be looked at.
        TokenMiss = "tokens.cache_miss",
        /// Envoy's BoringSSL checked a signature.
        VerifiedByHost = "verify.host",
        /// This module did.
        VerifiedByModule = "verify.wasm",
        /// A user's record was at hand.
        UserHit = "user.cache_hit",
        /// It was not.
        UserMiss = "user.cache_miss",
        /// A request waited for a lookup that another one had caused, here or in another worker.
        UserCoalesced = "user.coalesced",
        /// A request went on with a record past its `ttl`.
        UserStale = "user.stale",
        /// The users service answered.
        LookupOk = "user.lookup_ok",
        /// It did not, or made no sense.
        LookupError = "user.lookup_error",
        /// Redis had a record that could be used.
        RedisHit = "user.redis_hit",
        /// It had none.
        RedisMiss = "user.redis_miss",
        /// The feed said what is revoked.
        PollOk = "revocation.poll_ok",
        /// It did not.
        PollError = "revocation.poll_error",
        /// A token was refused since the feed or the blacklist names it.
        Revoked = "revocation.refused",
        /// A request for which it was not known whether its token is revoked.
        RevocationUnknown = "revocation.unavailable",
        /// What the blacklist says of a token was known.
        ListedHit = "revocation.blacklist_cache_hit",
        /// It had to be asked.
        ListedMiss = "revocation.blacklist_cache_miss",
    }
}

places! {
    /// What calls are made to.
    Dependency {
        /// The issuers' keys, and the metadata that says where they are.
        Jwks = "jwks",
        /// The issuers' word on opaque tokens.
        Introspection = "introspection",
        /// The revocation feed.
        Feed = "revocation_feed",
        /// The blacklist in Redis.
        Blacklist = "blacklist",
        /// The users service.
        Users = "users",
        /// The records in Redis.
        UsersRedis = "users_redis",
        /// The token endpoints for the service's own tokens.
        ServiceTokens = "service_tokens",
    }
}

impl Dependency {
    /// Who is asked by a call.
    #[must_use]
    pub fn of(key: &CallKey, leg: Leg) -> Self {
        match (key, leg) {
            (CallKey::Jwks(_), _) => Self::Jwks,
            (CallKey::Introspection(_), _) => Self::Introspection,
            (CallKey::Feed, _) => Self::Feed,
            (CallKey::Blacklist(_), _) => Self::Blacklist,
            (CallKey::User(_), Leg::Redis) | (CallKey::Store(_), _) => Self::UsersRedis,
            (CallKey::User(_), Leg::Origin | Leg::Discovery) => Self::Users,
            (CallKey::ServiceToken(_), _) => Self::ServiceTokens,
        }
    }

    fn is_in(self, config: &Config) -> bool {
        let lookup = config.user.lookup();
        match self {
            Self::Jwks => !fetched_keys(config).is_empty(),
            Self::Introspection => {
                config.providers.iter().any(|provider| provider.trust.introspection.is_some())
            }
            Self::Feed => config.revocation.feed.is_some(),
            Self::Blacklist => config.revocation.blacklist.is_some(),
            Self::Users => lookup.is_some(),
            Self::UsersRedis => lookup.is_some_and(|lookup| lookup.redis.is_some()),
            Self::ServiceTokens => {
                config.mode.egress().is_some_and(|egress| !egress.service_tokens.is_empty())
            }
        }
    }
}

/// The providers whose keys are fetched.
fn fetched_keys(config: &Config) -> Vec<ProviderId> {
    let remote = |id: &ProviderId| {
        let keys = id.pick(&config.providers).and_then(|provider| provider.trust.keys.as_ref());
        matches!(keys, Some(KeySource::Remote(_)))
    };
    ProviderId::all(config.providers.len()).filter(remote).collect()
}

/// What became of a fetch or a use of a provider's keys.
#[derive(Debug, Default)]
struct KeyCounts {
    fetch_ok: Cell<u64>,
    fetch_error: Cell<u64>,
    stale_use: Cell<u64>,
}

#[derive(Debug, Default)]
struct CallCounts {
    ok: Cell<u64>,
    error: Cell<u64>,
}

/// What one worker has counted since it began.
#[derive(Debug)]
pub struct Metrics {
    allowed: Cell<u64>,
    answered: Cell<u64>,
    denied: [Cell<u64>; Code::ALL.len()],
    counters: [Cell<u64>; Counter::ALL.len()],
    calls: [CallCounts; Dependency::ALL.len()],
    keys: Vec<KeyCounts>,
    lookups: RefCell<Vec<u64>>,
}

fn add_one(count: &Cell<u64>) {
    count.set(count.get().wrapping_add(1));
}

impl Metrics {
    /// Nothing yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            allowed: Cell::default(),
            answered: Cell::default(),
            denied: std::array::from_fn(|_| Cell::default()),
            counters: std::array::from_fn(|_| Cell::default()),
            calls: std::array::from_fn(|_| CallCounts::default()),
            keys: config.providers.iter().map(|_| KeyCounts::default()).collect(),
            lookups: RefCell::default(),
        }
    }

    /// Counts one of these.
    pub fn count(&self, counter: Counter) {
        if let Some(count) = self.counters.get(counter.place()) {
            add_one(count);
        }
    }

    /// A request goes on.
    pub fn allowed(&self) {
        add_one(&self.allowed);
    }

    /// A request was answered with what it asked for.
    pub fn answered(&self) {
        add_one(&self.answered);
    }

    /// A request is refused.
    pub fn denied(&self, code: Code) {
        if let Some(count) = self.denied.get(place_of(code)) {
            add_one(count);
        }
    }

    /// A call has ended, once more tried or not, and brought something or nothing.
    pub fn called(&self, dependency: Dependency, brought: bool) {
        if let Some(calls) = self.calls.get(dependency.place()) {
            add_one(if brought { &calls.ok } else { &calls.error });
        }
    }

    /// The users service took so long to answer, or to fail.
    pub fn looked_up(&self, took: Duration) {
        let mut samples = self.lookups.borrow_mut();
        if samples.len() < MAX_SAMPLES {
            samples.push(millis(took));
        }
    }

    /// A provider's keys were fetched, or were not.
    pub fn fetched_keys(&self, provider: ProviderId, arrived: bool) {
        if let Some(keys) = provider.pick(&self.keys) {
            add_one(if arrived { &keys.fetch_ok } else { &keys.fetch_error });
        }
    }

    /// A token was checked with keys past their life.
    pub fn used_stale_keys(&self, provider: ProviderId) {
        if let Some(keys) = provider.pick(&self.keys) {
            add_one(&keys.stale_use);
        }
    }

    /// What has been counted of `source`; `None` of what the worker itself must tell.
    #[must_use]
    pub fn value(&self, source: Source) -> Option<u64> {
        let count = match source {
            Source::Allowed => Some(&self.allowed),
            Source::Answered => Some(&self.answered),
            Source::Denied(code) => self.denied.get(place_of(code)),
            Source::Counter(counter) => self.counters.get(counter.place()),
            Source::CallOk(dependency) => self.calls.get(dependency.place()).map(|call| &call.ok),
            Source::CallError(dependency) => {
                self.calls.get(dependency.place()).map(|call| &call.error)
            }
            Source::KeysFetched(provider) => provider.pick(&self.keys).map(|keys| &keys.fetch_ok),
            Source::KeysFailed(provider) => provider.pick(&self.keys).map(|keys| &keys.fetch_error),
            Source::KeysStale(provider) => provider.pick(&self.keys).map(|keys| &keys.stale_use),
            Source::Running => return Some(1),
            Source::Waiters
            | Source::InFlight(_)
            | Source::Open(_)
            | Source::KeysAge(_)
            | Source::ListAge
            | Source::Entries
            | Source::LookupTime => None,
        };
        count.map(Cell::get)
    }

    fn take_lookups(&self) -> Vec<u64> {
        self.lookups.take()
    }
}

/// The place of a code among [`Code::ALL`], which is in the order of the variants.
#[expect(clippy::as_conversions, reason = "a variant's place among those of its enum")]
const fn place_of(code: Code) -> usize {
    code as usize
}

/// What kind of metric Envoy keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It is a distribution of samples.
    Histogram,
}

/// A metric of this config's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its kind.
    pub kind: Kind,
    /// Its name in Envoy, after `wasmcustom.`.
    pub name: String,
}

/// Where a metric's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Requests that went on.
    Allowed,
    /// Requests that were answered here.
    Answered,
    /// Requests that were refused for this.
    Denied(Code),
    /// One of the plain counters.
    Counter(Counter),
    /// Calls that brought something.
    CallOk(Dependency),
    /// Calls that brought nothing.
    CallError(Dependency),
    /// Calls under way.
    InFlight(Dependency),
    /// Circuits that are open.
    Open(Dependency),
    /// Fetches of a provider's keys that brought some.
    KeysFetched(ProviderId),
    /// Those that did not.
    KeysFailed(ProviderId),
    /// Tokens that were checked with keys past their life.
    KeysStale(ProviderId),
    /// Seconds since the keys that are held were fetched.
    KeysAge(ProviderId),
    /// Seconds since the feed said that the list that is held is all.
    ListAge,
    /// Entries in that list.
    Entries,
    /// Requests that wait.
    Waiters,
    /// Milliseconds that lookups took.
    LookupTime,
    /// The worker itself.
    Running,
}

/// What a metric says of all workers of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// How often something happened in all of them.
    Sum,
    /// How much of it there is now in all of them: each moves the gauge by what has changed in it.
    Share,
    /// The greatest value of all of them. See [`oldest`].
    Oldest,
    /// The same in all of them, or nearly: whoever has news sets it.
    Same,
    /// The samples of all of them.
    Samples,
}

impl Way {
    const fn kind(self) -> Kind {
        match self {
            Self::Sum => Kind::Counter,
            Self::Share | Self::Oldest | Self::Same => Kind::Gauge,
            Self::Samples => Kind::Histogram,
        }
    }
}

/// What Envoy is to be told of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// A counter has grown by so much.
    Add(u64),
    /// A gauge moves by so much.
    Move(i64),
    /// A gauge is this.
    Set(u64),
    /// A histogram has this sample.
    Sample(u64),
}

/// The metrics of one worker, and what Envoy knows of them.
#[derive(Default)]
pub struct Report {
    series: Vec<Series>,
    ages_told: Option<UnixTime>,
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Report({} metrics)", self.series.len())
    }
}

struct Series {
    name: String,
    source: Source,
    way: Way,
    /// The value that Envoy was told last. Of an age, what it showed then.
    told: u64,
}

impl Report {
    /// The metrics that this config can have. Those of what it does not use are not there.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut report = Self::default();
        let version = env!("CARGO_PKG_VERSION");
        report.add(&format!("build_info.{version}"), Source::Running, Way::Share);
        let mode = config.mode.name();
        report.add(&format!("requests.{mode}.allowed"), Source::Allowed, Way::Sum);
        report.add(&format!("requests.{mode}.answered"), Source::Answered, Way::Sum);
        for code in Code::ALL {
            let name = format!("requests.{mode}.denied.{}", code.name());
            report.add(&name, Source::Denied(code), Way::Sum);
        }
        for counter in Counter::ALL {
            if is_counted(*counter, config) {
                report.add(counter.name(), Source::Counter(*counter), Way::Sum);
            }
        }
        report.add("waiters", Source::Waiters, Way::Share);
        if config.user.lookup().is_some() {
            report.add("user.lookup_ms", Source::LookupTime, Way::Samples);
        }
        if config.revocation.feed.is_some() {
            report.add("revocation.age_seconds", Source::ListAge, Way::Oldest);
            report.add("revocation.entries", Source::Entries, Way::Same);
        }
        for dependency in Dependency::ALL.iter().filter(|dependency| dependency.is_in(config)) {
            let name = |what| format!("callouts.{}.{what}", dependency.name());
            report.add(&name("ok"), Source::CallOk(*dependency), Way::Sum);
            report.add(&name("error"), Source::CallError(*dependency), Way::Sum);
            report.add(&name("in_flight"), Source::InFlight(*dependency), Way::Share);
            // Fetches of keys and of the feed have their own pace.
            if !matches!(dependency, Dependency::Jwks | Dependency::Feed) {
                report.add(&name("circuit_open"), Source::Open(*dependency), Way::Share);
            }
        }
        let names = provider_parts(config);
        for (provider, part) in fetched_keys(config).into_iter().zip(names) {
            let name = |what| format!("jwks.{part}.{what}");
            report.add(&name("fetch_ok"), Source::KeysFetched(provider), Way::Sum);
            report.add(&name("fetch_error"), Source::KeysFailed(provider), Way::Sum);
            report.add(&name("stale_use"), Source::KeysStale(provider), Way::Sum);
            report.add(&name("age_seconds"), Source::KeysAge(provider), Way::Oldest);
        }
        report
    }

    fn add(&mut self, name: &str, source: Source, way: Way) {
        self.series.push(Series { name: format!("meshgate.{name}"), source, way, told: 0 });
    }

    /// What Envoy must keep, in the order of the places that [`Self::next`] speaks of.
    pub fn definitions(&self) -> impl Iterator<Item = Definition> + '_ {
        self.series
            .iter()
            .map(|series| Definition { kind: series.way.kind(), name: series.name.clone() })
    }

    /// What Envoy is to be told now, by the metric's place. `value` tells what a gauge of this worker's is,
    /// `shown` what Envoy shows at a place.
    pub fn next(
        &mut self,
        metrics: &Metrics,
        value: &dyn Fn(Source) -> u64,
        shown: &dyn Fn(usize) -> Option<u64>,
        now: UnixTime,
    ) -> Vec<(usize, Update)> {
        // A clock that was set back must not silence them.
        let ages = self.ages_told.is_none_or(|told| now < told || now >= told.after(AGES_EVERY));
        if ages {
            self.ages_told = Some(now);
        }
        let mut updates = Vec::new();
        for (place, series) in self.series.iter_mut().enumerate() {
            if series.way == Way::Samples {
                let samples = metrics.take_lookups().into_iter();
                updates.extend(samples.map(|sample| (place, Update::Sample(sample))));
                continue;
            }
            if series.way == Way::Oldest && !ages {
                continue;
            }
            let value = metrics.value(series.source).unwrap_or_else(|| value(series.source));
            let (update, told) = match series.way {
                Way::Sum => (Update::Add(value.wrapping_sub(series.told)), value),
                Way::Share => (Update::Move(difference(series.told, value)), value),
                Way::Same | Way::Samples => (Update::Set(value), value),
                Way::Oldest => {
                    let shown = shown(place).unwrap_or(0);
                    let set = oldest(value, shown, series.told);
                    series.told = set.unwrap_or(shown);
                    updates.extend(set.map(|age| (place, Update::Set(age))));
                    continue;
                }
            };
            if told != series.told {
                series.told = told;
                updates.push((place, update));
            }
        }
        updates
    }

    /// What Envoy is to be told before this worker is no more: what it has not been told yet, and that there is
    /// nothing of it any more.
    pub fn last(&mut self, metrics: &Metrics) -> Vec<(usize, Update)> {
        let mut updates = Vec::new();
        for (place, series) in self.series.iter_mut().enumerate() {
            match series.way {
                Way::Sum => {
                    let value = metrics.value(series.source).unwrap_or(series.told);
                    let grown = value.wrapping_sub(series.told);
                    series.told = value;
                    updates.extend((grown > 0).then_some((place, Update::Add(grown))));
                }
                Way::Share => {
                    let share = difference(series.told, 0);
                    series.told = 0;
                    updates.extend((share != 0).then_some((place, Update::Move(share))));
                }
                // The workers that are left tell theirs within a second.
                Way::Oldest => updates.push((place, Update::Set(0))),
                Way::Samples => updates.extend(
                    metrics.take_lookups().into_iter().map(|ms| (place, Update::Sample(ms))),
                ),
                Way::Same => {}
            }
        }
        updates
    }
}

/// What a worker sets an age to, of which it has `mine`, where Envoy shows `shown` and showed `before` when it
/// last looked; `None` where it is another's to tell.
///
/// Whoever has the greatest age sets it every second. What has not moved since the last look is nobody's any
/// more: its worker has something younger now, or is gone.
fn oldest(mine: u64, shown: u64, before: u64) -> Option<u64> {
    (mine > shown || (mine < shown && shown == before)).then_some(mine)
}

fn difference(from: u64, to: u64) -> i64 {
    let size = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
    size(to).saturating_sub(size(from))
}

fn is_counted(counter: Counter, config: &Config) -> bool {
    let lookup = config.user.lookup();
    let comes_in = !matches!(config.mode, Mode::Egress(_));
    match counter {
        Counter::TokenHit
        | Counter::TokenMiss
        | Counter::VerifiedByHost
        | Counter::VerifiedByModule => comes_in,
        Counter::UserHit
        | Counter::UserMiss
        | Counter::UserCoalesced
        | Counter::UserStale
        | Counter::LookupOk
        | Counter::LookupError => lookup.is_some(),
        Counter::RedisHit | Counter::RedisMiss => {
            lookup.is_some_and(|lookup| lookup.redis.is_some())
        }
        Counter::PollOk | Counter::PollError => config.revocation.feed.is_some(),
        Counter::Revoked | Counter::RevocationUnknown => {
            config.revocation.feed.is_some() || config.revocation.blacklist.is_some()
        }
        Counter::ListedHit | Counter::ListedMiss => config.revocation.blacklist.is_some(),
    }
}

/// The names of the providers whose keys are fetched, as parts of a metric's name. A config may name them as
/// it likes. What Envoy and Prometheus would not take, or read as the end of the part, becomes `_`, and two
/// that look alike then are told apart by a number.
fn provider_parts(config: &Config) -> Vec<String> {
    let mut taken = HashSet::new();
    fetched_keys(config)
        .into_iter()
        .map(|provider| {
            let name = provider.pick(&config.providers).map_or("", |provider| &provider.name);
            let plain = part(name);
            // Without tags, Prometheus sees `-` as `_`, too.
            let mut unique = plain.clone();
            let mut number = 2_u32;
            while !taken.insert(unique.replace('-', "_")) {
                unique = format!("{plain}_{number}");
                number = number.saturating_add(1);
            }
            unique
        })
        .collect()
}

fn part(name: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let part: String = name.chars().map(legal).take(MAX_PART_BYTES).collect();
    if part.is_empty() { "_".to_owned() } else { part }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_the_place_of_its_count() {
        for (place, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(place_of(code), place, "{}", code.name());
        }
    }
}
