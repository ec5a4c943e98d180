//! Whole requests and all that happens around them, as a list of events: one byte for the place and its weather, then
//! four for each event, which letters and digits can say.
//!
//! What must always hold is asked of each request that goes on: whom it names to the upstream was verified for it, by
//! a token that our key signed or a hop that may say so; who is revoked does not pass; every request that waits ends.

#![no_main]

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use meshgate::boundary::peer::Hop;
use meshgate::callout::{Answer, CallId, CallKey, Dispatch, Failure, StreamId};
use meshgate::headers::{Edit, Field, Stripped};
use meshgate::signature::Crypto;
use meshgate::time::UnixTime;
use meshgate::worker::{Disposition, Released, Worker};
use meshgate_fuzz::flow::{self, Key, START};
use meshgate_fuzz::naive::{edited, is_header_value, is_like};
use meshgate_fuzz::world::{NOW, field, parsed};
use serde_json::{Value, json};

const GATEWAY: &str = "spiffe://cluster.local/ns/edge/sa/gateway";
const OTHER: &str = "spiffe://cluster.local/ns/default/sa/other";
const MANAGED: [&str; 6] = [
    "x-user-id",
    "x-user-clerk-id",
    "x-user-role",
    "x-user-channel-id",
    "x-service-name",
    "txn-token",
];
const SPELLINGS: [&str; 8] = [
    "x-user-id",
    "x_user_id",
    "x-user_role",
    "x-user-role",
    "x.user.id",
    "x-service-name",
    "x-user-clerk-id",
    "x-user-channel-id",
];
const PATHS: [(&str, Asks); 9] = [
    ("/api/videos", Asks::User),
    ("/admin/x", Asks::Admin),
    ("/healthz", Asks::Nothing),
    ("/public/x", Asks::Nothing),
    ("/public/..%2fadmin", Asks::Admin),
    ("/healthz/../admin/x", Asks::Admin),
    ("//admin/x;a=b", Asks::Admin),
    ("/api/%2e%2e/healthz", Asks::User),
    ("/raw/x", Asks::User),
];

#[derive(Clone, Copy, PartialEq)]
enum Asks {
    Nothing,
    User,
    Admin,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Gateway,
    Service,
    Claims,
}

