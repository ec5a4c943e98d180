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
    /// Rounds that count. One goes before, for everybody to warm up.
    pub rounds: usize,
    /// Requests in each, to each variant; of those that need a new token, half as many.
    pub requests: usize,
    /// How often an Envoy is started to see how long that takes.
    pub starts: usize,
}

impl Effort {
    /// Shows that everything runs.
    pub const SMOKE: Self = Self { name: "smoke", rounds: 1, requests: 8, starts: 1 };
    /// Two minutes.
    pub const SHORT: Self = Self { name: "short", rounds: 7, requests: 1_500, starts: 5 };
    /// A quarter of an hour, or nearly.
    pub const LONG: Self = Self { name: "long", rounds: 21, requests: 3_000, starts: 11 };
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

/// All that was measured.
pub struct Measured {
    pub effort: Effort,
    pub costs: BTreeMap<(Scenario, Variant), Cost>,
    /// With warm requests and so many workers.
    pub workers: BTreeMap<(u32, Variant), Cost>,
    /// From the start of the process until it is live, in milliseconds.
    pub starts: BTreeMap<Variant, Figures>,
    /// After all rounds, in MiB.
    pub memory: BTreeMap<Variant, f64>,
    /// The module's size, in bytes.
    pub module: u64,
}

/// An Envoy under test.
struct Bench {
    variant: Variant,
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
    let start =
        |variant: Variant, workers| Bench { variant, envoy: variant.start(&services, workers).0 };
    let benches: Vec<Bench> = variants.into_iter().map(|variant| start(variant, 1)).collect();
    let mut costs = BTreeMap::new();
    for scenario in Scenario::ALL {
        eprintln!("{} ...", scenario.name());
        let asked = scenario.variants();
        let asked: Vec<&Bench> =
            benches.iter().filter(|bench| asked.contains(&bench.variant)).collect();
        let measured = interleave(effort, scenario, &services, &asked);
        costs.extend(measured.into_iter().map(|(variant, cost)| ((scenario, variant), cost)));
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let memory = benches.iter().map(|b| (b.variant, mib(b.envoy.private_memory()))).collect();
    drop(benches);

    let mut workers = BTreeMap::new();
    for count in [1, 2] {
        eprintln!("{count} workers ...");
        let pair = [Variant::Bare, Variant::Meshgate].map(|variant| start(variant, count));
        let asked: Vec<&Bench> = pair.iter().collect();
        let measured = interleave(effort, Scenario::Warm, &services, &asked);
        workers.extend(measured.into_iter().map(|(variant, cost)| ((count, variant), cost)));
    }
    let module = std::fs::metadata(harness::module::build()).expect("a module").len();
    Measured { effort: *effort, costs, workers, starts, memory, module }
}

/// Sends rounds of requests to each of `benches`, in an order that turns.
fn interleave(
    effort: &Effort,
    scenario: Scenario,
    services: &Services,
    benches: &[&Bench],
) -> BTreeMap<Variant, Cost> {
    let mut costs: BTreeMap<Variant, Cost> = BTreeMap::new();
    let count = scenario.count(effort);
    for round in 0..=effort.rounds {
        let tokens = scenario.tokens(&services.idp, round, count);
        for turn in 0..benches.len() {
            let bench = benches[(round + turn) % benches.len()];
            let mut warming = Cost::default();
            let counted = costs.entry(bench.variant).or_default();
            let cost = if round == 0 { &mut warming } else { counted };
            bench.round(scenario, &tokens, count, cost);
        }
    }
    costs
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
