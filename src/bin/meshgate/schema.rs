//! `meshgate schema`: the JSON Schema of the config, for editors, and the same as a page for people.

mod reference;

use std::process::ExitCode;

use clap::ValueEnum;

use super::say;

/// Print the JSON Schema (draft 2020-12) of the config, for editors
///
/// The same is in the repository as `envoy/meshgate.schema.json`, and as `docs/reference.md`.
#[derive(clap::Args)]
pub struct Args {
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// The schema itself
    Json,
    /// A page with a table of the fields of each part
    Markdown,
}

/// Prints it.
pub fn run(args: &Args) -> ExitCode {
    let schema = meshgate::config::schema();
    match args.format {
        Format::Json => say(&format!("{schema:#}\n")),
        Format::Markdown => say(&reference::page(&schema)),
    }
    ExitCode::SUCCESS
}
