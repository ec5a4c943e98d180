//! A worker whose callouts a test answers and whose clock a test sets.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshgate::board::{Board, Exchange};
use meshgate::boundary::peer::Hop;
use meshgate::callout::{Answer, CallId, Dispatch, Failure, StreamId};
use meshgate::config::{Config, Secret};
use meshgate::denial::Code;
use meshgate::headers::{Edit, Field, Stripped};
use meshgate::signature::Crypto;
use meshgate::time::UnixTime;
use meshgate::worker::{Disposition, Released, Worker, lay_tables};
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};

/// 2026-01-01T00:00:00Z.
pub const START: u64 = 1_767_225_600;

/// A key that signs ES256.
pub struct Key {
    pub kid: &'static str,
    signing: SigningKey,
}

impl Key {
    pub fn new(kid: &'static str) -> Self {
        // Any scalar is a key; one made of the name needs no randomness.
        let mut scalar = [7; 32];
        scalar[..kid.len()].copy_from_slice(kid.as_bytes());
        Self { kid, signing: SigningKey::from_slice(&scalar).unwrap() }
    }

    pub fn jwk(&self) -> Value {
        let point = self.signing.verifying_key().to_sec1_point(false);
        let coordinate =
            |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point.as_bytes()[range]);
        json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "alg": "ES256",
               "x": coordinate(1..33), "y": coordinate(33..65)})
    }

    pub fn sign(&self, header: &[u8], payload: &[u8]) -> String {
        let input =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature: Signature = self.signing.sign(input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }

    pub fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": self.kid});
        self.sign(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }
}

pub fn jwks(keys: &[&Key]) -> Vec<u8> {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    json!({ "keys": keys }).to_string().into_bytes()
}

/// The claims of the seed's token.
pub fn claims() -> Value {
    json!({
        "sub": "user_2abc", "clerkId": "user_2abc", "iat": START, "exp": START + 3600,
        "iss": "youtube-clone-auth", "aud": "youtube-clone-api",
    })
}

/// The seed's record of that user.
pub fn record() -> Value {
    json!({"id": "u-1001", "clerkId": "user_2abc", "role": "USER", "channelId": "ch-2001"})
}

pub fn config() -> Value {
    json!({
        "mode": "gateway",
        "providers": {"clerk": {
            "issuer": "youtube-clone-auth",
            "audiences": ["youtube-clone-api"],
            "remote_jwks": {"uri": "https://clerk.example/jwks", "cluster": "clerk"},
        }},
        "user": {
            "source": "lookup",
            "key": ["clerkId", "sub"],
            "lookup": {"cluster": "users", "authority": "users.internal",
                       "path": "/internal/users/by-clerk-id/{key}"},
        },
        "rules": [
            {"match": {"path": "/healthz"}, "require": "anonymous"},
            {"match": {"path_prefix": "/public"}, "require": "optional"},
            {"match": {"path_prefix": "/admin"}, "require": "user", "roles": ["ADMIN"]},
            {"match": {"path_prefix": "/upload"}, "require": "user", "permissions": ["video:create"]},
            {"match": {"path_prefix": "/raw"}, "require": "user", "forward_token": true},
        ],
    })
}

/// One worker and the world around it.
pub struct Flow {
    pub worker: Worker,
    pub now: UnixTime,
    pub key: Key,
    /// Where requests come from.
    pub hop: Hop,
    streams: u32,
}

impl Flow {
    pub fn new() -> Self {
        Self::with(&config())
    }

    pub fn with(config: &Value) -> Self {
        let config = Config::parse(config.to_string().as_bytes(), &|_| None)
            .unwrap_or_else(|error| panic!("{error}"));
        Self {
            worker: Worker::new(config, Crypto::Module, None, 1),
            now: UnixTime::from_secs(START),
            key: Key::new("k1"),
            hop: Hop::default(),
            streams: 0,
        }
    }

    /// With the issuer's keys there already.
    pub fn ready() -> Self {
        Self::new().with_keys()
    }

    pub fn with_keys(mut self) -> Self {
        self.tick();
        let call = self.call();
        assert_eq!(call.request.cluster, "clerk");
        let released = self.answer(call.id, 200, &jwks(&[&self.key]));
        assert!(released.is_empty());
        self
    }

    pub fn advance(&mut self, span: Duration) {
        self.now = self.now.after(span);
    }

    pub fn tick(&mut self) -> Vec<Released> {
        self.worker.on_tick(self.now)
    }

    /// Another worker has posted something, perhaps.
    pub fn wake(&mut self) -> Vec<Released> {
        self.worker.on_wake(self.now)
    }

    pub fn token(&self) -> String {
        self.key.token(&claims())
    }

