//! The measurement: rounds of requests to each variant in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use harness::envoy::Envoy;
use harness::load::{Load, Report};

use crate::figures::Figures;
use crate::scenarios::{Scenario, request};
use crate::services::Services;
use crate::variants::Variant;

/// How much is done for how sure a figure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// What it is called in the report.
    pub name: &'static str,
    /// How often all Envoys are started anew: of two processes alike, one may be the quicker for all its life.
    pub processes: usize,
    /// Requests that each gets before any counts: V8 compiles what is called often once more, and better.
    pub warm_up: usize,
    /// Rounds of each that count. One goes before, for caches to fill.
    pub rounds: usize,
    /// Requests in each, to each variant; of those that need a new token, half as many.
    pub requests: usize,
    /// How often an Envoy is started to see how long that takes.
    pub starts: usize,
}

impl Effort {
    /// Shows that everything runs.
    pub const SMOKE: Self =
        Self { name: "smoke", processes: 1, warm_up: 8, rounds: 1, requests: 8, starts: 1 };
    /// Two minutes.
    pub const SHORT: Self =
        Self { name: "short", processes: 2, warm_up: 6_000, rounds: 3, requests: 1_000, starts: 5 };
    /// Eight minutes.
    pub const LONG: Self =
        Self { name: "long", processes: 2, warm_up: 20_000, rounds: 9, requests: 2_000, starts: 9 };
}

/// Connections on which requests are sent; on each, one after the other.
pub const CONNECTIONS: usize = 8;

/// What one variant did in one scenario.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// Envoy's processor time a request, in microseconds.
    pub processor: Figures,
    /// Requests a second.
    pub rate: Figures,
    /// Within this many milliseconds 99 of 100 requests were answered.
    pub p99: Figures,
}

/// By scenario, number of workers, and variant.
pub type Costs = BTreeMap<(Scenario, u32, Variant), Cost>;

/// All that was measured.
pub struct Measured {
    pub effort: Effort,
    pub costs: Costs,
    /// From the start of the process until it is live, in milliseconds.
    pub starts: BTreeMap<Variant, Figures>,
    /// After all rounds, in MiB.
    pub memory: BTreeMap<Variant, Figures>,
    /// The module's size, in bytes.
    pub module: u64,
}

/// An Envoy under test.
struct Bench {
    variant: Variant,
    workers: u32,
    envoy: Envoy,
}

impl Bench {
    /// Sends a round's requests, and takes down what they cost.
    fn round(&self, scenario: Scenario, tokens: &[Option<String>], count: usize, cost: &mut Cost) {
        let address = self.envoy.address();
        let requests: Vec<_> =
            tokens.iter().map(|token| request(address, token.as_deref())).collect();
        let before = self.envoy.processor_time();
        let load = Load {
            connections: CONNECTIONS,
            count: count as u64,
            time_limit: Duration::from_secs(300),
        };
        let report = load.run(|number| requests[number as usize % requests.len()].clone());
        let spent = self.envoy.processor_time().saturating_sub(before);
        self.expect(scenario, &report, count);
        cost.processor.add(spent.as_secs_f64() * 1e6 / count as f64);
        cost.rate.add(report.rate());
        cost.p99.add(report.percentile(0.99).as_secs_f64() * 1e3);
    }

    /// Fast but wrong does not count.
    fn expect(&self, scenario: Scenario, report: &Report, count: usize) {
        let expected = scenario.status(self.variant);
        assert_eq!(
            report.statuses.get(&expected).copied(),
            Some(count as u64),
            "{scenario:?} {:?}: {report:?}",
            self.variant,
        );
    }
}

/// Measures everything.
pub fn run(effort: &Effort) -> Measured {
    eprintln!("building the module ...");
    harness::module::build_visibly();
    let services = Services::start();
    let starts = starts(effort, &services);
    let variants: BTreeSet<Variant> =
        Scenario::ALL.into_iter().flat_map(Scenario::variants).collect();
    let start = |variant: Variant, workers| Bench {
        variant,
        workers,
        envoy: variant.start(&services, workers).0,
    };
    let mut costs = BTreeMap::new();
    let mut memory: BTreeMap<Variant, Figures> = BTreeMap::new();
    for process in 1..=effort.processes {
        eprintln!("processes {process} of {} ...", effort.processes);
        let alone: Vec<Bench> = variants.iter().map(|variant| start(*variant, 1)).collect();
        for scenario in Scenario::ALL {
            eprintln!("  {} ...", scenario.name());
            let asked = scenario.variants();
            let asked: Vec<&Bench> =
                alone.iter().filter(|bench| asked.contains(&bench.variant)).collect();
            interleave(effort, (scenario, process), &services, &asked, &mut costs);
        }
        for bench in alone {
            let mib = bench.envoy.private_memory() as f64 / f64::from(1 << 20);
            memory.entry(bench.variant).or_default().add(mib);
        }
        eprintln!("  two workers ...");
        let pairs = [Variant::Bare, Variant::Meshgate].map(|variant| start(variant, 2));
        let pairs: Vec<&Bench> = pairs.iter().collect();
        interleave(effort, (Scenario::Warm, process), &services, &pairs, &mut costs);
    }
    let module = std::fs::metadata(harness::module::build()).expect("a module").len();
    Measured { effort: *effort, costs, starts, memory, module }
}

/// Sends rounds of requests to each of `benches`, in an order that turns.
fn interleave(
    effort: &Effort,
    (scenario, process): (Scenario, usize),
    services: &Services,
    benches: &[&Bench],
    costs: &mut Costs,
) {
    let count = scenario.count(effort);
    if scenario == Scenario::Warm {
        let tokens = scenario.tokens(&services.idp, (process, 0), count);
        for bench in benches {
            bench.round(scenario, &tokens, effort.warm_up, &mut Cost::default());
        }
    }
    for round in 0..=effort.rounds {
        let tokens = scenario.tokens(&services.idp, (process, round), count);
        for turn in 0..benches.len() {
            let bench = benches[(round + turn) % benches.len()];
            let mut warming = Cost::default();
            let counted = costs.entry((scenario, bench.workers, bench.variant)).or_default();
            let cost = if round == 0 { &mut warming } else { counted };
            bench.round(scenario, &tokens, count, cost);
        }
    }
}

/// How long it takes until Envoy is live.
fn starts(effort: &Effort, services: &Services) -> BTreeMap<Variant, Figures> {
    eprintln!("starts ...");
    let mut starts: BTreeMap<Variant, Figures> = BTreeMap::new();
    for _ in 0..effort.starts {
        for variant in [Variant::Bare, Variant::JwtAuthn, Variant::Meshgate] {
            let (_envoy, took) = variant.start(services, 1);
            starts.entry(variant).or_default().add(took.as_secs_f64() * 1e3);
        }
    }
    starts
}
