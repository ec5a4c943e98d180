//! The increments as bars.

use std::fmt::Write as _;

use crate::report::increment;
use crate::rounds::Measured;
use crate::scenarios::Scenario;
use crate::variants::Variant;

/// What it shows.
pub const TITLE: &str = "Envoy's processor time a request, above that of no filter";

const WIDTH: f64 = 760.0;
/// Where bars begin, right of their names.
const LEFT: f64 = 190.0;
/// Where the longest one ends, with room for its figure.
const RIGHT: f64 = 690.0;
const BAR: f64 = 16.0;
const STEP: f64 = 24.0;

/// The scenarios that forward requests. A refusal may cost less than nothing: no upstream is asked.
pub fn svg(measured: &Measured) -> String {
    let scenarios = Scenario::ALL.into_iter().filter(|scenario| {
        !matches!(scenario, Scenario::Missing | Scenario::Expired | Scenario::Forged)
    });
    let bars: Vec<(Scenario, Vec<Bar>)> =
        scenarios.map(|scenario| (scenario, bars(measured, scenario))).collect();
    let longest = bars.iter().flat_map(|(_, bars)| bars).map(|bar| bar.high).fold(1.0, f64::max);
    let scale = (RIGHT - LEFT) / longest;
    let mut body = String::new();
    let mut y = 34.0;
    for (scenario, bars) in bars {
        y += 26.0;
        let _ =
            writeln!(body, r#"<text class="group" x="12" y="{y:.0}">{}</text>"#, scenario.name());
        y += 10.0;
        for Bar { name, ours, low, median, high } in bars {
            let [from, to, end] = [low, high, median].map(|figure| LEFT + figure.max(0.0) * scale);
            let class = if ours { "ours" } else { "theirs" };
            let middle = y + BAR / 2.0;
            let _ = writeln!(
                body,
                r#"<text class="name" x="{:.0}" y="{:.0}">{name}</text>
<rect class="{class}" x="{LEFT}" y="{y:.0}" width="{:.1}" height="{BAR}"/>
<path class="spread" d="M{from:.1} {middle:.0}H{to:.1}"/>
<text class="figure" x="{:.1}" y="{:.0}">{median:.1} µs</text>"#,
                LEFT - 8.0,
                y + 12.0,
                end - LEFT,
                to.max(end) + 6.0,
                y + 12.0,
            );
            y += STEP;
        }
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {:.0}" role="img" aria-label="{TITLE}">
<style>
text {{ font: 12px sans-serif; fill: #24292f }}
.title {{ font-size: 15px; font-weight: bold }}
.group {{ font-weight: bold }}
.name {{ text-anchor: end }}
.ours {{ fill: #2f7d6d }}
.theirs {{ fill: #b9c0c7 }}
.spread {{ stroke: #24292f; stroke-width: 1.5 }}
</style>
<rect width="100%" height="100%" fill="#fff"/>
<text class="title" x="12" y="24">{TITLE}</text>
{body}<text x="12" y="{:.0}">Medians; the line is between which two half of the rounds lie.</text>
</svg>
"##,
        y + 40.0,
        y + 22.0,
    )
}

struct Bar {
    name: &'static str,
    ours: bool,
    low: f64,
    median: f64,
    high: f64,
}

fn bars(measured: &Measured, scenario: Scenario) -> Vec<Bar> {
    let others = scenario.variants().into_iter().filter(|variant| *variant != Variant::Bare);
    let bar = |variant: Variant| {
        let more = increment(measured, scenario, variant);
        let (low, high) = more.spread();
        let ours = variant.name().starts_with("meshgate");
        Bar { name: variant.name(), ours, low, median: more.median(), high }
    };
    others.map(bar).collect()
}
