//! The filter's worker, with the world around it played from files and its clock set.

use std::rc::Rc;
use std::time::Duration;

use meshgate::boundary::txn_token::TXN_TOKEN;
use meshgate::callout::{Answer, CallKey, CallRequest, Dispatch, Failure, Leg, StreamId};
use meshgate::config::Config;
use meshgate::denial::{Denial, Reply};
use meshgate::headers::{Edit, Stripped};
use meshgate::signature::Crypto;
use meshgate::time::UnixTime;
use meshgate::token::ProviderId;
use meshgate::worker::{Disposition, Worker};
use serde_json::json;

use super::Question;
use super::show;

/// How far time goes at once while the request waits.
const STEP: Duration = Duration::from_millis(25);
/// How long it may wait: longer than any timeout that a config can set.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// What became of the request.
pub struct Run {
    /// The config.
    pub config: Rc<Config>,
    /// What took the client's own words off.
    pub strip: Vec<Edit>,
    /// What was left of it.
    pub head: Stripped,
    /// The calls that were wanted.
    pub calls: Vec<Made>,
    /// The verdict.
    pub disposition: Disposition,
}

/// A call that was wanted.
pub struct Made {
    /// What for.
    pub purpose: String,
    /// What was asked of whom: no header, no body, no query.
    pub request: String,
    /// What stands for the answer: an option, and a file or not.
    pub answer: Given,
}

