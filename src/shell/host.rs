//! Envoy's host calls, as the core needs them: byte-valued, and none that can panic on what a
//! client or a service sends.
//!
//! The crate's wrappers panic on statuses they do not expect. Those used here are called only where
//! Envoy's source allows no other status than the ones they handle; each says why.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use prost::encoding::{WireType, encode_key, encode_varint};
use proxy_wasm::hostcalls;
use proxy_wasm::types::{
    Action, BufferType, GrpcStatusCode, LogLevel, MapType, MetricType, Status,
};

use crate::account::Account;
use crate::answers::Words;
use crate::board::Board;
use crate::boundary::peer::Hop;
use crate::callout::{self, Answer, CallRequest, Failure, StreamId};
use crate::config::{Config, Mode};
use crate::denial::{Denial, Reply};
use crate::headers::{Edit, Field, Stripped};
use crate::log::Level;
use crate::metrics::{Definition, Kind, Update};
use crate::signature;
use crate::time::UnixTime;
use crate::worker::Disposition;

/// Where Istio's ambient mode leaves the identity of the peer.
const PEER_PRINCIPAL: &str = "io.istio.peer_principal";

/// The fields of a header map. Envoy answers with an empty map where there is none.
///
/// Names are UTF-8 for certain: Envoy's codecs refuse names that are not tokens (RFC 9110 section 5.1).
pub fn fields(map: MapType) -> Vec<Field> {
    hostcalls::get_map_bytes(map)
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| Field { name, value })
        .collect()
}

/// Whether the response of the current stream is one to a gRPC request.
pub fn has_grpc_status() -> bool {
    // Ok and NotFound are Envoy's statuses here, and the wrapper knows both.
    hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, "grpc-status")
        .ok()
        .flatten()
        .is_some()
}

/// Applies edits to a map of the current stream. Whether all of them were.
///
/// Setting and removing fail only where the stream has no such map; it has the map that its fields
/// were just read from, and a held stream keeps its headers.
pub fn apply<'a>(map: MapType, edits: impl IntoIterator<Item = &'a Edit>) -> bool {
    edits.into_iter().all(|edit| {
        match edit {
            Edit::Set(name, value) => hostcalls::set_map_value_bytes(map, name, Some(value)),
            Edit::Remove(name) => hostcalls::remove_map_value(map, name),
        }
        .is_ok()
    })
}

/// Not all edits of a request were made. Half of them could be a lie.
pub struct Unapplied;

/// Does to the current stream's request what was decided of it, and says whether it may go on.
///
/// # Errors
/// Where it could not be done.
pub fn carry_out(disposition: &Disposition, config: &Config) -> Result<Action, Unapplied> {
    if let Disposition::Forward(edits, _) = disposition {
        let managed = &config.context.managed;
        // What only meshgate may set was taken off before the request was looked at, in any spelling. A host
        // call that takes it off again would change nothing.
        let changes = |edit: &&Edit| !matches!(edit, Edit::Remove(name) if managed.covers(name));
        if !apply(MapType::HttpRequestHeaders, edits.iter().filter(changes)) {
            return Err(Unapplied);
        }
    }
    // Before the answer, with which the access log may be written.
    if let Some(account) = Account::of(disposition, config) {
        set_facts(&account);
    }
    match disposition {
        Disposition::Forward(..) => return Ok(Action::Continue),
        Disposition::Deny(denial) => deny(denial, config),
        Disposition::Answer(reply) | Disposition::Allow(reply, _) => answer_client(reply),
        Disposition::Pause => {}
    }
    Ok(Action::Pause)
}

/// Answers the client of the current stream. Any status is accepted by Envoy here.
fn deny(denial: &Denial, config: &Config) {
    // At worst, an access log shows another id than the client is told.
    let _ = apply(MapType::HttpRequestHeaders, &denial.id_edits);
    // A request that is refused has its head still; one that was not stripped is no worse here.
    let head =
        if config.answers.need_head() { fields(MapType::HttpRequestHeaders) } else { Vec::new() };
    let (_, head) = Stripped::strip(head, &config.context.managed);
    answer_client(&config.answers.reply(denial, &head));
}

