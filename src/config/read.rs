//! Reading a config without stopping at the first problem.
//!
//! serde stops at the first thing of a wrong shape. So what it stopped at is reported, taken out of
//! the JSON, and the rest is read again, until all that is left has the right shape. The checks of
//! [`super`] then report through [`At`], which knows where they are and leaves out what is only the
//! echo of a problem already told.

use std::cell::RefCell;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::names::{self, BadName};
use super::{Config, ConfigError, Environment, Problem, encoding, raw, warnings};
use crate::json::shape::{self, Fault, Step};

/// Most problems reported in one go. A config with more has the wrong file in its place.
const MAX_PROBLEMS: usize = 50;

/// Whether `${env:NAME}` is understood at `path`.
fn is_secret(path: &str) -> bool {
    const HEADERS: [&str; 4] = [
        "user.lookup.headers.",
        "user.lookup.redis.headers.",
        "revocation.feed.headers.",
        "revocation.redis.headers.",
    ];
    path == "sharing.key"
        || path == "txn_token.issue.key"
        || HEADERS.iter().any(|headers| path.starts_with(headers))
        || (path.starts_with("providers.") && path.ends_with(".introspection.client_secret"))
        || (path.starts_with("service_tokens.")
            && (path.ends_with(".client_credentials.client_secret") || path.ends_with(".sign.key")))
}

/// Reads `text` and has its words checked by `check`.
pub fn config(
    text: &[u8],
    check: impl FnOnce(raw::Config, &At<'_>) -> Option<Config>,
) -> Result<Config, ConfigError> {
    let report = Report::default();
    let root = At { report: &report, path: String::new() };
    let checked = json_object(text, &root).and_then(|mut object| {
        whole_numbers(&mut object);
        refuse_stray_variables(&object, &root);
        warn_of_written_secrets(&object, &root);
        check(shape(object, &report), &root)
    });
    if let Some(config) = &checked {
        warnings::warn(config, &root);
    }
    let (problems, warnings) = (report.problems.into_inner(), report.warnings.into_inner());
    match checked {
        Some(config) if problems.is_empty() => Ok(Config { warnings, ..config }),
        Some(_) | None => Err(ConfigError(problems)),
    }
}

fn json_object(text: &[u8], at: &At<'_>) -> Option<Value> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return at.problem(
            "is empty, write at least `mode`, `providers` and `user` (in Envoy under `configuration`, in Istio under `pluginConfig`)",
        );
    }
    match encoding::decode(text) {
        Ok(value @ Value::Object(_)) => Some(value),
        Ok(_) => at.problem("is not a JSON object"),
        Err(error) => at.problem(format!("is neither JSON nor a protobuf Struct: {error}")),
    }
}

