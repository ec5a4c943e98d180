//! The gate by itself: bounded, and nobody waits for ever, whatever becomes of its calls, users and threads.

use std::pin::pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::task::{Context as TaskContext, Waker};
use std::time::Duration;

use harness::idp::{Key, seed_claims};
use meshgate::boundary::peer::Hop;
use meshgate::callout::Failure;
use meshgate::embed::{Call, Decision, Embedder, Gate, Head, StartError};
use meshgate::log::Level;
use serde_json::{Value, json};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(10);

/// A gate whose keys are in its config, and the calls that it wants made.
struct Bench {
    gate: Gate,
    calls: Receiver<Call>,
    key: Key,
}

impl Bench {
    fn new(limits: &Value) -> Self {
        let key = Key::es256("k1");
        let mut config = crate::app::config();
        let provider = config["providers"]["auth"].as_object_mut().unwrap();
        provider.remove("remote_jwks");
        provider.insert("local_jwks".to_owned(), json!({"keys": [key.jwk()]}));
        config["limits"] = limits.clone();
        let (sender, calls) = channel();
        let fetch = move |call| drop(sender.send(call));
        let gate = Gate::start(config.to_string().as_bytes(), fetch).unwrap();
        Self { gate, calls, key }
    }

    fn head(&self, user: &str) -> Head {
        let token = self.key.token(&seed_claims(user));
        Head::new("GET", "api.example", "/me").with("Authorization", format!("Bearer {token}"))
    }

    fn call(&self) -> Call {
        self.calls.recv_timeout(LONG).expect("a call was to be made")
    }
}

#[track_caller]
fn code(decision: Decision) -> String {
    match decision {
        Decision::Reply(reply) => {
            let body: Value = serde_json::from_str(&reply.body).unwrap();
            body["code"].as_str().unwrap().to_owned()
        }
        Decision::Admit(admission) => panic!("admitted: {admission:?}"),
    }
}

#[track_caller]
fn user(decision: Decision) -> String {
    match decision {
        Decision::Admit(admission) => admission.context().value("x-user-id").unwrap().to_owned(),
        Decision::Reply(reply) => panic!("refused: {reply:?}"),
    }
}

const RECORD: &[u8] = br#"{"id": "u-1", "clerkId": "a", "role": "USER"}"#;

#[test]
fn requests_of_one_user_share_a_call_and_are_decided_by_its_answer() {
    let bench = Bench::new(&json!({}));
    let waiting = [(); 3].map(|()| bench.gate.check(bench.head("a"), Hop::default()));
    let call = bench.call();
    assert_eq!((call.cluster(), call.method()), ("users", "GET"));
    assert_eq!(call.path(), "/internal/users/by-clerk-id/a");
    assert_eq!(call.authority(), "users.internal");
    assert!(call.timeout() > Duration::ZERO);
    call.answer(200, [("cache-control", &b"max-age=1"[..])], RECORD.to_vec());
    assert_eq!(waiting.map(|one| user(one.wait())), ["u-1", "u-1", "u-1"]);
    assert!(bench.calls.try_recv().is_err());
}

#[test]
fn a_call_that_is_lost_too_long_or_never_answered_ends_its_requests() {
    let bench = Bench::new(&json!({"max_user_bytes": 1024}));
    let unavailable = "user_lookup_unavailable";

    let waiting = bench.gate.check(bench.head("lost"), Hop::default());
    // Dropped, and once more when it is tried again.
    drop(bench.call());
    drop(bench.call());
    assert_eq!(code(waiting.wait()), unavailable);

    let waiting = bench.gate.check(bench.head("long"), Hop::default());
    bench.call().answer(200, [], vec![b' '; 2_000]);
    assert_eq!(code(waiting.wait()), unavailable);

    let waiting = bench.gate.check(bench.head("mute"), Hop::default());
    let mute = bench.call();
    assert_eq!(code(waiting.wait()), unavailable);
    // What it brings then is too late, and does no harm.
    mute.answer(200, [], RECORD.to_vec());

    let waiting = bench.gate.check(bench.head("a"), Hop::default());
    bench.call().answer(200, [], RECORD.to_vec());
    assert_eq!(user(waiting.wait()), "u-1");
}

#[test]
fn a_request_that_is_dropped_makes_room_for_another() {
    let bench = Bench::new(&json!({"max_waiters": 2}));
    let first = bench.gate.check(bench.head("a"), Hop::default());
    let second = bench.gate.check(bench.head("b"), Hop::default());
    let calls = [bench.call(), bench.call()];
    assert_eq!(code(bench.gate.check(bench.head("c"), Hop::default()).wait()), "overloaded");
    drop(first);
    let third = bench.gate.check(bench.head("c"), Hop::default());
    let call = bench.call();
    assert_eq!(call.path(), "/internal/users/by-clerk-id/c");
    call.answer(404, [], Vec::new());
    assert_eq!(code(third.wait()), "user_unknown");
    for call in calls {
        call.fail(Failure::UnknownCluster);
    }
    assert_eq!(code(second.wait()), "user_lookup_unavailable");
}

