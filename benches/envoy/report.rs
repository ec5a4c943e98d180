//! The tables, and their place in `docs/performance.md`.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::figures::Figures;
use crate::plot;
use crate::rounds::{CONNECTIONS, Cost, Measured};
use crate::scenarios::{Algorithm, Scenario};
use crate::variants::Variant;

/// What stands between these lines of the page is written here.
const BEGIN: &str = "<!-- Written by `cargo bench --bench envoy`: begin -->";
const END: &str = "<!-- Written by `cargo bench --bench envoy`: end -->";
const PAGE: &str = "docs/performance.md";
const PLOT: &str = "docs/performance.svg";

/// Most bytes that the module may have.
const MAX_MODULE: u64 = 1 << 20;

/// Puts tables and plot into the documentation.
pub fn write(tables: &str, plot: &str) {
    let root = harness::module::workspace();
    let page = fs::read_to_string(root.join(PAGE)).expect(PAGE);
    let (before, rest) = page.split_once(BEGIN).expect(BEGIN);
    let (_, after) = rest.split_once(END).expect(END);
    fs::write(root.join(PAGE), format!("{before}{BEGIN}\n\n{tables}\n{END}{after}")).expect(PAGE);
    fs::write(root.join(PLOT), plot).expect(PLOT);
    eprintln!("written: {PAGE}, {PLOT}");
}

/// Everything, in Markdown.
pub fn tables(measured: &Measured) -> String {
    let Measured { effort, module, .. } = measured;
    let machine = machine();
    let mut text = format!(
        "Measured on {machine}; {envoy}; a module of {module} bytes. The {name} run: {processes} \
         processes of each variant, one after the other, with {rounds} rounds of {requests} requests (half as many where \
         each needs a new token) to each after {warm_up} that did not count, over {CONNECTIONS} connections; {starts} \
         starts.\n\n",
        envoy = envoy(),
        name = effort.name,
        processes = effort.processes,
        warm_up = effort.warm_up,
        rounds = effort.rounds,
        requests = effort.requests,
        starts = effort.starts,
    );
    text += "### What was to be reached\n\n| | to be | is | |\n|---|---|---|---|\n";
    for Goal { what, bound, is } in goals(measured) {
        let (bound, met) = match bound {
            Bound::Most(most) => (format!("at most {most:.2}"), is <= most),
            Bound::Least(least) => (format!("at least {least:.2}"), is >= least),
        };
        let met = if met { "met" } else { "**not met**" };
        let _ = writeln!(text, "| {what} | {bound} | {is:.2} | {met} |");
    }
    text += "\n### Envoy's processor time a request\n\n\
             Microseconds, the median of all rounds. *More* is what it is above *no filter* in the same round: its \
             median, and between which two half of the rounds lie.\n\n";
    for scenario in Scenario::ALL {
        let _ = write!(
            text,
            "**{}**\n\n| | all | more | half of the rounds | requests/s | p99, ms |\n|---|---|---|---|---|---|\n",
            capital(scenario.name())
        );
        for variant in scenario.variants() {
            let cost = &measured.costs[&(scenario, 1, variant)];
            let more = increment(measured, scenario, variant);
            let (low, high) = more.spread();
            let _ = writeln!(
                text,
                "| {} | {:.1} | {:.1} | {low:.1} to {high:.1} | {:.0} | {:.1} |",
                variant.name(),
                cost.processor.median(),
                more.median(),
                cost.rate.median(),
                cost.p99.median(),
            );
        }
        text += "\n";
    }
    text += "### One worker and two\n\nWarm requests.\n\n\
             | | workers | µs a request | half of the rounds | requests/s |\n|---|---|---|---|---|\n";
    let pairs = [1, 2].map(|workers| [Variant::Bare, Variant::Meshgate].map(|v| (workers, v)));
    for (workers, variant) in pairs.into_iter().flatten() {
        let cost = &measured.costs[&(Scenario::Warm, workers, variant)];
        let (low, high) = cost.processor.spread();
        let _ = writeln!(
            text,
            "| {} | {workers} | {:.1} | {low:.1} to {high:.1} | {:.0} |",
            variant.name(),
            cost.processor.median(),
            cost.rate.median()
        );
    }
    text += "\n### Start and memory\n\n\
             From the start of the process until it is live, with one worker; and what memory is Envoy's own after \
             all rounds.\n\n| | start, ms | half of the starts | memory, MiB |\n|---|---|---|---|\n";
    for (variant, memory) in &measured.memory {
        let start = measured.starts.get(variant).map_or_else(
            || "| ".to_owned(),
            |start| {
                let (low, high) = start.spread();
                format!("{:.0} | {low:.0} to {high:.0}", start.median())
            },
        );
        let _ = writeln!(text, "| {} | {start} | {:.1} |", variant.name(), memory.median());
    }
    let _ = write!(text, "\n![{}](performance.svg)\n", plot::TITLE);
    text
}