#[derive(Debug)]
enum Event {
    Request { path: u8, tokens: Vec<Token>, forged: Vec<u8>, hop: Option<bool> },
    Tick,
    Later { millis: u64 },
    Answer { which: u8, how: How },
    Gone { which: u8 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Token {
    signer: Signer,
    user: u8,
    /// How long after the beginning it ends, in seconds.
    ends: u64,
    carrier: Carrier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Signer {
    Ours,
    Stranger,
    /// Ours, with the payload of another user.
    Tampered,
    /// Ours, for somebody else.
    OtherAudience,
    OtherIssuer,
    /// Nobody: `alg` is `none`.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Carrier {
    Header,
    Cookie,
    Param,
}

#[derive(Debug)]
enum How {
    Right,
    /// The record of somebody else.
    OtherUser,
    /// A feed that revokes this user.
    Revokes(u8),
    /// A symmetric key beside the right one, an entry that nobody understands, a record that would break a header.
    Hostile,
    Garbage(u8),
    Status(u8),
    Failed,
    TooLong,
}

impl Event {
    fn of([kind, one, two, three]: [u8; 4]) -> Self {
        let digit = |byte: u8| byte.wrapping_sub(b'0');
        match kind % 5 {
            // `r`, `a`, `l`, `t`, `x`.
            4 => Self::request(digit(one), two, three),
            2 => Self::Answer { which: digit(one), how: How::of(digit(two), digit(three)) },
            3 => Self::Later { millis: u64::from(digit(one) % 64) * 1_000 + u64::from(two) * 4 },
            1 => Self::Tick,
            _ => Self::Gone { which: digit(one) },
        }
    }

    fn request(path: u8, token: u8, bits: u8) -> Self {
        let first = Token {
            signer: match token % 8 {
                1 => Signer::Stranger,
                2 => Signer::Tampered,
                3 => Signer::OtherAudience,
                4 => Signer::OtherIssuer,
                5 => Signer::None,
                _ => Signer::Ours,
            },
            user: token / 8 % 3,
            ends: u64::from(token / 24) * 24,
            carrier: match bits >> 2 & 3 {
                1 => Carrier::Cookie,
                2 => Carrier::Param,
                _ => Carrier::Header,
            },
        };
        let second = Token { user: bits >> 7, carrier: Carrier::Cookie, ..first };
        let tokens = match bits >> 2 & 31 {
            none if none & 3 == 3 => Vec::new(),
            both if both & 0b1_1000 == 0b1_1000 => vec![first, second],
            _ => vec![first],
        };
        let forged =
            if bits >> 4 & 1 == 1 { vec![token % 8, token / 8 % 8, 0] } else { Vec::new() };
        let hop = match bits & 3 {
            2 => Some(true),
            3 => Some(false),
            _ => None,
        };
        Self::Request { path, tokens, forged, hop }
    }
}

impl How {
    fn of(choice: u8, more: u8) -> Self {
        match choice % 8 {
            1 => Self::OtherUser,
            2 => Self::Revokes(more),
            3 => Self::Hostile,
            4 => Self::Garbage(more),
            5 => Self::Status(more),
            6 => Self::Failed,
            7 => Self::TooLong,
            _ => Self::Right,
        }
    }
}

fn subject(user: u8) -> String {
    format!("user_{}", user % 3)
}

/// The right record of a user, who is an administrator if the first.
fn record(subject: &str) -> Value {
    let role = if subject == "user_0" { "ADMIN" } else { "USER" };
    json!({"id": format!("id-of-{subject}"), "clerkId": subject, "role": role, "channelId": "ch-1"})
}

thread_local! {
    /// Signing is slow, and the same tokens come again and again.
    static SIGNED: RefCell<HashMap<Token, String>> = RefCell::new(HashMap::new());
    /// What the issuer publishes.
    static KEYS: Value = json!({"keys": [Key::new("k1").jwk()]});
}

fn signed(token: Token) -> String {
    let token =
        Token { user: token.user % 3, ends: token.ends / 8, carrier: Carrier::Header, ..token };
    SIGNED.with_borrow_mut(|known| known.entry(token).or_insert_with(|| sign(token)).clone())
}

fn sign(token: Token) -> String {
    let mut claims = flow::claims();
    claims["sub"] = json!(subject(token.user));
    claims["clerkId"] = claims["sub"].clone();
    claims["role"] = record(&subject(token.user))["role"].clone();
    claims["exp"] = json!(START + token.ends);
    match token.signer {
        Signer::OtherAudience => claims["aud"] = json!("somebody-else"),
        Signer::OtherIssuer => claims["iss"] = json!("https://evil.example"),
        Signer::Ours | Signer::Stranger | Signer::Tampered | Signer::None => {}
    }
    let ours = Key::new("k1");
    match token.signer {
        Signer::Stranger => Key::new("stranger")
            .sign(br#"{"alg":"ES256","kid":"k1"}"#, claims.to_string().as_bytes()),
        Signer::Tampered => {
            let honest = ours.token(&claims);
            claims["sub"] = json!("user_0");
            claims["clerkId"] = json!("user_0");
            claims["jti"] = json!("tampered");
            let forged = ours.token(&claims);
            let part =
                |token: &str, place| token.split('.').nth(place).unwrap_or_default().to_owned();
            format!("{}.{}.{}", part(&honest, 0), part(&forged, 1), part(&honest, 2))
        }
        Signer::None => ours.sign(br#"{"alg":"none"}"#, claims.to_string().as_bytes()),
        Signer::Ours | Signer::OtherAudience | Signer::OtherIssuer => ours.token(&claims),
    }
}

fn config(place: Place) -> Value {
    let mut config = flow::config();
    config["providers"]["clerk"]["from_headers"] =
        json!([{"name": "authorization", "value_prefix": "Bearer "}]);
    config["providers"]["clerk"]["from_cookies"] = json!(["__session"]);
    config["providers"]["clerk"]["from_params"] = json!(["access_token"]);
    config["user"]["lookup"]["key_field"] = json!("/clerkId");
    config["user"]["lookup"]["cache"] = json!({"ttl": "5s", "max_entries": 4});
    config["revocation"] = json!({"feed": {"uri": "http://auth.internal/revocations", "cluster": "auth", "interval": "2s", "max_age": "10s"}});
    config["limits"] = json!({"max_waiters": 4, "max_cached_tokens": 4});
    match place {
        Place::Gateway => {}
        Place::Claims => {
            config["user"] = json!({"source": "claims"});
            config["context"] = json!({"headers": {
                "x-user-id": {"claim": "/sub", "required": true},
                "x-user-role": {"claim": "/role", "required": true},
            }});
        }
        Place::Service => {
            config["mode"] = json!("service");
            config["service"] = json!({"name": "channels-service"});
            config["boundary"] =
                json!({"peers": [{"spiffe_id": GATEWAY, "may_assert_user": true}]});
        }
    }
    config
}

/// A request that was sent, and what is known of it.
struct Sent {
    /// As it is after what was stripped.
    head: Vec<Field>,
    path: &'static str,
    asks: Asks,
    tokens: Vec<Token>,
    /// What its hop says of the user, where that hop may.
    asserted: Option<Vec<Field>>,
    began: u64,
}

struct World {
    place: Place,
    worker: Worker,
    now: UnixTime,
    sent: HashMap<StreamId, Sent>,
    calls: Vec<Dispatch>,
    revoked: HashSet<String>,
    streams: u32,
}

impl World {
    fn new(place: Place, is_ready: bool) -> Self {
        let mut world = Self {
            place,
            worker: Worker::new(parsed(&config(place)), Crypto::Module, None, 1),
            now: NOW,
            sent: HashMap::new(),
            calls: Vec::new(),
            revoked: HashSet::new(),
            streams: 0,
        };
        if is_ready {
            world.tick();
            while !world.calls.is_empty() {
                world.answer(0, &How::Right);
            }
        }
        world
    }

    fn now_secs(&self) -> u64 {
        self.now.as_millis() / 1_000
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::Request { path, tokens, forged, hop } => {
                self.request(*path, tokens, forged, *hop);
            }
            Event::Tick => self.tick(),
            Event::Later { millis } => {
                self.now = self.now.after(Duration::from_millis(*millis));
                self.tick();
            }
            Event::Answer { which, how } => self.answer(*which, how),
            Event::Gone { which } => {
                let mut waiting: Vec<StreamId> = self.sent.keys().copied().collect();
                waiting.sort_by_key(|stream| stream.0);
                if let Some(stream) =
                    waiting.get(usize::from(*which) % waiting.len().max(1)).copied()
                {
                    self.worker.on_gone(stream);
                    self.sent.remove(&stream);
                }
            }
        }
        self.fetch_calls();
    }

    fn fetch_calls(&mut self) {
        self.calls.extend(std::iter::from_fn(|| self.worker.next_call()));
    }

    fn tick(&mut self) {
        let released = self.worker.on_tick(self.now);
        self.fetch_calls();
        self.released(released);
    }

    fn request(&mut self, path: u8, tokens: &[Token], forged: &[u8], hop: Option<bool>) {
        let (path, asks) = PATHS[usize::from(path) % PATHS.len()];
        let tokens = &tokens[..tokens.len().min(2)];
        let mut target = path.to_owned();
        let mut fields = vec![field(":method", b"GET"), field(":authority", b"api.example")];
        for token in tokens {
            let text = signed(*token);
            match token.carrier {
                Carrier::Header => {
                    fields.push(field("authorization", format!("Bearer {text}").as_bytes()));
                }
                Carrier::Cookie => {
                    fields.push(field("cookie", format!("a=b; __session={text}").as_bytes()));
                }
                Carrier::Param => {
                    target.push(if target.contains('?') { '&' } else { '?' });
                    target.push_str("access_token=");
                    target.push_str(&text);
                }
            }
        }
        fields.push(field(":path", target.as_bytes()));
        for spelling in &forged[..forged.len().min(6)] {
            let name = SPELLINGS[usize::from(*spelling) % SPELLINGS.len()];
            fields.push(field(name, format!("forged-{spelling}").as_bytes()));
        }
        let certificate = hop.map(|trusted| if trusted { GATEWAY } else { OTHER });
        let may_assert = hop == Some(true) && matches!(self.place, Place::Service);
        let hop = Hop {
            has_certificate: certificate.is_some(),
            uri_san: certificate.map(|id| id.as_bytes().to_vec()),
            ..Hop::default()
        };
        let (strip, head) = Stripped::strip(fields.clone(), &self.worker.config().context.managed);
        self.streams += 1;
        let stream = StreamId(self.streams);
        let sent = Sent {
            head: edited(fields, &strip),
            path,
            asks,
            tokens: tokens.to_vec(),
            asserted: may_assert.then(|| head.asserted().to_vec()),
            began: self.now_secs(),
        };
        let disposition = self.worker.on_request(stream, &head, &hop, self.now);
        if disposition == Disposition::Pause {
            assert!(self.worker.is_waiting(stream), "paused, and nobody knows of it");
            self.sent.insert(stream, sent);
        } else {
            assert!(!self.worker.is_waiting(stream), "decided, and still waiting");
            self.check(&sent, &disposition);
        }
    }

    fn released(&mut self, released: Vec<Released>) {
        for (stream, disposition) in released {
            let Some(sent) = self.sent.remove(&stream) else {
                panic!("{stream:?} was released that did not wait: {disposition:?}");
            };
            assert!(disposition != Disposition::Pause && !self.worker.is_waiting(stream));
            self.check(&sent, &disposition);
        }
    }

    fn answer(&mut self, which: u8, how: &How) {
        if self.calls.is_empty() {
            return;
        }
        let call = self.calls.remove(usize::from(which) % self.calls.len());
        let (status, body) = match how {
            How::Right => (200, Self::right(&call)),
            How::OtherUser => (200, record("user_9").to_string().into_bytes()),
            How::Revokes(user) => (
                200,
                json!({"v": 1, "entries": [{"sub": subject(*user)}]}).to_string().into_bytes(),
            ),
            How::Hostile => (200, Self::hostile(&call)),
            How::Garbage(byte) => (200, [b"{\"", &[*byte][..]].concat()),
            How::Status(status) => (200 + u16::from(*status) * 2, b"{}".to_vec()),
            How::Failed | How::TooLong => (0, Vec::new()),
        };
        self.note_feed(call.id, status, &body);
        let answer = match how {
            How::Failed => Answer::Failed(Failure::TimedOut),
            How::TooLong => Answer::Failed(Failure::TooLong),
            _ => Answer::Response { status, max_age: None, etag: None, body },
        };
        let released = self.worker.on_answer(call.id, &answer, self.now);
        self.fetch_calls();
        self.released(released);
    }

    /// What a call's service says on a good day.
    fn right(call: &Dispatch) -> Vec<u8> {
        match call.request.cluster.as_str() {
            "clerk" => KEYS.with(Value::to_string).into_bytes(),
            "auth" => json!({"v": 1, "entries": []}).to_string().into_bytes(),
            "users" => record(asked_for(call)).to_string().into_bytes(),
            other => panic!("a call to {other}"),
        }
    }

    fn hostile(call: &Dispatch) -> Vec<u8> {
        match call.request.cluster.as_str() {
            // Its own key stands there, too, so that tokens of ours go on being good.
            "clerk" => {
                let secret = json!({"kty": "oct", "k": "AAAA", "alg": "HS256", "kid": "k1"});
                let own = KEYS.with(|keys| keys["keys"][0].clone());
                json!({"keys": [secret, {"kty": 7}, own]}).to_string().into_bytes()
            }
            "auth" => json!({"v": 1, "entries": [{"unknown": 1}]}).to_string().into_bytes(),
            _ => {
                let mut record = record(asked_for(call));
                record["role"] = json!("USER\r\nx-user-role: ADMIN");
                record.to_string().into_bytes()
            }
        }
    }

    /// Keeps account of who is revoked. An answer counts if its call is still wanted and it is a feed.
    fn note_feed(&mut self, call: CallId, status: u16, body: &[u8]) {
        if status != 200 || !matches!(self.worker.purpose(call), Some((CallKey::Feed, _))) {
            return;
        }
        let Ok(document) = serde_json::from_slice::<Value>(body) else { return };
        let Some(entries) = document["entries"].as_array() else { return };
        if entries.iter().all(|entry| entry["sub"].is_string()) {
            self.revoked =
                entries.iter().filter_map(|e| e["sub"].as_str()).map(str::to_owned).collect();
        }
    }

    /// What must hold of every request that goes on.
    fn check(&self, sent: &Sent, disposition: &Disposition) {
        let edits: &[Edit] = match disposition {
            Disposition::Forward(edits, _) => edits,
            Disposition::Deny(denial) => {
                assert!(matches!(denial.code.status(), 401 | 403 | 503), "{denial:?}");
                return;
            }
            Disposition::Answer(_) | Disposition::Allow(..) | Disposition::Pause => {
                panic!("{disposition:?} for {}", sent.path)
            }
        };
        let upstream = edited(sent.head.clone(), edits);
        let managed = |name: &str| MANAGED.iter().find(|managed| is_like(name, managed));
        let said: Vec<(&str, &[u8])> = upstream
            .iter()
            .filter(|field| managed(&field.name).is_some())
            .map(|field| (field.name.as_str(), field.value.as_slice()))
            .collect();
        for (place, (name, value)) in said.iter().enumerate() {
            assert!(MANAGED.contains(name), "{name} goes upstream");
            assert!(is_header_value(value), "{name} has a value that no header can have");
            assert!(said[..place].iter().all(|(other, _)| other != name), "{name} is there twice");
        }
        let value = |name: &str| {
            let found = said.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        };
        let by_hop = |name: &str| {
            let asserted = sent.asserted.iter().flatten();
            let mut values =
                asserted.filter(|field| field.name == name).map(|field| field.value.clone());
            values.next().map(|value| String::from_utf8_lossy(&value).into_owned())
        };
        let id = value("x-user-id");
        if sent.asserted.is_some() && id.is_some() && id == by_hop("x-user-id") {
            for name in MANAGED {
                let value = value(name);
                assert!(
                    name == "x-service-name" || value.is_none() || value == by_hop(name),
                    "{name}: {value:?}"
                );
            }
            return;
        }
        for (name, value) in &said {
            assert!(!value.starts_with(b"forged"), "a forged {name} goes upstream");
        }
        let user = Self::user(sent);
        let expected = user.as_ref().map(|user| match self.place {
            Place::Claims => user.clone(),
            Place::Gateway | Place::Service => format!("id-of-{user}"),
        });
        if id.is_some() {
            assert_eq!(id, expected, "on {}", sent.path);
            let role =
                user.as_deref().and_then(|user| record(user)["role"].as_str().map(str::to_owned));
            assert_eq!(value("x-user-role"), role);
            assert!(user.is_none_or(|user| !self.revoked.contains(&user)), "a revoked user passes");
        } else {
            assert_eq!(value("x-user-role"), None, "a role of nobody");
        }
        match sent.asks {
            Asks::Nothing => {}
            Asks::User => assert!(id.is_some(), "nobody passes on {}", sent.path),
            Asks::Admin => {
                assert!(id.is_some(), "nobody passes on {}", sent.path);
                assert_eq!(value("x-user-role").as_deref(), Some("ADMIN"), "on {}", sent.path);
            }
        }
    }

    /// Whom the tokens of a request may speak of: they are all one and good, and were so when it came or are now.
    fn user(sent: &Sent) -> Option<String> {
        let first = *sent.tokens.first()?;
        let one = sent.tokens.iter().all(|token| signed(*token) == signed(first));
        let good = first.signer == Signer::Ours && sent.began < START + first.ends + 30;
        (one && good).then(|| subject(first.user))
    }
}

/// The last segment of a lookup's path.
fn asked_for(call: &Dispatch) -> &str {
    let path = call.request.headers.iter().find(|(name, _)| name == ":path");
    path.and_then(|(_, path)| path.rsplit('/').next()).unwrap_or_default()
}

fuzz_target!(|data: &[u8]| {
    let Some((weather, events)) = data.split_first() else { return };
    let weather = weather.wrapping_sub(b'0');
    let place = [Place::Gateway, Place::Service, Place::Claims][usize::from(weather % 3)];
    // In fair weather every call is answered well and at once, so that few events lead far.
    let is_fair = weather / 3 % 2 == 0;
    let mut world = World::new(place, weather / 6 % 2 == 0);
    for event in events.as_chunks::<4>().0.iter().take(64) {
        world.happens(&Event::of(*event));
        while is_fair && !world.calls.is_empty() {
            world.answer(0, &How::Right);
        }
    }
    // Nobody answers any more: whoever waits is refused in the end.
    for _ in 0..4 {
        world.now = world.now.after(Duration::from_secs(10));
        world.tick();
    }
    assert!(world.sent.is_empty(), "{} requests wait for ever", world.sent.len());
});