    /// A request as Envoy would hand it over, stripped as the shell would strip it.
    pub fn send(
        &mut self,
        path: &str,
        headers: &[(&str, &[u8])],
    ) -> (StreamId, Vec<Edit>, Disposition) {
        let mut fields = vec![(":method", &b"GET"[..]), (":path", path.as_bytes())];
        fields.extend_from_slice(headers);
        let fields = fields
            .into_iter()
            .map(|(name, value)| Field { name: name.to_ascii_lowercase(), value: value.to_vec() })
            .collect();
        let (strip, head) = Stripped::strip(fields, &self.worker.config().context.managed);
        self.streams += 1;
        let stream = StreamId(self.streams);
        let disposition = self.worker.on_request(stream, &head, &self.hop, self.now);
        (stream, strip, disposition)
    }

    /// Any request, stripped already.
    pub fn request(&mut self, head: &Stripped) -> Disposition {
        self.streams += 1;
        self.worker.on_request(StreamId(self.streams), head, &self.hop, self.now)
    }

    pub fn get(&mut self, path: &str, token: &str) -> (StreamId, Disposition) {
        let value = format!("Bearer {token}");
        let (stream, _, disposition) = self.send(path, &[("authorization", value.as_bytes())]);
        (stream, disposition)
    }

    /// The one call that is to be made now.
    #[track_caller]
    pub fn call(&mut self) -> Dispatch {
        let call = self.worker.next_call().expect("a call was to be made");
        assert!(self.worker.next_call().is_none(), "one call was to be made");
        call
    }

    #[track_caller]
    pub fn no_call(&mut self) {
        assert!(self.worker.next_call().is_none(), "no call was to be made");
    }

    pub fn answer(&mut self, id: CallId, status: u16, body: &[u8]) -> Vec<Released> {
        let body = body.to_vec();
        self.worker.on_answer(
            id,
            &Answer::Response { status, max_age: None, etag: None, body },
            self.now,
        )
    }

    /// As [`Self::answer`], with an `etag`.
    pub fn answer_tagged(
        &mut self,
        id: CallId,
        status: u16,
        etag: &str,
        body: &Value,
    ) -> Vec<Released> {
        let body = body.to_string().into_bytes();
        let etag = Some(etag.to_owned());
        self.worker.on_answer(id, &Answer::Response { status, max_age: None, etag, body }, self.now)
    }

    pub fn fail(&mut self, id: CallId, failure: Failure) -> Vec<Released> {
        self.worker.on_answer(id, &Answer::Failed(failure), self.now)
    }

    /// Has a call end with this failure, and once more where it is tried again.
    pub fn fail_for_good(&mut self, id: CallId, failure: Failure) -> Vec<Released> {
        let released = self.fail(id, failure);
        if released.is_empty() && self.is_tried_again(id) {
            self.fail(id, failure)
        } else {
            released
        }
    }

    /// The same for an answer.
    pub fn answer_for_good(&mut self, id: CallId, status: u16, body: &[u8]) -> Vec<Released> {
        let released = self.answer(id, status, body);
        if released.is_empty() && self.is_tried_again(id) {
            self.answer(id, status, body)
        } else {
            released
        }
    }

    /// Lets the time of a retry come; whether this call is then made again.
    fn is_tried_again(&mut self, id: CallId) -> bool {
        self.advance(Duration::from_millis(75));
        assert!(self.tick().is_empty());
        std::iter::from_fn(|| self.worker.next_call()).any(|call| call.id == id)
    }

    /// Sends a request with this token and answers the lookup, if there is one, with `record`.
    pub fn whole(&mut self, path: &str, token: &str, record: &Value) -> Disposition {
        let (stream, disposition) = self.get(path, token);
        if disposition != Disposition::Pause {
            return disposition;
        }
        let call = self.call();
        let released = self.answer(call.id, 200, record.to_string().as_bytes());
        only(released, stream)
    }
}

/// Envoy's shared data as it behaves: compare-and-swap is checked on slots that exist.
#[derive(Default, Clone)]
pub struct SharedData(Rc<RefCell<Slots>>);

#[derive(Default)]
struct Slots {
    now: HashMap<String, Versioned>,
    /// What other workers will have made of them after so many further reads.
    then: Option<(usize, HashMap<String, Versioned>)>,
    /// Whether somebody else is quicker with every write.
    contended: bool,
}

type Versioned = (Vec<u8>, u32);

impl Board for SharedData {
    fn read(&self, slot: &str) -> Option<(Vec<u8>, u32)> {
        let mut slots = self.0.borrow_mut();
        match &mut slots.then {
            Some((0, _)) => slots.now = slots.then.take().unwrap().1,
            Some((reads, _)) => *reads -= 1,
            None => {}
        }
        slots.now.get(slot).cloned()
    }

