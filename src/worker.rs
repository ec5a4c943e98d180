//! What the requests of one VM share, and the requests of it that wait.
//!
//! Events go in (`on_request`, `on_answer`, `on_wake`, `on_tick`, `on_gone`), and what is to be done comes
//! out: a [`Disposition`] for each request, and the calls to make from [`Worker::next_call`].

mod ask;
mod learn;
mod measure;
mod share;
mod shared;

use std::collections::HashMap;
use std::rc::Rc;

use crate::account::Who;
use crate::board::Exchange;
use crate::boundary::peer::Hop;
use crate::boundary::propagation;
use crate::boundary::service_token::ServiceTokenId;
use crate::callout::circuit::Circuit;
use crate::callout::{
    Answer, CallId, CallKey, Calls, Dispatch, Failure, GRACE, Leg, Numbered, StreamId,
};
use crate::config::{Config, Propagation};
use crate::denial::{Code, Denial, Reply};
use crate::headers::{Edit, Stripped};
use crate::log::{Level, Log};
use crate::metrics::{Dependency, Report};
use crate::redis;
use crate::request::{self, Outcome, Step, Waiting};
use crate::signature::Crypto;
use crate::time::UnixTime;
use crate::token::ProviderId;
use crate::user::table;
use ask::Asked;
use share::TurnEnd;
pub use shared::{Shared, Verdict};

/// What is to be done with a client's request.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Apply the edits and let it go on. This is whom it is about.
    Forward(Vec<Edit>, Who),
    /// Refuse it.
    Deny(Denial),
    /// Answer the client: what it asked for is here.
    Answer(Reply),
    /// Answer the proxy that asks: its request may go on.
    Allow(Reply, Who),
    /// Hold it. It comes back from `on_answer` or `on_tick`.
    Pause,
}

/// A request that was held, and what is to be done with it now: never [`Disposition::Pause`].
pub type Released = (StreamId, Disposition);

/// Makes the slots of all tables that the workers of this config share, once a process.
pub fn lay_tables(exchange: &Exchange, config: &Config) {
    if let Some(lookup) = config.user.lookup() {
        table::lay(exchange, lookup);
    }
    match config.propagation {
        Propagation::ByService => {}
        Propagation::ByRequestId => propagation::lay(exchange),
    }
}

/// One VM's share of the work.
#[derive(Debug)]
pub struct Worker {
    shared: Shared,
    calls: Calls,
    parked: Numbered<StreamId, Parked>,
    circuits: Circuits,
    log: Log,
    /// The last post of each document that was taken over or made here.
    seen: HashMap<CallKey, UnixTime>,
    /// The same of the list that the feed brought.
    list_seen: Option<UnixTime>,
    wake_others: bool,
    last_seen: UnixTime,
    report: Report,
    /// When it first saw the time.
    began: Option<UnixTime>,
}

