//! `cargo bench --bench envoy -- --short` (two minutes) or `-- --long`: what a request costs in Envoy with
//! meshgate, beside what people run today, in one run on one machine. Prints the tables, and writes them
//! and the plot into `docs`.
//!
//! All variants are Envoys of the same build with `envoy/gateway.yaml`, started side by side, that differ in their
//! HTTP filters alone ([`variants`]). A round sends each of them the same requests over loopback, one variant
//! after the other ([`rounds`]); the order turns from round to round. What counts is the processor time that
//! Envoy's threads had meanwhile, so that neither the load generator's nor the services' own is in it.
//!
//! `cargo test` runs a few requests through everything, and writes nothing: no figure comes of that.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a measurement ends where something is not as it should be"
)]
#![allow(clippy::disallowed_methods, reason = "it measures real time")]
#![allow(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures of a few digits"
)]

mod figures;
mod plot;
mod report;
mod rounds;
mod scenarios;
mod services;
mod variants;

use std::process::ExitCode;

use rounds::Effort;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    // `cargo bench` adds `--bench`, and `cargo test` does not.
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let flags: Vec<_> = arguments.iter().filter(|a| *a != "--bench").map(String::as_str).collect();
    let effort = match flags[..] {
        [] if !is_bench => Effort::SMOKE,
        [] | ["--short"] => Effort::SHORT,
        ["--long"] => Effort::LONG,
        _ => {
            eprintln!("usage: cargo bench --bench envoy -- [--short | --long]");
            return ExitCode::from(2);
        }
    };
    let measured = rounds::run(&effort);
    let tables = report::tables(&measured);
    println!("{tables}");
    if is_bench {
        report::write(&tables, &plot::svg(&measured));
    }
    ExitCode::SUCCESS
}
