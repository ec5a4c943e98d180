//! Each dependency at fault in each way, before workers under load: each request ends in time and rightly, none gets
//! through, who needs nothing of it is served, and once it is well again, so are we.
//!
//! A table of dependencies and what is promised while one fails, and a list of faults; one test takes all pairs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use harness::client::{Request, Response};
use harness::daemon::Daemon;
use harness::idp::service_claims;
use harness::mesh::Mesh;
use harness::redis::{Redis, Webdis};
use harness::relay::Relay;
use harness::server::{Answer, Behavior, Seen, Server};
use harness::skip;
use harness::testbed::{Builder, Testbed, point};
use harness::upstream::Upstream;
use serde_json::{Value, json};

use crate::egress::{thumbnails, with_context};
use crate::support::{
    LONG, NOBODY, USER, assert_denied, assert_names, begin_all, sharing, user_token, wait_until,
};

const RELAY: [&str; 4] = ["--exact", "outages::relay", "--ignored", "--nocapture"];

/// What a busy machine adds to any deadline. A request without a deadline is given up after 15 s.
const SLACK: Duration = Duration::from_millis(1_500);

/// How long the load goes on once all that is promised must have come true.
const WATCHED: Duration = Duration::from_millis(400);

/// Plays the scenes alone whose names have this in them; all unless set.
const ONLY: &str = "MESHGATE_OUTAGES";

/// Scenes at once: they wait most of the time.
const AT_ONCE: usize = 4;

/// Connections at once.
const CLIENTS: usize = 6;

#[test]
#[ignore = "is what the tests start as a process of its own"]
fn relay() {
    harness::relay::run();
}

/// What is wrong with a dependency.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// SIGKILL: its connections are reset, new ones refused.
    Killed,
    /// SIGSTOP: the kernel takes connections and bytes, and nobody answers.
    Paused,
    /// Half of each answer comes at once, the rest too late.
    Late,
    /// Half of each answer comes at once, the rest in time.
    Slow,
    /// The connection is reset after half of each answer.
    Broken,
    /// Each answer is good, but for the half of its JSON that is not there.
    Partial,
}

const OF_A_PROCESS: [Fault; 2] = [Fault::Killed, Fault::Paused];
const OF_A_SERVER: [Fault; 4] = [Fault::Late, Fault::Slow, Fault::Broken, Fault::Partial];

/// What can be put at fault.
struct Dependency {
    name: &'static str,
    process: Arc<dyn Deref<Target = Daemon> + Send + Sync>,
    /// For a program of others: none.
    behave: Option<Box<dyn Fn(Behavior) + Send + Sync>>,
}

impl Dependency {
    /// A server of this process, behind a process of its own.
    fn relayed(
        name: &'static str,
        relay: Relay,
        behave: impl Fn(Behavior) + Send + Sync + 'static,
    ) -> Self {
        Self { name, process: Arc::new(relay), behave: Some(Box::new(behave)) }
    }

    fn faults(&self) -> Vec<Fault> {
        let of_a_server = self.behave.iter().flat_map(|_| OF_A_SERVER);
        OF_A_PROCESS.into_iter().chain(of_a_server).collect()
    }

    fn inject(&self, fault: Fault) {
        match fault {
            Fault::Killed => self.process.stop(),
            Fault::Paused => self.process.pause(),
            Fault::Late => self.behave(Behavior::Drip(LONG)),
            Fault::Slow => self.behave(Behavior::Drip(Duration::from_millis(50))),
            Fault::Broken => self.behave(Behavior::BreakOff),
            Fault::Partial => self.behave(Behavior::Half),
        }
    }

    fn mend(&self, fault: Fault) {
        match fault {
            Fault::Killed => self.process.restart(),
            Fault::Paused => self.process.resume(),
            _ => self.behave(Behavior::Serve),
        }
    }

    fn behave(&self, behavior: Behavior) {
        self.behave.as_ref().expect("a server of ours")(behavior);
    }
}

/// What is promised to who needs the dependency, while it is at fault.
#[derive(Clone, Copy)]
struct Promise {
    /// So long after the fault's beginning he is served all the same.
    served: Duration,
    /// So long after it he is served no more, and told this code. `None`: he is always served.
    refused: Option<(Duration, &'static str)>,
    /// Within which a request ends, as the manual has it.
    deadline: Duration,
    /// How long it takes until what was known before the fault is forgotten.
    forgotten: Duration,
}

impl Promise {
    fn refused(code: &'static str, deadline: u64) -> Self {
        // Who comes just then may share an answer that is under way already.
        Self { refused: Some((Duration::ZERO, code)), ..Self::served(deadline, 0) }.known(0, 100)
    }

