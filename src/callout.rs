//! Calls to other services: keyed, shared by all who need the same one, bounded, and each with an end.
//!
//! A call that one request started may answer for many, so it is the worker's and not a request's:
//! the client that caused it can hang up, and the rest are still served.

pub mod circuit;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use crate::board::Theirs;
use crate::boundary::service_token::ServiceTokenId;
use crate::config::names::{Authority, ClusterName, HeaderName, is_header_value};
use crate::config::{ClientEndpoint, Secret};
use crate::headers::Field;
use crate::revocation::blacklist::Names;
use crate::time::UnixTime;
use crate::token::ProviderId;
use crate::token::introspection::Question;
use crate::user::UserKey;

/// How much later than its timeout a call is given up here. Envoy ends a call at its timeout; this
/// is for the case that it does not.
pub const GRACE: Duration = Duration::from_millis(250);

/// How long after a passing failure a call is tried once more, on average.
const BACKOFF: Duration = Duration::from_millis(50);
/// For each call that a worker may make, it can follow so many of the others': they cost nobody anything
/// but memory, some 300 bytes.
const FOLLOWED_FOR_EACH: usize = 16;
/// What must be left of a call's time for that.
const WORTH_TRYING: Duration = Duration::from_millis(10);

/// What a call is for. Whoever needs the same thing at the same time waits for one call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CallKey {
    /// A provider's keys.
    Jwks(ProviderId),
    /// The issuer's word on a token.
    Introspection(Question),
    /// What is revoked.
    Feed,
    /// Whether one of these names is on the blacklist.
    Blacklist(Names),
    /// A user's record.
    User(UserKey),
    /// A user's record on its way to Redis. Nobody waits for that.
    Store(UserKey),
    /// A token by which the service shows who it is.
    ServiceToken(ServiceTokenId),
}

impl CallKey {
    /// Whether it is something that every worker holds, of which there is no more than the config names.
    #[must_use]
    pub fn is_held(&self) -> bool {
        match self {
            Self::Jwks(_) | Self::Feed | Self::ServiceToken(_) => true,
            Self::Introspection(_) | Self::Blacklist(_) | Self::User(_) | Self::Store(_) => false,
        }
    }
}

/// Who is asked. What a call is for may need two answers, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    /// The OpenID provider, where its keys are.
    Discovery,
    /// Redis, which may remember.
    Redis,
    /// Who knows.
    Origin,
}

/// One call among all that a worker ever made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallId(u64);

/// A request of ours, as Envoy's HTTP callout wants it.
#[derive(Clone)]
pub struct CallRequest {
    /// The cluster to send it to.
    pub cluster: String,
    /// All headers, the pseudo-headers first.
    pub headers: Vec<(String, String)>,
    /// The body, where it has one.
    pub body: Option<Vec<u8>>,
    /// How long Envoy waits for the answer.
    pub timeout: Duration,
    /// Longest body that is read, in bytes.
    pub max_body: usize,
}

impl fmt::Debug for CallRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its path names a user and its headers may hold keys.
        write!(f, "CallRequest({}, {} headers)", self.cluster, self.headers.len())
    }
}

impl CallRequest {
    /// A GET of `path` that accepts JSON.
    #[must_use]
    pub fn get(
        cluster: &ClusterName,
        scheme: &str,
        authority: &Authority,
        path: String,
        timeout: Duration,
        max_body: usize,
    ) -> Self {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Self {
            cluster: cluster.as_str().to_owned(),
            headers: vec![
                header(":method", "GET"),
                header(":scheme", scheme),
                header(":authority", authority.as_str()),
                (":path".to_owned(), path),
                header("accept", "application/json"),
                header("user-agent", concat!("meshgate/", env!("CARGO_PKG_VERSION"))),
            ],
            body: None,
            timeout,
            max_body,
        }
    }

    /// A POST of `form` to an endpoint that knows its clients by a secret, in HTTP Basic
    /// (RFC 6749 section 2.3.1).
    #[must_use]
    pub fn form(endpoint: &ClientEndpoint, form: String, max_body: usize) -> Self {
        let ClientEndpoint { uri, cluster, authorization, timeout } = endpoint;
        Self::get(cluster, uri.scheme, &uri.authority, uri.path.clone(), *timeout, max_body)
            .post("application/x-www-form-urlencoded", form.into_bytes())
            .with_header("authorization", authorization.reveal())
    }

    /// The same as a POST of `body`.
    #[must_use]
    pub fn post(self, content_type: &str, body: Vec<u8>) -> Self {
        self.with_body("POST", content_type, body)
    }

