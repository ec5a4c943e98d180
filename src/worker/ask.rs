//! How a worker comes by an answer: by a call that is under way, by another worker's, or by its own.

use std::time::Duration;

use super::share::Turn;
use super::{Released, Worker};
use crate::boundary::service_token::{self, ServiceTokenId};
use crate::callout::circuit::Circuit;
use crate::callout::{Answer, CallKey, CallRequest, Ended, GRACE, Joined, Leg, StreamId};
use crate::config::{ClientCredentials, KeySource, TokenSource, UserSource};
use crate::metrics::Counter;
use crate::redis;
use crate::request::Outcome;
use crate::revocation::blacklist;
use crate::time::UnixTime;
use crate::token::introspection;
use crate::user;

/// What became of a wish to ask.
#[must_use]
pub(super) enum Asked {
    /// It is being asked for, and the answer comes within this time.
    UnderWay(Duration),
    /// Another worker has just asked, and this came of it.
    Told(Outcome),
    /// Who would be asked is down.
    Shut,
    /// There are too many calls.
    Full,
}

impl Worker {
    /// Lets `waiter` wait for the answer to `key`, which is asked for where it is not already.
    pub(super) fn ask(&mut self, key: &CallKey, waiter: Option<StreamId>, now: UnixTime) -> Asked {
        let joined = self.calls.join(key, waiter);
        if joined.is_some() && waiter.is_some() {
            self.note_coalesced(key);
        }
        match joined {
            Some(Joined::Ours) => Asked::UnderWay(self.patience(key)),
            Some(Joined::Theirs { until }) => self.behind(key, until, now),
            None => self.ask_anew(key, &mut waiter.into_iter().collect(), now),
        }
    }

    /// How long an answer takes that another worker asks for until `until`: should nothing come of that,
    /// this one asks.
    fn behind(&self, key: &CallKey, until: UnixTime, now: UnixTime) -> Asked {
        let first = until.since(now).saturating_add(GRACE);
        Asked::UnderWay(first.saturating_add(self.patience(key)))
    }

    /// Asks for what `ended` brought nothing of, for all who waited for that.
    pub(super) fn ask_again(&mut self, ended: Ended, now: UnixTime) -> Vec<Released> {
        let Ended { key, mut waiters, .. } = ended;
        if waiters.is_empty() && matches!(key, CallKey::User(_)) {
            return Vec::new();
        }
        match self.ask_anew(&key, &mut waiters, now) {
            Asked::UnderWay(_) => Vec::new(),
            Asked::Told(outcome) => self.release(waiters, &outcome, now),
            Asked::Shut => self.release(waiters, &Outcome::Down, now),
            Asked::Full => self.turn_away(waiters),
        }
    }

    /// Refuses those who waited for another worker's call in vain, and for whom there is no call to be had.
    fn turn_away(&mut self, waiters: Vec<StreamId>) -> Vec<Released> {
        let refused = waiters.into_iter().filter_map(|stream| {
            let parked = self.parked.remove(&stream)?;
            Some((stream, self.deny(parked.waiting.overloaded())))
        });
        refused.collect()
    }

    /// Asks the next one of those who must be asked for `ended`, for all who waited for that. The turn is
    /// still this worker's, and the call before has just made room.
    pub(super) fn ask_next(&mut self, ended: Ended, now: UnixTime) -> Vec<Released> {
        let Ended { key, waiters, .. } = ended;
        let admitted = self.circuit(&key, Leg::Origin).is_none_or(|circuit| circuit.admits(now));
        let Some(request) = self.request_for(&key, Leg::Origin).filter(|_| admitted) else {
            self.pass_turn(&key, now);
            return self.release(waiters, &Outcome::Down, now);
        };
        self.calls.start(&key, Leg::Origin, waiters, now, request);
        Vec::new()
    }

    /// As [`Self::ask`] where no call is under way. Takes the waiters where one is then.
    fn ask_anew(&mut self, key: &CallKey, waiters: &mut Vec<StreamId>, now: UnixTime) -> Asked {
        let refusal = if !self.may_ask(key, now) {
            Some(Asked::Shut)
        } else if self.calls.is_full_for(key) {
            Some(Asked::Full)
        } else {
            None
        };
        let patience = self.patience(key);
        match self.take_turn(key, refusal.is_none().then_some(patience), now) {
            Turn::Mine => {}
            Turn::Theirs(_) if self.calls.follows_enough() => return Asked::Full,
            // Another worker may know better whether the service is down.
            Turn::Theirs(turn) => {
                let until = turn.until;
                if !waiters.is_empty() {
                    self.note_coalesced(key);
                }
                self.calls.follow(key, turn, std::mem::take(waiters), now);
                self.note_started(key);
                return self.behind(key, until, now);
            }
            Turn::Over(outcome) => return Asked::Told(outcome),
        }
        if let Some(refusal) = refusal {
            return refusal;
        }
        let leg = self.first_leg(key, now);
        let Some((leg, request)) = leg.and_then(|leg| Some((leg, self.request_for(key, leg)?)))
        else {
            self.pass_turn(key, now);
            return Asked::Shut;
        };
        self.calls.start(key, leg, std::mem::take(waiters), now, request);
        self.note_started(key);
        Asked::UnderWay(patience)
    }

