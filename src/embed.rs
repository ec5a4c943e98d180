//! The core in a Rust service of its own, where there is no sidecar: what `src/shell` is to Envoy.
//!
//! A [`Worker`] is single-threaded, so one thread owns it. A [`Gate`] is the way to that thread: it can be
//! cloned and sent anywhere, and is asked once for each request. The thread makes no calls itself. It hands
//! each [`Call`] to the service's [`Embedder`], which has an HTTP client already, on whatever runtime; so this
//! needs none.
//!
//! Whatever goes wrong here (the thread is gone, the queue is full) is a reply, never a way through.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::answers::Words;
use crate::board::{Board, Exchange};
use crate::boundary::peer::Hop;
use crate::callout::{self, Answer, CallId, CallRequest, Failure, StreamId};
use crate::config::{Config, ConfigError};
use crate::denial::{Code, Denial, Reply};
use crate::headers::{Edit, Field, Stripped};
use crate::log::Level;
use crate::signature::{Crypto, Host, HostUnfit};
use crate::time::{UnixTime, millis};
use crate::worker::{Disposition, Released, Worker, lay_tables};

/// How often deadlines and refreshes are looked after, as in Envoy.
const TICK: Duration = Duration::from_millis(100);

/// What a service does for its gate. A closure that takes a [`Call`] is one.
pub trait Embedder: Send + 'static {
    /// Makes a call, or has it made: this runs on the gate's own thread and must not block it.
    fn fetch(&mut self, call: Call);

    /// Takes a line for the service's log.
    fn log(&mut self, _level: Level, _line: &str) {}

    /// What `${env:NAME}` stands for in the config.
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

impl<F: FnMut(Call) + Send + 'static> Embedder for F {
    fn fetch(&mut self, call: Call) {
        self(call);
    }
}

/// Why there is no gate.
#[derive(Debug)]
pub enum StartError {
    /// The config is not one.
    Config(ConfigError),
    /// It wants Envoy's own crypto, and there is no Envoy.
    Crypto(HostUnfit),
    /// There is no thread to be had, or no randomness.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Crypto(error) => error.fmt(f),
            Self::System(error) => write!(f, "the gate's thread could not start: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// The head of a request: what [`Gate::check`] decides on.
#[derive(Debug, Clone)]
pub struct Head(Vec<Field>);

impl Head {
    /// A request without headers. `target` is the path with its query, as it was sent.
    #[must_use]
    pub fn new(method: &str, authority: &str, target: &str) -> Self {
        let field = |name: &str, value: &str| Field { name: name.to_owned(), value: value.into() };
        Self(vec![field(":method", method), field(":authority", authority), field(":path", target)])
    }

    /// The same with one more header. Repeated names stay repeated.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.0.push(Field { name: name.to_ascii_lowercase(), value: value.into() });
        self
    }
}

/// What is to be done with a request.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may go on, once the edits are applied.
    Admit(Admission),
    /// Send this, and nothing else.
    Reply(Reply),
}

/// Leave for a request to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    edits: Vec<Edit>,
    context: Context,
}

impl Admission {
    /// What makes the request one that can be trusted: takes off what the client may not say, and the token;
    /// sets who the user is. To be applied in this order. `:path` is edited where a token stands in the query.
    #[must_use]
    pub fn edits(&self) -> &[Edit] {
        &self.edits
    }

    /// Who the user is, which the edits say too.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }
}

/// Who the user is: the context headers that have a value. Empty for a request without a user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context(Vec<(String, String)>);

impl Context {
    /// The value of the context header `name` (lower case).
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// Each name and value, in the order of the config.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// A call that the service makes for its gate. Answer it once. Dropped, it counts as one whose connection
/// broke, so nobody waits for what was lost.
pub struct Call {
    id: CallId,
    request: CallRequest,
    inbox: Option<Sender<Event>>,
}

/// Without path, headers and body, as [`CallRequest`].
impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.request.fmt(f)
    }
}