/// One for each service that requests wait for. Fetches of keys and of the feed have their own pace.
#[derive(Debug, Default)]
struct Circuits {
    users: Circuit,
    users_redis: Circuit,
    blacklist: Circuit,
    introspection: HashMap<ProviderId, Circuit>,
    service_tokens: HashMap<ServiceTokenId, Circuit>,
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
            parked: Numbered::default(),
            circuits: Circuits::default(),
            log: Log::default(),
            seen: HashMap::new(),
            list_seen: None,
            wake_others: false,
            last_seen: UnixTime::from_millis(0),
            report: Report::new(&config),
            began: None,
            shared: Shared::new(config, crypto, exchange, seed),
        }
    }

    /// The config.
    #[must_use]
    pub fn config(&self) -> Rc<Config> {
        Rc::clone(&self.shared.config)
    }

    /// A client's request has come, by this hop.
    pub fn on_request(
        &mut self,
        stream: StreamId,
        head: &Stripped,
        hop: &Hop,
        now: UnixTime,
    ) -> Disposition {
        self.notice(now);
        let step = request::begin(head, hop, &mut self.shared, now);
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

    /// A call has ended. Those who waited for it go on, unless it is to be tried once more, or another
    /// one follows.
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
        let Some(leg) = ended.leg else {
            // Another worker's turn is over and nothing has come of it: its turn is ours.
            return self.ask_again(ended, now);
        };
        let dependency = Dependency::of(&ended.key, leg);
        let is_outage = self.is_outage(&ended, answer, now);
        if let Some(circuit) = self.circuit(&ended.key, leg) {
            if is_outage {
                circuit.failed(jitter, now);
            } else {
                circuit.answered();
            }
        }
        let outcome = match (&ended.key, leg) {
            (CallKey::Jwks(provider), Leg::Discovery) => {
                match self.learn_location(*provider, answer, now) {
                    // Found; now for the keys themselves, for all who wait.
                    Some(()) => {
                        self.shared.metrics.called(dependency, true);
                        return self.ask_next(ended, now);
                    }
                    None => Outcome::Down,
                }
            }
            (CallKey::Jwks(provider), _) => self.learn_keys(*provider, answer, now),
            (CallKey::Introspection(question), _) => self.learn_word(question, answer, now),
            (CallKey::Feed, _) => self.learn_feed(answer, now),
            (CallKey::Blacklist(names), _) => self.learn_listed(names, answer, ended.started, now),
            (CallKey::User(key), Leg::Redis) => {
                let recalled = self.recall(key, answer, now);
                self.note_recalled(answer, recalled.is_some());
                match recalled {
                    Some(outcome) => outcome,
                    None => return self.ask_next(ended, now),
                }
            }
            (CallKey::User(key), _) => self.learn_user(key, answer, ended.started, now),
            (CallKey::ServiceToken(id), _) => {
                self.learn_service_token(*id, answer, ended.started, now)
            }
            (CallKey::Store(_), _) => {
                self.learn_stored(answer, now);
                self.shared.metrics.called(dependency, redis::is_set(answer));
                return Vec::new();
            }
        };
        self.note_ended(&ended.key, dependency, &outcome);
        let failed = matches!(outcome, Outcome::Down | Outcome::Senseless);
        let theirs = failed.then(|| self.overtaken(&ended.key, now)).flatten();
        if theirs.is_none() {
            self.tell(&ended.key, answer, &outcome, now);
        }
        self.release(ended.waiters, &theirs.unwrap_or(outcome), now)
    }

    /// Another worker has posted something, perhaps: what is news here is taken over.
    pub fn on_wake(&mut self, now: UnixTime) -> Vec<Released> {
        self.notice(now);
        let mut released = Vec::new();
        for (key, outcome) in self.news(now) {
            // Whoever waits here for that, be it for this worker's own call, waits no more. What that
            // call brings comes too late.
            let ended = self.calls.under_way(&key).and_then(|call| self.calls.end(call));
            let waiters = ended.map_or_else(Vec::new, |ended| ended.waiters);
            released.extend(self.release(waiters, &outcome, now));
        }
        for (call, end) in self.turns_over(now) {
            let Some(ended) = self.calls.end(call) else {
                continue;
            };
            released.extend(match end {
                TurnEnd::Told(outcome) => self.release(ended.waiters, &outcome, now),
                TurnEnd::Silent => self.ask_again(ended, now),
            });
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
                Some((stream, self.resume(stream, parked.waiting, outcome, now)))
            })
            .filter(|(_, disposition)| *disposition != Disposition::Pause)
            .collect();
        self.call_wanted(now);
        released
    }

    /// Time has passed: documents are refreshed, calls and requests that are overdue end.
    pub fn on_tick(&mut self, now: UnixTime) -> Vec<Released> {
        self.notice(now);
        for key in self.due(now) {
            let _: Asked = self.ask(&key, None, now);
        }
        self.calls.release_retries(now);
        let timed_out = Answer::Failed(Failure::TimedOut);
        let overdue = self.calls.overdue(now).into_iter();
        // A call of its own that ends makes room for those that it waited for another worker to make.
        let (ours, theirs): (Vec<CallId>, Vec<CallId>) =
            overdue.partition(|call| self.calls.purpose(*call).is_some());
        let mut released = Vec::new();
        for call in ours {
            released.extend(self.on_answer(call, &timed_out, now));
        }
        released.extend(self.on_wake(now));
        for call in theirs {
            released.extend(self.on_answer(call, &timed_out, now));
        }
        let overdue = self.parked.iter().filter(|(_, parked)| parked.deadline <= now);
        let overdue: Vec<StreamId> = overdue.map(|(stream, _)| *stream).collect();
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

    /// What a call is for that is to be made, and whom it asks.
    #[must_use]
    pub fn purpose(&self, call: CallId) -> Option<(&CallKey, Leg)> {
        self.calls.purpose(call)
    }

    /// Whether the other workers are to be woken, since something was posted.
    pub fn take_wake_others(&mut self) -> bool {
        std::mem::take(&mut self.wake_others)
    }

    /// The lines for Envoy's log.
    pub fn take_log(&mut self) -> Vec<(Level, String)> {
        self.log.take()
    }

    fn resume(
        &mut self,
        stream: StreamId,
        waiting: Waiting,
        outcome: &Outcome,
        now: UnixTime,
    ) -> Disposition {
        let step = waiting.resume(outcome, &mut self.shared, now);
        self.settle(stream, step, now)
    }

    /// Turns a step into what the shell is to do, and holds the request where it waits.
    fn settle(&mut self, stream: StreamId, step: Step, now: UnixTime) -> Disposition {
        match step {
            Step::Forward(edits, who) => {
                self.shared.metrics.allowed();
                Disposition::Forward(edits, who)
            }
            Step::Allow(reply, who) => {
                self.shared.metrics.allowed();
                Disposition::Allow(reply, who)
            }
            Step::Deny(denial) => {
                if denial.code == Code::PropagationUnavailable {
                    let fault = "what a request is told could not be noted for the service's exit";
                    self.log.warn("propagation", fault, now);
                }
                self.deny(denial)
            }
            Step::Answer(reply) => {
                self.shared.metrics.answered();
                Disposition::Answer(reply)
            }
            Step::Wait(waiting, key) => {
                if self.parked.len() >= self.shared.config.limits.max_waiters
                    || (!waiting.is_verified() && self.strangers_fill_their_half())
                {
                    return self.deny(waiting.overloaded());
                }
                match self.ask(&key, Some(stream), now) {
                    Asked::UnderWay(patience) => {
                        let deadline = now.after(patience).after(GRACE);
                        self.parked.insert(stream, Parked { waiting, key, deadline });
                        Disposition::Pause
                    }
                    Asked::Full => self.deny(waiting.overloaded()),
                    Asked::Told(outcome) => self.resume(stream, waiting, &outcome, now),
                    Asked::Shut => self.resume(stream, waiting, &Outcome::Down, now),
                }
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

    fn deny(&mut self, denial: Denial) -> Disposition {
        self.shared.metrics.denied(denial.code);
        self.log.add(
            Level::Debug,
            format!("denied code={} request_id={}", denial.code.name(), denial.request_id),
        );
        Disposition::Deny(denial)
    }
}
