//! Words that the tests share.

use std::time::{Duration, Instant};

use harness::client::{Pending, Request, Response};
use harness::idp::seed_claims;
use harness::server::Seen;
use harness::testbed::{Builder, Testbed};
use serde_json::{Value, json};

/// Longer than anything here takes; what waits so long has failed.
pub const LONG: Duration = Duration::from_secs(15);

/// The five headers that the upstream trusts.
pub const CONTEXT: [&str; 4] = ["x-user-id", "x-user-clerk-id", "x-user-role", "x-user-channel-id"];

/// A good token of the user that the users service knows as `u-1001`.
pub fn user_token(bed: &Testbed) -> String {
    bed.idp.token(seed_claims("user_2abc"))
}

/// A good token of anyone.
pub fn token_of(bed: &Testbed, clerk_id: &str) -> String {
    bed.idp.token(seed_claims(clerk_id))
}

/// The claims of a good token with one of them changed.
pub fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = seed_claims("user_2abc");
    claims[name] = value;
    claims
}

/// Asserts status and `code`, and that the problem document is one.
#[track_caller]
pub fn assert_denied(response: &Response, status: u16, code: &str) {
    assert_eq!(
        (response.status, problem_code(response).as_str()),
        (status, code),
        "{}",
        response.text()
    );
    assert_eq!(response.header("content-type"), Some(&b"application/problem+json"[..]));
    let problem = response.json();
    assert_eq!(problem["status"], status);
    assert!(problem["request_id"].as_str().is_some_and(|id| !id.is_empty()));
}

fn problem_code(response: &Response) -> String {
    serde_json::from_slice::<Value>(&response.body)
        .ok()
        .and_then(|problem| problem["code"].as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// The one request that the upstream has seen since it was last asked.
#[track_caller]
pub fn only_seen(bed: &Testbed) -> Seen {
    let mut seen = bed.upstream.take();
    assert_eq!(seen.len(), 1, "the upstream saw {seen:?}");
    seen.remove(0)
}

/// Asserts that the upstream was told exactly this: `None` where a header must not be there.
#[track_caller]
pub fn assert_context(seen: &Seen, context: [Option<&str>; 4]) {
    assert_names(seen, context, None);
}

/// [`assert_context`], and which service the upstream was told of.
#[track_caller]
pub fn assert_names(seen: &Seen, context: [Option<&str>; 4], service: Option<&str>) {
    assert_all_names(seen, context, service, None);
}

/// [`assert_names`], beside a `Txn-Token`: that token.
#[track_caller]
pub fn assert_signed(seen: &Seen, context: [Option<&str>; 4], service: Option<&str>) -> String {
    let token = String::from_utf8_lossy(seen.header("txn-token").expect("a Txn-Token"));
    assert_all_names(seen, context, service, Some(&token));
    token.into_owned()
}

#[track_caller]
fn assert_all_names(
    seen: &Seen,
    context: [Option<&str>; 4],
    service: Option<&str>,
    signed: Option<&str>,
) {
    let values = CONTEXT.into_iter().zip(context);
    for (name, value) in values.chain([("x-service-name", service), ("txn-token", signed)]) {
        let expected: Vec<&[u8]> = value.iter().map(|value| value.as_bytes()).collect();
        assert_eq!(seen.headers_named(name), expected, "{name}");
        // It is not there under another spelling, either.
        for (other, _) in &seen.headers {
            let plain = other.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            assert!(plain != name || other == name, "{other}");
        }
    }
}

/// The context of `u-1001`.
pub const USER: [Option<&str>; 4] =
    [Some("u-1001"), Some("user_2abc"), Some("USER"), Some("ch-2001")];
/// The context of nobody.
pub const NOBODY: [Option<&str>; 4] = [None; 4];

/// Waits until `done`; for states of Envoy that it has no event for.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LONG, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How many requests Envoy holds.
pub fn active(bed: &Testbed) -> u64 {
    bed.envoy.stat("http.gateway.downstream_rq_active")
}

/// Gives the user lookup all the time that a test may need.
pub fn patient_lookup(config: &mut Value) {
    config["user"]["lookup"]["timeout"] = json!("10s");
}

/// Asserts that an ordinary request is served as usual, and that nothing trapped so far.
#[track_caller]
pub fn assert_serves(bed: &Testbed) {
    bed.upstream.take();
    let response = bed.get("/api/videos/1").bearer(&user_token(bed)).send();
    assert_eq!(response.status, 200, "{}", response.text());
    assert_context(&only_seen(bed), USER);
    bed.no_traps();
}

/// The filter's whole typed config within the gateway's.
pub fn plugin(bootstrap: &mut Value) -> &mut Value {
    let hcm = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
    &mut hcm["typed_config"]["http_filters"][0]["typed_config"]["config"]
}

/// So many workers, which share what they fetch.
pub fn sharing(workers: u32) -> Builder {
    Testbed::gateway()
        .concurrency(workers)
        .env("SHARING_KEY", "a-key-for-this-test-alone")
        .bootstrap(|bootstrap| {
            plugin(bootstrap)["vm_config"]["environment_variables"] =
                json!({"host_env_keys": ["SHARING_KEY"]});
            // Each worker gets its part of the connections.
            bootstrap["static_resources"]["listeners"][0]["connection_balance_config"] =
                json!({"exact_balance": {}});
        })
        .filter_config(|config| config["sharing"] = json!({"key": "${env:SHARING_KEY}"}))
}

/// Sends `count` requests, each on a connection of its own that stays open until the last is sent.
pub fn begin_all(request: &Request, count: usize) -> Vec<Pending> {
    (0..count).map(|_| request.begin()).collect()
}

/// Sends 64 requests, to all workers, and asserts that all are answered with this status.
#[track_caller]
pub fn assert_all(request: &Request, status: u16) {
    for pending in begin_all(request, 64) {
        let response = pending.finish();
        assert_eq!(response.status, status, "{}", response.text());
    }
}

/// How many connections each of Envoy's workers has been given.
pub fn connections_by_worker(bed: &Testbed) -> Vec<u64> {
    let stats = bed.envoy.admin_get("/stats?filter=worker_\\d+.downstream_cx_total");
    let count = |line: &str| line.rsplit_once(": ")?.1.parse().ok();
    stats.lines().filter(|line| line.starts_with("listener.")).filter_map(count).collect()
}
