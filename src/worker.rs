//! What the requests of one VM share, and the requests of it that wait.
//!
//! Events go in (`on_request`, `on_answer`, `on_tick`, `on_gone`), and what is to be done comes out:
//! a [`Disposition`] for each request, and the calls to make from [`Worker::next_call`].

mod learn;

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::board::Exchange;
use crate::callout::circuit::Circuit;
use crate::callout::{
    Answer, CallId, CallKey, CallRequest, Calls, Dispatch, Ended, Failure, GRACE, StreamId,
};
use crate::config::{Config, KeySource, UserSource};
use crate::denial::Denial;
use crate::headers::{Edit, Stripped};
use crate::jwks::cache::{Keys, ProviderKeys};
use crate::log::{Level, Log};
use crate::request::{self, Outcome, Step, Waiting};
use crate::signature::Crypto;
use crate::time::UnixTime;
use crate::token::cache::{Remembered, TokenCache};
use crate::token::introspection;
use crate::token::{ProviderId, TokenError, VerifiedToken};
use crate::user;
use crate::user::cache::UserCache;

/// What requests read and learn: the config, the keys, the users.
pub struct Shared {
    /// The config.
    pub config: Rc<Config>,
    /// What is known of tokens.
    pub tokens: TokenCache,
    /// What is known of users.
    pub users: UserCache,
    /// Who checks signatures.
    pub crypto: Crypto,
    keys: Vec<ProviderKeys>,
    /// What is to be asked for though nobody waits for it.
    wanted: Vec<CallKey>,
    random: fastrand::Rng,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({} tokens, {} users)", self.tokens.len(), self.users.len())
    }
}

impl Shared {
    /// A provider's keys.
    #[must_use]
    pub fn keys(&self, provider: ProviderId) -> Option<&ProviderKeys> {
        provider.pick(&self.keys)
    }

    /// Has `key` asked for in the background.
    pub fn want(&mut self, key: CallKey) {
        self.wanted.push(key);
    }

    /// What is known of a token's text: the token, if it is as good as when it was verified, or why it
    /// is not. `None` where it must be looked at.
    pub fn remembered(
        &mut self,
        text: &[u8],
        now: UnixTime,
    ) -> Option<Result<VerifiedToken, TokenError>> {
        let (token, has_expiry) = match self.tokens.get(text, now)? {
            Remembered::Refused { error, .. } => return Some(Err(error)),
            Remembered::Active { token, .. } => (token, false),
            Remembered::Signed { token, generation } => {
                // The set that its key was in is gone, and the key perhaps with it.
                match self.keys(token.provider())?.usable(now) {
                    Keys::Ready(_, held) if held == generation => (token, true),
                    Keys::Ready(..) | Keys::Await | Keys::Unavailable => return None,
                }
            }
        };
        let provider = token.provider().pick(&self.config.providers)?;
        let require_expiration = has_expiry && provider.require_expiration;
        Some(token.claims().check_time(provider, require_expiration, now).map(|()| token))
    }

    /// An id for a request that came without one: a random UUID (RFC 9562 section 5.4).
    pub fn new_request_id(&mut self) -> String {
        let bits = self.random.u128(..);
        let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        let mut id = String::with_capacity(36);
        for (place, digit) in hex.chars().enumerate() {
            if matches!(place, 8 | 12 | 16 | 20) {
                id.push('-');
            }
            id.push(digit);
        }
        id
    }
}

/// What is to be done with a client's request.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Apply the edits and let it go on.
    Forward(Vec<Edit>),
    /// Answer the client.
    Deny(Denial),
    /// Hold it. It comes back from `on_answer` or `on_tick`.
    Pause,
}

/// A request that was held, and what is to be done with it now: never [`Disposition::Pause`].
pub type Released = (StreamId, Disposition);

