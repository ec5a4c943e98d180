//! What a worker makes of answers: its own calls', and those that other workers posted.

use std::rc::Rc;
use std::time::Duration;

use super::Worker;
use crate::board::{Claim, News};
use crate::callout::Answer;
use crate::callout::circuit::Circuit;
use crate::config::UserSource;
use crate::jwks::cache::{ProviderKeys, RemoteKeys};
use crate::jwks::{KeySet, Origin, discovery};
use crate::log::Level;
use crate::request::Outcome;
use crate::time::UnixTime;
use crate::token::cache::{Remembered, TokenCache};
use crate::token::introspection::{self, Question, Said};
use crate::token::{ProviderId, TokenError, VerifiedToken};
use crate::user::cache::UserCache;
use crate::user::{self, LookupError, UserKey};

/// By how much a clock may go back unnoticed, as time services nudge it.
const NUDGE: Duration = Duration::from_secs(1);

impl Worker {
    /// Notes the time. Where it has gone back by more than clocks are nudged, what rests on the old one
    /// is forgotten or brought along: nothing lives longer for it, and nobody waits longer.
    pub(super) fn notice(&mut self, now: UnixTime) {
        let back = self.last_seen.since(now);
        self.last_seen = now;
        if back <= NUDGE {
            return;
        }
        let limits = &self.shared.config.limits;
        self.shared.tokens = TokenCache::new(limits.max_cached_tokens);
        self.shared.users = UserCache::new(self.shared.config.max_users());
        for keys in self.shared.keys.iter_mut().filter_map(ProviderKeys::remote_mut) {
            keys.clock_set_back(now);
        }
        self.user_circuit = Circuit::default();
        self.introspection_circuits.fill_with(Circuit::default);
        self.calls.clock_set_back(back);
        for parked in self.parked.values_mut() {
            parked.deadline = parked.deadline.before(back);
        }
        self.log.add(Level::Warn, format!("the clock was set back by {} s", back.as_secs()));
    }

    /// Takes a provider's keys from an answer to this worker's own call.
    pub(super) fn learn_keys(
        &mut self,
        provider: ProviderId,
        answer: &Answer,
        now: UnixTime,
    ) -> Outcome {
        match answer {
            Answer::Response { status: 200, max_age, body } => {
                self.take_keys(provider, body, *max_age, now, now)
            }
            Answer::Response { status, .. } => {
                self.keys_failed(provider, &format!("it answered with status {status}"), now)
            }
            Answer::Failed(failure) => self.keys_failed(provider, &failure.to_string(), now),
        }
    }

    /// Takes a key set that was fetched at `fetched`.
    fn take_keys(
        &mut self,
        provider: ProviderId,
        document: &[u8],
        max_age: Option<Duration>,
        fetched: UnixTime,
        now: UnixTime,
    ) -> Outcome {
        let set = match KeySet::parse(document, Origin::Remote) {
            Ok(set) => set,
            Err(error) => return self.keys_failed(provider, &error.to_string(), now),
        };
        let line = format!(
            "jwks provider={} keys={} skipped={}",
            self.provider_name(provider),
            set.len(),
            set.skipped
        );
        self.log.add(Level::Info, line);
        if let Some(keys) = self.remote_keys(provider) {
            keys.arrived(set, max_age, fetched);
        }
        Outcome::KeysArrived
    }

    fn keys_failed(&mut self, provider: ProviderId, fault: &str, now: UnixTime) -> Outcome {
        let jitter = self.shared.random.f64();
        if let Some(keys) = self.remote_keys(provider) {
            keys.failed(jitter, now);
        }
        let dependency = format!("jwks provider={}", self.provider_name(provider));
        self.log.warn(&dependency, fault, now);
        Outcome::Down
    }

    /// Takes the place of a provider's keys from its metadata.
    pub(super) fn learn_location(
        &mut self,
        provider: ProviderId,
        answer: &Answer,
        now: UnixTime,
    ) -> Option<()> {
        let config = Rc::clone(&self.shared.config);
        let issuer = &provider.pick(&config.providers)?.issuer;
        let fault = match answer {
            Answer::Response { status: 200, body, .. } => match discovery::jwks_uri(body, issuer) {
                Ok(uri) => {
                    self.remote_keys(provider)?.discovered(uri);
                    return Some(());
                }
                Err(error) => error.to_string(),
            },
            Answer::Response { status, .. } => format!("discovery answered with status {status}"),
            Answer::Failed(failure) => failure.to_string(),
        };
        self.keys_failed(provider, &fault, now);
        None
    }

    /// Takes the issuer's word on a token.
    pub(super) fn learn_word(
        &mut self,
        question: &Question,
        answer: &Answer,
        now: UnixTime,
    ) -> Outcome {
        let config = Rc::clone(&self.shared.config);
        let Some(provider) = question.provider.pick(&config.providers) else {
            return Outcome::Down;
        };
        let ttl = provider.trust.introspection.as_ref().map_or(Duration::ZERO, |i| i.cache_ttl);
        let until = now.after(ttl);
        let (result, until) = match introspection::read_answer(answer) {
            Ok(Said::Inactive) => (Err(TokenError::Inactive), until),
            Ok(Said::Active(claims)) => {
                let ends = claims.expiry().map_or(until, |expiry| expiry.min(until));
                let token = VerifiedToken::introspected(question.provider, provider, claims, now);
                let until = if token.is_ok() { ends } else { until };
                (token, until)
            }
            Err(introspection::Unclear) => {
                let fault = match answer {
                    Answer::Response { status, .. } => {
                        format!("status {status} without a clear `active`")
                    }
                    Answer::Failed(failure) => failure.to_string(),
                };
                let dependency = format!("introspection provider={}", provider.name);
                self.log.warn(&dependency, &fault, now);
                return Outcome::Down;
            }
        };
        let remembered = match &result {
            Ok(token) => Remembered::Active { token: token.clone(), until },
            Err(error) => Remembered::Refused { error: *error, until },
        };
        self.shared.tokens.remember(Rc::clone(&question.token.0), remembered);
        Outcome::Introspected(result)
    }

