//! How often trouble that comes again and again is told.

use std::sync::{Mutex, PoisonError};

/// Trouble that stayed away for so long is told as new, milliseconds.
const QUIET_MS: u64 = 60_000;

/// Trouble of one kind: told at its 1st, 2nd, 4th, 8th … time, so that what goes on for hours takes some lines.
#[derive(Debug, Default)]
pub struct Repeated(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    count: u64,
    latest: u64,
}

impl Repeated {
    /// It has not happened yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Times { count: 0, latest: 0 }))
    }

    /// It happens at this time, milliseconds of a clock that only grows; how many times it has so far, when that is
    /// to be told.
    pub fn again(&self, now: u64) -> Option<u64> {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(times.latest) > QUIET_MS {
            times.count = 0;
        }
        times.latest = now;
        times.count += 1;
        Some(times.count).filter(|count| count.is_power_of_two())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_in_powers_of_two_and_anew_when_it_was_away() {
        let trouble = Repeated::new();
        let told = (0..1_000).filter_map(|ms| trouble.again(ms));
        assert_eq!(told.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
        assert_eq!(trouble.again(999 + QUIET_MS), None, "it goes on");
        assert_eq!(trouble.again(1_000 + 2 * QUIET_MS), Some(1), "it was away");
    }
}
