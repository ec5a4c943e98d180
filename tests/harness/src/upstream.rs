//! The service behind Envoy. What it saw is what a test asserts on.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::client::{Request, TIMEOUT};
use crate::lock;
use crate::server::{Answer, Seen, Server};

type Calls = dyn Fn(&Seen) -> Request + Send + Sync;

/// Answers every request with what it saw: `{"method", "path", "headers": [[name, value], ...]}`.
pub struct Upstream {
    server: Server,
    calls: Arc<Mutex<Option<Arc<Calls>>>>,
}

impl Upstream {
    /// Starts on a free port.
    pub fn start() -> Upstream {
        let calls: Arc<Mutex<Option<Arc<Calls>>>> = Arc::default();
        let current = Arc::clone(&calls);
        let server = Server::start(move |seen| {
            let calls = lock(&current).clone();
            calls.map_or_else(|| echo(seen), |calls| pass_on(&calls(seen)))
        });
        Upstream { server, calls }
    }

    /// From now on every request has it make one itself, and answer what that was answered.
    pub fn calls(&self, request: impl Fn(&Seen) -> Request + Send + Sync + 'static) {
        *lock(&self.calls) = Some(Arc::new(request));
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({})", self.server.address())
    }
}

impl Deref for Upstream {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

fn echo(seen: &Seen) -> Answer {
    let headers: Vec<_> =
        seen.headers.iter().map(|(name, value)| (name, String::from_utf8_lossy(value))).collect();
    Answer::json(200, &json!({"method": seen.method, "path": seen.path, "headers": headers}))
}

fn pass_on(request: &Request) -> Answer {
    // The servers that it waits for may need this very thread.
    match tokio::task::block_in_place(|| request.try_send(TIMEOUT)) {
        Ok(response) => {
            let kind = response.header("content-type").unwrap_or_default();
            Answer::new(response.status, &String::from_utf8_lossy(kind), response.body.clone())
        }
        Err(error) => Answer::problem(599, &error.to_string()),
    }
}
