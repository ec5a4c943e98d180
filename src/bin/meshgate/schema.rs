//! `meshgate schema`: the JSON Schema of the config, for editors.

use std::io::{self, Write};
use std::process::ExitCode;

/// Print the JSON Schema (draft 2020-12) of the config, for editors
///
/// The same is in the repository as `envoy/meshgate.schema.json`.
#[derive(clap::Args)]
pub struct Args {}

/// Prints it.
pub fn run(_: &Args) -> ExitCode {
    let text = format!("{:#}\n", meshgate::config::schema());
    // Who closes the pipe has read enough.
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(2),
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}