/// One VM's share of the work.
#[derive(Debug)]
pub struct Worker {
    shared: Shared,
    calls: Calls,
    parked: HashMap<StreamId, Parked>,
    user_circuit: Circuit,
    introspection_circuits: Vec<Circuit>,
    log: Log,
    exchange: Option<Exchange>,
    /// The last post of each provider's keys that was taken over or made here.
    seen: Vec<Option<UnixTime>>,
    wake_others: bool,
    last_seen: UnixTime,
}

#[derive(Debug)]
struct Parked {
    waiting: Waiting,
    key: CallKey,
    /// The request ends then, whatever becomes of the call.
    deadline: UnixTime,
}

impl Worker {
    /// A worker without keys or users yet. `seed` is the host's randomness; by `exchange` the workers
    /// of the process share what they fetch.
    #[must_use]
    pub fn new(config: Config, crypto: Crypto, exchange: Option<Exchange>, seed: u64) -> Self {
        Self {
            calls: Calls::new(config.limits.max_inflight_callouts),
            parked: HashMap::new(),
            user_circuit: Circuit::default(),
            introspection_circuits: config.providers.iter().map(|_| Circuit::default()).collect(),
            log: Log::default(),
            exchange,
            seen: config.providers.iter().map(|_| None).collect(),
            wake_others: false,
            last_seen: UnixTime::from_millis(0),
            shared: Shared {
                tokens: TokenCache::new(config.limits.max_cached_tokens),
                users: UserCache::new(config.max_users()),
                keys: config
                    .providers
                    .iter()
                    .map(|provider| ProviderKeys::new(provider.trust.keys.as_ref()))
                    .collect(),
                crypto,
                wanted: Vec::new(),
                random: fastrand::Rng::with_seed(seed),
                config: Rc::new(config),
            },
        }
    }

    /// The config.
    #[must_use]
    pub fn config(&self) -> Rc<Config> {
        Rc::clone(&self.shared.config)
    }

    /// A client's request has come.
    pub fn on_request(&mut self, stream: StreamId, head: &Stripped, now: UnixTime) -> Disposition {
        self.notice(now);
        let step = request::begin(head, &mut self.shared, now);
        let disposition = self.settle(stream, step, now);
        self.call_wanted(now);
        disposition
    }

    /// Whether there are calls to make, for which the shell must wake its root context.
    #[must_use]
    pub fn has_calls(&self) -> bool {
        self.calls.has_dispatches()
    }

    /// Whether a request is held.
    #[must_use]
    pub fn is_waiting(&self, stream: StreamId) -> bool {
        self.parked.contains_key(&stream)
    }

    /// A client's request is over, be it because the client hung up.
    pub fn on_gone(&mut self, stream: StreamId) {
        if let Some(parked) = self.parked.remove(&stream) {
            self.calls.leave(&parked.key, stream);
        }
    }

    /// A call has ended. Those who waited for it go on, unless it is to be tried once more.
    pub fn on_answer(&mut self, id: CallId, answer: &Answer, now: UnixTime) -> Vec<Released> {
        self.notice(now);
        let jitter = self.shared.random.f64();
        if answer.is_outage() && self.calls.try_again(id, jitter, now) {
            return Vec::new();
        }
        // A call that was given up has been answered for; what comes now is too late.
        let Some(ended) = self.calls.end(id) else {
            return Vec::new();
        };
        if let Some(circuit) = self.circuit(&ended.key) {
            if answer.is_outage() {
                circuit.failed(jitter, now);
            } else {
                circuit.answered();
            }
        }
        let outcome = match &ended.key {
            CallKey::Jwks(provider) if self.must_discover(*provider) && ended.ours => {
                match self.learn_location(*provider, answer, now) {
                    // Found; now for the keys themselves, for all who wait.
                    Some(()) => return self.call_on(ended, now),
                    None => Outcome::Down,
                }
            }
            CallKey::Jwks(provider) => self.learn_keys(*provider, answer, now),
            CallKey::Introspection(question) => self.learn_word(question, answer, now),
            CallKey::User(key) => self.learn_user(key, answer, now),
        };
        if let (CallKey::Jwks(provider), true) = (&ended.key, ended.ours) {
            self.post(*provider, answer, &outcome, now);
        }
        self.release(ended.waiters, &outcome, now)
    }

