//! What Envoy holds of one worker: streams, callouts, queues, shared data, metrics.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::Cost;
use crate::heads::Headers;

/// A request, and what became of it.
#[derive(Debug, Default)]
pub struct Stream {
    /// Its headers; where it went on, as the upstream sees them.
    pub head: Headers,
    /// Whether it went on.
    pub goes_on: bool,
    /// What the client was answered instead.
    pub reply: Option<Reply>,
    /// Filter state that was set.
    pub facts: BTreeMap<String, String>,
    properties: HashMap<String, Vec<u8>>,
}

impl Stream {
    /// The value of a header that is there once.
    pub fn value(&self, name: &str) -> Option<&str> {
        let mut values = self.head.iter().filter(|(own, _)| own == name);
        let value = values.next().map(|(_, value)| std::str::from_utf8(value).unwrap());
        assert!(values.next().is_none(), "there are several {name}");
        value
    }
}

/// An answer that the module gave.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: u64,
    /// Its body.
    pub body: String,
}

/// A call that the module wants made.
#[derive(Debug)]
pub struct Callout {
    /// By which its answer is told from others.
    pub token: u32,
    /// Whom it asks.
    pub cluster: String,
    /// What for.
    pub path: String,
}

/// All of it.
pub struct World {
    pub now: Duration,
    pub configuration: Vec<u8>,
    /// The answer that is being told of.
    pub answer: Option<(Headers, Vec<u8>)>,
    pub callouts: VecDeque<Callout>,
    /// Queues that something was put into.
    pub ready: VecDeque<u32>,
    /// The stream, or the root, that host calls act on.
    pub context: u32,
    /// Level and line.
    pub log: Vec<(u64, String)>,
    pub cost: Cost,
    /// `NAME=value`, each.
    pub(super) environment: Vec<String>,
    pub(super) queues: Vec<VecDeque<Vec<u8>>>,
    pub(super) shared: HashMap<Vec<u8>, (Vec<u8>, u32)>,
    pub(super) metrics: Vec<(String, u64)>,
    pub(super) last_callout: u32,
    /// What randomness is made of, so that each run is the same.
    pub(super) random: u64,
    streams: BTreeMap<u32, Stream>,
}

impl World {
    pub(super) fn new(environment: &[(&str, &str)], now: Duration) -> Self {
        Self {
            now,
            configuration: Vec::new(),
            answer: None,
            callouts: VecDeque::new(),
            ready: VecDeque::new(),
            context: super::ROOT,
            log: Vec::new(),
            cost: Cost::default(),
            environment: environment
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            queues: Vec::new(),
            shared: HashMap::new(),
            metrics: Vec::new(),
            last_callout: 0,
            random: 1,
            streams: BTreeMap::new(),
        }
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> Option<u64> {
        self.metrics.iter().find(|(own, _)| own == name).map(|(_, value)| *value)
    }

    pub(super) fn count(&mut self, host_call: &str) {
        match self.cost.host_calls.get_mut(host_call) {
            Some(count) => *count += 1,
            None => {
                self.cost.host_calls.insert(host_call.to_owned(), 1);
            }
        }
    }

    pub(super) fn open(&mut self, id: u32, head: Headers, properties: &[(&str, &[u8])]) {
        let properties =
            properties.iter().map(|(path, value)| ((*path).to_owned(), value.to_vec()));
        let stream = Stream { head, properties: properties.collect(), ..Stream::default() };
        self.streams.insert(id, stream);
    }

    pub(super) fn close(&mut self, id: u32) -> Stream {
        self.streams.remove(&id).unwrap()
    }

    pub(super) fn stream(&mut self, id: u32) -> &mut Stream {
        self.streams.get_mut(&id).unwrap()
    }

    /// The stream that host calls act on, where it is one.
    pub(super) fn current(&mut self) -> Option<&mut Stream> {
        self.streams.get_mut(&self.context)
    }

    pub(super) fn enter(&mut self, context: u32) -> bool {
        let known = context == super::ROOT || self.streams.contains_key(&context);
        if known {
            self.context = context;
        }
        known
    }

    /// A property of the current stream. The parts of its path stand apart by NUL, here by a full stop.
    pub(super) fn property(&mut self, path: &str) -> Option<Vec<u8>> {
        self.current()?.properties.get(&path.replace('\0', ".")).cloned()
    }
}
