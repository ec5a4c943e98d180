//! Redis, spoken to through webdis: a command is an HTTP request, its reply a JSON object with the
//! command's name as the one member.
//!
//! As seen on webdis 0.1.9: the status is 200 for errors, too, which are `[false, "..."]`; 503 says that
//! Redis is down. A dot in a key would be taken for an output format, and `+` for a space, so all but
//! letters, digits, `-`, `_` and `~` is percent-encoded. A value that is not UTF-8 makes no member at all.

use std::time::Duration;

use serde_json::Value;

use crate::callout::{Answer, CallRequest};
use crate::config::Redis;
use crate::config::names::segment_encoded;
use crate::json;

/// Longest reply read that brings no record, in bytes.
const MAX_REPLY_BYTES: usize = 65_536;

/// `GET`: the value of `key`, which is at most `longest` bytes.
#[must_use]
pub fn get(config: &Redis, key: &str, longest: usize) -> CallRequest {
    let max_body = longest.saturating_add(MAX_REPLY_BYTES);
    CallRequest { max_body, ..command(config, &format!("/GET/{}", segment_encoded(key))) }
}

/// `MGET`: the values of `keys`.
#[must_use]
pub fn many(config: &Redis, keys: &[String]) -> CallRequest {
    let path = keys.iter().fold("/MGET".to_owned(), |path, key| path + "/" + &segment_encoded(key));
    command(config, &path)
}

/// `SETEX`: `value` under `key`, for `life` in whole seconds and one at least.
#[must_use]
pub fn set(config: &Redis, key: &str, life: Duration, value: &str) -> CallRequest {
    let secs = life.as_secs().max(1);
    // The body of a PUT is the command's last argument.
    command(config, &format!("/SETEX/{}/{secs}", segment_encoded(key)))
        .put("text/plain", value.as_bytes().to_vec())
}

fn command(config: &Redis, path: &str) -> CallRequest {
    CallRequest::get(
        &config.cluster,
        "http",
        &config.authority,
        path.to_owned(),
        config.timeout,
        MAX_REPLY_BYTES,
    )
    .with_headers(&config.headers)
}

/// What `GET` found; nothing where the reply makes no sense.
#[must_use]
pub fn value(answer: &Answer) -> Option<String> {
    match reply(answer, "GET")? {
        Value::String(value) => Some(value),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
}

/// What `MGET` found for each of `count` keys; nothing where the reply makes no sense.
#[must_use]
pub fn values(answer: &Answer, count: usize) -> Option<Vec<Option<String>>> {
    let Value::Array(items) = reply(answer, "MGET")? else {
        return None;
    };
    // An error is an array, too: `[false, "..."]`.
    let values: Option<Vec<Option<String>>> = items
        .into_iter()
        .map(|item| match item {
            Value::Null => Some(None),
            Value::String(value) => Some(Some(value)),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
        })
        .collect();
    values.filter(|values| values.len() == count)
}

/// Whether `SETEX` was carried out.
#[must_use]
pub fn is_set(answer: &Answer) -> bool {
    let done = reply(answer, "SETEX");
    done.is_some_and(|done| done.get(0) == Some(&Value::Bool(true)))
}

/// Whether `GET` was carried out, be it that it found nothing.
#[must_use]
pub fn is_got(answer: &Answer) -> bool {
    reply(answer, "GET").is_some_and(|value| value.is_null() || value.is_string())
}

fn reply(answer: &Answer, command: &str) -> Option<Value> {
    let Answer::Response { status: 200, body, .. } = answer else {
        return None;
    };
    json::parse_object(body).ok()?.remove(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer::Response { status, max_age: None, etag: None, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn replies_are_read_and_errors_are_no_replies() {
        let texts = |body: &str| values(&answer(200, body), 2);
        assert_eq!(texts(r#"{"MGET":[null,"1"]}"#), Some(vec![None, Some("1".to_owned())]));
        for body in [
            r#"{"MGET":[null]}"#,
            r#"{"MGET":[false,"ERR no"]}"#,
            r#"{"MGET":null}"#,
            r#"{"GET":[null,null]}"#,
            r#"{"MGET":[null,1]}"#,
            "",
            "[]",
        ] {
            assert_eq!(texts(body), None, "{body}");
        }
        assert_eq!(values(&answer(503, r#"{"MGET":[null,null]}"#), 2), None);
        assert_eq!(value(&answer(200, r#"{"GET":"x"}"#)), Some("x".to_owned()));
        for body in [r#"{"GET":null}"#, r#"{"GET":[false,"ERR"]}"#, "{}", "garbage"] {
            assert_eq!(value(&answer(200, body)), None, "{body}");
            assert_eq!(is_got(&answer(200, body)), body.contains("null"), "{body}");
        }
        assert!(is_set(&answer(200, r#"{"SETEX":[true,"OK"]}"#)));
        for body in [r#"{"SETEX":[false,"ERR"]}"#, r#"{"SETEX":true}"#, "{}", "garbage"] {
            assert!(!is_set(&answer(200, body)), "{body}");
        }
    }
}
