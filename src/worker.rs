//! What the requests of one VM share, and the requests of it that wait.
//!
//! Events go in (`on_request`, `on_answer`, `on_tick`, `on_gone`), and what is to be done comes out:
//! a [`Disposition`] for each request, and the calls to make from [`Worker::next_call`].

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use crate::callout::{
    Answer, CallId, CallKey, CallRequest, Calls, Dispatch, Failure, GRACE, StreamId,
};
use crate::config::{Config, Provider, UserSource};
use crate::denial::Denial;
use crate::headers::{Edit, Stripped};
use crate::jwks::cache::ProviderKeys;
use crate::jwks::{KeySet, Origin};
use crate::log::{Level, Log};
use crate::request::{self, Outcome, Step, Waiting};
use crate::signature::Crypto;
use crate::time::UnixTime;
use crate::token::ProviderId;
use crate::user::cache::UserCache;
use crate::user::{self, LookupError};

/// What requests read and learn: the config, the keys, the users.
pub struct Shared {
    /// The config.
    pub config: Rc<Config>,
    /// What is known of users.
    pub users: UserCache,
    /// Who checks signatures.
    pub crypto: Crypto,
    keys: Vec<ProviderKeys>,
    random: fastrand::Rng,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({} users)", self.users.len())
    }
}