    /// Another worker has posted something, perhaps: what is news here is taken over.
    pub fn on_wake(&mut self, now: UnixTime) -> Vec<Released> {
        self.notice(now);
        let mut released = Vec::new();
        for provider in ProviderId::all(self.shared.keys.len()) {
            let Some(news) = self.news(provider) else {
                continue;
            };
            let outcome = self.take_over(provider, &news, now);
            // Whoever waits here for these keys, be it for this worker's own call, waits no more. What
            // that call brings comes too late.
            let waiters = self
                .calls
                .under_way(&CallKey::Jwks(provider))
                .and_then(|call| self.calls.end(call))
                .map_or_else(Vec::new, |ended| ended.waiters);
            released.extend(self.release(waiters, &outcome, now));
        }
        released
    }

    /// Lets those who waited go on with `outcome`.
    fn release(
        &mut self,
        waiters: Vec<StreamId>,
        outcome: &Outcome,
        now: UnixTime,
    ) -> Vec<Released> {
        let released = waiters
            .into_iter()
            .filter_map(|stream| {
                let parked = self.parked.remove(&stream)?;
                let step = parked.waiting.resume(outcome, &mut self.shared, now);
                Some((stream, self.settle(stream, step, now)))
            })
            .filter(|(_, disposition)| *disposition != Disposition::Pause)
            .collect();
        self.call_wanted(now);
        released
    }

    /// Time has passed: keys are refreshed, calls and requests that are overdue end.
    pub fn on_tick(&mut self, now: UnixTime) -> Vec<Released> {
        self.notice(now);
        for provider in ProviderId::all(self.shared.keys.len()) {
            if provider.pick(&self.shared.keys).is_some_and(|keys| keys.is_due(now)) {
                // Where too many calls are under way, the next tick tries again.
                let _ = self.call(&CallKey::Jwks(provider), None, now);
            }
        }
        self.calls.release_retries(now);
        let mut released = self.on_wake(now);
        for call in self.calls.overdue(now) {
            released.extend(self.on_answer(call, &Answer::Failed(Failure::TimedOut), now));
        }
        let overdue: Vec<StreamId> = self
            .parked
            .iter()
            .filter(|(_, parked)| parked.deadline <= now)
            .map(|(stream, _)| *stream)
            .collect();
        for stream in overdue {
            if let Some(parked) = self.parked.remove(&stream) {
                self.calls.leave(&parked.key, stream);
                let step = Step::Deny(parked.waiting.give_up());
                released.push((stream, self.settle(stream, step, now)));
            }
        }
        released
    }

    /// The next call to make.
    pub fn next_call(&mut self) -> Option<Dispatch> {
        self.calls.next_dispatch()
    }

    /// Whether the other workers are to be woken, since something was posted.
    pub fn take_wake_others(&mut self) -> bool {
        std::mem::take(&mut self.wake_others)
    }

    /// The lines for Envoy's log.
    pub fn take_log(&mut self) -> Vec<(Level, String)> {
        self.log.take()
    }

    /// Turns a step into what the shell is to do, and holds the request where it waits.
    fn settle(&mut self, stream: StreamId, step: Step, now: UnixTime) -> Disposition {
        match step {
            Step::Forward(edits) => Disposition::Forward(edits),
            Step::Deny(denial) => self.deny(denial),
            Step::Wait(waiting, key) if !self.may_call(&key, now) => {
                let step = waiting.resume(&Outcome::Down, &mut self.shared, now);
                self.settle(stream, step, now)
            }
            Step::Wait(waiting, key) => {
                if self.parked.len() >= self.shared.config.limits.max_waiters
                    || (!waiting.is_verified() && self.strangers_fill_their_half())
                {
                    return self.deny(waiting.overloaded());
                }
                let Some(timeout) = self.call(&key, Some(stream), now) else {
                    return self.deny(waiting.overloaded());
                };
                let deadline = now.after(timeout).after(GRACE);
                let parked = Parked { waiting, key, deadline };
                self.parked.insert(stream, parked);
                Disposition::Pause
            }
        }
    }

