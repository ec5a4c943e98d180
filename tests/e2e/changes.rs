//! Envoy under load while what it runs is changed: its listeners by LDS, and the whole of it by a hot restart. No
//! answer is wrong, no request is lost, and each is served by the config before or the one after.
//!
//! Requests go over connections that are kept. Where Envoy closes one between two requests, as it does with what it
//! drains, the next is sent once more on a new one, and counted: nothing else is forgiven.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use harness::client::{Request, Response};
use harness::envoy::{Envoy, Launch};
use harness::load::{Load, Report};
use harness::process::scratch;
use harness::testbed::{Builder, Testbed, load_module};
use serde_json::{Value, json};

use crate::sharing::{named, put_listeners};
use crate::support::{CONTEXT, LONG, NOBODY, USER, assert_denied, sharing, user_token, wait_until};

/// What `u-1001` is to the upstream by the other config.
const OTHER: [Option<&str>; 4] =
    [Some("user_2abc"), Some("user_2abc"), Some("USER"), Some("ch-2001")];

/// Has the filter say something else of users.
fn other(config: &mut Value) {
    config["context"]["headers"]["x-user-id"] = json!({"claim": "/clerkId", "required": true});
}

/// A load of requests of all kinds, whose answers are checked as they come.
struct Watched<'a> {
    token: String,
    next: AtomicU64,
    stop: AtomicBool,
    /// The contexts that users may have.
    allowed: &'a [[Option<&'static str>; 4]],
    /// Those that they had.
    told: Mutex<BTreeSet<[Option<&'static str>; 4]>>,
}

impl<'a> Watched<'a> {
    fn new(bed: &Testbed, allowed: &'a [[Option<&'static str>; 4]]) -> Self {
        Self {
            token: user_token(bed),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            allowed,
            told: Mutex::default(),
        }
    }

    fn request(&self, to: &Request, number: u64) -> Option<Request> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        self.next.fetch_max(number + 1, Ordering::Relaxed);
        // Not as fast as can be: the machine has others to serve.
        thread::sleep(Duration::from_millis(4));
        let request = to.clone().header("X-User-Id", "u-forged").header("X_User_Role", "ADMIN");
        Some(match number % 4 {
            0 | 1 => request.target(format!("/api/comments/{number}")).bearer(&self.token),
            2 => request.target(format!("/api/videos/{number}")),
            _ => request.target(format!("/api/comments/{number}")),
        })
    }

    /// The upstream answers what it saw.
    fn check(&self, number: u64, response: &Response) {
        if number % 4 == 3 {
            assert_denied(response, 401, "token_missing");
            return;
        }
        assert_eq!(response.status, 200, "{number}: {response:?}");
        let seen = response.json();
        assert!(seen["path"].as_str().unwrap().ends_with(&format!("/{number}")), "{seen}");
        let context = context(&seen);
        if number % 4 == 2 {
            assert_eq!(context, NOBODY.map(|value| value.map(str::to_owned)), "{seen}");
            return;
        }
        let told =
            self.allowed.iter().find(|allowed| context == allowed.map(|v| v.map(str::to_owned)));
        let told = told.unwrap_or_else(|| panic!("{number}: {seen}"));
        self.told.lock().unwrap().insert(*told);
    }

    /// Runs it while `change` does its work.
    fn during(&self, to: &Request, change: impl FnOnce()) -> Report {
        let load = Load { connections: 6, count: u64::MAX, time_limit: LONG * 4 };
        thread::scope(|scope| {
            let running = scope.spawn(|| {
                load.run_while(
                    |number| self.request(to, number),
                    |number, response| self.check(number, response),
                )
            });
            let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.some_more();
                change();
                self.some_more();
            }));
            self.stop.store(true, Ordering::Relaxed);
            let report = running.join().unwrap();
            changed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            assert!(report.failures.is_empty(), "{report:?}");
            report
        })
    }

    /// Waits until so many more requests were sent.
    fn some_more(&self) {
        let until = self.next.load(Ordering::Relaxed) + 200;
        wait_until("the load goes on", || self.next.load(Ordering::Relaxed) >= until);
    }
}