/// Answers the client where there is no config that could say how.
pub fn deny_all() -> Action {
    answer_client(&Denial::internal().reply(&Words::default()));
    Action::Pause
}

/// Sets filter state of the current stream, for its access log.
fn set_facts(account: &Account<'_>) {
    for (name, value) in account.facts() {
        // The wrapper knows no status but Ok. Envoy's others are NotFound, where there is no stream, which
        // there is while its headers are decided upon or held, and BadArgument, where the module itself
        // declared that the property is written once, which it does not. One name: a path of several would
        // be joined by NUL, which no access log can name.
        let _ = hostcalls::set_property(vec![name], Some(value.as_bytes()));
    }
}

/// Has Envoy keep metrics, and answers with its ids for them.
pub fn define(metrics: &[Definition]) -> Vec<u32> {
    let define = |metric: &Definition| {
        let kind = match metric.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        // Envoy's statuses are Ok, and BadArgument for a kind that it does not know.
        hostcalls::define_metric(kind, &metric.name).unwrap_or(u32::MAX)
    };
    metrics.iter().map(define).collect()
}

/// Tells Envoy of a metric. For an id that it does not know it answers `NotFound`, for a counter that is to
/// grow by nothing `BadArgument`, and the wrappers know both.
pub fn tell(id: u32, update: Update) {
    let _ = match update {
        Update::Add(more) => {
            hostcalls::increment_metric(id, i64::try_from(more).unwrap_or(i64::MAX))
        }
        Update::Move(by) => hostcalls::increment_metric(id, by),
        Update::Set(value) | Update::Sample(value) => hostcalls::record_metric(id, value),
    };
}

/// What Envoy shows of a metric.
pub fn shown(id: u32) -> Option<u64> {
    hostcalls::get_metric(id).ok()
}

/// As [`deny`], with any answer. Where the client sent a `HEAD`, Envoy itself leaves the body out.
fn answer_client(reply: &Reply) {
    let sent = match reply.grpc_status {
        Some(16) => grpc(GrpcStatusCode::Unauthenticated, &reply.body, &reply.headers),
        Some(7) => grpc(GrpcStatusCode::PermissionDenied, &reply.body, &reply.headers),
        Some(3) => grpc(GrpcStatusCode::InvalidArgument, &reply.body, &reply.headers),
        Some(12) => grpc(GrpcStatusCode::Unimplemented, &reply.body, &reply.headers),
        Some(13) => grpc(GrpcStatusCode::Internal, &reply.body, &reply.headers),
        Some(_) => grpc(GrpcStatusCode::Unavailable, &reply.body, &reply.headers),
        None => {
            let headers = reply.headers.iter().map(|(n, v)| (&**n, v.as_str())).collect();
            hostcalls::send_http_response(
                u32::from(reply.status),
                headers,
                Some(reply.body.as_bytes()),
            )
        }
    };
    if sent.is_err() {
        log(Level::Warn, "an answer could not be sent");
    }
}