/// A protobuf `Struct`, as Istio's `pluginConfig` is one, knows only doubles: `10` arrives as `10.0`.
fn whole_numbers(value: &mut Value) {
    /// Up to 2^53 a double holds every integer.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64()
                && number.is_f64()
                && float.fract() == 0.0
                && float.abs() <= EXACT
                && let Ok(whole) = format!("{float:.0}").parse::<i64>()
            {
                *value = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Refuses `${env:NAME}` where it would be taken literally.
fn refuse_stray_variables(value: &Value, at: &At<'_>) {
    match value {
        Value::String(text) => {
            if text.contains("${env:") && !is_secret(&at.path) {
                let _: Option<()> = at.problem(
                    "`${env:...}` is read in secrets only (`sharing.key`, `txn_token.issue.key`, `client_secret`, `sign.key`, the values of `headers` of a call)",
                );
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                refuse_stray_variables(item, &at.index(index));
            }
        }
        Value::Object(map) => {
            for (name, item) in map {
                refuse_stray_variables(item, &at.field(name));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Warns of secrets that stand in the config themselves.
fn warn_of_written_secrets(value: &Value, at: &At<'_>) {
    match value {
        Value::String(text) => {
            // Of a call's headers, those whose names say so are secrets.
            let plain_header = at.path.rsplit_once(".headers.").is_some_and(|(_, name)| {
                let name = name.to_ascii_lowercase();
                !["authorization", "key", "token", "secret"].iter().any(|word| name.contains(word))
            });
            if is_secret(&at.path) && !plain_header && !text.contains("${env:") {
                at.warning(
                    "the secret stands in the config, where everybody reads it who may read that or Envoy's `/config_dump`, write `${env:NAME}`",
                );
            }
        }
        Value::Object(map) => {
            for (name, item) in map {
                warn_of_written_secrets(item, &at.field(name));
            }
        }
        // No secret stands in a list.
        Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Reads what has the right shape, and reports the rest.
fn shape(mut value: Value, report: &Report) -> raw::Config {
    for _ in 0..MAX_PROBLEMS {
        let mut misfit = match shape::read(value.clone()) {
            Ok(config) => return config,
            Err(misfit) => misfit,
        };
        let told = match misfit.fault {
            Fault::UnknownName { name, known } => {
                let meant = meant(&name, known);
                if let Some(meant) = meant {
                    let mut other = misfit.place.clone();
                    other.push(Step::Name(meant.to_owned()));
                    report.silence(&path_of(&other));
                }
                misfit.place.push(Step::Name(name));
                told_of_unknown(meant, known)
            }
            Fault::Other(message) => message,
        };
        report.add(path_of(&misfit.place), told);
        if !take_out(&mut value, &misfit.place) {
            break;
        }
    }
    raw::Config::default()
}

fn path_of(place: &[Step]) -> String {
    place.iter().fold(String::new(), |path, step| match step {
        Step::Name(name) if path.is_empty() => name.clone(),
        Step::Name(name) => format!("{path}.{name}"),
        Step::Index(index) => format!("{path}[{index}]"),
    })
}

/// Takes the value at `place` out; whether there was one.
fn take_out(value: &mut Value, place: &[Step]) -> bool {
    match (value, place) {
        (Value::Object(map), [Step::Name(last)]) => map.remove(last).is_some(),
        (Value::Array(items), [Step::Index(last)]) => match items.get_mut(*last) {
            // An item is replaced, not removed, so that the others keep their places: by the
            // emptiest text first and, where that has the wrong shape too, by an empty object.
            Some(item @ Value::Object(_)) if item.as_object().is_some_and(Map::is_empty) => false,
            Some(item) if *item == Value::String(String::new()) => {
                *item = Value::Object(Map::new());
                true
            }
            Some(item) => {
                *item = Value::String(String::new());
                true
            }
            None => false,
        },
        (Value::Object(map), [Step::Name(name), rest @ ..]) => {
            map.get_mut(name).is_some_and(|inner| take_out(inner, rest))
        }
        (Value::Array(items), [Step::Index(index), rest @ ..]) => {
            items.get_mut(*index).is_some_and(|inner| take_out(inner, rest))
        }
        (_, _) => false,
    }
}

/// Tells that an object has no such member, and which one may be meant or which there are.
fn told_of_unknown(meant: Option<&str>, known: &[&str]) -> String {
    match meant {
        Some(meant) => format!("unknown field, did you mean `{meant}`?"),
        None => format!("unknown field, there are `{}`", known.join("`, `")),
    }
}

/// Which of the names that there are `name` may stand for.
fn meant(name: &str, known: &[&'static str]) -> Option<&'static str> {
    known
        .iter()
        .map(|known| (strsim::jaro_winkler(name, known), *known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// What has been reported so far.
#[derive(Default)]
pub struct Report {
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    silent: RefCell<Vec<String>>,
}

impl Report {
    /// Reports a problem, unless one was reported at that place, around it, or for its sake.
    fn add(&self, path: String, message: String) {
        let covers = |told: &String| {
            path.strip_prefix(told.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        if self.silent.borrow().iter().any(covers) {
            return;
        }
        if !path.is_empty() {
            self.silence(&path);
        }
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_PROBLEMS {
            problems.push(Problem { path, message });
        }
    }

    /// Lets nothing be reported at `path` from now on.
    fn silence(&self, path: &str) {
        self.silent.borrow_mut().push(path.to_owned());
    }
}

/// A place in the config, at which problems are reported. Every check here answers `None` where it
/// reported one.
pub struct At<'a> {
    report: &'a Report,
    path: String,
}

impl<'a> At<'a> {
    /// The member `name` of this object.
    pub fn field(&self, name: &str) -> At<'a> {
        let path =
            if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        At { report: self.report, path }
    }

    /// The item `index` of this array.
    pub fn index(&self, index: usize) -> At<'a> {
        At { report: self.report, path: format!("{}[{index}]", self.path) }
    }

    /// Reports a problem here.
    pub fn problem<T>(&self, message: impl Into<String>) -> Option<T> {
        self.report.add(self.path.clone(), message.into());
        None
    }

    /// Tells something that is no problem.
    pub fn warning(&self, message: impl Into<String>) {
        let warning = Problem { path: self.path.clone(), message: message.into() };
        self.report.warnings.borrow_mut().push(warning);
    }

    /// A value that must be there.
    pub fn required<T>(&self, value: Option<T>) -> Option<T> {
        value.or_else(|| self.problem("is required"))
    }

    /// A text that must be there and not be empty.
    pub fn required_text(&self, value: Option<String>) -> Option<String> {
        match self.required(value)? {
            text if text.is_empty() => self.problem("is empty"),
            text => Some(text),
        }
    }

    /// A text that must be there and be a `T`.
    pub fn parsed<T: FromStr<Err = BadName>>(&self, value: Option<String>) -> Option<T> {
        self.required(value)?.parse().or_else(|error: BadName| self.problem(error.0).ok_or(())).ok()
    }

    /// A value of our own making, which parses by a test.
    pub fn default<T: FromStr<Err = BadName>>(&self, text: &str) -> Option<T> {
        self.parsed(Some(text.to_owned()))
    }

    /// Texts, at least one, none empty.
    pub fn texts(&self, values: Vec<String>) -> Option<Vec<String>> {
        if values.is_empty() {
            return self.problem("is empty, name at least one or remove it");
        }
        self.each(values, |text, at| at.required_text(Some(text)))
    }

    /// Texts, at least one, each a `T`.
    pub fn parsed_list<T: FromStr<Err = BadName>>(&self, values: &[String]) -> Option<Vec<T>> {
        if values.is_empty() {
            return self.problem("is empty, name at least one or remove it");
        }
        self.each(values.to_vec(), |text, at| at.parsed(Some(text)))
    }

    /// Every item of a list through `check`, to the end even where one fails.
    pub fn each<T, U>(
        &self,
        items: Vec<T>,
        check: impl Fn(T, &At<'a>) -> Option<U>,
    ) -> Option<Vec<U>> {
        let checked: Vec<Option<U>> = items
            .into_iter()
            .enumerate()
            .map(|(index, item)| check(item, &self.index(index)))
            .collect();
        checked.into_iter().collect()
    }

    /// A duration within bounds, written as the config writes them.
    pub fn duration(
        &self,
        text: Option<&str>,
        default: &str,
        least: &str,
        most: &str,
    ) -> Option<Duration> {
        let read = |text: &str| {
            names::duration(text).or_else(|error| self.problem(error.0).ok_or(())).ok()
        };
        let span = read(text.unwrap_or(default))?;
        if span < read(least)? || span > read(most)? {
            return self.problem(format!("must be from {least} to {most}"));
        }
        Some(span)
    }

    /// A number within bounds; the default where it is reported as out of them.
    pub fn number(&self, value: Option<usize>, default: usize, least: usize, most: usize) -> usize {
        match value {
            None => default,
            Some(value) if (least..=most).contains(&value) => value,
            Some(_) => self.problem(format!("must be from {least} to {most}")).unwrap_or(default),
        }
    }

    /// `text` with each `${env:NAME}` replaced by the variable's value.
    pub fn expanded(&self, text: &str, env: Environment<'_>) -> Option<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${env:") {
            let Some((name, after)) = after.split_once('}') else {
                return self.problem("`${env:` has no closing `}`");
            };
            let Some(value) = env(name) else {
                return self.problem(format!(
                    "the VM has no environment variable `{name}`, add it to `vm_config.environment_variables` (Istio: `vmConfig.env`)"
                ));
            };
            out.push_str(before);
            out.push_str(&value);
            rest = after;
        }
        out.push_str(rest);
        Some(out)
    }
}
