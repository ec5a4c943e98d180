//! The bytes of a config: what is refused says where, tells no secret, and what is accepted serves requests.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshgate::boundary::peer::Hop;
use meshgate::callout::{Answer, Failure, StreamId};
use meshgate::config::{Config, ConfigError};
use meshgate::headers::Stripped;
use meshgate::signature::Crypto;
use meshgate::worker::{Disposition, Worker};
use meshgate_fuzz::flow::Key;
use meshgate_fuzz::naive::{edited, is_like};
use meshgate_fuzz::world::{NOW, field, ok};
use serde_json::Value;
use std::time::Duration;

/// What the environment holds, and nothing may print.
const SECRET: &str = "b7Qz-secret-of-the-environment";
/// RFC 8037 appendix A.1, for the places that want a key.
const KEY: &str = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

fn environment(name: &str) -> Option<String> {
    match name {
        "NOT_SET" => None,
        name if name.contains("JWK") => Some(KEY.to_owned()),
        _ => Some(SECRET.to_owned()),
    }
}

fn parse(text: &[u8]) -> Result<Config, ConfigError> {
    Config::parse(text, &environment)
}

/// The config as Istio hands it over, which knows only doubles.
fn in_doubles(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.as_u64().is_some_and(|whole| whole < 1 << 53) => {
            number.as_f64().map_or(Value::Null, Value::from)
        }
        Value::Array(items) => items.iter().map(in_doubles).collect(),
        Value::Object(map) => {
            map.iter().map(|(name, value)| (name.clone(), in_doubles(value))).collect()
        }
        other => other.clone(),
    }
}

fn check_problems(error: &ConfigError) {
    assert!(!error.0.is_empty(), "refused for nothing");
    for problem in &error.0 {
        let whole = ["is empty", "is not a JSON object", "is neither JSON"];
        let says_where = !problem.path.is_empty()
            || whole.iter().any(|beginning| problem.message.starts_with(beginning))
            || problem.message.contains('`');
        assert!(says_where && !problem.message.trim().is_empty(), "{problem}");
        assert!(!problem.message.ends_with('.'), "{problem}");
    }
}

/// A few requests, and every call answered well, badly or not at all.
fn serve(config: Config) {
    let token = Key::new("k1").token(&meshgate_fuzz::flow::claims());
    let mut worker = Worker::new(config, Crypto::Module, None, 1);
    let mut now = NOW;
    let bearer = format!("Bearer {token}");
    for round in 0..3_u32 {
        let _ = worker.on_tick(now);
        for (place, path) in ["/", "/admin/x?access_token=a", "/healthz"].into_iter().enumerate() {
            let sent = vec![
                field(":method", b"GET"),
                field(":path", path.as_bytes()),
                field(":authority", b"api.example.com"),
                field("authorization", bearer.as_bytes()),
                field("x_user_id", b"forged"),
                field("origin", b"https://www.example.com"),
                field("cookie", b"__session=x.y.z"),
            ];
            let settings = worker.config();
            let (strip, head) = Stripped::strip(sent.clone(), &settings.context.managed);
            let stream = StreamId(round * 10 + u32::try_from(place).unwrap_or_default());
            let disposition = worker.on_request(stream, &head, &Hop::default(), now);
            check(&edited(sent, &strip), &disposition);
        }
        for count in 0..16_u32 {
            let Some(call) = worker.next_call() else { break };
            let answer = match (round + count) % 3 {
                0 => ok(b"{}"),
                1 => {
                    ok(br#"{"v":1,"entries":[],"keys":[],"active":true,"id":"u-1","role":"USER"}"#)
                }
                _ => Answer::Failed(Failure::TimedOut),
            };
            for (_, disposition) in worker.on_answer(call.id, &answer, now) {
                check(&[], &disposition);
            }
        }
        now = now.after(Duration::from_hours(1));
    }
}

fn check(head: &[meshgate::headers::Field], disposition: &Disposition) {
    if let Disposition::Forward(edits, _) = disposition {
        let upstream = edited(head.to_vec(), edits);
        let forged = upstream
            .iter()
            .find(|field| is_like(&field.name, "x-user-id") && field.value == b"forged");
        assert_eq!(forged, None);
    }
}

fuzz_target!(|text: &[u8]| {
    let names_secret = text.windows(8).any(|part| SECRET.as_bytes().starts_with(part));
    let config = match parse(text) {
        Ok(config) => config,
        Err(error) => {
            check_problems(&error);
            assert!(names_secret || !error.to_string().contains(SECRET), "a secret is told");
            return;
        }
    };
    let shown = format!("{config:?}");
    assert!(names_secret || !shown.contains(SECRET), "a secret is shown");
    if let Ok(value) = serde_json::from_slice::<Value>(text) {
        for (how, again) in [("written again", value.clone()), ("in doubles", in_doubles(&value))] {
            match parse(again.to_string().as_bytes()) {
                Ok(same) => assert_eq!(format!("{same:?}"), shown, "{how}, another config"),
                Err(error) => panic!("{how}: {error}"),
            }
        }
    }
    serve(config);
});
