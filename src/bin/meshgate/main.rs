//! The command `meshgate`: what can be known of a config without an Envoy, by the code that the filter runs.

#![forbid(unsafe_code)]

mod check;
mod document;
mod schema;
mod surroundings;
mod yaml;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Turns a JWT into user context that a mesh can trust: the command beside the filter.
#[derive(Parser)]
#[command(name = "meshgate", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(check::Args),
    Schema(schema::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(args) => check::run(&args),
        Command::Schema(args) => schema::run(&args),
    }
}
