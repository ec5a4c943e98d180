//! What a worker makes of the answers to its own calls.

use std::rc::Rc;
use std::time::Duration;

use super::{Circuits, Worker};
use crate::boundary::service_token::{self, ServiceTokenId};
use crate::callout::{Answer, CallKey, Leg};
use crate::config::Lookup;
use crate::jwks::cache::RemoteKeys;
use crate::jwks::{KeySet, Origin, discovery};
use crate::log::Level;
use crate::metrics::Counter;
use crate::redis;
use crate::request::Outcome;
use crate::revocation::Terms;
use crate::revocation::blacklist::{self, Names};
use crate::revocation::feed::FeedError;
use crate::time::{NUDGE, UnixTime};
use crate::token::cache::Remembered;
use crate::token::introspection::{self, Question, Said};
use crate::token::{ProviderId, TokenError, VerifiedToken};
use crate::user::stored::Stored;
use crate::user::{self, UserKey};

impl Worker {
    /// Notes the time. Where it has gone back by more than clocks are nudged, what rests on the old one
    /// is forgotten or brought along: nothing lives longer for it, and nobody waits longer.
    pub(super) fn notice(&mut self, now: UnixTime) {
        let back = self.last_seen.since(now);
        self.last_seen = now;
        self.began.get_or_insert(now);
        if back <= NUDGE {
            return;
        }
        self.began = Some(now);
        self.shared.clock_set_back(now);
        self.circuits = Circuits::default();
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
            Answer::Response { status: 200, max_age, body, .. } => {
                self.take_keys(provider, body, *max_age, now, now)
            }
            Answer::Response { status, .. } => {
                self.keys_failed(provider, &format!("it answered with status {status}"), now)
            }
            Answer::Failed(failure) => self.keys_failed(provider, &failure.to_string(), now),
        }
    }

    /// Takes a key set that was fetched at `fetched`.
    pub(super) fn take_keys(
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

    pub(super) fn keys_failed(
        &mut self,
        provider: ProviderId,
        fault: &str,
        now: UnixTime,
    ) -> Outcome {
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

    /// Takes what the feed says.
    pub(super) fn learn_feed(&mut self, answer: &Answer, now: UnixTime) -> Outcome {
        let config = Rc::clone(&self.shared.config);
        let Some(feed) = &config.revocation.feed else {
            return Outcome::Down;
        };
        match self.shared.feed.answered(feed, Terms::of(&config), answer, now) {
            Ok(changed) => {
                self.shared.metrics.count(Counter::PollOk);
                if changed {
                    self.log_list();
                }
                Outcome::FeedArrived { changed }
            }
            Err(error @ FeedError::Since) => {
                self.shared.metrics.count(Counter::PollOk);
                self.log.add(Level::Info, format!("revocation feed: {error}"));
                Outcome::Down
            }
            Err(error) => {
                self.shared.metrics.count(Counter::PollError);
                self.log.warn("revocation feed", &error.to_string(), now);
                Outcome::Down
            }
        }
    }

    pub(super) fn log_list(&mut self) {
        let line = format!("revocation feed entries={}", self.shared.feed.len());
        self.log.add(Level::Info, line);
    }

    /// Takes what the blacklist says of a token's names, for which it was asked at `asked`.
    pub(super) fn learn_listed(
        &mut self,
        names: &Names,
        answer: &Answer,
        asked: UnixTime,
        now: UnixTime,
    ) -> Outcome {
        let config = Rc::clone(&self.shared.config);
        let Some(blacklist) = &config.revocation.blacklist else {
            return Outcome::Down;
        };
        let Some(listed) = blacklist::read_answer(answer, names) else {
            let dependency = format!("blacklist cluster={}", blacklist.redis.cluster.as_str());
            self.log.warn(&dependency, &unread(answer), now);
            return Outcome::Down;
        };
        self.shared.listed.remember(names.clone(), listed, asked.after(blacklist.cache_ttl));
        Outcome::Listed(listed)
    }

    /// Takes a user's record, which was asked for at `asked`.
    pub(super) fn learn_user(
        &mut self,
        key: &UserKey,
        answer: &Answer,
        asked: UnixTime,
        now: UnixTime,
    ) -> Outcome {
        let config = Rc::clone(&self.shared.config);
        let Some(lookup) = config.user.lookup() else {
            return Outcome::Down;
        };
        self.shared.metrics.looked_up(now.since(asked));
        let fault = match user::read_answer(lookup, key, answer) {
            Ok(known) => {
                self.shared.metrics.count(Counter::LookupOk);
                let stored = Stored { fetched: asked, known };
                self.shared.users.remember(key, stored.clone());
                self.store(key, &stored, lookup, now);
                return Outcome::User(stored);
            }
            Err(error) => error,
        };
        self.shared.metrics.count(Counter::LookupError);
        let dependency = format!("user lookup cluster={}", lookup.cluster.as_str());
        self.log.warn(&dependency, &fault.to_string(), now);
        if fault.is_outage() { Outcome::Down } else { Outcome::Senseless }
    }

    /// Takes a user's record from Redis. `None` where it has none that can be used.
    pub(super) fn recall(
        &mut self,
        key: &UserKey,
        answer: &Answer,
        now: UnixTime,
    ) -> Option<Outcome> {
        let config = Rc::clone(&self.shared.config);
        let lookup = config.user.lookup()?;
        if !redis::is_got(answer) {
            self.redis_failed(lookup, answer, now);
        }
        let text = redis::value(answer)?;
        let exchange = self.shared.exchange.as_ref()?;
        let body = exchange.verified(&self.shared.identity(key, lookup), &text)?;
        let stored = Stored::from_bytes(&body)?;
        let since = self.shared.user_since(key);
        if !stored.is_fresh(lookup, since, now) {
            return None;
        }
        self.shared.users.remember(key, stored.clone());
        Some(Outcome::User(stored))
    }

    /// Takes a token of the service's own, which was asked for at `asked`.
    pub(super) fn learn_service_token(
        &mut self,
        id: ServiceTokenId,
        answer: &Answer,
        asked: UnixTime,
        now: UnixTime,
    ) -> Outcome {
        match service_token::read_answer(answer, &self.shared.config.limits, asked, now) {
            Ok(token) => {
                if let Some(held) = id.pick_mut(&mut self.shared.service_tokens) {
                    *held = Some(token);
                }
                Outcome::TokenArrived
            }
            Err(error) => {
                let config = Rc::clone(&self.shared.config);
                let all = config.mode.egress().map_or(&[][..], |egress| &egress.service_tokens);
                let name = id.pick(all).map_or("", |token| &token.name);
                self.log.warn(&format!("service token name={name}"), &error.to_string(), now);
                Outcome::Down
            }
        }
    }

    /// Hands a user's record to Redis, for the other proxies.
    fn store(&mut self, key: &UserKey, stored: &Stored, lookup: &Lookup, now: UnixTime) {
        let call = CallKey::Store(key.clone());
        let life = stored.expires(lookup).since(now);
        let (Some(redis), Some(exchange)) = (&lookup.redis, &self.shared.exchange) else {
            return;
        };
        // Redis counts in seconds, and a record may not outlive its promise there.
        if life < Duration::from_secs(1)
            || self.calls.under_way(&call).is_some()
            || self.calls.is_full_for(&call)
        {
            return;
        }
        let text = exchange.signed(&self.shared.identity(key, lookup), &stored.to_bytes());
        let Some(name) = self.redis_name(key) else {
            return;
        };
        if self.circuit(&call, Leg::Redis).is_none_or(|circuit| circuit.admits(now)) {
            let request = redis::set(&redis.redis, &name, life, &text);
            self.calls.start(&call, Leg::Redis, Vec::new(), now, request);
        }
    }

    pub(super) fn learn_stored(&mut self, answer: &Answer, now: UnixTime) {
        let config = Rc::clone(&self.shared.config);
        if let Some(lookup) = config.user.lookup().filter(|_| !redis::is_set(answer)) {
            self.redis_failed(lookup, answer, now);
        }
    }

    fn redis_failed(&mut self, lookup: &Lookup, answer: &Answer, now: UnixTime) {
        if let Some(redis) = &lookup.redis {
            let dependency = format!("user redis cluster={}", redis.redis.cluster.as_str());
            self.log.warn(&dependency, &unread(answer), now);
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

    pub(super) fn remote_keys(&mut self, provider: ProviderId) -> Option<&mut RemoteKeys> {
        provider.pick_mut(&mut self.shared.keys)?.remote_mut()
    }

    fn provider_name(&self, provider: ProviderId) -> &str {
        provider.pick(&self.shared.config.providers).map_or("", |provider| &provider.name)
    }
}

/// What is wrong with an answer of which nothing could be made.
fn unread(answer: &Answer) -> String {
    match answer {
        Answer::Response { status: 200, .. } => "its answer is no reply to the command".to_owned(),
        Answer::Response { status, .. } => format!("it answered with status {status}"),
        Answer::Failed(failure) => failure.to_string(),
    }
}
