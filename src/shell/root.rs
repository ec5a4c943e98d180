//! The root context: it owns the worker, makes its callouts, and lets held requests go on.
//!
//! A callout made by a stream dies with that stream, so streams make none. They wake the root, by a
//! shared queue that only this VM knows the name of, and the root makes the call.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem;
use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};

use super::host::{self, Wake};
use super::http::Http;
use crate::board::Exchange;
use crate::callout::{Answer, CallId, Failure, StreamId};
use crate::config::Config;
use crate::log::Level;
use crate::metrics::Update;
use crate::signature::Crypto;
use crate::worker::{self, Disposition, Released, Worker};

/// The first tick comes at once: callouts cannot be made before it, and keys are wanted early.
const FIRST_TICK: Duration = Duration::from_millis(1);
/// After that it serves deadlines and refreshes.
const TICK: Duration = Duration::from_millis(100);

/// What the root and its streams share.
pub struct Shared {
    /// The core.
    pub worker: RefCell<Worker>,
    /// Wakes the root.
    pub queue: Option<u32>,
    /// Envoy's ids of the worker's metrics, by their places.
    metrics: Vec<u32>,
}

/// The root context of one plugin configuration in one VM.
pub struct Root {
    context_id: u32,
    shared: Option<Rc<Shared>>,
    /// Envoy's tokens for the callouts under way, and how long an answer may be.
    tokens: HashMap<u32, (CallId, usize)>,
    ticking: bool,
}

impl Root {
    /// A root that waits for its configuration.
    pub fn new(context_id: u32) -> Self {
        Self { context_id, shared: None, tokens: HashMap::new(), ticking: false }
    }

    /// Makes the calls that the worker wants, then carries out what became of its requests.
    fn carry_out(&mut self, mut released: Vec<Released>) {
        let Some(shared) = self.shared.clone() else {
            return;
        };
        // Envoy calls the root in the root's own context.
        let mut in_a_stream = false;
        loop {
            for (stream, disposition) in released.drain(..) {
                in_a_stream = true;
                carry_out_held(&shared, stream, &disposition);
            }
            let Some(call) = shared.worker.borrow_mut().next_call() else {
                break;
            };
            // A call that a stream makes would die with it.
            let in_the_root =
                !mem::take(&mut in_a_stream) || host::enter(StreamId(self.context_id));
            let made =
                if in_the_root { host::dispatch(&call.request) } else { Err(Failure::NotSent) };
            match made {
                Ok(token) => {
                    self.tokens.insert(token, (call.id, call.request.max_body));
                }
                Err(failure) => {
                    let answer = Answer::Failed(failure);
                    released = shared.worker.borrow_mut().on_answer(call.id, &answer, host::now());
                }
            }
        }
        if shared.worker.borrow_mut().take_wake_others() {
            host::wake_roster(shared.queue);
        }
        flush_log(&shared);
    }
}

/// Does to a held request what was decided of it.
fn carry_out_held(shared: &Shared, stream: StreamId, disposition: &Disposition) {
    if host::enter(stream) && carry_out(shared, disposition) == Action::Continue {
        host::resume();
    }
}

/// Does to the current stream's request what was decided of it. Where that fails, it is refused.
pub fn carry_out(shared: &Shared, disposition: &Disposition) -> Action {
    let config = shared.worker.borrow().config();
    host::carry_out(disposition, &config).unwrap_or_else(|host::Unapplied| {
        let refused = shared.worker.borrow_mut().unapplied();
        host::carry_out(&refused, &config).unwrap_or(Action::Pause)
    })
}

/// Tells Envoy of the worker's metrics.
fn tell_metrics(shared: &Shared, updates: Vec<(usize, Update)>) {
    for (place, update) in updates {
        if let Some(id) = shared.metrics.get(place) {
            host::tell(*id, update);
        }
    }
}