    /// The same as a PUT of `body`.
    #[must_use]
    pub fn put(self, content_type: &str, body: Vec<u8>) -> Self {
        self.with_body("PUT", content_type, body)
    }

    fn with_body(mut self, method: &str, content_type: &str, body: Vec<u8>) -> Self {
        self.body = Some(body);
        self.with_header(":method", method).with_header("content-type", content_type)
    }

    /// The same with `headers` set.
    #[must_use]
    pub fn with_headers(self, headers: &[(HeaderName, Secret)]) -> Self {
        headers
            .iter()
            .fold(self, |request, (name, value)| request.with_header(name.as_str(), value.reveal()))
    }

    /// The same with the one value `value` for `name`.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        match self.headers.iter_mut().find(|(own, _)| own == name) {
            Some((_, own)) => value.clone_into(own),
            None => self.headers.push((name.to_owned(), value.to_owned())),
        }
        self
    }
}

/// How a call ended.
pub enum Answer {
    /// With a response, whatever its status. Envoy itself answers 503 for a closed port and 504 for
    /// a timeout.
    Response {
        /// `:status`.
        status: u16,
        /// How long the answer may be kept, by its `cache-control`.
        max_age: Option<Duration>,
        /// Its `etag`, where that is one line of visible ASCII.
        etag: Option<String>,
        /// The body.
        body: Vec<u8>,
    },
    /// Without one.
    Failed(Failure),
}

impl Answer {
    /// Whether the dependency could not be reached, which may pass by itself.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Response { status, .. } => matches!(status, 502..=504),
            Self::Failed(failure) => match failure {
                Failure::NotSent | Failure::Broken | Failure::TimedOut => true,
                Failure::UnknownCluster | Failure::TooLong => false,
            },
        }
    }
}

/// The `etag` among these headers, where it can be sent back as it came.
#[must_use]
pub fn etag(headers: &[Field]) -> Option<String> {
    let value = &headers.iter().find(|field| field.name == "etag")?.value;
    let text = std::str::from_utf8(value).ok()?;
    is_header_value(text).then(|| text.to_owned())
}

/// How long an answer with these headers may be kept, where they say so: `max-age` of
/// `cache-control`, and nothing for `no-cache` and `no-store` (RFC 9111 section 5.2.2).
#[must_use]
pub fn max_age(headers: &[Field]) -> Option<Duration> {
    let value = &headers.iter().find(|field| field.name == "cache-control")?.value;
    let mut age = None;
    for directive in value.split(|byte| *byte == b',') {
        let directive = String::from_utf8_lossy(directive).trim().to_ascii_lowercase();
        match directive.split_once('=') {
            None if matches!(directive.as_str(), "no-cache" | "no-store") => {
                return Some(Duration::ZERO);
            }
            Some(("max-age", secs)) => age = secs.trim_matches('"').parse().ok(),
            None | Some(_) => {}
        }
    }
    age.map(Duration::from_secs)
}

/// Why a call ended without a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Envoy has no cluster of that name.
    UnknownCluster,
    /// Envoy could not send it: the cluster has no endpoint, say.
    NotSent,
    /// The connection broke.
    Broken,
    /// No answer came in time.
    TimedOut,
    /// The body is longer than the config allows.
    TooLong,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownCluster => "Envoy has no such cluster",
            Self::NotSent => "Envoy could not send it, has the cluster an endpoint?",
            Self::Broken => "the connection broke before a whole answer came",
            Self::TimedOut => "no answer came in time",
            Self::TooLong => "the answer is longer than the limit",
        })
    }
}

/// One request of a client, as long as Envoy holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

/// By numbers that nobody else chooses: in an order of its own, which is the same in each run.
pub type Numbered<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// A call to be made.
#[derive(Debug)]
pub struct Dispatch {
    /// Names it when it ends.
    pub id: CallId,
    /// What to send.
    pub request: CallRequest,
}

/// The calls of one worker.
#[derive(Debug)]
pub struct Calls {
    under_way: HashMap<CallKey, UnderWay>,
    keys: Numbered<CallId, CallKey>,
    outbox: VecDeque<Dispatch>,
    /// Calls that are to be tried once more, and when.
    retries: Vec<(UnixTime, Dispatch)>,
    limit: usize,
    last_id: u64,
}

/// Whose call a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// This worker's.
    Ours,
    /// Another worker's, until then.
    Theirs {
        /// The end of its turn.
        until: UnixTime,
    },
}

/// A call that has ended.
#[derive(Debug)]
pub struct Ended {
    /// What it was for.
    pub key: CallKey,
    /// Whom this worker asked; nobody where it waited for another one's call.
    pub leg: Option<Leg>,
    /// When it began.
    pub started: UnixTime,
    /// Who waited for it.
    pub waiters: Vec<StreamId>,
}

