//! The host calls: proxy-wasm ABI 0.2.1 as Envoy implements it, and the little of WASI that Rust's library asks for.

use wasmi::{Caller, Error, Extern, Memory, Val};

use super::signatures;
use super::world::{Callout, Reply, World};
use crate::heads::Headers;

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const BAD_ARGUMENT: u32 = 2;
const EMPTY: u32 = 7;
const CAS_MISMATCH: u32 = 8;

const REQUEST_HEADERS: u64 = 0;
const RESPONSE_HEADERS: u64 = 2;
const CALL_RESPONSE_HEADERS: u64 = 6;
const CALL_RESPONSE_BODY: u64 = 4;
const PLUGIN_CONFIGURATION: u64 = 7;

/// An argument. All are 32 bits wide and unsigned, but for what metrics are told.
pub(super) fn number(value: &Val) -> u64 {
    match value {
        Val::I32(number) => number.cast_unsigned().into(),
        Val::I64(number) => number.cast_unsigned(),
        other => panic!("no host call takes {other:?}"),
    }
}

/// Makes the host call `name`; its status.
///
/// # Errors
/// Those of the engine. What the module does not use is not modelled, and panics.
pub(super) fn call(
    caller: &mut Caller<'_, World>,
    name: &str,
    arguments: &[u64],
) -> Result<u32, Error> {
    Ok(match (name, arguments) {
        ("proxy_log", [level, text, size]) => {
            let line = read_text(caller, *text, *size);
            caller.data_mut().log.push((*level, line));
            OK
        }
        ("proxy_get_current_time_nanoseconds", [at]) => {
            let now = u64::try_from(caller.data().now.as_nanos()).unwrap();
            write(caller, *at, &now.to_le_bytes());
            OK
        }
        ("proxy_set_tick_period_milliseconds", [_]) => OK,
        ("proxy_set_effective_context", [id]) => {
            if caller.data_mut().enter(narrow(*id)) {
                OK
            } else {
                BAD_ARGUMENT
            }
        }
        ("proxy_continue_stream", [_]) => {
            caller.data_mut().current().unwrap().goes_on = true;
            OK
        }
        ("proxy_get_buffer_bytes", [kind, start, longest, data_at, size_at]) => {
            let world = caller.data();
            let bytes = match *kind {
                PLUGIN_CONFIGURATION => &world.configuration,
                CALL_RESPONSE_BODY => &world.answer.as_ref().unwrap().1,
                other => panic!("no buffer {other} is modelled"),
            };
            let bytes: Vec<u8> =
                bytes.iter().skip(size(*start)).take(size(*longest)).copied().collect();
            hand_over(caller, &bytes, *data_at, *size_at)?
        }
        ("proxy_get_property", [path, path_size, data_at, size_at]) => {
            let path = read_text(caller, *path, *path_size);
            match caller.data_mut().property(&path) {
                Some(value) => hand_over(caller, &value, *data_at, *size_at)?,
                None => NOT_FOUND,
            }
        }
        ("proxy_set_property", [path, path_size, value, value_size]) => {
            let path = read_text(caller, *path, *path_size);
            let value = read_text(caller, *value, *value_size);
            match caller.data_mut().current() {
                Some(stream) => {
                    stream.facts.insert(path, value);
                    OK
                }
                None => NOT_FOUND,
            }
        }
        (
            "proxy_call_foreign_function",
            [function, function_size, given, given_size, at, size_at],
        ) => {
            let function = read_text(caller, *function, *function_size);
            let given = read(caller, *given, *given_size);
            match function.as_str() {
                "verify_signature" => {
                    let result = signatures::verify(&given);
                    hand_over(caller, &result, *at, *size_at)?
                }
                _ => NOT_FOUND,
            }
        }
        (name, _) if name.contains("_header_map_") => headers(caller, name, arguments)?,
        (name, _) if name.contains("_shared_") => shared(caller, name, arguments)?,
        (name, _) if name.ends_with("_metric") => metric(caller, name, arguments),
        ("proxy_send_local_response" | "proxy_http_call", _) => outbound(caller, name, arguments),
        (name, _) => wasi(caller, name, arguments),
    })
}

