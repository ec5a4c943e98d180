//! The service behind Envoy. What it saw is what a test asserts on.

use std::ops::Deref;

use serde_json::json;

use crate::server::{Answer, Seen, Server};

/// Answers every request with what it saw: `{"method", "path", "headers": [[name, value], ...]}`.
#[derive(Debug)]
pub struct Upstream(Server);

impl Upstream {
    /// Starts on a free port.
    pub fn start() -> Upstream {
        Upstream(Server::start(echo))
    }
}

impl Deref for Upstream {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

fn echo(seen: &Seen) -> Answer {
    let headers: Vec<_> =
        seen.headers.iter().map(|(name, value)| (name, String::from_utf8_lossy(value))).collect();
    Answer::json(200, &json!({"method": seen.method, "path": seen.path, "headers": headers}))
}