fn grpc(
    code: GrpcStatusCode,
    message: &str,
    headers: &[(Cow<'static, str>, String)],
) -> Result<(), Status> {
    let metadata = headers.iter().map(|(n, v)| (&**n, v.as_bytes())).collect();
    hostcalls::send_grpc_response(code, Some(message), metadata)
}

/// Lets the current stream's request go on.
pub fn resume() {
    if hostcalls::resume_http_request().is_err() {
        log(Level::Warn, "a request could not be resumed");
    }
}

/// Makes `stream` the one that the next host calls act on. `false` where it is gone.
pub fn enter(stream: StreamId) -> bool {
    hostcalls::set_effective_context(stream.0).is_ok()
}

/// Who the current stream came from, or where it goes: what the config asks for.
pub fn hop(mode: &Mode) -> Hop {
    match mode {
        Mode::Gateway => Hop::default(),
        Mode::Service(boundary) => {
            let path = if boundary.ambient {
                vec!["filter_state", PEER_PRINCIPAL]
            } else {
                vec!["connection", "uri_san_peer_certificate"]
            };
            let uri_san = property(path);
            // Envoy writes `true` as one byte.
            let has_certificate = uri_san.is_some()
                || property(vec!["connection", "mtls"]).is_some_and(|mtls| mtls != [0]);
            Hop { has_certificate, uri_san, ..Hop::default() }
        }
        // Who asks is of interest only where somebody may say what about.
        Mode::Authz(authz) if authz.peers.is_empty() => Hop::default(),
        Mode::Authz(_) => Hop {
            address: property(vec!["source", "address"]),
            uri_san: property(vec!["connection", "uri_san_peer_certificate"]),
            ..Hop::default()
        },
        Mode::Egress(_) => Hop { cluster: property(vec!["xds", "cluster_name"]), ..Hop::default() },
    }
}

/// A property of the current stream that is not empty.
fn property(path: Vec<&str>) -> Option<Vec<u8>> {
    // Envoy's statuses here are Ok, NotFound and SerializationFailure, and the wrapper knows them all.
    hostcalls::get_property(path).ok().flatten().filter(|value| !value.is_empty())
}

/// Starts a callout of the current context. Answers with Envoy's token for it.
pub fn dispatch(request: &CallRequest) -> Result<u32, Failure> {
    let headers =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    hostcalls::dispatch_http_call(
        &request.cluster,
        headers,
        request.body.as_deref(),
        Vec::new(),
        request.timeout,
    )
    .map_err(|status| match status {
        Status::BadArgument => Failure::UnknownCluster,
        _ => Failure::NotSent,
    })
}

/// The answer that just came: `size` bytes long, of which `longest` may be read. Envoy tells a broken
/// connection by an answer without headers.
pub fn answer(headers: usize, size: usize, longest: usize) -> Answer {
    if headers == 0 {
        return Answer::Failed(Failure::Broken);
    }
    if size > longest {
        return Answer::Failed(Failure::TooLong);
    }
    let headers = fields(MapType::HttpCallResponseHeaders);
    let status = headers
        .iter()
        .find(|field| field.name == ":status")
        .and_then(|field| std::str::from_utf8(&field.value).ok()?.parse().ok());
    let Some(status) = status else {
        return Answer::Failed(Failure::Broken);
    };
    let body = hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, size)
        .ok()
        .flatten()
        .unwrap_or_default();
    Answer::Response {
        status,
        max_age: callout::max_age(&headers),
        etag: callout::etag(&headers),
        body,
    }
}

/// Envoy's BoringSSL, behind the foreign function `verify_signature`.
pub struct BoringSsl;

impl signature::Host for BoringSsl {
    fn verify_signature(&self, hash: &str, key: &[u8], signature: &[u8], text: &[u8]) -> bool {
        // The fields of Envoy's VerifySignatureArguments.
        let length = hash.len() + key.len() + signature.len() + text.len();
        let mut arguments = Vec::with_capacity(length + 24);
        for (tag, field) in [(1, hash.as_bytes()), (2, key), (3, signature), (4, text)] {
            encode_key(tag, WireType::LengthDelimited, &mut arguments);
            encode_varint(u64::try_from(field.len()).unwrap_or(u64::MAX), &mut arguments);
            arguments.extend_from_slice(field);
        }
        // VerifySignatureResult: its field 1 is true. An error comes as field 2 without it. Envoy
        // answers with the statuses that the wrapper knows: Ok, BadArgument, and NotFound where it
        // has no such function.
        let result = hostcalls::call_foreign_function("verify_signature", Some(&arguments));
        matches!(result, Ok(Some(result)) if result.starts_with(&[0x08, 0x01]))
    }
}

/// The plugin's configuration. It is there while `on_configure` runs, and only then.
pub fn configuration(size: usize) -> Vec<u8> {
    hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size)
        .ok()
        .flatten()
        .unwrap_or_default()
}

/// The host's clock.
pub fn now() -> UnixTime {
    let since_epoch = hostcalls::get_current_time()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    UnixTime::from_millis(crate::time::millis(since_epoch))
}