fn measure(shared: &Shared) {
    let shown = |place: usize| host::shown(*shared.metrics.get(place)?);
    let updates = shared.worker.borrow_mut().measure(&shown, host::now());
    tell_metrics(shared, updates);
}

/// This worker is no more: its part of what is shown goes with it.
fn measure_last(shared: &Shared) {
    let updates = shared.worker.borrow_mut().measure_last();
    tell_metrics(shared, updates);
}

/// Hands the worker's lines to Envoy's log.
pub fn flush_log(shared: &Shared) {
    let lines = shared.worker.borrow_mut().take_log();
    for (level, line) in lines {
        host::log(level, &line);
    }
}

impl Context for Root {
    /// The plugin goes: its config was changed or taken away.
    fn on_done(&mut self) -> bool {
        if let Some(shared) = &self.shared {
            measure_last(shared);
        }
        true
    }

    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, _trailers: usize) {
        let Some((call, max_body)) = self.tokens.remove(&token) else {
            return;
        };
        let Some(shared) = self.shared.clone() else {
            return;
        };
        let answer = host::answer(headers, body, max_body);
        let released = shared.worker.borrow_mut().on_answer(call, &answer, host::now());
        self.carry_out(released);
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let env = |name: &str| std::env::var(name).ok();
        let text = host::configuration(size);
        let config = match Config::parse(&text, &env) {
            Ok(config) => config,
            Err(error) => {
                host::log_error(&format!("meshgate {}: {error}", env!("CARGO_PKG_VERSION")));
                return false;
            }
        };
        for warning in &config.warnings {
            host::log(Level::Warn, &format!("meshgate {}: {warning}", env!("CARGO_PKG_VERSION")));
        }
        let crypto = match Crypto::choose(config.crypto, Box::new(host::BoringSsl)) {
            Ok(crypto) => crypto,
            Err(error) => {
                host::log_error(&format!("meshgate {}: {error}", env!("CARGO_PKG_VERSION")));
                return false;
            }
        };
        host::log(
            Level::Info,
            &format!(
                "meshgate {}: configured, mode={} crypto={}",
                env!("CARGO_PKG_VERSION"),
                config.mode.name(),
                crypto.name()
            ),
        );
        // Without the host's randomness, two VMs could take each other's wakes and turns for their own.
        let (Ok(me), Ok(seed)) = (getrandom::u64(), getrandom::u64()) else {
            host::log_error("meshgate: the host gives no random numbers");
            return false;
        };
        let queue = host::register_queue(&format!("meshgate.{me:016x}"));
        let exchange = config.sharing.as_ref().map(|key| {
            if let Some(queue) = queue {
                host::join_roster(queue);
            }
            let exchange = Exchange::new(Box::new(host::SharedData), key, me);
            worker::lay_tables(&exchange, &config);
            exchange
        });
        if let Some(before) = self.shared.take() {
            measure_last(&before);
        }
        let worker = Worker::new(config, crypto, exchange, seed);
        let metrics = host::define(&worker.metrics());
        self.shared = Some(Rc::new(Shared { worker: RefCell::new(worker), queue, metrics }));
        self.ticking = false;
        host::tick_every(FIRST_TICK);
        true
    }

    fn on_tick(&mut self) {
        if !self.ticking {
            self.ticking = true;
            host::tick_every(TICK);
        }
        if let Some(shared) = self.shared.clone() {
            let released = shared.worker.borrow_mut().on_tick(host::now());
            self.carry_out(released);
            measure(&shared);
        }
    }

    fn on_queue_ready(&mut self, queue: u32) {
        let mut news = false;
        while let Some(wake) = host::take_wake(queue) {
            news |= wake == Wake::News;
        }
        if let Some(shared) = self.shared.clone() {
            let released =
                if news { shared.worker.borrow_mut().on_wake(host::now()) } else { Vec::new() };
            self.carry_out(released);
        }
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Http::new(StreamId(context_id), self.shared.clone())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
