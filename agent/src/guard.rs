//! When programs whose habits are known are looked at again: observing costs every system call of the node a
//! little, so it goes on all the time only while there is something to learn.

use std::time::Duration;

/// From the beginning of one look to that of the next.
const EVERY: Duration = Duration::from_secs(15);
/// How long a look lasts.
const LASTS: Duration = Duration::from_secs(1);

/// Counts its owner's ticks.
#[derive(Debug)]
pub struct Guard {
    ticks: u32,
    every: u32,
    lasts: u32,
}

impl Guard {
    /// A guard whose owner ticks in this rhythm, more often than a look lasts.
    pub fn new(tick: Duration) -> Self {
        let ticks = |time: Duration| time.div_duration_f64(tick).round() as u32;
        let (every, lasts) = (ticks(EVERY).max(2), ticks(LASTS).max(1));
        Self { ticks: lasts, every, lasts }
    }

    /// Time has passed.
    pub fn tick(&mut self) {
        self.ticks = (self.ticks + 1) % self.every;
    }

    /// Whether it looks now.
    pub fn looks(&self) -> bool {
        self.ticks < self.lasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_for_a_second_in_fifteen() {
        for (tick, looks) in [(Duration::from_secs(1), 4), (Duration::from_millis(100), 40)] {
            let mut guard = Guard::new(tick);
            assert!(!guard.looks(), "who begins has looked while learning");
            let seen = (0..60_000 / tick.as_millis()).filter(|_| {
                guard.tick();
                guard.looks()
            });
            assert_eq!(seen.count(), looks);
        }
    }
}
