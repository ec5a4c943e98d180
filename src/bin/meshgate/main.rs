//! The `meshgate` command: the filter's core on a developer's or an operator's machine.
#![forbid(unsafe_code)]

mod document;
mod explain;
mod keygen;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The command's answer where its arguments or files make no sense.
const USAGE: u8 = 2;

#[derive(Parser)]
#[command(version, about = "Explains what meshgate does with a request, and makes keys for it")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Explain(Box<explain::Arguments>),
    Keygen(keygen::Arguments),
}

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(Cli { command: Command::Explain(arguments) }) => explain::run(&arguments),
        Ok(Cli { command: Command::Keygen(arguments) }) => keygen::run(&arguments),
        Err(error) => {
            // It quotes what it does not understand, which may be a token that was pasted.
            let text = std::env::args()
                .filter(|argument| document::looks_like_token(argument))
                .fold(error.render().to_string(), |text, token| text.replace(&token, "(a token)"));
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

/// Writes a line to stderr.
fn say_error(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Tells what cannot be done with these arguments.
fn usage(text: &str) -> ExitCode {
    say_error(&format!("error: {text}"));
    ExitCode::from(USAGE)
}