/// Sets how often `on_tick` comes.
pub fn tick_every(period: Duration) {
    if hostcalls::set_tick_period(period).is_err() {
        log(Level::Warn, "the tick could not be set");
    }
}

/// Registers a queue of this VM's own, which wakes its root context.
pub fn register_queue(name: &str) -> Option<u32> {
    hostcalls::register_shared_queue(name).ok()
}

/// Why a root context is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// A stream of its own VM has a call to make.
    Call,
    /// Another worker has posted something.
    News,
}

impl Wake {
    /// Not empty: an empty item cannot be told from none.
    const fn item(self) -> &'static [u8] {
        match self {
            Self::Call => b"c",
            Self::News => b"n",
        }
    }
}

/// Has `on_queue_ready` called in the root context.
pub fn wake(queue: u32) {
    if hostcalls::enqueue_shared_queue(queue, Some(Wake::Call.item())).is_err() {
        log(Level::Warn, "the root context could not be woken, its tick will do");
    }
}

/// Takes one item from the queue.
pub fn take_wake(queue: u32) -> Option<Wake> {
    let item = hostcalls::dequeue_shared_queue(queue).ok().flatten()?;
    // Anybody can put something there: it is looked for news once too often.
    Some(if item == Wake::Call.item() { Wake::Call } else { Wake::News })
}

/// Envoy's shared data, which all VMs of one `vm_id` see.
pub struct SharedData;

impl Board for SharedData {
    fn read(&self, slot: &str) -> Option<(Vec<u8>, u32)> {
        // Envoy's statuses here are Ok and NotFound, and the wrapper knows both.
        match hostcalls::get_shared_data(slot) {
            Ok((Some(bytes), version)) => Some((bytes, version.unwrap_or(0))),
            Ok((None, _)) | Err(_) => None,
        }
    }

    fn write(&self, slot: &str, bytes: &[u8], version: Option<u32>) -> bool {
        // Ok and CasMismatch, likewise.
        hostcalls::set_shared_data(slot, Some(bytes), version).is_ok()
    }
}

/// Where the queues of all VMs are listed, four bytes each. Anybody may write there: at worst somebody
/// is woken for nothing, or not woken and helped by its tick.
const ROSTER: &str = "meshgate.roster";
/// Most queues listed: far more than Envoy has workers. The oldest go first.
const MAX_ROSTER: usize = 256;

/// Lists this VM's queue.
pub fn join_roster(queue: u32) {
    for _ in 0..8 {
        let (mut roster, version) = roster();
        if roster.len() >= MAX_ROSTER {
            roster.remove(0);
        }
        roster.push(queue);
        let bytes: Vec<u8> = roster.into_iter().flat_map(u32::to_le_bytes).collect();
        if SharedData.write(ROSTER, &bytes, version) {
            return;
        }
    }
}

/// Wakes the root contexts of all VMs but `own`.
pub fn wake_roster(own: Option<u32>) {
    for queue in roster().0 {
        if Some(queue) != own {
            // The queue of a VM that is gone stays, and nobody empties it: so one item is the most it
            // ever gets from here. A living one is woken by the new item all the same, and if what was
            // taken away was its own call, it makes that then.
            take_wake(queue);
            let _ = hostcalls::enqueue_shared_queue(queue, Some(Wake::News.item()));
        }
    }
}

fn roster() -> (Vec<u32>, Option<u32>) {
    let Some((bytes, version)) = SharedData.read(ROSTER) else {
        return (Vec::new(), None);
    };
    let (queues, _) = bytes.as_chunks::<4>();
    (
        queues.iter().take(MAX_ROSTER).map(|queue| u32::from_le_bytes(*queue)).collect(),
        Some(version),
    )
}

/// Writes a line to Envoy's log.
pub fn log(level: Level, line: &str) {
    let level = match level {
        Level::Debug => LogLevel::Debug,
        Level::Info => LogLevel::Info,
        Level::Warn => LogLevel::Warn,
    };
    let _ = hostcalls::log(level, line);
}

/// Reports a config that is refused.
pub fn log_error(line: &str) {
    let _ = hostcalls::log(LogLevel::Error, line);
}