impl Call {
    /// The `cluster` of the config: the service knows what address that is.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.request.cluster
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.pseudo(":method")
    }

    /// `http` or `https`, as the config has it.
    #[must_use]
    pub fn scheme(&self) -> &str {
        self.pseudo(":scheme")
    }

    /// What `host` is to say.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.pseudo(":authority")
    }

    /// The path with its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.pseudo(":path")
    }

    fn pseudo(&self, name: &str) -> &str {
        let found = self.request.headers.iter().find(|(own, _)| own == name);
        found.map_or("", |(_, value)| value)
    }

    /// The headers. Some are secrets.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.request.headers.iter().filter(|(name, _)| !name.starts_with(':'));
        all.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The body, where it has one.
    #[must_use]
    pub fn body(&self) -> Option<&[u8]> {
        self.request.body.as_deref()
    }

    /// How long it may take. An answer after that comes too late.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.request.timeout
    }

    /// Longest body that is of use, in bytes: more need not be read.
    #[must_use]
    pub fn max_body(&self) -> usize {
        self.request.max_body
    }

    /// Ends the call with a response, whatever its status.
    pub fn answer<'a>(
        self,
        status: u16,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        body: Vec<u8>,
    ) {
        if body.len() > self.request.max_body {
            return self.fail(Failure::TooLong);
        }
        let headers: Vec<Field> = headers
            .into_iter()
            .map(|(name, value)| Field { name: name.to_ascii_lowercase(), value: value.into() })
            .collect();
        let (max_age, etag) = (callout::max_age(&headers), callout::etag(&headers));
        self.end(Answer::Response { status, max_age, etag, body });
    }

    /// Ends the call without one.
    pub fn fail(self, failure: Failure) {
        self.end(Answer::Failed(failure));
    }

    fn end(mut self, answer: Answer) {
        self.tell(answer);
    }

    fn tell(&mut self, answer: Answer) {
        if let Some(inbox) = self.inbox.take() {
            // Nobody is there where the gate has been closed.
            let _ = inbox.send(Event::Answer(self.id, answer));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.tell(Answer::Failed(Failure::Broken));
    }
}

/// The way to the thread that decides. Clones lead to the same one, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    inbox: Sender<Event>,
    /// Requests that the thread has not looked at yet.
    queued: Arc<AtomicUsize>,
    max_queued: usize,
    last_stream: AtomicU32,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.inbox.send(Event::Close);
    }
}

enum Event {
    Request { stream: StreamId, head: Head, hop: Hop, promise: Promise },
    Answer(CallId, Answer),
    Gone(StreamId),
    Close,
}