    /// Starts what requests want asked for in the background. Where it may not be, the next request that
    /// finds the record stale tries again.
    pub(super) fn call_wanted(&mut self, now: UnixTime) {
        for key in std::mem::take(&mut self.shared.wanted) {
            let _: Asked = self.ask(&key, None, now);
        }
    }

    /// What is to be fetched by now: documents, and the service's own tokens.
    pub(super) fn due(&self, now: UnixTime) -> Vec<CallKey> {
        let documents = self.documents().into_iter().filter(|key| match key {
            CallKey::Jwks(provider) => {
                self.shared.keys(*provider).is_some_and(|keys| keys.is_due(now))
            }
            CallKey::Feed => self.shared.feed.is_due(now),
            CallKey::Introspection(_)
            | CallKey::Blacklist(_)
            | CallKey::User(_)
            | CallKey::Store(_)
            | CallKey::ServiceToken(_) => false,
        });
        documents.chain(self.shared.service_tokens_due(now)).collect()
    }

    /// Whether somebody is not known to be down who could be asked.
    fn may_ask(&mut self, key: &CallKey, now: UnixTime) -> bool {
        let redis = self.asks_redis(key).then_some(Leg::Redis);
        redis
            .into_iter()
            .chain([Leg::Origin])
            .any(|leg| self.circuit(key, leg).is_none_or(|circuit| circuit.would_admit(now)))
    }

    /// Whom to ask first.
    fn first_leg(&mut self, key: &CallKey, now: UnixTime) -> Option<Leg> {
        if matches!(key, CallKey::Jwks(provider) if self.must_discover(*provider)) {
            return Some(Leg::Discovery);
        }
        let redis = self.asks_redis(key).then_some(Leg::Redis);
        redis
            .into_iter()
            .chain([Leg::Origin])
            .find(|leg| self.circuit(key, *leg).is_none_or(|circuit| circuit.admits(now)))
    }

    /// Whether Redis is asked before the users service.
    fn asks_redis(&self, key: &CallKey) -> bool {
        let lookup = self.shared.config.user.lookup();
        matches!(key, CallKey::User(_)) && lookup.is_some_and(|lookup| lookup.redis.is_some())
    }

    /// The circuit that a call goes through.
    pub(super) fn circuit(&mut self, key: &CallKey, leg: Leg) -> Option<&mut Circuit> {
        match (key, leg) {
            (CallKey::Jwks(_) | CallKey::Feed, _) => None,
            (CallKey::Introspection(question), _) => {
                Some(self.circuits.introspection.entry(question.provider).or_default())
            }
            (CallKey::Blacklist(_), _) => Some(&mut self.circuits.blacklist),
            (CallKey::ServiceToken(id), _) => {
                Some(self.circuits.service_tokens.entry(*id).or_default())
            }
            (CallKey::User(_), Leg::Redis) | (CallKey::Store(_), _) => {
                Some(&mut self.circuits.users_redis)
            }
            (CallKey::User(_), Leg::Origin | Leg::Discovery) => Some(&mut self.circuits.users),
        }
    }

    /// Whether an answer says that who was asked is down. Of a service's own token, that is each that brings
    /// none: all questions are the same one, and there is no other pace for them.
    pub(super) fn is_outage(&self, ended: &Ended, answer: &Answer, now: UnixTime) -> bool {
        let limits = &self.shared.config.limits;
        match ended.key {
            CallKey::ServiceToken(_) => {
                service_token::read_answer(answer, limits, ended.started, now).is_err()
            }
            CallKey::Jwks(_)
            | CallKey::Introspection(_)
            | CallKey::Feed
            | CallKey::Blacklist(_)
            | CallKey::User(_)
            | CallKey::Store(_) => answer.is_outage(),
        }
    }