    /// He is always served, also when what was known is forgotten.
    fn served(deadline: u64, forgotten: u64) -> Self {
        let [deadline, forgotten] = [deadline, forgotten].map(Duration::from_millis);
        Self { served: Duration::MAX, refused: None, deadline, forgotten }
    }

    /// What was known is used so long at least, and so long at most.
    fn known(self, at_least: u64, at_most: u64) -> Self {
        let [served, forgotten] = [at_least, at_most].map(Duration::from_millis);
        let refused = self.refused.map(|(_, code)| (forgotten, code));
        Self { served, refused, forgotten, ..self }
    }
}

/// An Envoy and what is around it.
struct Scene {
    name: &'static str,
    dependencies: Vec<Dependency>,
    promise: fn(Fault) -> Promise,
    /// The request of this number of one who needs the dependency.
    needs: Box<dyn Fn(u64) -> Request + Send + Sync>,
    /// Of one who does not.
    does_not: Box<dyn Fn(u64) -> Request + Send + Sync>,
    /// What has arrived behind Envoy.
    arrived: Box<dyn Fn() -> Vec<Seen> + Send + Sync>,
    context: [Option<&'static str>; 4],
    service: Option<&'static str>,
    no_traps: Box<dyn Fn() + Send + Sync>,
}

/// A request and what became of it.
struct Exchange {
    number: u64,
    sent: Instant,
    took: Duration,
    response: Response,
}

/// Two of three requests need the dependency.
fn needs(number: u64) -> bool {
    number % 3 != 2
}

impl Scene {
    fn request(&self, number: u64) -> Request {
        if needs(number) { (self.needs)(number) } else { (self.does_not)(number) }
    }

    /// Asks, on connections of their own to all workers, until `stop`.
    fn load(&self, next: &AtomicU64, stop: &AtomicBool) -> Vec<Exchange> {
        let client = || {
            let mut exchanges = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let request = self.request(number);
                let sent = Instant::now();
                let response = request.send();
                exchanges.push(Exchange { number, sent, took: sent.elapsed(), response });
                thread::sleep(Duration::from_millis(20));
            }
            exchanges
        };
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        })
    }

    /// Asserts that exactly the requests that were answered 200 have arrived, each with what it may say.
    fn assert_arrived(&self, what: &str, served: &BTreeSet<u64>) {
        let mut arrived = BTreeMap::new();
        for seen in (self.arrived)() {
            let number: u64 = seen.path.rsplit_once('/').unwrap().1.parse().unwrap();
            assert!(arrived.insert(number, seen).is_none(), "{what}: {number} arrived twice");
        }
        assert!(arrived.keys().eq(served), "{what}: not who was served has arrived");
        for (number, seen) in arrived {
            if needs(number) {
                assert_names(&seen, self.context, self.service);
            } else {
                assert_names(&seen, NOBODY, None);
            }
        }
    }

    fn wait_until_well(&self, next: &AtomicU64) {
        wait_until("all workers are well", || {
            let number = next.fetch_add(1, Ordering::Relaxed) * 3;
            let all = begin_all(&(self.needs)(number), 24);
            let statuses: Vec<u16> =
                all.into_iter().map(|pending| pending.finish().status).collect();
            let well = statuses.iter().all(|status| *status == 200);
            if !well {
                thread::sleep(Duration::from_millis(50));
            }
            well
        });
        (self.arrived)();
    }

    fn endure(&self, dependency: &Dependency, fault: Fault, next: &AtomicU64) {
        let what = format!("{}, {}: {fault:?}", self.name, dependency.name);
        let mut promise = (self.promise)(fault);
        if fault == Fault::Slow {
            promise = Promise { served: Duration::MAX, refused: None, ..promise };
        }
        self.wait_until_well(next);
        let begun = Instant::now();
        dependency.inject(fault);
        let injected = Instant::now();
        let stop = AtomicBool::new(false);
        let exchanges = thread::scope(|scope| {
            let load = scope.spawn(|| self.load(next, &stop));
            thread::sleep(promise.forgotten + WATCHED);
            stop.store(true, Ordering::Relaxed);
            load.join().unwrap()
        });

        let mut served = BTreeSet::new();
        let mut refused = 0;
        for Exchange { number, sent, took, response } in exchanges {
            let what = format!(
                "{what}: {number}, {:?} after it began, ended after {took:?}",
                sent - begun
            );
            assert!(took < promise.deadline + SLACK, "{what}: ended after {took:?}");
            if response.status == 200 {
                served.insert(number);
                let may = match promise.refused {
                    Some((after, _)) => !needs(number) || sent < injected + after,
                    None => true,
                };
                assert!(may, "{what}: served");
            } else {
                assert!(needs(number), "{what}: {response:?}");
                let Some((_, code)) = promise.refused else { panic!("{what}: {response:?}") };
                assert_denied(&response, 503, code);
                assert!(response.header("retry-after").is_some(), "{what}: {response:?}");
                assert!(sent + took - begun >= promise.served, "{what}: refused so soon");
                refused += 1;
            }
        }
        self.assert_arrived(&what, &served);
        assert!(served.iter().any(|number| !needs(*number)), "{what}: no such request");
        assert_eq!(refused > 0, promise.refused.is_some(), "{what}: {refused} refused");

        let mended = Instant::now();
        dependency.mend(fault);
        self.wait_until_well(next);
        println!(
            "{what}: {} served, {refused} refused, well after {:.1?}",
            served.len(),
            mended.elapsed()
        );
    }
}