/// One line of what is to be reached.
struct Goal {
    what: String,
    bound: Bound,
    is: f64,
}

enum Bound {
    Most(f64),
    Least(f64),
}

fn goals(measured: &Measured) -> Vec<Goal> {
    use Variant::{Bare, JwtAuthn, JwtAuthnCache, JwtAuthnExtAuthz, Meshgate};
    let more = |scenario, variant| increment(measured, scenario, variant).median();
    let cost = |scenario, variant| -> &Cost { &measured.costs[&(scenario, 1, variant)] };
    let mut goals = Vec::new();
    let mut goal = |what: &str, bound, is| goals.push(Goal { what: what.to_owned(), bound, is });
    for (other, most) in [(JwtAuthn, 0.5), (JwtAuthnExtAuthz, 1.0 / 6.0), (JwtAuthnCache, 1.5)] {
        let is = more(Scenario::Warm, Meshgate) / more(Scenario::Warm, other);
        goal(&format!("warm: increment / that of {}", other.name()), Bound::Most(most), is);
    }
    for algorithm in [Algorithm::Rs256, Algorithm::Es256] {
        let scenario = Scenario::ColdToken(algorithm);
        let is = more(scenario, Meshgate) / more(scenario, JwtAuthn);
        let what = format!("{}: increment / that of jwt_authn", scenario.name());
        goal(&what, Bound::Most(1.3), is);
    }
    let [own, other] = [Meshgate, JwtAuthnExtAuthz].map(|v| cost(Scenario::ColdAll, v));
    let name = Scenario::ColdAll.name();
    let is = own.rate.median() / other.rate.median();
    goal(&format!("{name}: throughput / that of jwt_authn + ext_authz"), Bound::Least(1.0), is);
    let is = own.p99.median() / other.p99.median();
    goal(&format!("{name}: p99 / that of jwt_authn + ext_authz"), Bound::Most(1.0), is);
    for scenario in [Scenario::Missing, Scenario::Expired, Scenario::Forged] {
        let [own, other] = [Meshgate, JwtAuthn].map(|v| cost(scenario, v).processor.median());
        let what = format!("{}: processor time / that of jwt_authn", scenario.name());
        goal(&what, Bound::Most(1.0), own / other);
    }
    let gain = |variant| {
        let rate = |workers| measured.costs[&(Scenario::Warm, workers, variant)].rate.median();
        rate(2) / rate(1)
    };
    let is = gain(Meshgate) / gain(Bare);
    goal("two workers: gain of throughput / that of no filter", Bound::Least(1.0), is);
    let starts = |variant: Variant| measured.starts[&variant].median();
    goal("start / that of no filter", Bound::Most(1.5), starts(Meshgate) / starts(Bare));
    goal("module, MiB", Bound::Most(1.0), measured.module as f64 / MAX_MODULE as f64);
    goals
}

/// What a variant costs above none, round by round.
pub fn increment(measured: &Measured, scenario: Scenario, variant: Variant) -> Figures {
    let [own, bare] =
        [variant, Variant::Bare].map(|variant| &measured.costs[&(scenario, 1, variant)].processor);
    own.above(bare)
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        format!("{}{}", first.to_uppercase(), characters.as_str())
    })
}

/// Processors and memory.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (processors, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let values = |name: &str| -> Vec<String> {
        let named = processors.lines().filter(|line| line.starts_with(name));
        named.filter_map(|line| Some(line.split_once(':')?.1.trim().to_owned())).collect()
    };
    let models = values("model name");
    let model = models.first().map_or("an unknown processor", String::as_str);
    let kib = memory.split_whitespace().nth(1).and_then(|number| number.parse::<f64>().ok());
    let gib = kib.unwrap_or_default() / f64::from(1 << 20);
    format!("{} × {model}, {gib:.0} GiB", models.len().max(1))
}

/// Its version.
fn envoy() -> String {
    let binary = harness::envoy::find().expect("an Envoy");
    let output = Command::new(binary).arg("--version").output().expect("Envoy's version");
    let text = String::from_utf8_lossy(&output.stdout);
    // `envoy  version: <commit>/<version>/<status>/<build>/<tls>`
    let version =
        text.split("version:").nth(1).and_then(|version| version.trim().split('/').nth(1));
    format!("Envoy {}", version.expect("Envoy's version"))
}
