//! A circuit breaker: a dependency that is down is left alone for a while, then probed by one call.
//!
//! It counts only what says that the dependency as a whole is down: no connection, no answer in time,
//! 502, 503, 504. A user whose record cannot be made (a 500, say) opens it for nobody else.

use std::time::Duration;

use crate::time::UnixTime;

/// So many failures in a row open the circuit.
const THRESHOLD: u32 = 5;
/// How long it is open at first. It doubles with each probe that fails.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How long it is open at most: a service that is back is noticed within it.
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// The circuit of one dependency.
#[derive(Debug, Default)]
pub struct Circuit {
    /// Failures in a row.
    failures: u32,
    state: State,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    /// Calls are made.
    #[default]
    Closed,
    /// None is made until then; the first one after that is a probe.
    Open { until: UnixTime },
    /// The probe is under way; it is taken for lost then.
    Probing { until: UnixTime },
}

impl Circuit {
    /// Whether [`Self::admits`] would say yes.
    #[must_use]
    pub fn would_admit(&self, now: UnixTime) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until } | State::Probing { until } => until <= now,
        }
    }

    /// Whether the dependency is left alone, or but probed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed)
    }

    /// Whether a call may be made now. Where it is a probe, no other may until it has ended, or a
    /// pause has gone by.
    pub fn admits(&mut self, now: UnixTime) -> bool {
        let admitted = self.would_admit(now);
        if admitted && !matches!(self.state, State::Closed) {
            self.state = State::Probing { until: now.after(LAST_PAUSE) };
        }
        admitted
    }

    /// The dependency answered.
    pub fn answered(&mut self) {
        *self = Self::default();
    }

    /// The dependency is down. `jitter` from 0 to 1 spreads the workers' probes. Where that is known, only
    /// the probe says anything new: the calls that were under way when it opened do not.
    pub fn failed(&mut self, jitter: f64, now: UnixTime) {
        if matches!(self.state, State::Open { .. }) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let Some(probes) = self.failures.checked_sub(THRESHOLD) else {
            return;
        };
        let pause = FIRST_PAUSE
            .saturating_mul(1_u32.checked_shl(probes).unwrap_or(u32::MAX))
            .min(LAST_PAUSE);
        let pause = pause.mul_f64(jitter.clamp(0.0, 1.0).mul_add(0.5, 0.5));
        self.state = State::Open { until: now.after(pause) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> UnixTime {
        UnixTime::from_millis(millis)
    }

    fn opened() -> Circuit {
        let mut circuit = Circuit::default();
        for _ in 0..THRESHOLD {
            assert!(circuit.admits(at(0)));
            circuit.failed(1.0, at(0));
        }
        circuit
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_probes_by_one_call() {
        let mut circuit = opened();
        assert!(!circuit.admits(at(999)));
        assert!(circuit.admits(at(1_000)), "the probe");
        assert!(!circuit.admits(at(1_001)), "one at a time");
        circuit.failed(1.0, at(1_100));
        assert!(!circuit.admits(at(3_099)), "twice as long");
        assert!(circuit.admits(at(3_100)));
        circuit.answered();
        assert!(circuit.admits(at(3_101)) && circuit.admits(at(3_101)));
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed() {
        let mut circuit = Circuit::default();
        for _ in 0..100 {
            circuit.failed(1.0, at(0));
            circuit.failed(1.0, at(0));
            circuit.answered();
        }
        assert!(circuit.admits(at(0)));
    }

    #[test]
    fn the_pause_is_bounded_and_a_lost_probe_is_replaced() {
        let mut circuit = opened();
        let mut now = 0;
        for _ in 0..100 {
            now += 30_000;
            assert!(circuit.admits(at(now)));
            circuit.failed(1.0, at(now));
        }
        assert!(!circuit.admits(at(now + 29_999)));
        assert!(circuit.admits(at(now + 30_000)));
        assert!(!circuit.admits(at(now + 59_999)));
        assert!(circuit.admits(at(now + 60_000)));
    }

    #[test]
    fn calls_that_were_under_way_when_it_opened_lengthen_no_pause() {
        let mut circuit = Circuit::default();
        for _ in 0..100 {
            assert!(circuit.admits(at(0)));
        }
        for _ in 0..100 {
            circuit.failed(1.0, at(300));
        }
        assert!(!circuit.admits(at(1_299)));
        assert!(circuit.admits(at(1_300)), "the first pause is a second");
    }
}
