//! A gateway, its issuer and its user.

use std::sync::LazyLock;

use meshgate::boundary::peer::Hop;
use meshgate::callout::{Answer, StreamId};
use meshgate::config::Config;
use meshgate::headers::{Field, Stripped};
use meshgate::jwks::{KeySet, Origin};
use meshgate::signature::Crypto;
use meshgate::time::UnixTime;
use meshgate::worker::{Disposition, Worker};
use serde_json::{Value, json};

use crate::heads::Headers;
use crate::tokens::{Rs256, claims, record};

/// 2026-01-01T00:00:00Z.
pub const NOW: u64 = 1_767_225_600;

/// What Clerk would have issued, good for an hour.
pub static TOKEN: LazyLock<String> =
    LazyLock::new(|| Rs256::new().token(&claims("user_2abc", NOW - 60)));

pub fn now() -> UnixTime {
    UnixTime::from_secs(NOW)
}

pub fn config() -> Config {
    let config = json!({
        "mode": "gateway",
        "providers": {"clerk": {
            "issuer": "youtube-clone-auth",
            "audiences": ["youtube-clone-api"],
            "remote_jwks": {"uri": "https://clerk.example/jwks", "cluster": "clerk"},
        }},
        "user": {
            "source": "lookup",
            "key": ["clerkId", "sub"],
            "lookup": {"cluster": "users", "authority": "users.internal", "path": "/users/{key}",
                       "key_field": "/clerkId"},
        },
        "context": {"headers": {
            "x-user-id": {"user": "/id", "required": true},
            "x-user-clerk-id": {"claim": "/clerkId"},
            "x-user-role": {"user": "/role", "required": true},
            "x-user-channel-id": {"user": "/channelId"},
            "x-user-permissions": {"user": "/permissions", "join": ","},
        }},
        "rules": [
            {"match": {"path": "/healthz"}, "require": "anonymous"},
            {"match": {"path_prefix": "/api/videos", "methods": ["GET", "HEAD"]}, "require": "optional"},
            {"match": {"path_prefix": "/api"}, "require": "user"},
        ],
    });
    Config::parse(config.to_string().as_bytes(), &|_| None).unwrap()
}

/// The fields of a head, as the shell has them.
pub fn fields(head: &Headers) -> Vec<Field> {
    let field =
        |(name, value): &(String, Vec<u8>)| Field { name: name.clone(), value: value.clone() };
    head.iter().map(field).collect()
}

pub fn stripped(head: &Headers, config: &Config) -> Stripped {
    Stripped::strip(fields(head), &config.context.managed).1
}

pub fn key_set(keys: &[Value]) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), Origin::Remote).unwrap()
}

/// A worker that has seen `head` often enough to know all about it.
pub fn worker(head: &Headers) -> Worker {
    let mut worker = Worker::new(config(), Crypto::Module, None, 1);
    assert!(worker.on_tick(now()).is_empty());
    answer_calls(&mut worker);
    for _ in 0..2 {
        let _: Disposition = request(&mut worker, fields(head));
        answer_calls(&mut worker);
        worker.take_log();
    }
    worker
}

/// What the shell has the core do for a request.
pub fn request(worker: &mut Worker, head: Vec<Field>) -> Disposition {
    let (_, head) = Stripped::strip(head, &worker.config().context.managed);
    worker.on_request(StreamId(1), &head, &Hop::default(), now())
}

fn answer_calls(worker: &mut Worker) {
    while let Some(call) = worker.next_call() {
        let body = match call.request.cluster.as_str() {
            "clerk" => json!({"keys": [Rs256::jwk()]}),
            _ => record("user_2abc"),
        };
        let body = body.to_string().into_bytes();
        let answer = Answer::Response { status: 200, max_age: None, etag: None, body };
        let _ = worker.on_answer(call.id, &answer, now());
    }
}