/// The context that the upstream says it saw; of a header that came twice, both values.
fn context(seen: &Value) -> [Option<String>; 4] {
    let headers = seen["headers"].as_array().unwrap();
    CONTEXT.map(|name| {
        let values = headers.iter().filter(|header| {
            header[0].as_str().unwrap().replace('_', "-").eq_ignore_ascii_case(name)
        });
        let values: Vec<&str> = values.map(|header| header[1].as_str().unwrap()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    })
}

/// Takes the listener from a file that is watched, and gives it back.
fn watched(builder: Builder, dir: &Path, listener: &mut Value) -> Builder {
    let file = dir.join("listeners.json");
    builder.component_log_level(QUIET).drain_time(Duration::from_secs(1)).bootstrap(|bootstrap| {
        let gateway = bootstrap["static_resources"]["listeners"].take()[0].take();
        *listener = named(&gateway, "gateway");
        put_listeners(&file, std::slice::from_ref(listener));
        bootstrap["node"] = json!({"id": "gateway", "cluster": "gateway"});
        bootstrap["dynamic_resources"] = json!({"lds_config": {"path_config_source": {
            "path": file, "watched_directory": {"path": dir},
        }}});
    })
}

/// The filter's config in a listener.
fn filter(listener: &mut Value) -> &mut Value {
    let hcm = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    &mut hcm["http_filters"][0]["typed_config"]["config"]["configuration"]["value"]
}

/// Without a line for each refusal: it would stand between halves of a line of the access log.
const QUIET: &str = "wasm:info";

/// The numbers of the load's requests, as Envoy's access log has them.
fn numbers(envoy: &Envoy) -> Vec<u64> {
    let log = envoy.log();
    // Not line by line: Envoy writes whole buffers of this log, and between two of them lines of the other.
    let paths = log.split("\"path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let numbers = paths.filter_map(|path| path.rsplit_once('/')?.1.parse().ok());
    // A request that tests by itself whether something has changed has the number 0.
    numbers.filter(|number| *number != 0).collect()
}

/// Asserts that Envoy has had each request of the load once: what was sent once more had not arrived before.
#[track_caller]
fn assert_none_cut_off(envoys: &[&Envoy], report: &Report) {
    let answered = report.durations.len();
    let logged = || envoys.iter().flat_map(|envoy| numbers(envoy)).collect::<Vec<_>>();
    wait_until("all is in the access log", || logged().len() >= answered - 1);
    let logged = logged();
    let distinct: BTreeSet<u64> = logged.iter().copied().collect();
    assert_eq!(distinct.len(), logged.len(), "some came twice");
}

#[test]
fn a_listener_that_is_replaced_under_load_answers_nothing_wrong() {
    let dir = scratch();
    let mut listener = Value::Null;
    let bed = watched(sharing(2), dir.path(), &mut listener).start();
    let file = dir.path().join("listeners.json");
    let changed = {
        let mut changed = listener.clone();
        other(filter(&mut changed));
        changed
    };
    let to = bed.get("/");
    let watched = Watched::new(&bed, &[USER, OTHER]);
    let token = user_token(&bed);
    let report = watched.during(&to, || {
        for round in 1..=6_u32 {
            let (config, context_now) =
                if round % 2 == 1 { (&changed, OTHER) } else { (&listener, USER) };
            let mut config = config.clone();
            if round > 2 {
                // Not its filter chains alone: the listener as a whole is another one.
                config["per_connection_buffer_limit_bytes"] = json!(1_000_000 + round);
            }
            put_listeners(&file, &[config]);
            let now = context_now.map(|value| value.map(str::to_owned));
            wait_until("new connections are served by the new config", || {
                let response = bed.get("/api/comments/0").bearer(&token).send();
                assert_eq!(response.status, 200, "{response:?}");
                context(&response.json()) == now
            });
            // So from now on, on all of them.
            for _ in 0..16 {
                let response = bed.get("/api/comments/0").bearer(&token).send();
                assert_eq!(context(&response.json()), now);
            }
            // In time on the old ones, too.
            watched.told.lock().unwrap().clear();
            wait_until("the load is served by it", || {
                watched.told.lock().unwrap().contains(&context_now)
            });
        }
    });
    println!("{report:?}; {} sent once more", report.retried);
    assert_eq!(bed.envoy.stat("listener_manager.lds.update_rejected"), 0);
    assert_eq!(bed.envoy.stat("listener_manager.listener_modified"), 6);
    assert_none_cut_off(&[&bed.envoy], &report);
    bed.no_traps();
}

#[test]
fn a_bad_config_by_lds_is_refused_and_said_to_be_and_the_old_one_goes_on() {
    let dir = scratch();
    let mut listener = Value::Null;
    let bed = watched(sharing(2), dir.path(), &mut listener).start();
    let file = dir.path().join("listeners.json");
    let watched = Watched::new(&bed, &[USER]);
    let report = watched.during(&bed.get("/"), || {
        let bad = |change: fn(&mut Value), message: &str, rejected: u64| {
            let mut config = listener.clone();
            change(filter(&mut config));
            put_listeners(&file, &[config]);
            bed.envoy.wait_for_log(message, LONG);
            wait_until("it is refused", || {
                bed.envoy.stat("listener_manager.lds.update_rejected") == rejected
            });
            watched.some_more();
        };
        bad(|config| config["mode"] = json!("gatewya"), "gatewya", 1);
        bad(
            |config| config["providers"]["clerk"]["audience"] = json!("x"),
            "providers.clerk.audience: unknown field",
            2,
        );
    });
    println!("{report:?}; {} sent once more", report.retried);
    assert_eq!(report.retried, 0, "connections were closed");
    bed.no_traps();
}

#[test]
fn an_envoy_that_is_restarted_hot_under_load_loses_nothing() {
    let base_id = std::process::id();
    let parent_shutdown = Duration::from_secs(3);
    let line = |launch: Launch, epoch: u32| {
        let launch = launch.component_log_level(QUIET).drain_time(Duration::from_secs(1));
        launch.restart_epoch(base_id, epoch, parent_shutdown)
    };
    // An Envoy asks the one before for its sockets by their ports.
    let port = harness::server::free_port();
    let mut bootstrap = Value::Null;
    let mut bed = sharing(2)
        .launch(|launch| line(launch, 0))
        .bootstrap(|first| {
            first["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] =
                json!(port.number());
            load_module(first);
            bootstrap = first.clone();
        })
        .start();
    let to = bed.get("/");
    let watched = Watched::new(&bed, &[USER]);
    let mut old = None;
    let report = watched.during(&to, || {
        let launch =
            Launch::new(bootstrap).concurrency(2).env("SHARING_KEY", "a-key-for-this-test-alone");
        let new = line(launch, 1).start();
        let ended = std::mem::replace(&mut bed.envoy, new);
        wait_until("the one before has ended", || ended.exit_status().is_some());
        assert!(ended.exit_status().unwrap().success(), "{:?}", ended.exit_status());
        old = Some(ended);
    });
    let old = old.unwrap();
    println!("{report:?}; {} sent once more", report.retried);
    for envoy in [&old, &bed.envoy] {
        envoy.no_traps();
        assert!(!numbers(envoy).is_empty(), "it has served nothing");
    }
    assert_none_cut_off(&[&old, &bed.envoy], &report);
}