const FORGED: [(&str, &str); 3] =
    [("X-User-Id", "u-forged"), ("X-User-Role", "ADMIN"), ("X_User_Id", "u-forged")];

/// With what only the filter may say.
fn forging(request: Request) -> Request {
    FORGED.iter().fold(request, |request, (name, value)| request.header(name, value))
}

/// A gateway before the usual services.
fn gateway(
    name: &'static str,
    builder: Builder,
    promise: fn(Fault) -> Promise,
    dependencies: impl FnOnce(&Arc<Testbed>) -> Vec<Dependency>,
) -> Scene {
    let bed = Arc::new(builder.start());
    let dependencies = dependencies(&bed);
    let token = user_token(&bed);
    let (a, b, c, d) = (bed.clone(), bed.clone(), bed.clone(), bed);
    Scene {
        name,
        dependencies,
        promise,
        needs: Box::new(move |number| {
            forging(a.get(format!("/api/comments/{number}")).bearer(&token))
        }),
        does_not: Box::new(move |number| forging(b.get(format!("/api/videos/{number}")))),
        arrived: Box::new(move || c.upstream.take()),
        context: USER,
        service: None,
        no_traps: Box::new(move || d.no_traps()),
    }
}

fn workers() -> Builder {
    sharing(3).component_log_level("wasm:info")
}

/// The issuer's keys, fresh for a second and then good for so long.
fn keys(name: &'static str, max_stale: &str, promise: fn(Fault) -> Promise) -> Scene {
    let mut relay = None;
    let builder = workers().idp(|idp| relay = Some(Relay::start(&RELAY, idp.address())));
    let relay = relay.unwrap();
    let builder = builder.with_cluster("clerk", relay.address()).filter_config(|config| {
        let jwks = &mut config["providers"]["clerk"]["remote_jwks"];
        jwks["timeout"] = json!("300ms");
        jwks["cache_duration"] = json!("1s");
        jwks["max_stale"] = json!(max_stale);
    });
    gateway(name, builder, promise, |bed| {
        let bed = bed.clone();
        vec![Dependency::relayed("issuer", relay, move |behavior| bed.idp.behave(behavior))]
    })
}

/// The same, but where they are is to be asked first.
fn discovered_keys(name: &'static str) -> Scene {
    let mut jwks = Value::Null;
    let builder = workers().idp(|idp| jwks = idp.jwks());
    let server = Server::start(move |seen: &Seen| match seen.path.as_str() {
        "/jwks" => Answer::json(200, &jwks),
        _ => Answer::json(
            200,
            &json!({"issuer": "youtube-clone-auth", "jwks_uri": "https://idp.example/jwks"}),
        ),
    });
    let change = |config: &mut Value| {
        let clerk = config["providers"]["clerk"].as_object_mut().unwrap();
        clerk.remove("remote_jwks");
        clerk.insert(
            "discovery".to_owned(),
            json!({
                "uri": "https://idp.example/.well-known/openid-configuration", "cluster": "idp",
                "timeout": "300ms", "cache_duration": "1s", "max_stale": "0s",
            }),
        );
    };
    serving(name, "idp", builder, server, change, |_| {
        Promise::refused("keys_unavailable", 850).known(0, 1_300)
    })
}