    /// Takes a user's record.
    pub(super) fn learn_user(&mut self, key: &UserKey, answer: &Answer, now: UnixTime) -> Outcome {
        let config = Rc::clone(&self.shared.config);
        let UserSource::Lookup(lookup) = &config.user else {
            return Outcome::Down;
        };
        let fault = match user::read_answer(lookup, answer) {
            Ok(known) => {
                self.shared.users.remember(key.clone(), known.clone(), lookup, now);
                return Outcome::User(known);
            }
            Err(error) => error,
        };
        let line = match fault {
            LookupError::Status(status) => format!("it answered with status {status}"),
            LookupError::NotARecord => "its answer is not a JSON object".to_owned(),
            LookupError::NoAnswer(failure) => failure.to_string(),
        };
        self.log.warn(&format!("user lookup cluster={}", lookup.cluster.as_str()), &line, now);
        if fault.is_outage() { Outcome::Down } else { Outcome::Senseless }
    }

    /// Whether it is another worker's turn to fetch a provider's keys, and until when. Otherwise it
    /// is ours now, for twice `patience`.
    pub(super) fn others_turn(
        &self,
        provider: ProviderId,
        now: UnixTime,
        patience: Duration,
    ) -> Option<UnixTime> {
        let exchange = self.exchange.as_ref()?;
        let ends = now.after(patience).after(crate::callout::GRACE);
        match exchange.claim(&self.slot(provider), self.seen_of(provider), now, ends) {
            Claim::Mine => None,
            Claim::Theirs(until) => Some(until),
            // Taken over with the next wake or tick.
            Claim::Answered => Some(ends),
        }
    }

    /// Posts the outcome of this worker's own fetch.
    pub(super) fn post(
        &mut self,
        provider: ProviderId,
        answer: &Answer,
        outcome: &Outcome,
        now: UnixTime,
    ) {
        let Some(exchange) = &self.exchange else {
            return;
        };
        let slot = self.slot(provider);
        let at = match (answer, outcome) {
            (Answer::Response { max_age, body, .. }, Outcome::KeysArrived) => {
                exchange.post(&slot, *max_age, body, now)
            }
            (_, _) => exchange.post_failure(&slot, now),
        };
        self.set_seen(provider, at);
        self.wake_others = true;
    }

    /// What another worker posted of a provider's keys since.
    pub(super) fn news(&self, provider: ProviderId) -> Option<News> {
        self.shared.keys(provider)?.remote()?;
        self.exchange.as_ref()?.news(&self.slot(provider), self.seen_of(provider))
    }

    /// Takes over what another worker posted.
    pub(super) fn take_over(
        &mut self,
        provider: ProviderId,
        news: &News,
        now: UnixTime,
    ) -> Outcome {
        match news {
            News::Answer(posted) => {
                self.set_seen(provider, posted.at);
                self.take_keys(provider, &posted.body, posted.max_age, posted.at.min(now), now)
            }
            News::Failure(at) => {
                self.set_seen(provider, *at);
                self.keys_failed(provider, "another worker could not fetch them", now)
            }
        }
    }

    /// Whether a provider's keys are found by discovery.
    pub(super) fn discovers(&self, provider: ProviderId) -> bool {
        let keys = self.shared.keys(provider).and_then(|keys| keys.remote());
        keys.is_some_and(RemoteKeys::discovers)
    }

    /// Whether they must be found before they can be fetched.
    pub(super) fn must_discover(&self, provider: ProviderId) -> bool {
        let keys = self.shared.keys(provider).and_then(|keys| keys.remote());
        keys.is_some_and(RemoteKeys::must_discover)
    }

    pub(super) fn fetch_started(&mut self, provider: ProviderId) {
        if let Some(keys) = self.remote_keys(provider) {
            keys.started();
        }
    }

    fn remote_keys(&mut self, provider: ProviderId) -> Option<&mut RemoteKeys> {
        provider.pick_mut(&mut self.shared.keys)?.remote_mut()
    }

    fn provider_name(&self, provider: ProviderId) -> &str {
        provider.pick(&self.shared.config.providers).map_or("", |provider| &provider.name)
    }

    fn slot(&self, provider: ProviderId) -> String {
        format!("jwks.{}", self.provider_name(provider))
    }

    fn seen_of(&self, provider: ProviderId) -> Option<UnixTime> {
        provider.pick(&self.seen).copied().flatten()
    }

    fn set_seen(&mut self, provider: ProviderId, at: UnixTime) {
        if let Some(seen) = provider.pick_mut(&mut self.seen) {
            *seen = Some(at);
        }
    }
}