/// Maps of headers: those of the request can be changed.
fn headers(caller: &mut Caller<'_, World>, name: &str, arguments: &[u64]) -> Result<u32, Error> {
    Ok(match (name, arguments) {
        ("proxy_get_header_map_pairs", [map, data_at, size_at]) => {
            let bytes = encoded(&headers_of(caller, *map));
            hand_over(caller, &bytes, *data_at, *size_at)?
        }
        ("proxy_get_header_map_value", [map, key, key_size, data_at, size_at]) => {
            let key = read_text(caller, *key, *key_size);
            let found = headers_of(caller, *map).into_iter().find(|(name, _)| *name == key);
            match found {
                Some((_, value)) => hand_over(caller, &value, *data_at, *size_at)?,
                None => NOT_FOUND,
            }
        }
        ("proxy_remove_header_map_value", [REQUEST_HEADERS, key, key_size]) => {
            let key = read_text(caller, *key, *key_size);
            caller.data_mut().current().unwrap().head.retain(|(name, _)| *name != key);
            OK
        }
        ("proxy_replace_header_map_value", [REQUEST_HEADERS, key, key_size, value, value_size]) => {
            let key = read_text(caller, *key, *key_size);
            let value = read(caller, *value, *value_size);
            let head = &mut caller.data_mut().current().unwrap().head;
            head.retain(|(name, _)| *name != key);
            head.push((key, value));
            OK
        }
        other => panic!("not modelled: {other:?}"),
    })
}

fn headers_of(caller: &mut Caller<'_, World>, map: u64) -> Headers {
    let world = caller.data_mut();
    match map {
        REQUEST_HEADERS => world.current().unwrap().head.clone(),
        RESPONSE_HEADERS => vec![(":status".to_owned(), b"200".to_vec())],
        CALL_RESPONSE_HEADERS => world.answer.as_ref().unwrap().0.clone(),
        other => panic!("no map {other} is modelled"),
    }
}

/// Shared data and shared queues.
fn shared(caller: &mut Caller<'_, World>, name: &str, arguments: &[u64]) -> Result<u32, Error> {
    Ok(match (name, arguments) {
        ("proxy_get_shared_data", [key, key_size, data_at, size_at, version_at]) => {
            let key = read(caller, *key, *key_size);
            match caller.data().shared.get(&key).cloned() {
                Some((bytes, version)) => {
                    write(caller, *version_at, &version.to_le_bytes());
                    hand_over(caller, &bytes, *data_at, *size_at)?
                }
                None => NOT_FOUND,
            }
        }
        ("proxy_set_shared_data", [key, key_size, value, value_size, version]) => {
            let key = read(caller, *key, *key_size);
            let value = read(caller, *value, *value_size);
            let shared = &mut caller.data_mut().shared;
            let held = shared.get(&key).map_or(0, |(_, version)| *version);
            if held != 0 && *version != 0 && *version != u64::from(held) {
                return Ok(CAS_MISMATCH);
            }
            shared.insert(key, (value, held + 1));
            OK
        }
        ("proxy_register_shared_queue", [_, _, id_at]) => {
            let queues = &mut caller.data_mut().queues;
            queues.push(std::collections::VecDeque::new());
            let id = u32::try_from(queues.len()).unwrap();
            write(caller, *id_at, &id.to_le_bytes());
            OK
        }
        ("proxy_enqueue_shared_queue", [id, item, item_size]) => {
            let item = read(caller, *item, *item_size);
            let world = caller.data_mut();
            let Some(queue) = world.queues.get_mut(size(*id) - 1) else { return Ok(NOT_FOUND) };
            queue.push_back(item);
            world.ready.push_back(narrow(*id));
            OK
        }
        ("proxy_dequeue_shared_queue", [id, data_at, size_at]) => {
            let queue = caller.data_mut().queues.get_mut(size(*id) - 1);
            match queue.map(std::collections::VecDeque::pop_front) {
                Some(Some(item)) => hand_over(caller, &item, *data_at, *size_at)?,
                Some(None) => EMPTY,
                None => NOT_FOUND,
            }
        }
        other => panic!("not modelled: {other:?}"),
    })
}

fn metric(caller: &mut Caller<'_, World>, name: &str, arguments: &[u64]) -> u32 {
    if let ("proxy_define_metric", [_, text, text_size, id_at]) = (name, arguments) {
        let metric = read_text(caller, *text, *text_size);
        let metrics = &mut caller.data_mut().metrics;
        let id = u32::try_from(metrics.len()).unwrap();
        metrics.push((metric, 0));
        write(caller, *id_at, &id.to_le_bytes());
        return OK;
    }
    let [id, argument] = arguments else { panic!("not modelled: {name} {arguments:?}") };
    let Some((_, value)) = caller.data_mut().metrics.get_mut(size(*id)) else {
        return NOT_FOUND;
    };
    match name {
        "proxy_increment_metric" => *value = value.wrapping_add(*argument),
        "proxy_record_metric" => *value = *argument,
        "proxy_get_metric" => {
            let value = value.to_le_bytes();
            write(caller, *argument, &value);
        }
        other => panic!("not modelled: {other}"),
    }
    OK
}