#[test]
fn the_queue_before_the_thread_is_bounded() {
    // The thread is held up by its embedder.
    let (hold, until) = channel::<()>();
    let (in_fetch, reached) = channel();
    let key = Key::es256("k1");
    let mut config = crate::app::config();
    config["limits"] = json!({"max_waiters": 4});
    let fetch = move |call: Call| {
        in_fetch.send(()).unwrap();
        assert!(until.recv().is_err(), "{call:?}");
    };
    let gate = Gate::start(config.to_string().as_bytes(), fetch).unwrap();
    let head = || {
        let token = key.token(&seed_claims("a"));
        Head::new("GET", "api.example", "/me").with("authorization", format!("Bearer {token}"))
    };
    // The first tick fetches keys, and hangs there. Nothing that comes after that is looked at.
    reached.recv_timeout(LONG).unwrap();
    let waiting: Vec<_> = (0..8).map(|_| gate.check(head(), Hop::default())).collect();
    let mut task = TaskContext::from_waker(Waker::noop());
    let mut refused = 0;
    for mut one in waiting {
        if let std::task::Poll::Ready(decision) = pin!(&mut one).poll(&mut task) {
            assert_eq!(code(decision), "overloaded");
            refused += 1;
        }
    }
    assert_eq!(refused, 4);
    drop(hold);
}

#[test]
fn the_thread_ends_with_the_last_of_its_gates() {
    let bench = Bench::new(&json!({}));
    let waiting = bench.gate.clone().check(bench.head("a"), Hop::default());
    let Bench { gate, calls, .. } = bench;
    let call = calls.recv_timeout(LONG).unwrap();
    drop(gate);
    // Who waits still holds it open.
    call.answer(200, [], RECORD.to_vec());
    assert_eq!(user(waiting.wait()), "u-1");
    // With the thread goes the embedder, and the sender in it.
    assert!(matches!(calls.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected)));
}

#[test]
fn an_embedder_that_panics_loses_its_call_alone() {
    let mut config = crate::app::config();
    config["rules"] = json!([{"match": {"path": "/open"}, "require": "anonymous"}]);
    let fetch = |_: Call| panic!("as the test wants it");
    let gate = Gate::start(config.to_string().as_bytes(), fetch).unwrap();
    let token = Key::es256("k1").token(&seed_claims("a"));
    let head = Head::new("GET", "h", "/me").with("authorization", format!("Bearer {token}"));
    assert_eq!(code(gate.check(head, Hop::default()).wait()), "keys_unavailable");
    let open = gate.check(Head::new("GET", "h", "/open"), Hop::default()).wait();
    assert!(matches!(open, Decision::Admit(admission) if admission.context().iter().count() == 0));
}

/// An embedder that loses its calls, and whose log is gone, as `eprintln!` where nobody reads it.
struct Mute;

impl Embedder for Mute {
    fn fetch(&mut self, _: Call) {}

    fn log(&mut self, _: Level, _: &str) {
        panic!("as the test wants it");
    }
}

#[test]
fn a_log_that_is_gone_takes_no_gate_with_it() {
    let mut config = crate::app::config();
    config["rules"] = json!([{"match": {"path": "/open"}, "require": "anonymous"}]);
    let gate = Gate::start(config.to_string().as_bytes(), Mute).unwrap();
    let token = Key::es256("k1").token(&seed_claims("a"));
    let head = Head::new("GET", "h", "/me").with("authorization", format!("Bearer {token}"));
    assert_eq!(code(gate.check(head, Hop::default()).wait()), "keys_unavailable");
    let open = gate.check(Head::new("GET", "h", "/open"), Hop::default()).wait();
    assert!(matches!(open, Decision::Admit(_)), "{open:?}");
}

#[test]
fn a_config_that_is_none_is_told_in_full_and_a_gate_goes_anywhere() {
    fn anywhere<T: Send + Sync + Clone + 'static>(_: &T) {}

    struct Outside;
    impl Embedder for Outside {
        fn fetch(&mut self, _: Call) {}
        fn variable(&self, name: &str) -> Option<String> {
            (name == "SHARED").then(|| "sixteen bytes or more".to_owned())
        }
    }

    let config = json!({"mode": "gateway", "providers": {}, "nonsense": 1});
    match Gate::start(config.to_string().as_bytes(), Outside) {
        Err(StartError::Config(error)) => assert!(error.0.len() >= 2, "{error}"),
        other => panic!("{other:?}"),
    }
    let mut config = crate::app::config();
    config["crypto"] = json!("host");
    let error = Gate::start(config.to_string().as_bytes(), Outside).unwrap_err();
    assert!(matches!(error, StartError::Crypto(_)), "{error}");
    config["crypto"] = json!("auto");
    config["sharing"] = json!({"key": "${env:SHARED}"});
    anywhere(&Gate::start(config.to_string().as_bytes(), Outside).unwrap());
}