#[derive(Debug)]
struct UnderWay {
    id: CallId,
    by: By,
    started: UnixTime,
    ends: UnixTime,
    waiters: Vec<StreamId>,
}

/// Who makes a call.
#[derive(Debug)]
enum By {
    /// This worker.
    Us {
        leg: Leg,
        /// What to send if it is to be tried once more.
        again: Option<CallRequest>,
    },
    /// Another one of the process.
    Other(Theirs),
}

impl Calls {
    /// No calls, and never more than `limit` at once.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            under_way: HashMap::new(),
            keys: Numbered::default(),
            outbox: VecDeque::new(),
            retries: Vec::new(),
            limit,
            last_id: 0,
        }
    }

    /// Lets `waiter` wait for the call for `key`, if one is under way.
    pub fn join(&mut self, key: &CallKey, waiter: Option<StreamId>) -> Option<Joined> {
        let call = self.under_way.get_mut(key)?;
        call.waiters.extend(waiter);
        Some(match call.by {
            By::Us { .. } => Joined::Ours,
            By::Other(_) => Joined::Theirs { until: call.ends },
        })
    }

    /// Starts a call for `key`, for all of `waiters`.
    pub fn start(
        &mut self,
        key: &CallKey,
        leg: Leg,
        waiters: Vec<StreamId>,
        now: UnixTime,
        request: CallRequest,
    ) {
        // What Redis lacks, the origin has: it is not asked twice.
        let again = match (key, leg) {
            (CallKey::User(_) | CallKey::Store(_), Leg::Redis) => None,
            (_, Leg::Discovery | Leg::Redis | Leg::Origin) => Some(request.clone()),
        };
        let ends = now.after(request.timeout).after(GRACE);
        let id = self.add(key, By::Us { leg, again }, waiters, now, ends);
        self.outbox.push_back(Dispatch { id, request });
    }

    /// Lets `waiters` wait for a call that another worker makes, as long as its turn lasts.
    pub fn follow(&mut self, key: &CallKey, turn: Theirs, waiters: Vec<StreamId>, now: UnixTime) {
        let until = turn.until;
        self.add(key, By::Other(turn), waiters, now, until);
    }

    fn add(
        &mut self,
        key: &CallKey,
        by: By,
        waiters: Vec<StreamId>,
        started: UnixTime,
        ends: UnixTime,
    ) -> CallId {
        self.last_id = self.last_id.wrapping_add(1);
        let id = CallId(self.last_id);
        self.under_way.insert(key.clone(), UnderWay { id, by, started, ends, waiters });
        self.keys.insert(id, key.clone());
        id
    }

    /// Whether there is no room for a call for `key`. Fetches of keys, of the feed and of the service's own tokens
    /// always have room, and take none: there are no more than the config names. Anybody can cause introspection, which may take
    /// half of it, and nobody waits for what is stored.
    #[must_use]
    pub fn is_full_for(&self, key: &CallKey) -> bool {
        let all = |limit| self.count(|key| !key.is_held()) >= limit;
        let half = self.limit.div_ceil(2);
        match key {
            CallKey::Jwks(_) | CallKey::Feed | CallKey::ServiceToken(_) => false,
            CallKey::User(_) | CallKey::Blacklist(_) => all(self.limit),
            CallKey::Introspection(_) => {
                all(self.limit)
                    || self.count(|key| matches!(key, CallKey::Introspection(_))) >= half
            }
            CallKey::Store(_) => all(half),
        }
    }

    /// How many calls of this worker's there are of which `counts` says yes.
    fn count(&self, counts: impl Fn(&CallKey) -> bool) -> usize {
        let ours = self.under_way.iter().filter(|(_, call)| matches!(call.by, By::Us { .. }));
        ours.filter(|(key, _)| counts(key)).count()
    }

    /// What the calls that this worker makes are for, and who is asked.
    pub fn ours(&self) -> impl Iterator<Item = (&CallKey, Leg)> {
        self.under_way.iter().filter_map(|(key, call)| match call.by {
            By::Us { leg, .. } => Some((key, leg)),
            By::Other(_) => None,
        })
    }

    /// Whether no more calls of other workers can be followed.
    #[must_use]
    pub fn follows_enough(&self) -> bool {
        let ours = self.count(|_| true);
        self.under_way.len().saturating_sub(ours) >= self.limit.saturating_mul(FOLLOWED_FOR_EACH)
    }

    /// The clock was set back by so much: no call ends later for it, and none began in the future.
    pub fn clock_set_back(&mut self, back: Duration) {
        for call in self.under_way.values_mut() {
            call.started = call.started.before(back);
            call.ends = call.ends.before(back);
        }
        for (at, _) in &mut self.retries {
            *at = at.before(back);
        }
    }

    /// The call for `key`, whoever makes it.
    #[must_use]
    pub fn under_way(&self, key: &CallKey) -> Option<CallId> {
        self.under_way.get(key).map(|call| call.id)
    }

    /// What a call is for, and whom it asks.
    #[must_use]
    pub fn purpose(&self, id: CallId) -> Option<(&CallKey, Leg)> {
        let key = self.keys.get(&id)?;
        match self.under_way.get(key)?.by {
            By::Us { leg, .. } => Some((key, leg)),
            By::Other(_) => None,
        }
    }

    /// Lets `waiter` wait no longer. The call goes on.
    pub fn leave(&mut self, key: &CallKey, waiter: StreamId) {
        if let Some(call) = self.under_way.get_mut(key) {
            call.waiters.retain(|other| *other != waiter);
        }
    }

    /// The next call to make.
    pub fn next_dispatch(&mut self) -> Option<Dispatch> {
        while let Some(dispatch) = self.outbox.pop_front() {
            if self.keys.contains_key(&dispatch.id) {
                return Some(dispatch);
            }
        }
        None
    }

    /// Whether there are calls to make.
    #[must_use]
    pub fn has_dispatches(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Has a call that failed tried once more, within the time it was given, if it was not before.
    /// Whether it will be. `jitter` from 0 to 1 spreads the attempts.
    pub fn try_again(&mut self, id: CallId, jitter: f64, now: UnixTime) -> bool {
        let Some(call) = self.keys.get(&id).and_then(|key| self.under_way.get_mut(key)) else {
            return false;
        };
        let By::Us { again, .. } = &mut call.by else {
            return false;
        };
        let (ends, Some(mut request)) = (call.ends, again.take()) else {
            return false;
        };
        let at = now.after(BACKOFF.mul_f64(jitter.clamp(0.0, 1.0) + 0.5));
        let left = ends.since(at.after(GRACE));
        if left < WORTH_TRYING {
            return false;
        }
        request.timeout = left;
        self.retries.push((at, Dispatch { id, request }));
        true
    }

    /// Puts what is to be tried again by now among the calls to make.
    pub fn release_retries(&mut self, now: UnixTime) {
        let (due, later) =
            std::mem::take(&mut self.retries).into_iter().partition(|(at, _)| *at <= now);
        self.retries = later;
        let due: Vec<(UnixTime, Dispatch)> = due;
        self.outbox.extend(due.into_iter().map(|(_, dispatch)| dispatch));
    }

    /// Ends a call. `None` where it had ended before.
    pub fn end(&mut self, id: CallId) -> Option<Ended> {
        let key = self.keys.remove(&id)?;
        let UnderWay { by, started, waiters, .. } = self.under_way.remove(&key)?;
        let leg = match by {
            By::Us { leg, .. } => Some(leg),
            By::Other(_) => None,
        };
        Some(Ended { key, leg, started, waiters })
    }

    /// The calls that other workers make.
    #[must_use]
    pub fn followed(&self) -> Vec<(CallId, CallKey, Theirs)> {
        let followed = self.all().filter_map(|(key, call)| match &call.by {
            By::Other(turn) => Some((call.id, key.clone(), turn.clone())),
            By::Us { .. } => None,
        });
        followed.collect()
    }

    /// The calls that should have ended by now.
    #[must_use]
    pub fn overdue(&self, now: UnixTime) -> Vec<CallId> {
        self.all().filter(|(_, call)| call.ends <= now).map(|(_, call)| call.id).collect()
    }

    fn all(&self) -> impl Iterator<Item = (&CallKey, &UnderWay)> {
        self.keys.values().filter_map(|key| Some((key, self.under_way.get(key)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_an_answer_is_read_from_its_cache_control() {
        for (value, age) in [
            ("max-age=600", Some(600)),
            ("public, Max-Age=\"60\" , must-revalidate", Some(60)),
            ("max-age=60, no-store", Some(0)),
            ("no-cache", Some(0)),
            ("max-age=-1", None),
            ("max-age=99999999999999999999999", None),
            ("s-maxage=60", None),
            ("", None),
        ] {
            let field =
                Field { name: "cache-control".to_owned(), value: value.as_bytes().to_vec() };
            assert_eq!(max_age(&[field]), age.map(Duration::from_secs), "{value}");
        }
        assert_eq!(max_age(&[]), None);
    }
}
