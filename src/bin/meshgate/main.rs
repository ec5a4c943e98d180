//! The command `meshgate`: what can be known of a config and of a request without an Envoy, by the code that the
//! filter runs.

#![forbid(unsafe_code)]

mod check;
mod codes;
mod document;
mod explain;
mod keygen;
mod schema;
mod surroundings;
mod yaml;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The command's answer where its arguments or files make no sense.
const USAGE: u8 = 2;

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
    Explain(Box<explain::Arguments>),
    Schema(schema::Args),
    Codes(codes::Args),
    Keygen(keygen::Arguments),
}

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(Cli { command: Command::Check(args) }) => check::run(&args),
        Ok(Cli { command: Command::Schema(args) }) => schema::run(&args),
        Ok(Cli { command: Command::Explain(arguments) }) => explain::run(&arguments),
        Ok(Cli { command: Command::Codes(args) }) => codes::run(&args),
        Ok(Cli { command: Command::Keygen(arguments) }) => keygen::run(&arguments),
        Err(error) => {
            let text = error.render().to_string();
            if error.use_stderr() {
                say_error(text.trim_end());
                ExitCode::from(USAGE)
            } else {
                say(&text);
                ExitCode::SUCCESS
            }
        }
    }
}

/// Writes to stdout. Where nobody reads it any more, nobody misses it.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Writes a line to stderr. It may quote an argument, such as the name of a file that is not there, and that may
/// be a token that was pasted.
fn say_error(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", document::without_tokens(text));
}

/// Tells what cannot be done with these arguments.
fn usage(text: &str) -> ExitCode {
    say_error(&format!("error: {text}"));
    ExitCode::from(USAGE)
}
