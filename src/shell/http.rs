//! The context of one request.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, MapType};

use super::host;
use super::root::{Shared, carry_out, flush_log};
use crate::callout::StreamId;
use crate::config::Mode;
use crate::headers::{Edit, Stripped};

/// One request, from its head to its end.
pub struct Http {
    stream: StreamId,
    /// Absent where the plugin has no valid configuration; then nothing passes.
    shared: Option<Rc<Shared>>,
}

impl Http {
    /// A request that has just begun.
    pub fn new(stream: StreamId, shared: Option<Rc<Shared>>) -> Self {
        Self { stream, shared }
    }

    /// What the body and the trailers do: they wait as long as the head does. By default Envoy sees
    /// to that itself, but not with `allow_on_headers_stop_iteration`, where a body that went on
    /// would take the undecided head with it.
    fn with_head(&self) -> Action {
        let held = self
            .shared
            .as_ref()
            .is_none_or(|shared| shared.worker.borrow().is_waiting(self.stream));
        if held { Action::Pause } else { Action::Continue }
    }
}

impl Context for Http {}

impl HttpContext for Http {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let Some(shared) = self.shared.clone() else {
            return host::deny_all();
        };
        let config = shared.worker.borrow().config();
        let head = host::fields(MapType::HttpRequestHeaders);
        let (strip, head) = Stripped::strip(head, &config.context.managed);
        if !host::apply(MapType::HttpRequestHeaders, &strip) {
            let unapplied = shared.worker.borrow_mut().unapplied();
            return carry_out(&shared, &unapplied);
        }
        let now = host::now();
        let hop = host::hop(&config.mode);
        let disposition = shared.worker.borrow_mut().on_request(self.stream, &head, &hop, now);
        flush_log(&shared);
        let has_calls = shared.worker.borrow().has_calls();
        if let (true, Some(queue)) = (has_calls, shared.queue) {
            host::wake(queue);
        }
        carry_out(&shared, &disposition)
    }

    fn on_http_request_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        self.with_head()
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        if let Some(shared) = &self.shared {
            let config = shared.worker.borrow().config();
            let mut trailers = host::fields(MapType::HttpRequestTrailers);
            let (removals, _) = config.context.not_in_trailers.take_out(&mut trailers);
            if !host::apply(MapType::HttpRequestTrailers, &removals) {
                let unapplied = shared.worker.borrow_mut().unapplied();
                return carry_out(shared, &unapplied);
            }
        }
        self.with_head()
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        // Envoy makes each answer to a gRPC request a 200, which whoever asks would take for a yes. Answers to
        // what never came here (an upgrade), or while there is no VM, are the affair of `envoy/authz.yaml`.
        let is_authz = self
            .shared
            .as_ref()
            .is_none_or(|shared| matches!(shared.worker.borrow().config().mode, Mode::Authz(_)));
        if is_authz && host::has_grpc_status() {
            let forbidden = Edit::Set(":status".to_owned(), b"403".to_vec());
            if !host::apply(MapType::HttpResponseHeaders, &[forbidden]) {
                return Action::Pause;
            }
        }
        Action::Continue
    }
}

impl Drop for Http {
    /// Envoy has deleted the stream: nobody waits any more.
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.worker.borrow_mut().on_gone(self.stream);
        }
    }
}
