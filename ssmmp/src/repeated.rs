//! How often trouble that comes again and again is told.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Trouble that stayed away for so long is told as new.
const QUIET: Duration = Duration::from_secs(60);

/// Trouble of one kind: told at its 1st, 2nd, 4th, 8th … time, so that what goes on for hours takes some lines.
#[derive(Debug, Default)]
pub struct Repeated(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    count: u64,
    latest: Option<Instant>,
}

impl Repeated {
    /// It has not happened yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Times { count: 0, latest: None }))
    }

    /// It happens at this moment; how many times it has so far, when that is to be told.
    pub fn again(&self, now: Instant) -> Option<u64> {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if times.latest.is_some_and(|latest| now.saturating_duration_since(latest) > QUIET) {
            times.count = 0;
        }
        times.latest = Some(now);
        times.count += 1;
        Some(times.count).filter(|count| count.is_power_of_two())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_in_powers_of_two_and_anew_when_it_was_away() {
        let (trouble, begun) = (Repeated::new(), Instant::now());
        let told = (0..1_000u64).filter_map(|ms| trouble.again(begun + Duration::from_millis(ms)));
        assert_eq!(told.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
        assert_eq!(trouble.again(begun + Duration::from_secs(1) + QUIET), None, "it goes on");
        assert_eq!(trouble.again(begun + Duration::from_secs(2) + 2 * QUIET), Some(1), "it was away");
    }
}
