//! What operators see in numbers: every counter and gauge, from the events that move it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use meshgate::callout::Failure;
use meshgate::config::Config;
use meshgate::metrics::{Kind, Report, Update};
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{
    Flow, Key, SharedData, claims, config, forwarded, jwks, only, ready_workers, record,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Envoy's metrics, which are the process's.
#[derive(Default, Clone)]
struct Envoy(Rc<RefCell<BTreeMap<String, Shown>>>);

#[derive(Default)]
struct Shown {
    value: u64,
    samples: Vec<u64>,
}

impl Envoy {
    /// A tick's worth of one worker's metrics. As Envoy would, it knows a gauge or a counter by its kind.
    fn hear(&self, flow: &mut Flow) {
        let definitions = flow.worker.metrics();
        let shown = |place: usize| Some(self.value(&definitions[place].name));
        let updates = flow.worker.measure(&shown, flow.now);
        self.take(flow, updates);
    }

    fn hear_last(&self, flow: &mut Flow) {
        let updates = flow.worker.measure_last();
        self.take(flow, updates);
    }

    fn take(&self, flow: &Flow, updates: Vec<(usize, Update)>) {
        let definitions = flow.worker.metrics();
        for (place, update) in updates {
            let definition = &definitions[place];
            let mut metrics = self.0.borrow_mut();
            let metric = metrics.entry(definition.name.clone()).or_default();
            match (definition.kind, update) {
                (Kind::Counter, Update::Add(more)) => {
                    assert!(more > 0, "Envoy refuses that");
                    metric.value += more;
                }
                (Kind::Gauge, Update::Move(by)) => {
                    metric.value = metric.value.checked_add_signed(by).expect("never below zero");
                }
                (Kind::Gauge, Update::Set(value)) => metric.value = value,
                (Kind::Histogram, Update::Sample(sample)) => metric.samples.push(sample),
                (kind, update) => panic!("{}: {update:?} of a {kind:?}", definition.name),
            }
        }
    }

    fn value(&self, name: &str) -> u64 {
        self.0.borrow().get(name).map_or(0, |metric| metric.value)
    }

    /// Those that are not zero, without `meshgate.`, but for the build and the ages.
    fn counted(&self) -> Vec<(String, u64)> {
        let metrics = self.0.borrow();
        metrics
            .iter()
            .filter(|(name, metric)| {
                metric.value > 0 && !name.contains("build_info") && !name.contains("age_seconds")
            })
            .map(|(name, metric)| (name.trim_start_matches("meshgate.").to_owned(), metric.value))
            .collect()
    }

    fn forget_counts(&self, flow: &Flow) {
        for definition in flow.worker.metrics() {
            if let (Kind::Counter, Some(metric)) =
                (definition.kind, self.0.borrow_mut().get_mut(&definition.name))
            {
                metric.value = 0;
            }
        }
    }

    fn samples(&self, name: &str) -> Vec<u64> {
        self.0.borrow().get(name).map(|metric| metric.samples.clone()).unwrap_or_default()
    }
}

/// Asserts that these metrics, and no others, are not zero after what the worker has seen since this was last
/// asked.
#[track_caller]
fn assert_counted(envoy: &Envoy, flow: &mut Flow, expected: &[(&str, u64)]) {
    envoy.hear(flow);
    let mut expected: Vec<_> =
        expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    expected.sort();
    assert_eq!(envoy.counted(), expected);
    envoy.forget_counts(flow);
}

/// A worker with keys, of which Envoy knows.
fn ready() -> (Envoy, Flow) {
    let (envoy, mut flow) = (Envoy::default(), Flow::ready());
    envoy.hear(&mut flow);
    envoy.forget_counts(&flow);
    (envoy, flow)
}

#[test]
fn a_fetch_of_keys_is_counted_once_and_as_what_it_brought() {
    let envoy = Envoy::default();
    let mut flow = Flow::new();
    flow.tick();
    let call = flow.call();
    assert_counted(&envoy, &mut flow, &[("callouts.jwks.in_flight", 1)]);
    assert!(flow.fail_for_good(call.id, Failure::Broken).is_empty());
    assert_counted(&envoy, &mut flow, &[("jwks.clerk.fetch_error", 1), ("callouts.jwks.error", 1)]);
    flow.advance(SECOND);
    flow.tick();
    let call = flow.call();
    flow.answer(call.id, 200, b"no keys");
    assert_counted(&envoy, &mut flow, &[("jwks.clerk.fetch_error", 1), ("callouts.jwks.error", 1)]);
    flow.advance(2 * SECOND);
    let mut flow = flow.with_keys();
    assert_counted(&envoy, &mut flow, &[("jwks.clerk.fetch_ok", 1), ("callouts.jwks.ok", 1)]);
}

#[test]
fn a_request_is_counted_by_how_it_ended_and_by_what_was_known_of_it() {
    let (envoy, mut flow) = ready();
    let token = flow.token();
    forwarded(flow.whole("/x", &token, &record()));
    assert_counted(
        &envoy,
        &mut flow,
        &[
            ("requests.gateway.allowed", 1),
            ("tokens.cache_miss", 1),
            ("verify.wasm", 1),
            ("user.cache_miss", 1),
            ("user.lookup_ok", 1),
            ("callouts.users.ok", 1),
        ],
    );
    forwarded(flow.whole("/x", &token, &record()));
    assert_counted(
        &envoy,
        &mut flow,
        &[("requests.gateway.allowed", 1), ("tokens.cache_hit", 1), ("user.cache_hit", 1)],
    );
    let _ = flow.send("/x", &[]);
    let _ = flow.send("/healthz", &[]);
    assert_counted(
        &envoy,
        &mut flow,
        &[("requests.gateway.denied.token_missing", 1), ("requests.gateway.allowed", 1)],
    );
    assert!(matches!(flow.whole("/admin", &token, &record()), Disposition::Deny(_)));
    assert_counted(
        &envoy,
        &mut flow,
        &[
            ("requests.gateway.denied.role_required", 1),
            ("tokens.cache_hit", 1),
            ("user.cache_hit", 1),
        ],
    );
    let forged = Key::new("k1").token(&claims()).replace(".ey", ".eY");
    let expired = flow.key.token(&json!({"sub": "a", "exp": 1, "iss": "youtube-clone-auth",
        "aud": "youtube-clone-api"}));
    let unknown = Key::new("k2").token(&claims());
    for token in [&forged, &expired, &unknown] {
        assert!(matches!(flow.get("/x", token).1, Disposition::Deny(_)));
    }
    assert_counted(
        &envoy,
        &mut flow,
        &[
            ("requests.gateway.denied.token_malformed", 1),
            ("requests.gateway.denied.token_expired", 1),
            // No key of this name is held, so no signature was checked.
            ("requests.gateway.denied.key_unknown", 1),
            ("tokens.cache_miss", 3),
            ("verify.wasm", 1),
        ],
    );
    let _ = flow.worker.unapplied();
    assert_counted(&envoy, &mut flow, &[("requests.gateway.denied.internal_error", 1)]);
}

#[test]
fn what_is_served_here_counts_as_answered() {
    let mut config = config();
    config["txn_token"] = json!({
        "issue": {"issuer": "https://gw.example", "audience": "prod.example", "ttl": "60s",
                  "kid": "g1", "alg": "ES256", "key": "{\"kty\":\"EC\",\"crv\":\"P-256\",\"d\":\"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\",\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}"},
        "jwks_path": "/.well-known/meshgate/jwks.json",
    });
    let (envoy, mut flow) = (Envoy::default(), Flow::with(&config));
    let (_, _, answer) = flow.send("/.well-known/meshgate/jwks.json", &[]);
    assert!(matches!(answer, Disposition::Answer(_)));
    assert_counted(&envoy, &mut flow, &[("requests.gateway.answered", 1)]);
}

#[test]
fn a_request_that_another_proxy_asks_about_counts_as_allowed() {
    let mut config = config();
    config["mode"] = json!("authz");
    let (envoy, mut flow) = (Envoy::default(), Flow::with(&config));
    let (_, _, answer) = flow.send("/healthz", &[]);
    assert!(matches!(answer, Disposition::Allow(..)));
    assert_counted(&envoy, &mut flow, &[("requests.authz.allowed", 1)]);
}

#[test]
fn waiting_and_coalescing_are_seen_while_they_last() {
    let (envoy, mut flow) = ready();
    let token = flow.token();
    let (first, _) = flow.get("/x", &token);
    let (second, _) = flow.get("/x", &token);
    envoy.hear(&mut flow);
    assert_eq!(envoy.value("meshgate.waiters"), 2);
    assert_eq!(envoy.value("meshgate.callouts.users.in_flight"), 1);
    assert_eq!(envoy.value("meshgate.user.coalesced"), 1);
    flow.worker.on_gone(second);
    let call = flow.call();
    let released = flow.answer(call.id, 200, record().to_string().as_bytes());
    forwarded(only(released, first));
    envoy.hear(&mut flow);
    assert_eq!(envoy.value("meshgate.waiters"), 0);
    assert_eq!(envoy.value("meshgate.callouts.users.in_flight"), 0);
    assert_eq!(envoy.value("meshgate.user.coalesced"), 1);
}

#[test]
fn a_lookup_is_timed_from_the_question_to_the_answer() {
    let (envoy, mut flow) = ready();
    for (user, took) in [("a", 0), ("b", 7), ("c", 250)] {
        let token = flow.key.token(&json!({"sub": user, "exp": 4e9, "iss": "youtube-clone-auth",
            "aud": "youtube-clone-api"}));
        let _ = flow.get("/x", &token);
        let call = flow.call();
        flow.advance(Duration::from_millis(took));
        flow.answer(call.id, 200, record().to_string().as_bytes());
    }
    envoy.hear(&mut flow);
    assert_eq!(envoy.samples("meshgate.user.lookup_ms"), [0, 7, 250]);
    envoy.hear(&mut flow);
    assert_eq!(envoy.samples("meshgate.user.lookup_ms").len(), 3, "each is told once");
}

#[test]
fn samples_between_two_ticks_are_bounded() {
    let (envoy, mut flow) = ready();
    for user in 0..2_000 {
        let token = flow.key.token(&json!({"sub": user.to_string(), "exp": 4e9,
            "iss": "youtube-clone-auth", "aud": "youtube-clone-api"}));
        let _ = flow.get("/x", &token);
        let call = flow.call();
        flow.answer(call.id, 404, b"{}");
    }
    envoy.hear(&mut flow);
    assert_eq!(envoy.samples("meshgate.user.lookup_ms").len(), 1_024);
    assert_eq!(envoy.value("meshgate.user.lookup_ok"), 2_000, "counters leave nothing out");
}

#[test]
fn a_users_service_that_is_down_shows_as_errors_stale_records_and_an_open_circuit() {
    let mut config = config();
    config["user"]["lookup"]["cache"] =
        json!({"ttl": "1s", "stale_while_revalidate": "1s", "stale_if_error": "15m"});
    let (envoy, mut flow) = (Envoy::default(), Flow::with(&config).with_keys());
    let token = flow.token();
    forwarded(flow.whole("/x", &token, &record()));
    envoy.hear(&mut flow);
    envoy.forget_counts(&flow);

    // Past its ttl, the record is used while it is asked for anew; then while the service is down.
    flow.advance(SECOND);
    forwarded(flow.get("/x", &token).1);
    let call = flow.call();
    flow.fail_for_good(call.id, Failure::NotSent);
    assert_counted(
        &envoy,
        &mut flow,
        &[
            ("requests.gateway.allowed", 1),
            ("tokens.cache_hit", 1),
            ("user.stale", 1),
            ("user.lookup_error", 1),
            ("callouts.users.error", 1),
        ],
    );
    for _ in 0..4 {
        flow.advance(2 * SECOND);
        let (stream, _) = flow.get("/x", &token);
        let call = flow.call();
        let released = flow.fail_for_good(call.id, Failure::NotSent);
        forwarded(only(released, stream));
    }
    envoy.hear(&mut flow);
    assert_eq!(envoy.value("meshgate.user.stale"), 4);
    assert_eq!(envoy.value("meshgate.callouts.users.circuit_open"), 1);

    flow.advance(60 * SECOND);
    let (stream, _) = flow.get("/x", &token);
    let call = flow.call();
    let released = flow.answer(call.id, 200, record().to_string().as_bytes());
    forwarded(only(released, stream));
    envoy.hear(&mut flow);
    assert_eq!(envoy.value("meshgate.callouts.users.circuit_open"), 0);
}

#[test]
fn an_issuer_that_is_down_shows_as_an_age_that_grows_and_as_stale_use() {
    let mut flow = Flow::ready();
    let envoy = Envoy::default();
    envoy.hear(&mut flow);
    let fetched = flow.now;
    let age = |flow: &mut Flow| {
        envoy.hear(flow);
        envoy.value("meshgate.jwks.clerk.age_seconds")
    };
    for _ in 0..12 {
        flow.advance(60 * SECOND);
        flow.tick();
        while let Some(call) = flow.worker.next_call() {
            flow.fail_for_good(call.id, Failure::TimedOut);
        }
        let expected = flow.now.since(fetched).as_secs();
        assert_eq!(age(&mut flow), expected);
    }
    assert_eq!(envoy.value("meshgate.jwks.clerk.stale_use"), 0);
    let token = flow.token();
    let _ = flow.get("/x", &token);
    envoy.hear(&mut flow);
    assert_eq!(envoy.value("meshgate.jwks.clerk.stale_use"), 1);
    let mut flow = flow.with_keys_again();
    assert_eq!(age(&mut flow), 0);
}

impl Flow {
    /// The next fetch of the issuer's keys succeeds.
    fn with_keys_again(mut self) -> Self {
        self.advance(60 * SECOND);
        self.tick();
        while let Some(call) = self.worker.next_call() {
            let keys = jwks(&[&self.key]);
            self.answer(call.id, 200, &keys);
        }
        self
    }
}

#[test]
fn keys_that_were_never_fetched_are_as_old_as_the_worker() {
    let mut flow = Flow::new();
    let envoy = Envoy::default();
    flow.tick();
    envoy.hear(&mut flow);
    flow.advance(HOUR);
    flow.tick();
    envoy.hear(&mut flow);
    assert_eq!(envoy.value("meshgate.jwks.clerk.age_seconds"), 3600);
}

fn revocation_config() -> Value {
    let mut config = config();
    config["user"] = json!({"source": "claims"});
    config["context"] = json!({"headers": {"x-user-id": {"claim": "/sub"}}});
    config["revocation"] = json!({
        "feed": {"uri": "http://auth.internal/revocations", "cluster": "auth"},
        "redis": {"cluster": "webdis", "keys": ["revoked:{sub}"]},
    });
    config
}

/// Answers all calls: the keys, the feed with these entries, the blacklist with nothing.
fn answer_all(flow: &mut Flow, entries: &Value) {
    while let Some(call) = flow.worker.next_call() {
        let body = match call.request.cluster.as_str() {
            "clerk" => jwks(&[&flow.key]),
            "auth" => json!({"v": 1, "entries": entries}).to_string().into_bytes(),
            _ => br#"{"MGET":[null]}"#.to_vec(),
        };
        flow.answer(call.id, 200, &body);
    }
}

#[test]
fn revocation_shows_its_polls_its_list_and_whom_it_stopped() {
    let mut flow = Flow::with(&revocation_config());
    let envoy = Envoy::default();
    flow.tick();
    answer_all(&mut flow, &json!([{"sub": "bad"}, {"sub": "worse"}]));
    let claims_of = |sub: &str| {
        let mut claims = claims();
        claims["sub"] = json!(sub);
        claims
    };
    let (good, bad) = (flow.key.token(&claims_of("good")), flow.key.token(&claims_of("bad")));
    for token in [&good, &good, &bad] {
        let _ = flow.get("/x", token);
        answer_all(&mut flow, &json!([]));
    }
    envoy.hear(&mut flow);
    for (name, value) in [
        ("revocation.poll_ok", 1),
        ("revocation.poll_error", 0),
        ("revocation.entries", 2),
        ("revocation.refused", 1),
        ("revocation.blacklist_cache_miss", 1),
        ("revocation.blacklist_cache_hit", 1),
        ("revocation.unavailable", 0),
        ("callouts.revocation_feed.ok", 1),
        ("callouts.blacklist.ok", 1),
        ("requests.gateway.denied.token_revoked", 1),
        ("requests.gateway.allowed", 2),
    ] {
        assert_eq!(envoy.value(&format!("meshgate.{name}")), value, "{name}");
    }

    for _ in 0..20 {
        flow.advance(2 * SECOND);
        flow.tick();
        while let Some(call) = flow.worker.next_call() {
            flow.fail_for_good(call.id, Failure::Broken);
        }
    }
    assert!(matches!(flow.get("/x", &good).1, Disposition::Deny(_)));
    envoy.hear(&mut flow);
    assert_eq!(envoy.value("meshgate.revocation.unavailable"), 1);
    assert!(envoy.value("meshgate.revocation.poll_error") >= 10);
    assert!(envoy.value("meshgate.revocation.age_seconds") >= 40);
}

#[test]
fn redis_shows_what_it_had_what_it_lacked_and_that_it_failed() {
    let mut config = config();
    config["sharing"] = json!({"key": "sixteen random bytes"});
    config["user"]["lookup"]["redis"] = json!({"cluster": "webdis"});
    let mut flow = ready_workers(&config, 1, &SharedData::default()).remove(0);
    let envoy = Envoy::default();
    let token = flow.token();
    let _ = flow.get("/x", &token);
    let get = flow.call();
    flow.answer(get.id, 200, br#"{"GET":null}"#);
    let lookup = flow.call();
    flow.answer(lookup.id, 200, record().to_string().as_bytes());
    let store = flow.call();
    flow.fail(store.id, Failure::NotSent);
    let value = String::from_utf8(store.request.body.unwrap()).unwrap();
    envoy.hear(&mut flow);
    assert_eq!(envoy.value("meshgate.user.redis_miss"), 1);
    assert_eq!(envoy.value("meshgate.callouts.users_redis.ok"), 1);
    assert_eq!(envoy.value("meshgate.callouts.users_redis.error"), 1);

    let mut other = ready_workers(&config, 1, &SharedData::default()).remove(0);
    let (stream, _) = other.get("/x", &token);
    let get = other.call();
    let released = other.answer(get.id, 200, json!({ "GET": value }).to_string().as_bytes());
    forwarded(only(released, stream));
    envoy.hear(&mut other);
    assert_eq!(envoy.value("meshgate.user.redis_hit"), 1);
    assert_eq!(envoy.value("meshgate.user.redis_miss"), 1);
}

#[test]
fn the_workers_of_a_process_add_up_and_one_that_ends_takes_its_part_away() {
    let envoy = Envoy::default();
    let mut flows = [Flow::ready(), Flow::ready(), Flow::ready()];
    for (flow, requests) in flows.iter_mut().zip([1, 2, 4]) {
        for _ in 0..requests {
            let token = flow.token();
            let _ = flow.get("/x", &token);
            let _ = flow.send("/x", &[]);
        }
        envoy.hear(flow);
    }
    let version = format!("meshgate.build_info.{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(envoy.value("meshgate.waiters"), 7);
    assert_eq!(envoy.value("meshgate.callouts.users.in_flight"), 3);
    assert_eq!(envoy.value("meshgate.requests.gateway.denied.token_missing"), 7);
    assert_eq!(envoy.value(&version), 3);

    // What was counted after the last tick is told, too.
    let _ = flows[2].send("/healthz", &[]);
    envoy.hear_last(&mut flows[2]);
    assert_eq!(envoy.value("meshgate.waiters"), 3);
    assert_eq!(envoy.value("meshgate.callouts.users.in_flight"), 2);
    assert_eq!(envoy.value("meshgate.requests.gateway.denied.token_missing"), 7);
    assert_eq!(envoy.value("meshgate.requests.gateway.allowed"), 1);
    assert_eq!(envoy.value(&version), 2);
}

#[test]
fn an_age_is_that_of_the_oldest_that_any_worker_holds() {
    const AGE: &str = "meshgate.jwks.clerk.age_seconds";
    let envoy = Envoy::default();
    let mut old = Flow::ready();
    let mut young = Flow::ready();
    let began = old.now;
    let second = |old: &mut Flow, young: &mut Flow, old_hears: bool| {
        for flow in [&mut *young, &mut *old] {
            flow.advance(SECOND);
        }
        envoy.hear(young);
        if old_hears {
            envoy.hear(old);
        }
    };
    for _ in 0..100 {
        second(&mut old, &mut young, true);
    }
    // One of them fetches anew, by itself: it stands back.
    let keys = jwks(&[&young.key]);
    young.now = began.after(540 * SECOND);
    old.now = young.now;
    young.tick();
    let call = young.call();
    young.answer(call.id, 200, &keys);
    for _ in 0..3 {
        second(&mut old, &mut young, true);
    }
    assert_eq!(envoy.value(AGE), 543);
    // The old one is gone, without a word: within seconds the young one is the oldest.
    for _ in 0..2 {
        second(&mut old, &mut young, false);
    }
    assert_eq!(envoy.value(AGE), 5);
    // A metric of nobody shows nothing old.
    envoy.hear_last(&mut young);
    assert_eq!(envoy.value(AGE), 0);
}

fn names(config: &Value) -> Vec<String> {
    let config = Config::parse(config.to_string().as_bytes(), &|_| None).unwrap();
    Report::new(&config).definitions().map(|definition| definition.name).collect()
}

#[test]
fn whatever_a_config_calls_its_providers_metrics_have_legal_names_that_differ() {
    let mut config = config();
    let clerk = config["providers"]["clerk"].clone();
    config["providers"] = json!({});
    let odd = ["", "a.b", "a_b", "a-b", "é\n\"x\"", "1", &"long".repeat(100)];
    for (index, name) in odd.into_iter().enumerate() {
        let mut provider = clerk.clone();
        provider["issuer"] = json!(format!("issuer-{index}"));
        config["providers"][name] = provider;
    }
    let names = names(&config);
    let mut seen = std::collections::HashSet::new();
    for name in &names {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        assert!(name.chars().all(legal) && !name.contains(".."), "{name:?}");
        assert!(name.len() < 128, "{name}");
        assert!(seen.insert(name.replace(['-', '.'], "_")), "{name} is there twice");
    }
    let providers: Vec<&str> = names
        .iter()
        .filter_map(|name| name.strip_prefix("meshgate.jwks.")?.strip_suffix(".fetch_ok"))
        .collect();
    assert_eq!(providers.len(), 7);
    for expected in ["_", "1", "a-b", "a_b_2", "a_b_3"] {
        assert!(providers.contains(&expected), "{expected} among {providers:?}");
    }
}

#[test]
fn a_config_has_no_metrics_of_what_it_does_not_use() {
    let all = names(&config());
    for (part, there) in [
        ("meshgate.jwks.clerk.", true),
        ("meshgate.callouts.users.", true),
        ("meshgate.requests.gateway.denied.overloaded", true),
        ("meshgate.requests.service", false),
        ("meshgate.revocation", false),
        ("redis", false),
        ("blacklist", false),
        ("introspection.", false),
        ("callouts.jwks.circuit_open", false),
    ] {
        assert_eq!(all.iter().any(|name| name.contains(part)), there, "{part}");
    }
    let exit = names(&json!({
        "mode": "egress", "service": {"name": "a"},
        "providers": {"clerk": {"from_cookies": ["__session"]}},
        "destinations": [{"clusters": ["b"], "context": "forward"}],
    }));
    assert!(exit.iter().all(|name| !name.contains("tokens.") && !name.contains("verify.")));
}