    fn write(&self, slot: &str, bytes: &[u8], version: Option<u32>) -> bool {
        let mut slots = self.0.borrow_mut();
        if slots.contended && version.is_some() {
            return false;
        }
        let slots = &mut slots.now;
        let held = slots.get(slot).map_or(0, |(_, version)| *version);
        if held != 0 && version.is_some_and(|version| version != 0 && version != held) {
            return false;
        }
        slots.insert(slot.to_owned(), (bytes.to_vec(), held + 1));
        true
    }
}

impl SharedData {
    /// The slots with this in their names, as they are.
    pub fn copy(&self, part: &str) -> Vec<(String, Vec<u8>)> {
        let slots = self.0.borrow();
        let named = slots.now.iter().filter(|(name, _)| name.contains(part));
        named.map(|(name, (bytes, _))| (name.clone(), bytes.clone())).collect()
    }

    /// Writes what once stood there, as another plugin could.
    pub fn put_back(&self, slots: &[(String, Vec<u8>)]) {
        for (slot, bytes) in slots {
            assert!(self.write(slot, bytes, None));
        }
    }

    /// Overwrites every slot.
    pub fn fill(&self, bytes: &[u8]) {
        for (slot, _) in self.0.borrow_mut().now.values_mut() {
            *slot = bytes.to_vec();
        }
    }

    /// Has every write lose that depends on what was read before it, or no more.
    pub fn contend(&self, contended: bool) {
        self.0.borrow_mut().contended = contended;
    }

    /// The same slots, apart from these.
    pub fn fork(&self) -> Self {
        let now = self.0.borrow().now.clone();
        Self(Rc::new(RefCell::new(Slots { now, ..Slots::default() })))
    }

    /// Takes over what `other` holds, after so many further reads.
    pub fn become_after(&self, reads: usize, other: &Self) {
        let mut then = other.0.borrow().now.clone();
        // Envoy gives no version twice.
        for (_, version) in then.values_mut() {
            *version += 1_000;
        }
        self.0.borrow_mut().then = Some((reads, then));
    }
}

/// `count` workers of one process.
pub fn workers(config: &Value, count: u64, data: &SharedData) -> Vec<Flow> {
    let text = config.to_string();
    (1..=count)
        .map(|me| {
            let mut flow = Flow::with(config);
            let config = Config::parse(text.as_bytes(), &|_| None).unwrap();
            let key = Secret::new("sixteen random bytes".to_owned());
            let exchange = Exchange::new(Box::new(data.clone()), &key, me);
            lay_tables(&exchange, &config);
            flow.worker = Worker::new(config, Crypto::Module, Some(exchange), me);
            flow
        })
        .collect()
}

/// The same with the issuer's keys there already.
pub fn ready_workers(config: &Value, count: u64, data: &SharedData) -> Vec<Flow> {
    let mut flows = workers(config, count, data);
    for flow in &mut flows {
        flow.tick();
        while let Some(call) = flow.worker.next_call() {
            assert_eq!(call.request.cluster, "clerk");
            let keys = jwks(&[&flow.key]);
            assert!(flow.answer(call.id, 200, &keys).is_empty());
        }
        assert!(flow.wake().is_empty());
    }
    flows
}

/// The disposition of the one request that was released.
#[track_caller]
pub fn only(mut released: Vec<Released>, stream: StreamId) -> Disposition {
    assert_eq!(released.len(), 1, "{released:?}");
    let (released, disposition) = released.remove(0);
    assert_eq!(released, stream);
    disposition
}

#[track_caller]
pub fn denied(disposition: &Disposition) -> Code {
    match disposition {
        Disposition::Deny(denial) => denial.code,
        Disposition::Forward(..)
        | Disposition::Answer(_)
        | Disposition::Allow(..)
        | Disposition::Pause => {
            panic!("not denied: {disposition:?}")
        }
    }
}

#[track_caller]
pub fn forwarded(disposition: Disposition) -> Vec<Edit> {
    match disposition {
        Disposition::Forward(edits, _) => edits,
        Disposition::Deny(_)
        | Disposition::Answer(_)
        | Disposition::Allow(..)
        | Disposition::Pause => {
            panic!("not forwarded: {disposition:?}")
        }
    }
}

pub fn set(name: &str, value: &str) -> Edit {
    Edit::Set(name.to_owned(), value.as_bytes().to_vec())
}

pub fn removed(name: &str) -> Edit {
    Edit::Remove(name.to_owned())
}

/// The streams that were released, each of them to go on.
#[track_caller]
pub fn served(released: Vec<Released>) -> Vec<StreamId> {
    released
        .into_iter()
        .map(|(stream, disposition)| {
            forwarded(disposition);
            stream
        })
        .collect()
}
