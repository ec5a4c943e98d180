//! What there is to tell an operator, as lines that the shell hands to Envoy's log.
//!
//! A refused request is a client's affair and logs at debug. A dependency at fault logs at warn, at
//! most once in `QUIET` for each, with a count of what was left out.

use std::collections::HashMap;
use std::time::Duration;

use crate::time::UnixTime;

/// How long a warning about one dependency keeps others like it away.
const QUIET: Duration = Duration::from_secs(10);

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// To find out about one request.
    Debug,
    /// To know what happened.
    Info,
    /// To be mended.
    Warn,
}

/// Lines not yet handed over.
#[derive(Debug, Default)]
pub struct Log {
    lines: Vec<(Level, String)>,
    warned: HashMap<String, Warned>,
}

#[derive(Debug)]
struct Warned {
    at: UnixTime,
    left_out: u32,
}

impl Log {
    /// Adds a line.
    pub fn add(&mut self, level: Level, line: String) {
        self.lines.push((level, line));
    }

    /// Adds a warning about `dependency`, unless there was one a moment ago. Dependencies are named
    /// by the config, so there are few.
    pub fn warn(&mut self, dependency: &str, line: &str, now: UnixTime) {
        let left_out = match self.warned.get_mut(dependency) {
            // One from the future is of a clock that was set back since.
            Some(warned) if warned.at <= now && now < warned.at.after(QUIET) => {
                warned.left_out = warned.left_out.saturating_add(1);
                return;
            }
            Some(warned) => warned.left_out,
            None => 0,
        };
        self.warned.insert(dependency.to_owned(), Warned { at: now, left_out: 0 });
        let more = match left_out {
            0 => String::new(),
            count => format!(" (and {count} times since the last warning)"),
        };
        self.lines.push((Level::Warn, format!("{dependency}: {line}{more}")));
    }

    /// Takes the lines.
    pub fn take(&mut self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_about_one_dependency_are_rare_and_counted() {
        let mut log = Log::default();
        let at = UnixTime::from_secs;
        for secs in [0, 1, 9, 10, 11] {
            log.warn("users", "down", at(secs));
        }
        log.warn("clerk", "down", at(1));
        let lines: Vec<String> = log.take().into_iter().map(|(_, line)| line).collect();
        assert_eq!(
            lines,
            ["users: down", "users: down (and 2 times since the last warning)", "clerk: down"]
        );
        assert!(log.take().is_empty());
        log.warn("users", "down", at(5));
        assert_eq!(log.take().len(), 1, "a clock that was set back silences nothing");
    }
}
