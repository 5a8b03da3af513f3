use std::time::Duration;

/// Pauses between tries to connect: each twice as long as the one before, up to a longest one, less a random part of up
/// to a half, so that those who lost one peer together do not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from the first to the longest one.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.longest);
        pause
    }

    /// A connection stood: the next pause is a first one again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_begin_again() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_millis(350));
        let mut backoff = Backoff::new(first, longest);
        for wanted in [100, 200, 350, 350].map(Duration::from_millis) {
            let pause = backoff.pause();
            assert!(wanted / 2 <= pause && pause <= wanted, "{pause:?} of {wanted:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= first);
    }
}