/// Whether there was an answer to a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// This option gave it.
    By(&'static str),
    /// This option would have given it.
    No(&'static str),
    /// It is of no matter for the verdict.
    Moot,
}

impl Run {
    /// The refusal, where it is one.
    pub fn denial(&self) -> Option<&Denial> {
        match &self.disposition {
            Disposition::Deny(denial) => Some(denial),
            Disposition::Forward(..)
            | Disposition::Answer(_)
            | Disposition::Allow(..)
            | Disposition::Pause => None,
        }
    }

    /// The answer to who asks, where there is one, without the token that it may bring along.
    pub fn reply(&self) -> Option<Reply> {
        let mut reply = match &self.disposition {
            Disposition::Deny(denial) => self.config.answers.reply(denial, &self.head),
            Disposition::Answer(reply) | Disposition::Allow(reply, _) => reply.clone(),
            Disposition::Forward(..) | Disposition::Pause => return None,
        };
        for (name, value) in &mut reply.headers {
            if name == TXN_TOKEN {
                *value = format!("({} bytes)", value.len());
            }
        }
        Some(reply)
    }
}

/// Runs the request to its end.
pub fn run(config: Config, question: &Question) -> Run {
    let mut worker = Worker::new(config, Crypto::Module, None, 1);
    let config = worker.config();
    let (strip, head) = Stripped::strip(question.head.clone(), &config.context.managed);
    let stream = StreamId(1);
    let mut calls = Vec::new();
    let mut now = question.at;

    // What the filter holds before any request comes: keys, the feed, the service's own tokens.
    let _ = worker.on_tick(now);
    let mut released = answer_all(&mut worker, &config, question, &mut calls, now);
    let mut disposition = worker.on_request(stream, &head, &question.hop, now);
    let ends = now.after(PATIENCE);
    while disposition == Disposition::Pause && now < ends {
        released.extend(answer_all(&mut worker, &config, question, &mut calls, now));
        if released.is_empty() {
            // One that failed may be tried again.
            now = now.after(STEP);
            released = worker.on_tick(now);
        }
        if let Some((_, decided)) = released.drain(..).find(|(released, _)| *released == stream) {
            disposition = decided;
        }
    }
    Run { config, strip, head, calls, disposition }
}

fn answer_all(
    worker: &mut Worker,
    config: &Config,
    question: &Question,
    calls: &mut Vec<Made>,
    now: UnixTime,
) -> Vec<meshgate::worker::Released> {
    let mut released = Vec::new();
    while let Some(Dispatch { id, request }) = worker.next_call() {
        let Some((key, leg)) = worker.purpose(id) else {
            continue;
        };
        let (made, answer) = answered(key, leg, &request, config, question);
        if !calls
            .iter()
            .any(|other: &Made| other.request == made.request && other.purpose == made.purpose)
        {
            calls.push(made);
        }
        released.extend(worker.on_answer(id, &answer, now));
    }
    released
}

/// The answer to one call.
fn answered(
    key: &CallKey,
    leg: Leg,
    request: &CallRequest,
    config: &Config,
    question: &Question,
) -> (Made, Answer) {
    let name = |id: &ProviderId| id.pick(&config.providers).map_or("", |provider| &provider.name);
    let ok = |body: &Option<Vec<u8>>| body.clone().map(|body| (200, body));
    let jwks = |id: &ProviderId| question.jwks.get(name(id)).cloned();
    let (purpose, option, given) = match (key, leg) {
        (CallKey::Jwks(id), Leg::Discovery) => (
            format!("the metadata of `{}`, which says where its keys are", name(id)),
            "--jwks",
            jwks(id).and_then(|_| metadata(*id, request, config)).map(|body| (200, body)),
        ),
        (CallKey::Jwks(id), _) => {
            (format!("the keys of `{}`", name(id)), "--jwks", jwks(id).map(|body| (200, body)))
        }
        (CallKey::Introspection(asked), _) => (
            format!("the word of `{}` on the token", name(&asked.provider)),
            "--introspection",
            ok(&question.introspection),
        ),
        (CallKey::Feed, _) => ("what is revoked".to_owned(), "--feed", ok(&question.feed)),
        (CallKey::Blacklist(_), _) => (
            "whether the token is on the blacklist".to_owned(),
            "--blacklist",
            question.is_listed.map(|listed| (200, redis_values(request, listed))),
        ),
        (CallKey::User(_), Leg::Redis) => {
            let made = made("the user's record, from Redis".to_owned(), request, Given::Moot);
            return (made, response(200, br#"{"GET":null}"#.to_vec()));
        }
        (CallKey::User(_), _) => ("the user's record".to_owned(), "--user", question.user.clone()),
        (CallKey::Store(_), _) => {
            let made = made("the user's record, for Redis".to_owned(), request, Given::Moot);
            return (made, response(200, br#"{"SETEX":[true,"OK"]}"#.to_vec()));
        }
        (CallKey::ServiceToken(_), _) => {
            ("the service's own token".to_owned(), "--token-endpoint", ok(&question.token_endpoint))
        }
    };
    match given {
        Some((status, body)) => (made(purpose, request, Given::By(option)), response(status, body)),
        // Not an outage, which would be tried again.
        None => {
            (made(purpose, request, Given::No(option)), Answer::Failed(Failure::UnknownCluster))
        }
    }
}

fn made(purpose: String, request: &CallRequest, answer: Given) -> Made {
    let part = |name: &str| {
        let found = request.headers.iter().find(|(own, _)| own == name);
        found.map_or("", |(_, value)| value.as_str())
    };
    let path = part(":path").split('?').next().unwrap_or_default();
    let request = format!(
        "{} {}://{}{} by cluster {}",
        part(":method"),
        part(":scheme"),
        part(":authority"),
        show::plain(path),
        show::quoted(&request.cluster)
    );
    Made { purpose, request, answer }
}

fn response(status: u16, body: Vec<u8>) -> Answer {
    Answer::Response { status, max_age: None, etag: None, body }
}

/// Metadata that leads to keys, at the issuer's own host.
fn metadata(id: ProviderId, request: &CallRequest, config: &Config) -> Option<Vec<u8>> {
    let issuer = &id.pick(&config.providers)?.issuer;
    let part = |name: &str| request.headers.iter().find(|(own, _)| own == name);
    let (scheme, host) = (&part(":scheme")?.1, &part(":authority")?.1);
    let uri = format!("{scheme}://{host}/jwks");
    Some(json!({"issuer": issuer, "jwks_uri": uri}).to_string().into_bytes())
}

/// Webdis's answer to the `MGET` that this is: as many values as it has keys.
fn redis_values(request: &CallRequest, listed: bool) -> Vec<u8> {
    let path = request.headers.iter().find(|(name, _)| name == ":path");
    let keys = path.map_or(0, |(_, path)| path.split('/').skip(2).count());
    let value = if listed { json!("1") } else { json!(null) };
    json!({"MGET": vec![value; keys]}).to_string().into_bytes()
}