/// The users service, with this cache before it.
fn users(name: &'static str, cache: &Value, promise: fn(Fault) -> Promise) -> Scene {
    let mut relay = None;
    let builder = workers().users(|users| relay = Some(Relay::start(&RELAY, users.address())));
    let relay = relay.unwrap();
    let builder = builder.with_cluster("users", relay.address()).filter_config(|config| {
        config["user"]["lookup"]["cache"] = cache.clone();
    });
    gateway(name, builder, promise, |bed| {
        let bed = bed.clone();
        vec![Dependency::relayed("users service", relay, move |behavior| {
            bed.users.behave(behavior);
        })]
    })
}

/// A server of ours in the cluster of this name.
fn serving(
    name: &'static str,
    cluster: &'static str,
    builder: Builder,
    server: Server,
    change: impl FnMut(&mut Value),
    promise: fn(Fault) -> Promise,
) -> Scene {
    let relay = Relay::start(&RELAY, server.address());
    let builder = builder.with_cluster(cluster, relay.address()).filter_config(change);
    gateway(name, builder, promise, |_| {
        vec![Dependency::relayed(cluster, relay, move |behavior| server.behave(behavior))]
    })
}

fn feed(name: &'static str) -> Scene {
    let feed = Server::start(|_: &Seen| Answer::json(200, &json!({"v": 1, "entries": []})));
    let change = |config: &mut Value| {
        config["revocation"] = json!({"feed": {
            "uri": "http://auth.internal/revocations", "cluster": "auth",
            "interval": "200ms", "timeout": "300ms", "max_age": "1s",
        }});
    };
    // The last poll before the fault may have been answered an interval ago.
    serving(name, "auth", workers(), feed, change, |_| {
        Promise::refused("revocation_unavailable", 300).known(400, 1_400)
    })
}

fn introspection(name: &'static str) -> Scene {
    let idp = Server::start(|_: &Seen| {
        Answer::json(200, &json!({"active": true, "sub": "user_2abc", "clerkId": "user_2abc"}))
    });
    let change = |config: &mut Value| {
        let clerk = config["providers"]["clerk"].as_object_mut().unwrap();
        clerk.remove("remote_jwks");
        clerk.remove("audiences");
        clerk.insert("allow_any_audience".to_owned(), json!(true));
        clerk.insert(
            "introspection".to_owned(),
            json!({"uri": "http://opaque.internal/introspect", "cluster": "opaque",
                   "client_id": "gateway", "client_secret": "hush", "timeout": "300ms",
                   "cache_ttl": "0s"}),
        );
    };
    serving(name, "opaque", workers(), idp, change, |_| {
        Promise::refused("introspection_unavailable", 300)
    })
}

/// A real webdis before a real Redis, and between Envoy and them a server that passes on, which can be at fault, too.
fn through_webdis(
    name: &'static str,
    change: impl FnMut(&mut Value),
    promise: fn(Fault) -> Promise,
) -> Option<Scene> {
    let redis = skip::require("a real Redis", Redis::start())?;
    let webdis = skip::require("a real webdis", Webdis::start(&redis))?;
    let front = Upstream::start();
    let to = webdis.address();
    front.calls(move |seen| Request::new(to, &seen.method, &seen.path).body(seen.body.clone()));
    let relay = Relay::start(&RELAY, front.address());
    let builder = workers().with_cluster("webdis", relay.address()).filter_config(change);
    Some(gateway(name, builder, promise, |_| {
        vec![
            Dependency { name: "Redis", process: Arc::new(redis), behave: None },
            Dependency { name: "webdis", process: Arc::new(webdis), behave: None },
            Dependency::relayed("way to webdis", relay, move |behavior| front.behave(behavior)),
        ]
    }))
}