impl Shared {
    /// A provider's config and its keys.
    #[must_use]
    pub fn provider(&self, id: ProviderId) -> Option<(&Provider, &ProviderKeys)> {
        Some((id.pick(&self.config.providers)?, id.pick(&self.keys)?))
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
    log: Log,
}

#[derive(Debug)]
struct Parked {
    waiting: Waiting,
    key: CallKey,
    /// The request ends then, whatever becomes of the call.
    deadline: UnixTime,
}

impl Worker {
    /// A worker without keys or users yet. `seed` is the host's randomness.
    #[must_use]
    pub fn new(config: Config, crypto: Crypto, seed: u64) -> Self {
        let max_users = match &config.user {
            UserSource::Lookup(lookup) => lookup.max_entries,
            UserSource::Claims => 0,
        };
        Self {
            calls: Calls::new(config.limits.max_inflight_callouts),
            parked: HashMap::new(),
            log: Log::default(),
            shared: Shared {
                users: UserCache::new(max_users),
                keys: config.providers.iter().map(|_| ProviderKeys::new()).collect(),
                crypto,
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
        let step = request::begin(head, &mut self.shared, now);
        self.settle(stream, step, now)
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

    /// A call has ended. Those who waited for it go on.
    pub fn on_answer(&mut self, id: CallId, answer: &Answer, now: UnixTime) -> Vec<Released> {
        // A call that was given up has been answered for; what comes now is too late.
        let Some((key, waiters)) = self.calls.end(id) else {
            return Vec::new();
        };
        let outcome = match &key {
            CallKey::Jwks(provider) => self.learn_keys(*provider, answer, now),
            CallKey::User(key) => self.learn_user(key, answer, now),
        };
        waiters
            .into_iter()
            .filter_map(|stream| {
                let parked = self.parked.remove(&stream)?;
                let step = parked.waiting.resume(&outcome, &mut self.shared, now);
                Some((stream, self.settle(stream, step, now)))
            })
            .filter(|(_, disposition)| *disposition != Disposition::Pause)
            .collect()
    }

    /// Time has passed: keys are refreshed, calls and requests that are overdue end.
    pub fn on_tick(&mut self, now: UnixTime) -> Vec<Released> {
        for provider in ProviderId::all(self.shared.keys.len()) {
            if provider.pick(&self.shared.keys).is_some_and(|keys| keys.is_due(now)) {
                // Where too many calls are under way, the next tick tries again.
                let _ = self.call(&CallKey::Jwks(provider), None, now);
            }
        }
        let mut released = Vec::new();
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

    /// The lines for Envoy's log.
    pub fn take_log(&mut self) -> Vec<(Level, String)> {
        self.log.take()
    }

    /// Turns a step into what the shell is to do, and holds the request where it waits.
    fn settle(&mut self, stream: StreamId, step: Step, now: UnixTime) -> Disposition {
        match step {
            Step::Forward(edits) => Disposition::Forward(edits),
            Step::Deny(denial) => self.deny(denial),
            Step::Wait(waiting, key) => {
                if self.parked.len() >= self.shared.config.limits.max_waiters {
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

    fn deny(&mut self, denial: Denial) -> Disposition {
        self.log.add(
            Level::Debug,
            format!("denied code={} request_id={}", denial.code.name(), denial.request_id),
        );
        Disposition::Deny(denial)
    }

    /// Joins the call for `key`, or starts it; how long it may take. `None` where there are too many.
    fn call(
        &mut self,
        key: &CallKey,
        waiter: Option<StreamId>,
        now: UnixTime,
    ) -> Option<std::time::Duration> {
        let request = self.request_for(key)?;
        let timeout = request.timeout;
        self.calls.join(key, waiter, now, || request).ok()?;
        if let CallKey::Jwks(provider) = key
            && let Some(keys) = provider.pick_mut(&mut self.shared.keys)
        {
            keys.started();
        }
        Some(timeout)
    }

    fn request_for(&self, key: &CallKey) -> Option<CallRequest> {
        let config = &self.shared.config;
        match (key, &config.user) {
            (CallKey::Jwks(provider), _) => {
                let jwks = &provider.pick(&config.providers)?.remote_jwks;
                Some(CallRequest::get(
                    &jwks.cluster,
                    jwks.uri.scheme,
                    &jwks.uri.authority,
                    jwks.uri.path.clone(),
                    jwks.timeout,
                    config.limits.max_jwks_bytes,
                ))
            }
            (CallKey::User(key), UserSource::Lookup(lookup)) => {
                Some(user::lookup_request(lookup, key, &config.limits))
            }
            (CallKey::User(_), UserSource::Claims) => None,
        }
    }

    fn learn_keys(&mut self, provider: ProviderId, answer: &Answer, now: UnixTime) -> Outcome {
        let config = Rc::clone(&self.shared.config);
        let (Some(config), Some(keys)) =
            (provider.pick(&config.providers), provider.pick_mut(&mut self.shared.keys))
        else {
            return Outcome::Unavailable;
        };
        let fault = match answer {
            Answer::Response { status: 200, body } => match KeySet::parse(body, Origin::Remote) {
                Ok(set) => {
                    let (usable, skipped) = (set.len(), set.skipped);
                    self.log.add(
                        Level::Info,
                        format!("jwks provider={} keys={usable} skipped={skipped}", config.name),
                    );
                    keys.arrived(set, &config.remote_jwks, now);
                    return Outcome::KeysArrived;
                }
                Err(error) => error.to_string(),
            },
            Answer::Response { status, .. } => format!("it answered with status {status}"),
            Answer::Failed(failure) => failure.to_string(),
        };
        keys.failed(self.shared.random.f64(), now);
        self.log.warn(
            &format!(
                "jwks provider={} cluster={}",
                config.name,
                config.remote_jwks.cluster.as_str()
            ),
            &fault,
            now,
        );
        Outcome::Unavailable
    }

    fn learn_user(&mut self, key: &user::UserKey, answer: &Answer, now: UnixTime) -> Outcome {
        let config = Rc::clone(&self.shared.config);
        let UserSource::Lookup(lookup) = &config.user else {
            return Outcome::Unavailable;
        };
        let fault = match (user::read_answer(answer), answer) {
            (Ok(known), _) => {
                self.shared.users.remember(key.clone(), known.clone(), lookup, now);
                return Outcome::User(known);
            }
            (Err(LookupError::Status(status)), _) => format!("it answered with status {status}"),
            (Err(LookupError::NotARecord), _) => "its answer is not a JSON object".to_owned(),
            (Err(LookupError::NoAnswer), Answer::Failed(failure)) => failure.to_string(),
            (Err(LookupError::NoAnswer), Answer::Response { .. }) => String::new(),
        };
        self.log.warn(&format!("user lookup cluster={}", lookup.cluster.as_str()), &fault, now);
        Outcome::Unavailable
    }
}
