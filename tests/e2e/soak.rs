//! A stream of users that does not end: what Envoy holds of them is bounded, and so is its memory.

use std::time::Duration;

use harness::client::Request;
use harness::idp::seed_claims;
use harness::load::Load;
use harness::server::{Answer, Seen, Server};
use serde_json::json;

use crate::support::{patient_lookup, sharing};

/// How many tokens to go through; [`DEFAULT_TOKENS`] unless set. A million takes about twelve minutes on two
/// cores.
const TOKENS: &str = "MESHGATE_SOAK_TOKENS";

/// Enough to fill every cache many times over, and few enough for every run of the tests.
const DEFAULT_TOKENS: u64 = 20_000;

/// How often the memory is looked at in each quarter of the run.
const SAMPLES: u64 = 5;

/// The bytes that may stay of a token, over the second half of the run. A forgotten entry of any cache is
/// larger, with its key, its value and the allocator's share.
const MAX_LEAK: u64 = 50;

const USERS: &str = "/internal/users/by-clerk-id/user_";

const VIDEOS: &str = "/api/videos/";

#[test]
fn distinct_users_without_end_leave_envoys_memory_flat() {
    let tokens = std::env::var(TOKENS).map_or(DEFAULT_TOKENS, |tokens| tokens.parse().unwrap());
    // Each of the two workers fills its caches 50 times, however many tokens there are.
    let limit = (tokens / 100).clamp(16, 10_000);
    let users = Server::start(|seen: &Seen| {
        let user = seen.path.strip_prefix(USERS).unwrap();
        let clerk_id = format!("user_{user}");
        Answer::json(200, &json!({"id": format!("u-{user}"), "clerkId": clerk_id, "role": "USER"}))
    });
    // Whom a request is from stands in its path, too: a 200 is proof that the upstream was told the same.
    let upstream = Server::start(|seen: &Seen| {
        let user = seen.path.strip_prefix("/videos/").unwrap();
        let expected = format!("u-{user}");
        if seen.headers_named("x-user-id") == [expected.as_bytes()] {
            Answer::new(200, "text/plain", "")
        } else {
            Answer::problem(500, "this is somebody else")
        }
    });
    let bed = sharing(2)
        .with_cluster("users", users.address())
        .with_cluster("videos", upstream.address())
        .component_log_level("wasm:info")
        .filter_config(|config| {
            patient_lookup(config);
            config["limits"] = json!({"max_cached_tokens": limit});
            config["user"]["lookup"]["cache"] = json!({"max_entries": limit});
            config["sharing"] = json!({"key": "what the workers share"});
        })
        .start();
    let key = bed.idp.key("es-1");
    let mut claims = seed_claims("");
    claims["exp"] = json!(harness::idp::now() + 24 * 3600);
    let request = |number: u64| {
        // Every eighth request brings a token again: what is used again is kept in another place.
        let user = if number % 8 == 7 { number - 7 } else { number };
        let mut claims = claims.clone();
        claims["sub"] = json!(format!("user_{user}"));
        claims["clerkId"] = claims["sub"].clone();
        Request::get(bed.envoy.address(), format!("{VIDEOS}{user}")).bearer(&key.token(&claims))
    };

    let batch = (tokens * 8).div_ceil(7 * 4 * SAMPLES);
    let load = Load { connections: 8, count: batch, time_limit: Duration::MAX };
    let mut curve = Vec::new();
    for sample in 0..4 * SAMPLES {
        let report = load.run(|number| request(sample * batch + number));
        assert_eq!(report.statuses.get(&200), Some(&batch), "{report:?}");
        let memory = resident(bed.envoy.pid());
        println!(
            "{:>9} requests {:7.1} MiB   {report:?}",
            (sample + 1) * batch,
            f64::from(memory) / 1024.0
        );
        curve.push(memory);
    }
    bed.no_traps();

    // The first quarter fills the caches and warms the allocators up. The middles of the second and the last
    // are half of the tokens apart.
    let quarters: Vec<u64> = curve
        .chunks_exact(curve.len() / 4)
        .map(|samples| samples.iter().copied().map(u64::from).sum::<u64>() / SAMPLES)
        .collect();
    let leak = quarters[3].saturating_sub(quarters[1]) * 1024 / (tokens / 2);
    assert!(leak <= MAX_LEAK, "{leak} bytes a token stay; KiB by quarter: {quarters:?}");
}

/// The memory that a process occupies, in KiB.
fn resident(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
