//! Makes a failing list of events shorter, by leaving out whatever it also fails without.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fastrand::Rng;

use crate::counts::Counts;
use crate::invariants::Violation;
use crate::scenario::Scenario;
use crate::schedule::{Event, Schedule};
use crate::world::World;

/// The world of a seed without Redis, and what happens in it.
pub fn drawn_without_redis(seed: u64) -> (Scenario, Schedule) {
    let mut rng = Rng::with_seed(seed);
    let scenario = Scenario::draw(seed, &mut rng);
    let schedule = Schedule::draw(&scenario, &mut rng);
    (scenario, schedule)
}

/// The world of a seed, and what happens in it: the same one, and in many worlds there is Redis.
pub fn drawn(seed: u64) -> (Scenario, Schedule) {
    let (scenario, schedule) = drawn_without_redis(seed);
    let mut rng = Rng::with_seed(!seed);
    let scenario = scenario.with_redis(&mut rng);
    let schedule = schedule.with_redis(&scenario, &mut rng);
    (scenario, schedule)
}

/// How a world ended.
pub struct Run {
    pub counts: Counts,
    pub violation: Option<Violation>,
    pub trace: Vec<String>,
}

/// Runs a world. A panic in the core is a violation, too: it would be a trap.
pub fn run(scenario: &Scenario, schedule: &Schedule, traced: bool) -> Run {
    let mut world = World::new(scenario.clone(), schedule.clone(), traced);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match ended {
        Ok(ended) => ended.err(),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(Violation { rule: "nothing traps", what: text.unwrap_or_default() })
        }
    };
    Run { counts: world.counts, violation, trace: world.trace.unwrap_or_default() }
}

/// The fewest events found with which the same rule is broken.
pub fn shrunk(scenario: &Scenario, schedule: &Schedule, rule: &'static str) -> Schedule {
    let with = |events: &[Event]| Schedule { events: events.to_vec(), ..schedule.clone() };
    let fails = |events: &[Event]| {
        run(scenario, &with(events), false).violation.is_some_and(|found| found.rule == rule)
    };
    with(&fewest(&schedule.events, &fails))
}

/// The items without which `fails` says no, each alone: delta debugging.
fn fewest<T: Clone>(items: &[T], fails: &dyn Fn(&[T]) -> bool) -> Vec<T> {
    let mut left = items.to_vec();
    let mut size = left.len().div_ceil(2).max(1);
    loop {
        let mut from = 0;
        let before = left.len();
        while from < left.len() {
            let mut fewer = left.clone();
            fewer.drain(from..(from + size).min(left.len()));
            if fails(&fewer) {
                left = fewer;
            } else {
                from += size;
            }
        }
        if size > 1 {
            size = size.div_ceil(2);
        } else if left.len() == before {
            return left;
        }
    }
}

#[test]
fn what_is_left_is_what_it_takes() {
    let items: Vec<u32> = (0..100).collect();
    let fails = |items: &[u32]| [7, 42, 43, 99].iter().all(|wanted| items.contains(wanted));
    assert_eq!(fewest(&items, &fails), [7, 42, 43, 99]);
}

#[test]
fn the_same_seed_is_the_same_world() {
    for seed in 0..20 {
        let (scenario, schedule) = drawn(seed);
        let runs = [(); 2].map(|()| run(&scenario, &schedule, true));
        assert_eq!(runs[0].trace, runs[1].trace, "seed {seed}");
        assert!(runs[0].trace.len() > 20, "seed {seed}");
    }
}
