//! `meshgate check`: every problem of configs, with its place, before an Envoy finds them at its start.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use meshgate::config::{Config, Problem};
use serde_json::{Value, json};

use super::document::{self, Plugin, Site, Written};
use super::say_error;
use super::surroundings::{self, Remark};
use super::yaml::{self, Node, Place};

/// Check configs: each problem with its line, and warnings of what is seldom meant
///
/// A file is Envoy's YAML or JSON (all of it or a part with the filter), Istio's `WasmPlugin` among other
/// resources, the bare config, or Markdown with such blocks. Configs of other Wasm filters are left alone.
///
/// Secrets need not be there: where a variable of `${env:NAME}` is not set, a stand-in is taken for it.
///
/// Exit code: 0 without problems, 1 with some, 2 where a file cannot be read.
#[derive(clap::Args)]
pub struct Args {
    /// The files; `-` is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Let warnings count as problems
    #[arg(long)]
    deny_warnings: bool,
    /// Leave out the warnings at this path, such as `providers.clerk.algorithms`; may be given again
    #[arg(long, value_name = "PATH")]
    allow: Vec<String>,
    /// How to print what is found
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// `file:line:column: error: path: message`
    Text,
    /// One object, with `findings`
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
    Note,
}

impl Severity {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

struct Finding {
    file: String,
    at: Place,
    severity: Severity,
    what: Problem,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, at, severity, what } = self;
        write!(f, "{file}:{}:{}: {}: {what}", at.line, at.column, severity.name())
    }
}

/// Checks them and prints what was found.
pub fn run(args: &Args) -> ExitCode {
    let mut findings = Vec::new();
    let mut configs = 0;
    let mut all_read = true;
    for file in &args.files {
        match read(file) {
            Ok(text) => {
                let (count, mut found) = check_file(file, &text);
                configs += count;
                found.sort_by_key(|finding| finding.at);
                findings.append(&mut found);
            }
            Err(error) => {
                say_error(&format!("meshgate: {}: {error}", file.display()));
                all_read = false;
            }
        }
    }
    findings.retain(|finding| {
        finding.severity != Severity::Warning || !args.allow.contains(&finding.what.path)
    });
    let count = |severity| findings.iter().filter(|one| one.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let printed = match args.format {
        Format::Text => as_text(&findings, configs, errors, warnings),
        Format::Json => as_json(&findings, configs, errors, warnings),
    };
    // Who closes the pipe has read enough; the answer is in the exit code, too.
    let _ = io::stdout().write_all(printed.as_bytes());
    if !all_read {
        ExitCode::from(2)
    } else if errors > 0 || (args.deny_warnings && warnings > 0) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn read(file: &Path) -> io::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    fs::read_to_string(file)
}

fn as_text(findings: &[Finding], configs: usize, errors: usize, warnings: usize) -> String {
    let plural = |count: usize, word: &str| match count {
        1 => format!("1 {word}"),
        count => format!("{count} {word}s"),
    };
    let mut text = String::new();
    for finding in findings {
        // A `String` takes all that is written to it.
        let _ = writeln!(text, "{finding}");
    }
    let _ = writeln!(
        text,
        "{}: {}, {}",
        plural(configs, "config"),
        plural(errors, "error"),
        plural(warnings, "warning")
    );
    text
}

fn as_json(findings: &[Finding], configs: usize, errors: usize, warnings: usize) -> String {
    let findings: Vec<Value> = findings
        .iter()
        .map(|finding| {
            json!({
                "file": finding.file,
                "line": finding.at.line,
                "column": finding.at.column,
                "severity": finding.severity.name(),
                "path": finding.what.path,
                "message": finding.what.message,
            })
        })
        .collect();
    let whole = json!({
        "configs": configs, "errors": errors, "warnings": warnings, "findings": findings,
    });
    format!("{whole:#}\n")
}

/// How many configs a file has, and what is found in it.
fn check_file(file: &Path, text: &str) -> (usize, Vec<Finding>) {
    let markdown = file.extension().is_some_and(|extension| extension == "md");
    let name =
        if file == Path::new("-") { "<stdin>".to_owned() } else { file.display().to_string() };
    let documents = document::read(text, markdown);
    let mut findings = Vec::new();
    let mut add = |at, severity, path: String, message: String| {
        let what = Problem { path, message };
        findings.push(Finding { file: name.clone(), at, severity, what });
    };
    for fault in &documents.faults {
        add(fault.at, Severity::Error, String::new(), fault.message.clone());
    }
    let (mut ours, mut others) = (0, 0);
    for document in &documents.all {
        let found = document::find(document);
        ours += found.ours.len();
        others += found.others;
        for site in &found.ours {
            check_site(document, site, &mut add);
        }
    }
    if ours == 0 && documents.faults.is_empty() {
        let beside = match others {
            0 => String::new(),
            1 => ", one Wasm filter is another's".to_owned(),
            count => format!(", {count} Wasm filters are others'"),
        };
        add(
            Place::START,
            Severity::Error,
            String::new(),
            format!(
                "no config of meshgate is here{beside}: looked for a proxy-wasm `configuration` (Envoy) or `pluginConfig` (Istio) whose `name`, `root_id` or module has `meshgate` in it or which has a `mode`, and for a bare config, which begins with `mode: gateway`"
            ),
        );
    }
    (ours, findings)
}

/// Where things stand in a config.
enum Places<'a> {
    /// In the file's own tree.
    Tree(&'a Node),
    /// In a text whose lines are lines of the file, behind so many others and so many columns.
    Inner { tree: Node, lines: usize, columns: usize },
    /// Nobody knows but where the config begins.
    Whole,
}

impl Places<'_> {
    fn locate(&self, path: &str, whole: Place) -> Place {
        match self {
            Self::Tree(_) | Self::Inner { .. } if path.is_empty() => whole,
            Self::Tree(node) => node.locate(path),
            Self::Inner { tree, lines, columns } => {
                let Place { line, column } = tree.locate(path);
                Place { line: line + lines, column: column + columns }
            }
            Self::Whole => whole,
        }
    }
}