    /// Whether as many requests wait as may whose token nobody has verified. Anybody can send such, so
    /// half of the places are kept from them.
    fn strangers_fill_their_half(&self) -> bool {
        let half = self.shared.config.limits.max_waiters.div_ceil(2);
        self.parked.len() >= half
            && self.parked.values().filter(|parked| !parked.waiting.is_verified()).count() >= half
    }

    /// Whether a call for `key` is under way or may be made: the circuit of its dependency is closed,
    /// or this one is the probe.
    fn may_call(&mut self, key: &CallKey, now: UnixTime) -> bool {
        self.calls.under_way(key).is_some()
            || self.circuit(key).is_none_or(|circuit| circuit.admits(now))
    }

    /// The circuit that a call for `key` goes through. Fetches of keys have their own pace.
    fn circuit(&mut self, key: &CallKey) -> Option<&mut Circuit> {
        match key {
            CallKey::Jwks(_) => None,
            CallKey::Introspection(question) => {
                question.provider.pick_mut(&mut self.introspection_circuits)
            }
            CallKey::User(_) => Some(&mut self.user_circuit),
        }
    }

    fn deny(&mut self, denial: Denial) -> Disposition {
        self.log.add(
            Level::Debug,
            format!("denied code={} request_id={}", denial.code.name(), denial.request_id),
        );
        Disposition::Deny(denial)
    }

    /// Joins the call for `key`, or starts it; how long it may take. `None` where there are too many.
    fn call(&mut self, key: &CallKey, waiter: Option<StreamId>, now: UnixTime) -> Option<Duration> {
        let request = self.request_for(key)?;
        let mut patience = request.timeout;
        if let CallKey::Jwks(provider) = key {
            if self.discovers(*provider) {
                // Two calls, one after the other.
                patience = patience.saturating_mul(2).saturating_add(GRACE);
            }
            if self.calls.under_way(key).is_none()
                && let Some(ends) = self.others_turn(*provider, now, patience)
            {
                self.calls.follow(key, waiter, ends).ok()?;
                self.fetch_started(*provider);
                return Some(ends.since(now));
            }
            self.calls.join(key, waiter, now, || request).ok()?;
            self.fetch_started(*provider);
        } else {
            self.calls.join(key, waiter, now, || request).ok()?;
        }
        Some(patience)
    }

    /// Starts what requests want asked for in the background.
    fn call_wanted(&mut self, now: UnixTime) {
        for key in std::mem::take(&mut self.shared.wanted) {
            // Where it may not be, the next request that finds the record stale tries again.
            if self.may_call(&key, now) {
                let _ = self.call(&key, None, now);
            }
        }
    }

    /// Goes on with the next call for what `ended` was for, for all who waited for that.
    fn call_on(&mut self, ended: Ended, now: UnixTime) -> Vec<Released> {
        let started = self.call(&ended.key, None, now).is_some();
        if !started {
            return self.release(ended.waiters, &Outcome::Down, now);
        }
        self.calls.join_all(&ended.key, ended.waiters);
        Vec::new()
    }

    fn request_for(&self, key: &CallKey) -> Option<CallRequest> {
        let config = &self.shared.config;
        match (key, &config.user) {
            (CallKey::Jwks(provider), _) => {
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
                    config.limits.max_jwks_bytes,
                ))
            }
            (CallKey::Introspection(question), _) => {
                let provider = question.provider.pick(&config.providers)?;
                let introspection = provider.trust.introspection.as_ref()?;
                introspection::request(introspection, &question.token, &config.limits)
            }
            (CallKey::User(key), UserSource::Lookup(lookup)) => {
                Some(user::lookup_request(lookup, key, &config.limits))
            }
            (CallKey::User(_), UserSource::Claims) => None,
        }
    }
}
