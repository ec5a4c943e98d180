//! What happened, in numbers: a simulation in which nothing happens proves nothing.

use std::collections::BTreeMap;
use std::fmt;

/// How often what happened, by its kind.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts(BTreeMap<(&'static str, &'static str), usize>);

impl Counts {
    pub fn add(&mut self, kind: &'static str, what: &'static str) {
        self.add_many(kind, what, 1);
    }

    pub fn add_many(&mut self, kind: &'static str, what: &'static str, times: usize) {
        *self.0.entry((kind, what)).or_default() += times;
    }

    pub fn of(&self, kind: &'static str, what: &'static str) -> usize {
        self.0.get(&(kind, what)).copied().unwrap_or(0)
    }

    pub fn join(&mut self, other: &Self) {
        for ((kind, what), times) in &other.0 {
            self.add_many(kind, what, *times);
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = "";
        for ((kind, what), times) in &self.0 {
            if *kind != last {
                writeln!(f, "{kind}:")?;
                last = kind;
            }
            writeln!(f, "{times:>10}  {what}")?;
        }
        Ok(())
    }
}