/// The endpoint that the exit has its tokens of, each of which is shown for a second.
fn token_endpoint(name: &'static str) -> Scene {
    let builder = Mesh::videos().without_gateway().exit();
    let signer = builder.service_key().clone();
    let endpoint = Server::start(move |_: &Seen| {
        let token = signer.token(&service_claims("videos", &["internal:read"]));
        let grant = json!({"access_token": token, "token_type": "Bearer", "expires_in": 6});
        Answer::json(200, &grant)
    });
    let relay = Relay::start(&RELAY, endpoint.address());
    let mesh = builder
        .egress(|bootstrap| assert!(point(bootstrap, "mesh-auth", relay.address())))
        .egress_config(|config| {
            config["service_tokens"]["mesh"]["client_credentials"]["timeout"] = json!("300ms");
        })
        .start();
    let mesh = Arc::new(mesh);
    let (a, b, c, d) = (mesh.clone(), mesh.clone(), mesh.clone(), mesh);
    Scene {
        name,
        dependencies: vec![Dependency::relayed("mesh-auth", relay, move |behavior| {
            endpoint.behave(behavior);
        })],
        promise: |_| Promise::refused("service_token_unavailable", 300).known(0, 1_200),
        needs: Box::new(move |number| {
            with_context(a.outbound(format!("/channels/{number}")), USER)
        }),
        does_not: Box::new(move |number| forging(thumbnails(&b, &format!("/v1/{number}")))),
        arrived: Box::new(move || {
            [c.beyond().channels.take(), c.beyond().thumbnails.take()].concat()
        }),
        context: USER,
        service: Some("videos"),
        no_traps: Box::new(move || d.no_traps()),
    }
}

type Setting = fn(&'static str) -> Option<Scene>;

/// Every scene by its name.
const SCENES: [(&str, Setting); 11] = [
    ("keys", |name| {
        Some(keys(name, "0s", |_| Promise::refused("keys_unavailable", 300).known(0, 1_300)))
    }),
    ("keys, stale", |name| Some(keys(name, "24h", |_| Promise::served(300, 1_200)))),
    ("keys, stale for a second", |name| {
        Some(keys(name, "1s", |_| Promise::refused("keys_unavailable", 300).known(1_000, 2_300)))
    }),
    ("keys by discovery", |name| Some(discovered_keys(name))),
    ("users", |name| {
        Some(users(name, &json!({"ttl": "0s", "negative_ttl": "0s"}), |_| {
            Promise::refused("user_lookup_unavailable", 850)
        }))
    }),
    ("users, stale for a second", |name| {
        let cache = json!({"ttl": "100ms", "negative_ttl": "0s", "stale_if_error": "1s"});
        Some(users(name, &cache, |fault| {
            let promise = Promise::refused("user_lookup_unavailable", 850);
            if fault == Fault::Partial {
                // That is no outage, and ends it at once; but a worker may still leave the service alone because of
                // the fault before.
                promise.known(0, 1_500)
            } else {
                promise.known(500, 1_500)
            }
        }))
    }),
    ("revocation feed", |name| Some(feed(name))),
    ("introspection", |name| Some(introspection(name))),
    ("token endpoint", |name| Some(token_endpoint(name))),
    ("blacklist", |name| {
        let change = |config: &mut Value| {
            config["revocation"] = json!({"redis": {
                "cluster": "webdis", "timeout": "300ms", "cache_ttl": "0s",
                "keys": ["revoked:user:{sub}"],
            }});
        };
        through_webdis(name, change, |_| Promise::refused("revocation_unavailable", 300))
    }),
    ("users in Redis", |name| {
        let change = |config: &mut Value| {
            config["user"]["lookup"]["cache"] = json!({"ttl": "1s", "negative_ttl": "0s"});
            config["user"]["lookup"]["redis"] = json!({"cluster": "webdis", "timeout": "150ms"});
        };
        through_webdis(name, change, |_| Promise::served(450, 1_000))
    }),
];

#[test]
fn whichever_dependency_fails_in_whatever_way_requests_end_in_time_and_rightly() {
    let injected = AtomicU64::new(0);
    let only = std::env::var(ONLY).unwrap_or_default();
    let scenes = Mutex::new(SCENES.iter().filter(|(name, _)| name.contains(&only)));
    let next_scene = || scenes.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((name, setting)) = next_scene() {
                    let Some(scene) = setting(name) else { continue };
                    let next = AtomicU64::new(0);
                    for dependency in &scene.dependencies {
                        for fault in dependency.faults() {
                            scene.endure(dependency, fault, &next);
                            injected.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    (scene.no_traps)();
                }
            });
        }
    });
    println!("{} faults injected", injected.into_inner());
}
