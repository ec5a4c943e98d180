//! What a worker tells of itself in numbers.

use super::{Disposition, Worker};
use crate::callout::circuit::Circuit;
use crate::callout::{Answer, CallKey};
use crate::denial::Denial;
use crate::jwks::cache::RemoteKeys;
use crate::metrics::{Counter, Definition, Dependency, Source, Update};
use crate::redis;
use crate::request::Outcome;
use crate::time::UnixTime;

impl Worker {
    /// The metrics that Envoy must keep, each known by its place from then on.
    #[must_use]
    pub fn metrics(&self) -> Vec<Definition> {
        self.report.definitions().collect()
    }

    /// What Envoy is to be told of them now. `shown` is what it shows at a place.
    pub fn measure(
        &mut self,
        shown: &dyn Fn(usize) -> Option<u64>,
        now: UnixTime,
    ) -> Vec<(usize, Update)> {
        let mut report = std::mem::take(&mut self.report);
        let updates =
            report.next(&self.shared.metrics, &|source| self.value(source, now), shown, now);
        self.report = report;
        updates
    }

    /// What Envoy is to be told before this worker is no more.
    pub fn measure_last(&mut self) -> Vec<(usize, Update)> {
        self.report.last(&self.shared.metrics)
    }

    /// Envoy did not carry out what was decided of a request. Nobody knows what is left of it, so it ends.
    pub fn unapplied(&mut self) -> Disposition {
        self.deny(Denial::internal())
    }

    /// Counts how a call ended that others may have waited for.
    pub(super) fn note_ended(&self, key: &CallKey, dependency: Dependency, outcome: &Outcome) {
        let brought = !matches!(outcome, Outcome::Down | Outcome::Senseless);
        self.shared.metrics.called(dependency, brought);
        if let CallKey::Jwks(provider) = key {
            self.shared.metrics.fetched_keys(*provider, brought);
        }
    }

    /// Counts what Redis had of a user. Where that was something, the call ends, and is counted with that.
    pub(super) fn note_recalled(&self, answer: &Answer, found: bool) {
        let metrics = &self.shared.metrics;
        if found {
            return metrics.count(Counter::RedisHit);
        }
        let answered = redis::is_got(answer);
        if answered {
            metrics.count(Counter::RedisMiss);
        }
        metrics.called(Dependency::UsersRedis, answered);
    }

    /// What is so now, of what is not counted.
    fn value(&self, source: Source, now: UnixTime) -> u64 {
        // What was never fetched is as old as the worker.
        let age = |at: Option<UnixTime>| at.or(self.began).map_or(0, |at| now.since(at).as_secs());
        let count = match source {
            Source::Waiters => self.parked.len(),
            Source::InFlight(dependency) => self
                .calls
                .ours()
                .filter(|(key, leg)| Dependency::of(key, *leg) == dependency)
                .count(),
            Source::Open(dependency) => {
                self.circuits(dependency).into_iter().filter(|circuit| circuit.is_open()).count()
            }
            Source::Entries => self.shared.feed.len(),
            Source::ListAge => return age(self.shared.feed.confirmed_at()),
            Source::KeysAge(provider) => {
                let keys = self.shared.keys(provider).and_then(|keys| keys.remote());
                return age(keys.and_then(RemoteKeys::fetched));
            }
            Source::Allowed
            | Source::Answered
            | Source::Denied(_)
            | Source::Counter(_)
            | Source::CallOk(_)
            | Source::CallError(_)
            | Source::KeysFetched(_)
            | Source::KeysFailed(_)
            | Source::KeysStale(_)
            | Source::LookupTime
            | Source::Running => 0,
        };
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    fn circuits(&self, dependency: Dependency) -> Vec<&Circuit> {
        let circuits = &self.circuits;
        match dependency {
            Dependency::Users => vec![&circuits.users],
            Dependency::UsersRedis => vec![&circuits.users_redis],
            Dependency::Blacklist => vec![&circuits.blacklist],
            Dependency::Introspection => circuits.introspection.values().collect(),
            Dependency::ServiceTokens => circuits.service_tokens.values().collect(),
            Dependency::Jwks | Dependency::Feed => Vec::new(),
        }
    }
}