fn check_site(
    document: &Node,
    site: &Site<'_>,
    add: &mut dyn FnMut(Place, Severity, String, String),
) {
    let nowhere = String::new;
    let (config, places) = match &site.written {
        Written::Not(why) => {
            add(site.at, Severity::Error, nowhere(), (*why).to_owned());
            return;
        }
        Written::Tree(node) => {
            let mut faults = Vec::new();
            let value = node.to_json(&mut faults);
            for fault in faults {
                add(fault.at, Severity::Error, nowhere(), fault.message);
            }
            (value.to_string(), Places::Tree(node))
        }
        Written::Text { text, literal } => {
            let tree = yaml::parse(text).ok().and_then(|mut all| all.pop());
            let is_json = serde_json::from_str::<Value>(text).is_ok();
            let mut config = (*text).to_owned();
            if let Some(tree @ Node { kind: yaml::Kind::Map(_), .. }) = &tree
                && !is_json
            {
                add(
                    site.at,
                    Severity::Error,
                    nowhere(),
                    "the filter reads a text as JSON, for YAML write `\"@type\": type.googleapis.com/google.protobuf.Struct` and the config itself as `value`".to_owned(),
                );
                // And yet all that is wrong with it.
                config = tree.to_json(&mut Vec::new()).to_string();
            }
            let places = match tree {
                // A text below a `|` begins at its first line that is not empty.
                Some(tree) if *literal => {
                    let empty = text.chars().take_while(|c| *c == '\n').count();
                    let lines = site.at.line.saturating_sub(1 + empty);
                    Places::Inner { tree, lines, columns: site.at.column.saturating_sub(1) }
                }
                Some(_) | None => Places::Whole,
            };
            (config, places)
        }
    };

    let environment = Environment::of(site);
    let parsed = Config::parse(config.as_bytes(), &|name| environment.get(name, &site.written));
    let mut tell = |severity, what: &Problem| {
        let at = places.locate(&what.path, site.at);
        add(at, severity, what.path.clone(), what.message.clone());
    };
    match &parsed {
        Ok(config) => config.warnings.iter().for_each(|warning| tell(Severity::Warning, warning)),
        Err(error) => error.0.iter().for_each(|problem| tell(Severity::Error, problem)),
    }
    for Remark { at, path, message } in surroundings::remarks(document, site, parsed.as_ref().ok())
    {
        let at = at.unwrap_or_else(|| places.locate(&path, site.at));
        add(at, Severity::Warning, path, message);
    }
    if let Some(note) = environment.note(site.plugin) {
        add(site.at, Severity::Note, String::new(), note);
    }
}

/// What a config reads of the VM's environment.
struct Environment {
    /// What the VM is given, where the file shows that.
    given: Option<document::Given>,
    /// The names that were read, and whether they are set here.
    read: RefCell<BTreeMap<String, bool>>,
}

impl Environment {
    fn of(site: &Site<'_>) -> Self {
        Self { given: site.plugin.environment(), read: RefCell::default() }
    }

    fn get(&self, name: &str, config: &Written<'_>) -> Option<String> {
        let on_host = || {
            let set = std::env::var(name).ok().filter(|value| !value.is_empty());
            self.read.borrow_mut().insert(name.to_owned(), set.is_some());
            Some(set.unwrap_or_else(|| stand_in(config.is_for_es256(name)).to_owned()))
        };
        match &self.given {
            None => on_host(),
            Some(given) => match given.get(name)? {
                None => on_host(),
                Some(value) => Some(value.clone()),
            },
        }
    }

    /// What is to be said of it: what the VM must be given, and what could not be checked.
    fn note(&self, plugin: Plugin<'_>) -> Option<String> {
        let read = self.read.borrow();
        let list = |names: Vec<&str>| format!("`{}`", names.join("`, `"));
        let all: Vec<&str> = read.keys().map(String::as_str).collect();
        let unset: Vec<&str> =
            read.iter().filter(|(_, set)| !**set).map(|(name, _)| name.as_str()).collect();
        let wanted = match (&self.given, plugin) {
            _ if all.is_empty() => return None,
            (Some(_), _) if unset.is_empty() => return None,
            (Some(_), _) => None,
            (None, Plugin::Istio(_)) => Some("`vmConfig.env`"),
            (None, Plugin::Envoy(_)) => Some("`vm_config.environment_variables`"),
            (None, Plugin::Bare) => {
                Some("`vm_config.environment_variables` (Istio: `vmConfig.env`)")
            }
        };
        let mut note = Vec::new();
        if let Some(place) = wanted {
            note.push(format!("the VM must be given {}, by {place}", list(all)));
        }
        if !unset.is_empty() {
            note.push(format!("not set here, so that a stand-in was checked: {}", list(unset)));
        }
        Some(note.join("; "))
    }
}

/// A value that will do wherever a secret may stand: in a header, as a long key, and as a private key, here
/// those of RFC 8037 appendix A.1 and RFC 7515 appendix A.3, which are no secrets.
const fn stand_in(es256: bool) -> &'static str {
    if es256 {
        r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}"#
    } else {
        r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#
    }
}
