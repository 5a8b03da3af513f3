//! The budget of restarts: bounded in a window, then with growing pauses.

use std::collections::VecDeque;

use crate::graph::policy::Restarts;
use crate::time::Millis;

/// First pause after a failed start, milliseconds; it doubles.
const FIRST_PAUSE: Millis = 1_000;
/// Longest pause within the budget, milliseconds.
const LONGEST_PAUSE: Millis = 30_000;
/// Longest pause of a service that is failing, milliseconds.
const LONGEST_FAILING_PAUSE: Millis = 300_000;
/// Most ends that are remembered of one service.
const REMEMBERED: usize = 100;

/// The unplanned ends of a service's instances, failed starts among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    /// When, oldest first.
    ends: VecDeque<Millis>,
    /// No start before this time.
    pub not_before: Millis,
    /// The latest reason; empty once an instance runs again.
    pub problem: String,
    /// The budget is used up, and that was published.
    pub is_failing: bool,
}

impl Failures {
    /// Counts an unplanned end and plans the next start. True when that used the budget up.
    ///
    /// `ran` is how long the instance had run, `None` for a failed start. One that had run is replaced at
    /// once, the first time; a start that failed would fail again at once. A failing service stays so
    /// until an instance has run for the whole window.
    pub fn count(&mut self, now: Millis, ran: Option<Millis>, reason: &str, budget: Restarts) -> bool {
        if ran.is_some_and(|ran| ran >= budget.within) {
            *self = Self { not_before: self.not_before, ..Self::default() };
        }
        if !self.is_failing {
            self.ends.retain(|at| now.saturating_sub(*at) < budget.within);
        }
        if self.ends.len() >= REMEMBERED {
            self.ends.pop_front();
        }
        self.ends.push_back(now);
        self.problem = reason.to_owned();
        let count = self.ends.len() as u32;
        let exceeds = count > budget.tries;
        let doublings = count.saturating_sub(1 + u32::from(ran.is_some())).min(16);
        let longest = if exceeds { LONGEST_FAILING_PAUSE } else { LONGEST_PAUSE };
        let pause = if ran.is_some() && count == 1 { 0 } else { (FIRST_PAUSE << doublings).min(longest) };
        self.not_before = self.not_before.max(now + pause);
        let newly = exceeds && !self.is_failing;
        self.is_failing = exceeds;
        newly
    }

    /// An instance said that it ends: its process and its ports may still be there for a moment.
    pub fn wait_for_exit(&mut self, now: Millis) {
        self.not_before = self.not_before.max(now + FIRST_PAUSE);
    }

    /// What stood in the way may be gone: the next start need not wait any more.
    pub fn retry(&mut self, now: Millis) {
        self.not_before = self.not_before.min(now);
    }

    /// An instance runs.
    pub fn recovered(&mut self) {
        self.problem.clear();
    }

    /// Unplanned ends that count now.
    pub fn recent(&self) -> u32 {
        self.ends.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Restarts = Restarts { tries: 3, within: 60_000 };

    #[test]
    fn pauses_grow_and_the_budget_is_told_once() {
        let mut failures = Failures::default();
        let mut now = 0;
        let mut seen = Vec::new();
        for _ in 0..6 {
            let told = failures.count(now, None, "bad", BUDGET);
            seen.push((failures.not_before - now, told));
            now = failures.not_before;
        }
        assert_eq!(
            seen,
            [(1_000, false), (2_000, false), (4_000, false), (8_000, true), (16_000, false), (32_000, false)]
        );
        failures.count(now + 60_000, Some(30_000), "bad", BUDGET);
        assert!(failures.is_failing, "it ran too shortly");
    }

    #[test]
    fn an_instance_that_had_run_is_replaced_at_once_then_with_pauses() {
        let mut failures = Failures::default();
        let pauses: Vec<Millis> = (0..4)
            .map(|_| {
                failures.count(0, Some(50), "signal 9", BUDGET);
                failures.not_before
            })
            .collect();
        assert_eq!(pauses, [0, 1_000, 2_000, 4_000]);
        assert!(failures.is_failing);
        failures.count(70_000, Some(60_000), "signal 9", BUDGET);
        assert_eq!((failures.not_before, failures.is_failing, failures.recent()), (70_000, false, 1));
    }

    #[test]
    fn a_service_that_fails_for_long_is_tried_every_five_minutes() {
        let mut failures = Failures::default();
        let budget = Restarts { tries: 3, within: 3_600_000 };
        for _ in 0..200 {
            failures.count(0, None, "bad", budget);
        }
        assert_eq!(failures.not_before, 300_000);
    }
}
