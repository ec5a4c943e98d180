//! The core in a world that a seed draws: workers, services that fail, clocks that step, and an oracle that
//! knows what is true and holds every request to it. After the simulation of `FoundationDB`.
//!
//! ```text
//! cargo test --test sim                              1,000 seeds
//! MESHGATE_SIM_SEEDS=50000 cargo test --test sim     more, from MESHGATE_SIM_FROM on
//! MESHGATE_SIM_GO_ON=1 cargo test --test sim -- --nocapture    does not stop at the first that breaks a rule
//! MESHGATE_SIM_SEED=17 cargo test --test sim -- --nocapture    one, and all that happens in it
//! ```
//!
//! A seed that breaks a rule is told with the command that runs it again and the fewest events that still do.
//! It then becomes a line of `regressions.rs`.
//!
//! Not in this model: two workers within one access to shared data (between the read and the write of a slot),
//! and what the shell does to a request (`tests/e2e`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod counts;
mod invariants;
mod oracle;
mod regressions;
mod scenario;
mod schedule;
mod services;
mod shrink;
mod turns;
mod world;

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use counts::Counts;
use scenario::Scenario;
use schedule::{FaultKind, Schedule};
use shrink::{drawn, drawn_without_redis, run, shrunk};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// What a seed that breaks a rule is told with.
fn report(seed: u64, (scenario, schedule): (Scenario, Schedule)) -> Option<String> {
    let first = run(&scenario, &schedule, false).violation?;
    let fewest = shrunk(&scenario, &schedule, first.rule);
    let last = run(&scenario, &fewest, true);
    let mut text = format!("seed {seed} breaks a rule: {first}\n");
    let _ = writeln!(
        text,
        "again, with all that happens: MESHGATE_SIM_SEED={seed} cargo test --test sim -- --nocapture"
    );
    let _ = writeln!(text, "{scenario:?}");
    let (events, all) = (fewest.events.len(), schedule.events.len());
    let _ = writeln!(text, "it takes {events} of {all} events:");
    for event in &fewest.events {
        let _ = writeln!(text, "{:>7} ms  {:?}", event.at, event.what);
    }
    let shown = &last.trace[last.trace.len().saturating_sub(60)..];
    let _ = writeln!(text, "and so it goes at last:\n{}", shown.join("\n"));
    if let Some(violation) = last.violation {
        let _ = writeln!(text, "{violation}");
    }
    Some(text)
}

/// Runs these seeds on all cores; what happened, and how it went wrong first.
fn run_all(from: u64, count: u64) -> (Counts, Option<String>) {
    let goes_on = std::env::var_os("MESHGATE_SIM_GO_ON").is_some();
    let next = AtomicU64::new(from);
    let bad = AtomicU64::new(u64::MAX);
    let all = Mutex::new(Counts::default());
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let mut counts = Counts::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let stops = !goes_on && bad.load(Ordering::Relaxed) != u64::MAX;
                    if stops || seed >= from + count {
                        break;
                    }
                    let (scenario, schedule) = drawn(seed);
                    let ended = run(&scenario, &schedule, false);
                    counts.join(&ended.counts);
                    counts.add("worlds", "run");
                    if let Some(violation) = ended.violation {
                        bad.fetch_min(seed, Ordering::Relaxed);
                        counts.add("rules broken", violation.rule);
                        if goes_on {
                            println!("seed {seed}: {violation}");
                        }
                    }
                }
                all.lock().unwrap().join(&counts);
            });
        }
    });
    let bad = bad.into_inner();
    let report = (bad != u64::MAX)
        .then(|| report(bad, drawn(bad)))
        .map(|report| report.unwrap_or_else(|| format!("seed {bad} broke a rule, and not again")));
    (all.into_inner().unwrap(), report)
}

/// What must have happened, or the run proves little.
fn assert_eventful(counts: &Counts) {
    let each = [
        (
            "events",
            &[
                "client hangs up",
                "service fails",
                "key published",
                "key withdrawn",
                "user changed",
                "revocation",
                "feed cleared",
                "VM restarts",
                "clock steps back",
                "clock is set back",
                "clock steps forward",
                "worker stalls",
                "writes contended",
                "shared data overwritten",
                "name blacklisted",
                "Redis tampered with",
            ][..],
        ),
        ("faults", &FaultKind::NAMES[..]),
        ("answers", &["too late"][..]),
        ("calls", &["issuer", "users", "feed", "blacklist", "records", "tried again"][..]),
        ("Redis", &["written over"][..]),
        ("requests", &["made", "held", "hung up", "gone with their VM"][..]),
        (
            "outcomes",
            &[
                "forwarded",
                "token_missing",
                "token_malformed",
                "issuer_unknown",
                "audience_mismatch",
                "key_unknown",
                "signature_invalid",
                "token_expired",
                "token_not_yet_valid",
                "token_revoked",
                "token_ambiguous",
                "user_unknown",
                "user_disabled",
                "role_required",
                "keys_unavailable",
                "revocation_unavailable",
                "user_lookup_unavailable",
                "overloaded",
            ][..],
        ),
        ("worlds", &["healed"][..]),
    ];
    for (kind, whats) in each {
        for what in whats {
            assert!(counts.of(kind, what) > 0, "no {kind}: {what}");
        }
    }
}

#[test]
fn no_seed_breaks_a_rule() {
    if let Some(seed) = number("MESHGATE_SIM_SEED") {
        let (scenario, schedule) = drawn(seed);
        let ended = run(&scenario, &schedule, true);
        println!("{scenario:?}\n{}", ended.trace.join("\n"));
        if let Some(violation) = ended.violation {
            println!("{violation}");
            panic!("{}", report(seed, drawn(seed)).unwrap_or_default());
        }
        return;
    }
    let count = number("MESHGATE_SIM_SEEDS").unwrap_or(1_000);
    let (counts, bad) = run_all(number("MESHGATE_SIM_FROM").unwrap_or(0), count);
    println!("{counts}");
    if let Some(report) = bad {
        panic!("{report}");
    }
    assert_eq!(counts.of("worlds", "run"), usize::try_from(count).unwrap());
    if count >= 1_000 {
        assert_eventful(&counts);
    }
}

#[test]
fn no_seed_breaks_a_rule_again() {
    for (seed, shown) in regressions::SEEDS {
        for world in [drawn_without_redis(seed), drawn(seed)] {
            if let Some(report) = report(seed, world) {
                panic!("{shown}: {report}");
            }
        }
    }
}