    /// How long an answer to `key` may take, whoever is asked for it, one after the other.
    pub(super) fn patience(&self, key: &CallKey) -> Duration {
        let config = &self.shared.config;
        let (first, second) = match key {
            CallKey::Jwks(provider) => {
                let keys = provider.pick(&config.providers).and_then(|p| p.trust.keys.as_ref());
                let timeout = match keys {
                    Some(KeySource::Remote(jwks)) => jwks.timeout,
                    Some(KeySource::Local(_)) | None => Duration::ZERO,
                };
                (timeout, self.discovers(*provider).then_some(timeout))
            }
            CallKey::Introspection(question) => {
                let provider = question.provider.pick(&config.providers);
                let introspection = provider.and_then(|p| p.trust.introspection.as_ref());
                (introspection.map_or(Duration::ZERO, |i| i.endpoint.timeout), None)
            }
            CallKey::Feed => {
                (config.revocation.feed.as_ref().map_or(Duration::ZERO, |feed| feed.timeout), None)
            }
            CallKey::Blacklist(_) => {
                let redis = config.revocation.blacklist.as_ref().map(|list| &list.redis);
                (redis.map_or(Duration::ZERO, |redis| redis.timeout), None)
            }
            CallKey::ServiceToken(id) => {
                let asked = self.client_credentials(*id);
                (asked.map_or(Duration::ZERO, |asked| asked.endpoint.timeout), None)
            }
            CallKey::User(_) | CallKey::Store(_) => match config.user.lookup() {
                Some(lookup) => {
                    (lookup.timeout, lookup.redis.as_ref().map(|redis| redis.redis.timeout))
                }
                None => (Duration::ZERO, None),
            },
        };
        match second {
            Some(second) => first.saturating_add(GRACE).saturating_add(second),
            None => first,
        }
    }

    /// A request waits for what somebody else has asked for.
    fn note_coalesced(&self, key: &CallKey) {
        if matches!(key, CallKey::User(_)) {
            self.shared.metrics.count(Counter::UserCoalesced);
        }
    }

    fn note_started(&mut self, key: &CallKey) {
        match key {
            CallKey::Jwks(provider) => self.fetch_started(*provider),
            CallKey::Feed => self.shared.feed.started(),
            CallKey::Introspection(_)
            | CallKey::Blacklist(_)
            | CallKey::User(_)
            | CallKey::Store(_)
            | CallKey::ServiceToken(_) => {}
        }
    }

    /// The call that asks for `key`. A record for Redis is stored by [`Self::store`].
    fn request_for(&self, key: &CallKey, leg: Leg) -> Option<CallRequest> {
        let config = &self.shared.config;
        let limits = &config.limits;
        match key {
            CallKey::Jwks(provider) => {
                let KeySource::Remote(jwks) =
                    provider.pick(&config.providers)?.trust.keys.as_ref()?
                else {
                    return None;
                };
                let uri = self.shared.keys(*provider)?.remote()?.target();
                Some(CallRequest::get(
                    &jwks.cluster,
                    uri.scheme,
                    &uri.authority,
                    uri.path.clone(),
                    jwks.timeout,
                    limits.max_jwks_bytes,
                ))
            }
            CallKey::Introspection(question) => {
                let provider = question.provider.pick(&config.providers)?;
                let introspection = provider.trust.introspection.as_ref()?;
                introspection::request(introspection, &question.token, limits)
            }
            CallKey::Feed => {
                let terms = config.revocation.feed.as_ref()?;
                Some(self.shared.feed.request(terms, limits.max_feed_bytes))
            }
            CallKey::Blacklist(names) => {
                Some(blacklist::request(config.revocation.blacklist.as_ref()?, names))
            }
            CallKey::User(key) => {
                let lookup = config.user.lookup()?;
                match leg {
                    Leg::Redis => {
                        let redis = lookup.redis.as_ref()?;
                        // It is in base64 there, with a signature.
                        let longest = limits.max_user_bytes.saturating_mul(2);
                        Some(redis::get(&redis.redis, &self.redis_name(key)?, longest))
                    }
                    Leg::Origin | Leg::Discovery => Some(user::lookup_request(lookup, key, limits)),
                }
            }
            CallKey::ServiceToken(id) => {
                Some(service_token::request(self.client_credentials(*id)?, limits))
            }
            CallKey::Store(_) => None,
        }
    }

    /// How a token of the service's own is asked for, where it is.
    fn client_credentials(&self, id: ServiceTokenId) -> Option<&ClientCredentials> {
        match &id.pick(&self.shared.config.mode.egress()?.service_tokens)?.source {
            TokenSource::ClientCredentials(asked) => Some(asked),
            TokenSource::Sign(_) => None,
        }
    }

    /// The name of a user's record in Redis.
    pub(super) fn redis_name(&self, key: &user::UserKey) -> Option<String> {
        let config = &self.shared.config;
        let UserSource::Lookup(lookup) = &config.user else {
            return None;
        };
        let provider = key.provider().pick(&config.providers)?;
        Some(key.redis_name(&lookup.redis.as_ref()?.prefix, &provider.name))
    }
}
