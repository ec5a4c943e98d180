//! The `meshgate` command, as it is run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test fails by panicking"
)]

#[path = "../flow/support.rs"]
#[allow(dead_code, reason = "the flow tests use all of it")]
mod support;

mod explain;
mod keygen;

use std::process::{Command, Output};

/// The command, with nothing of this process's environment that it would look at.
fn meshgate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshgate"));
    command.env_remove("MESHGATE_TOKEN");
    command
}

/// All that a run wrote.
fn written(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}
