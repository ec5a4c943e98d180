//! Calls to other services: keyed, shared by all who need the same one, bounded, and each with an end.
//!
//! A call that one request started may answer for many, so it is the worker's and not a request's:
//! the client that caused it can hang up, and the rest are still served.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use crate::config::Secret;
use crate::config::names::{Authority, ClusterName, HeaderName};
use crate::time::UnixTime;
use crate::token::ProviderId;
use crate::user::UserKey;

/// How much later than its timeout a call is given up here. Envoy ends a call at its timeout; this
/// is for the case that it does not.
pub const GRACE: Duration = Duration::from_millis(250);

/// What a call is for. Whoever needs the same thing at the same time waits for one call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CallKey {
    /// A provider's keys.
    Jwks(ProviderId),
    /// A user's record.
    User(UserKey),
}

/// One call among all that a worker ever made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallId(u64);

/// A request of ours, as Envoy's HTTP callout wants it.
pub struct CallRequest {
    /// The cluster to send it to.
    pub cluster: String,
    /// All headers, the pseudo-headers first.
    pub headers: Vec<(String, String)>,
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
            timeout,
            max_body,
        }
    }

    /// The same with `headers` set.
    #[must_use]
    pub fn with_headers(mut self, headers: &[(HeaderName, Secret)]) -> Self {
        for (name, value) in headers {
            self.headers.retain(|(own, _)| own != name.as_str());
            self.headers.push((name.as_str().to_owned(), value.reveal().to_owned()));
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
        /// The body.
        body: Vec<u8>,
    },
    /// Without one.
    Failed(Failure),
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

/// A call to be made.
#[derive(Debug)]
pub struct Dispatch {
    /// Names it when it ends.
    pub id: CallId,
    /// What to send.
    pub request: CallRequest,
}

/// The limit on calls is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overloaded;

/// The calls of one worker.
#[derive(Debug)]
pub struct Calls {
    under_way: HashMap<CallKey, UnderWay>,
    keys: HashMap<CallId, CallKey>,
    outbox: VecDeque<Dispatch>,
    limit: usize,
    last_id: u64,
}

#[derive(Debug)]
struct UnderWay {
    id: CallId,
    ends: UnixTime,
    waiters: Vec<StreamId>,
}

impl Calls {
    /// No calls, and never more than `limit` at once.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            under_way: HashMap::new(),
            keys: HashMap::new(),
            outbox: VecDeque::new(),
            limit,
            last_id: 0,
        }
    }

    /// Lets `waiter` wait for the call for `key`, which is started where none is under way.
    ///
    /// # Errors
    /// Where it would have to be started and there are too many.
    pub fn join(
        &mut self,
        key: &CallKey,
        waiter: Option<StreamId>,
        now: UnixTime,
        request: impl FnOnce() -> CallRequest,
    ) -> Result<(), Overloaded> {
        if let Some(call) = self.under_way.get_mut(key) {
            call.waiters.extend(waiter);
            return Ok(());
        }
        if self.under_way.len() >= self.limit {
            return Err(Overloaded);
        }
        let request = request();
        self.last_id = self.last_id.wrapping_add(1);
        let id = CallId(self.last_id);
        self.under_way.insert(
            key.clone(),
            UnderWay {
                id,
                ends: now.after(request.timeout).after(GRACE),
                waiters: waiter.into_iter().collect(),
            },
        );
        self.keys.insert(id, key.clone());
        self.outbox.push_back(Dispatch { id, request });
        Ok(())
    }

    /// Whether there is a call for `key`.
    #[must_use]
    pub fn is_under_way(&self, key: &CallKey) -> bool {
        self.under_way.contains_key(key)
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

    /// Ends a call: what it was for and who waited. `None` where it had ended before.
    pub fn end(&mut self, id: CallId) -> Option<(CallKey, Vec<StreamId>)> {
        let key = self.keys.remove(&id)?;
        let call = self.under_way.remove(&key)?;
        Some((key, call.waiters))
    }

    /// The calls that should have ended by now.
    #[must_use]
    pub fn overdue(&self, now: UnixTime) -> Vec<CallId> {
        self.under_way.values().filter(|call| call.ends <= now).map(|call| call.id).collect()
    }
}
