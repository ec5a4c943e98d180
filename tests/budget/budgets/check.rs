//! What was spent, held against what may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use allocation_counter::AllocationInfo;

use super::{AllocationBudget, Budget, SLACK_PERCENT};
use crate::host::Cost;

/// More was spent than may be, or not as is written.
pub struct Overrun(String);

/// All of them, and what to do.
pub fn told(overruns: &[Overrun]) -> String {
    let mut told = String::from("\n");
    for Overrun(line) in overruns {
        let _ = writeln!(told, "{line}");
    }
    told + "what is spent on each request is spent millions of times: take out what is not needed. If it is worth it, \
            or has become less, write the new figure into tests/budget/budgets.rs, and say why in the commit\n"
}

impl Budget {
    /// The names of the host calls that it makes.
    pub fn host_calls(&self) -> impl Iterator<Item = &'static str> {
        self.host_calls.iter().map(|(name, _)| *name)
    }

    /// # Errors
    /// What of the cost is not as this says.
    pub fn check(&self, cost: &Cost) -> Result<(), Overrun> {
        let mut faults = Vec::new();
        let budgeted: BTreeMap<&str, u32> = self.host_calls.iter().copied().collect();
        let counted: BTreeMap<&str, u32> =
            cost.host_calls.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        let names: BTreeSet<&str> = budgeted.keys().chain(counted.keys()).copied().collect();
        for name in names {
            let of = |calls: &BTreeMap<&str, u32>| calls.get(name).copied().unwrap_or(0);
            let (counted, budget) = (of(&counted), of(&budgeted));
            if counted != budget {
                faults.push(format!("{counted} host calls {name}, its budget is {budget}"));
            }
        }
        let (counted, budget) = (cost.handed_over, self.handed_over);
        if counted != budget {
            faults.push(format!("{counted} allocations for the host, its budget is {budget}"));
        }
        let (counted, budget, last) =
            (cost.instructions, self.most_instructions(), self.instructions);
        if counted > budget {
            faults.push(format!(
                "{counted} instructions, its budget is {budget} ({last} when last measured)"
            ));
        }
        if faults.is_empty() {
            return Ok(());
        }
        Err(Overrun(format!("{}: {}", self.event, faults.join("; "))))
    }

    /// A row of the table that is printed.
    pub fn row(&self, cost: &Cost) -> String {
        let Cost { handed_over, instructions, host_calls } = cost;
        let short = |name: &str| name.strip_prefix("proxy_").unwrap_or(name).to_owned();
        let by_name: Vec<String> =
            host_calls.iter().map(|(name, count)| format!("{count} {}", short(name))).collect();
        let (total, most) = (host_calls.values().sum::<u32>(), self.most_instructions());
        let (event, by_name) = (self.event, by_name.join(", "));
        format!("| {event} | {total} | {handed_over} | {instructions} | {most} | {by_name} |")
    }

    fn most_instructions(&self) -> u64 {
        self.instructions + self.instructions * SLACK_PERCENT / 100
    }
}

impl AllocationBudget {
    /// # Errors
    /// What of this was more than may be.
    pub fn check(&self, spent: &AllocationInfo) -> Result<(), Overrun> {
        let AllocationInfo { count_total: count, bytes_total: bytes, .. } = *spent;
        if count <= self.count && bytes <= self.bytes {
            return Ok(());
        }
        Err(Overrun(format!(
            "core, {}: {count} allocations of {bytes} bytes, its budget is {} of {}",
            self.event, self.count, self.bytes
        )))
    }

    /// A row of the table that is printed.
    pub fn row(&self, spent: &AllocationInfo) -> String {
        let AllocationInfo { count_total: count, bytes_total: bytes, .. } = *spent;
        format!("| {} | {count} | {} | {bytes} | {} |", self.event, self.count, self.bytes)
    }
}