/// What leaves: answers to clients, and callouts.
fn outbound(caller: &mut Caller<'_, World>, name: &str, arguments: &[u64]) -> u32 {
    match (name, arguments) {
        ("proxy_send_local_response", [status, _, _, body, body_size, ..]) => {
            let body = read_text(caller, *body, *body_size);
            let stream = caller.data_mut().current().unwrap();
            stream.reply = Some(Reply { status: *status, body });
            OK
        }
        ("proxy_http_call", [cluster, cluster_size, headers, headers_size, .., token_at]) => {
            let cluster = read_text(caller, *cluster, *cluster_size);
            let headers = decoded(&read(caller, *headers, *headers_size));
            let path = headers.into_iter().find(|(name, _)| name == ":path").unwrap().1;
            let world = caller.data_mut();
            world.last_callout += 1;
            let token = world.last_callout;
            let path = String::from_utf8(path).unwrap();
            world.callouts.push_back(Callout { token, cluster, path });
            write(caller, *token_at, &token.to_le_bytes());
            OK
        }
        other => panic!("not modelled: {other:?}"),
    }
}

fn wasi(caller: &mut Caller<'_, World>, name: &str, arguments: &[u64]) -> u32 {
    match (name, arguments) {
        ("random_get", [at, count]) => {
            let world = caller.data_mut();
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                // Knuth's generator: no secret hangs on it.
                world.random = world.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                world.random.to_be_bytes()[0]
            })
            .take(size(*count))
            .collect();
            write(caller, *at, &bytes);
        }
        ("environ_sizes_get", [count_at, size_at]) => {
            let environment = &caller.data().environment;
            let count = u32::try_from(environment.len()).unwrap();
            let bytes: usize = environment.iter().map(|variable| variable.len() + 1).sum();
            write(caller, *count_at, &count.to_le_bytes());
            write(caller, *size_at, &u32::try_from(bytes).unwrap().to_le_bytes());
        }
        ("environ_get", [pointers, buffer]) => {
            let (mut pointer, mut at) = (*pointers, *buffer);
            for variable in caller.data().environment.clone() {
                write(caller, pointer, &narrow(at).to_le_bytes());
                write(caller, at, format!("{variable}\0").as_bytes());
                pointer += 4;
                at += u64::try_from(variable.len()).unwrap() + 1;
            }
        }
        other => panic!("not modelled: {other:?}"),
    }
    OK
}

/// As proxy-wasm writes maps: the count, the sizes, then each name and value with a NUL behind it.
fn encoded(headers: &Headers) -> Vec<u8> {
    if headers.is_empty() {
        return Vec::new();
    }
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
    let mut bytes = u32::try_from(headers.len()).unwrap().to_le_bytes().to_vec();
    for (name, value) in headers {
        bytes.extend(length(name.as_bytes()));
        bytes.extend(length(value));
    }
    for (name, value) in headers {
        bytes.extend([name.as_bytes(), &[0], value, &[0]].concat());
    }
    bytes
}

fn decoded(bytes: &[u8]) -> Headers {
    let (numbers, _) = bytes.as_chunks::<4>();
    let number = |place: usize| size(u32::from_le_bytes(numbers[place]).into());
    let mut at = 4 + number(0) * 8;
    let mut next = |place: usize| {
        let part = bytes[at..at + number(place)].to_vec();
        at += part.len() + 1;
        part
    };
    (0..number(0))
        .map(|pair| {
            let name = String::from_utf8(next(1 + pair * 2)).unwrap();
            (name, next(2 + pair * 2))
        })
        .collect()
}

/// Writes `bytes` to where the module allocates room for them, and where that is. Nothing needs no room.
fn hand_over(
    caller: &mut Caller<'_, World>,
    bytes: &[u8],
    data_at: u64,
    size_at: u64,
) -> Result<u32, Error> {
    let length = u32::try_from(bytes.len()).unwrap();
    let mut place = 0;
    if length > 0 {
        caller.data_mut().cost.handed_over += 1;
        let allocate = caller.get_export("proxy_on_memory_allocate").and_then(Extern::into_func);
        let allocate = allocate.unwrap().typed::<u32, u32>(&*caller)?;
        place = allocate.call(&mut *caller, length)?;
        write(caller, place.into(), bytes);
    }
    write(caller, data_at, &place.to_le_bytes());
    write(caller, size_at, &length.to_le_bytes());
    Ok(OK)
}

fn memory(caller: &Caller<'_, World>) -> Memory {
    caller.get_export("memory").and_then(Extern::into_memory).unwrap()
}

fn read(caller: &Caller<'_, World>, at: u64, count: u64) -> Vec<u8> {
    memory(caller).data(caller)[size(at)..][..size(count)].to_vec()
}

fn read_text(caller: &Caller<'_, World>, at: u64, count: u64) -> String {
    String::from_utf8(read(caller, at, count)).unwrap()
}

fn write(caller: &mut Caller<'_, World>, at: u64, bytes: &[u8]) {
    memory(caller).data_mut(caller)[size(at)..][..bytes.len()].copy_from_slice(bytes);
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap()
}