impl Gate {
    /// Starts the thread. `config` is JSON, in any mode; `cluster` names in it are for the embedder.
    ///
    /// # Errors
    /// Everything that is wrong with the config, or that there is no thread.
    pub fn start(config: &[u8], embedder: impl Embedder) -> Result<Self, StartError> {
        let (inbox, events) = mpsc::channel();
        let (ready, started) = mpsc::sync_channel(1);
        let queued = Arc::new(AtomicUsize::new(0));
        let (text, to_self, counter) = (config.to_vec(), inbox.clone(), Arc::clone(&queued));
        // A config holds what cannot be sent from thread to thread, so it is read where it is used.
        let run = move || match worker(&text, &embedder) {
            Ok(worker) => {
                let _ = ready.send(Ok(worker.config().limits.max_waiters));
                let held = HashMap::new();
                Keeper { worker, embedder, held, to_self, queued: counter }.run(&events);
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        };
        thread::Builder::new()
            .name("meshgate".to_owned())
            .spawn(run)
            .map_err(StartError::System)?;
        let died = |_| StartError::System(io::Error::other("it ended at once"));
        let max_queued = started.recv().map_err(died)??;
        let last_stream = AtomicU32::new(0);
        Ok(Self(Arc::new(Handle { inbox, queued, max_queued, last_stream })))
    }

    /// Has a request decided on. `hop` is where it came from, for `mode: service`; in other modes
    /// `Hop::default()` will do.
    pub fn check(&self, head: Head, hop: Hop) -> Checking {
        let Handle { inbox, queued, max_queued, last_stream } = &*self.0;
        let stream = StreamId(last_stream.fetch_add(1, Ordering::Relaxed));
        let slot = Arc::new(Slot::default());
        let promise = Promise(Some(Arc::clone(&slot)));
        if queued.fetch_add(1, Ordering::Relaxed) >= *max_queued {
            queued.fetch_sub(1, Ordering::Relaxed);
            promise.keep(refusal(Code::Overloaded));
        } else {
            // Where nobody takes it, the promise is dropped with it, and says so.
            let _ = inbox.send(Event::Request { stream, head, hop, promise });
        }
        Checking { gate: self.clone(), stream, slot }
    }
}

fn refusal(code: Code) -> Decision {
    Decision::Reply(Denial { code, ..Denial::internal() }.reply(&Words::default()))
}

/// A request that is being decided on: a future, on any runtime. Dropped, the gate forgets the request.
#[must_use = "a request that nobody waits for is not decided on"]
#[derive(Debug)]
pub struct Checking {
    gate: Gate,
    stream: StreamId,
    slot: Arc<Slot>,
}

impl Checking {
    /// Waits for the decision, without a runtime.
    pub fn wait(self) -> Decision {
        let mut state = self.slot.lock();
        loop {
            match std::mem::replace(&mut *state, State::Taken) {
                State::Decided(decision) => return decision,
                State::Taken => return refusal(Code::InternalError),
                open @ State::Open(_) => *state = open,
            }
            state = self.slot.decided.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Future for Checking {
    type Output = Decision;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Decision> {
        let mut state = self.slot.lock();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Decided(decision) => Poll::Ready(decision),
            // Polled after its end, which no runtime does.
            State::Taken => Poll::Ready(refusal(Code::InternalError)),
            State::Open(_) => {
                *state = State::Open(Some(task.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for Checking {
    fn drop(&mut self) {
        if matches!(*self.slot.lock(), State::Open(_)) {
            let _ = self.gate.0.inbox.send(Event::Gone(self.stream));
        }
    }
}

/// Where a decision is handed over.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    decided: Condvar,
}

#[derive(Debug)]
enum State {
    Open(Option<Waker>),
    Decided(Decision),
    Taken,
}

impl Default for State {
    fn default() -> Self {
        Self::Open(None)
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The other end of a [`Checking`]. Dropped, it refuses the request.
struct Promise(Option<Arc<Slot>>);

impl Promise {
    fn keep(mut self, decision: Decision) {
        self.decide(decision);
    }

    fn decide(&mut self, decision: Decision) {
        let Some(slot) = self.0.take() else {
            return;
        };
        let before = std::mem::replace(&mut *slot.lock(), State::Decided(decision));
        slot.decided.notify_all();
        if let State::Open(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.decide(refusal(Code::InternalError));
    }
}

/// What the thread holds.
struct Keeper<E> {
    worker: Worker,
    embedder: E,
    /// Requests that wait.
    held: HashMap<StreamId, Held>,
    /// By this calls report their end.
    to_self: Sender<Event>,
    queued: Arc<AtomicUsize>,
}

/// A request that waits.
struct Held {
    /// What takes the client's own words off it.
    strip: Vec<Edit>,
    /// What is left; some answers depend on it.
    head: Stripped,
    promise: Promise,
}

impl Held {
    fn end(self, config: &Config, disposition: Disposition) {
        let decision = decision(config, self.strip, &self.head, disposition);
        self.promise.keep(decision);
    }
}

impl<E: Embedder> Keeper<E> {
    fn run(mut self, events: &Receiver<Event>) {
        // The first tick comes at once: keys are wanted early.
        let mut next_tick = monotonic();
        loop {
            match events.recv_timeout(next_tick.saturating_duration_since(monotonic())) {
                Ok(Event::Close) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // By a clock of its own: under load nothing ever times out above.
            if monotonic() >= next_tick {
                next_tick = monotonic() + TICK;
                let released = self.worker.on_tick(now());
                self.release(released);
            }
            self.make_calls();
            for (level, line) in self.worker.take_log() {
                self.log(level, &line);
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Request { stream, head, hop, promise } => {
                self.queued.fetch_sub(1, Ordering::Relaxed);
                let config = self.worker.config();
                let (strip, head) = Stripped::strip(head.0, &config.context.managed);
                let disposition = self.worker.on_request(stream, &head, &hop, now());
                let request = Held { strip, head, promise };
                match disposition {
                    Disposition::Pause => {
                        self.held.insert(stream, request);
                    }
                    disposition => request.end(&config, disposition),
                }
            }
            Event::Answer(call, answer) => {
                let released = self.worker.on_answer(call, &answer, now());
                self.release(released);
            }
            Event::Gone(stream) => {
                self.worker.on_gone(stream);
                self.held.remove(&stream);
            }
            Event::Close => {}
        }
    }

    fn release(&mut self, released: Vec<Released>) {
        let config = self.worker.config();
        for (stream, disposition) in released {
            if let Some(request) = self.held.remove(&stream) {
                request.end(&config, disposition);
            }
        }
    }

    fn make_calls(&mut self) {
        while let Some(dispatch) = self.worker.next_call() {
            let inbox = Some(self.to_self.clone());
            let call = Call { id: dispatch.id, request: dispatch.request, inbox };
            // Should the embedder panic, its call is dropped, which ends it. The gate stays.
            if catch_unwind(AssertUnwindSafe(|| self.embedder.fetch(call))).is_err() {
                self.log(Level::Warn, "the embedder panicked over a call");
            }
        }
    }

    /// A log that is gone must not end the gate: `eprintln!` panics where stderr is closed.
    fn log(&mut self, level: Level, line: &str) {
        let _ = catch_unwind(AssertUnwindSafe(|| self.embedder.log(level, line)));
    }
}

/// What a disposition means for a request that these edits stripped.
fn decision(
    config: &Config,
    strip: Vec<Edit>,
    head: &Stripped,
    disposition: Disposition,
) -> Decision {
    match disposition {
        Disposition::Forward(edits, _) => {
            let names = config.context.headers.iter().map(|header| header.name.as_str());
            let value = |name: &str| {
                edits.iter().rev().find_map(|edit| match edit {
                    Edit::Set(own, value) if own == name => std::str::from_utf8(value).ok(),
                    Edit::Set(..) | Edit::Remove(_) => None,
                })
            };
            let pair = |name: &str| Some((name.to_owned(), value(name)?.to_owned()));
            let context = Context(names.filter_map(pair).collect());
            Decision::Admit(Admission { edits: [strip, edits].concat(), context })
        }
        Disposition::Deny(denial) => Decision::Reply(config.answers.reply(&denial, head)),
        Disposition::Answer(reply) | Disposition::Allow(reply, _) => Decision::Reply(reply),
        // Nothing that was released is to wait.
        Disposition::Pause => refusal(Code::InternalError),
    }
}

fn worker(text: &[u8], embedder: &impl Embedder) -> Result<Worker, StartError> {
    let config =
        Config::parse(text, &|name| embedder.variable(name)).map_err(StartError::Config)?;
    let crypto = Crypto::choose(config.crypto, Box::new(NoHost)).map_err(StartError::Crypto)?;
    let random = || getrandom::u64().map_err(|error| StartError::System(io::Error::other(error)));
    let (me, seed) = (random()?, random()?);
    // There is nobody to share with in this process, but Redis holds what proxies signed.
    let exchange = config.sharing.as_ref().map(|key| {
        let exchange = Exchange::new(Box::<OwnBoard>::default(), key, me);
        lay_tables(&exchange, &config);
        exchange
    });
    Ok(Worker::new(config, crypto, exchange, seed))
}

/// No Envoy.
struct NoHost;

impl Host for NoHost {
    fn verify_signature(&self, _: &str, _: &[u8], _: &[u8], _: &[u8]) -> bool {
        false
    }
}

/// What Envoy's shared data is to its workers, for the one that there is.
#[derive(Default)]
struct OwnBoard(Mutex<HashMap<String, (Vec<u8>, u32)>>);

impl Board for OwnBoard {
    fn read(&self, slot: &str) -> Option<(Vec<u8>, u32)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(slot).cloned()
    }

    fn write(&self, slot: &str, bytes: &[u8], version: Option<u32>) -> bool {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = slots.get(slot).map_or(0, |(_, version)| *version);
        // As Envoy does: only slots that exist have a version to be compared.
        if held != 0 && version.is_some_and(|version| version != 0 && version != held) {
            return false;
        }
        slots.insert(slot.to_owned(), (bytes.to_vec(), held.wrapping_add(1).max(1)));
        true
    }
}

#[expect(clippy::disallowed_methods, reason = "the edge: here the clock comes in")]
fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_millis(millis(since))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the edge: paces the ticks, whatever is done to the clock"
)]
fn monotonic() -> Instant {
    Instant::now()
}
