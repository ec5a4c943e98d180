//! `meshgate codes`: what each `code` of an answer means, and what to do about it.

use std::process::ExitCode;

use clap::ValueEnum;
use meshgate::denial::Code;

use super::explain::remedy;
use super::{say, usage};

/// Tell what a refusal's `code` means and what to do about it; all of them, without one
///
/// Why one request was refused, `meshgate explain` tells.
#[derive(clap::Args)]
pub struct Args {
    /// The codes, such as `token_expired`
    codes: Vec<String>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// A paragraph each
    Text,
    /// A table, which is in the repository in `docs/troubleshooting.md`
    Markdown,
}

/// Prints them.
pub fn run(args: &Args) -> ExitCode {
    let mut codes = Vec::new();
    for name in &args.codes {
        match Code::named(name) {
            Some(code) => codes.push(code),
            None => {
                return usage(&format!("there is no code `{name}`, `meshgate codes` lists them"));
            }
        }
    }
    if codes.is_empty() {
        codes.extend(Code::ALL);
    }
    match args.format {
        Format::Text => {
            for code in codes {
                let (name, status, what) = (code.name(), code.status(), code.explanation());
                say(&format!("{name} ({status}): {what}\n  {}\n", remedy::of(code)));
            }
        }
        Format::Markdown => {
            say("| code | status | what it says | what to do |\n|---|---|---|---|\n");
            for code in codes {
                let (name, status, what) = (code.name(), code.status(), code.explanation());
                say(&format!("| `{name}` | {status} | {what} | {} |\n", remedy::of(code)));
            }
        }
    }
    ExitCode::SUCCESS
}
