//! Waiting without sleeping: for how long it pays.
//!
//! As `haltpoll` does for processors: a wait that was answered soon makes the next one look that long, a wait that
//! was not makes the next ones sleep at once. Nobody spins on one processor, under a CPU limit that leaves one, or while
//! more threads want to run than there are processors.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The longest wait without sleeping unless set otherwise: about what waking a sleeper costs.
pub const DEFAULT_SPIN: Duration = Duration::from_micros(20);
/// The longest that can be set.
pub const MAX_SPIN: Duration = Duration::from_micros(200);
/// The shortest window that is tried.
const MIN_WINDOW: Duration = Duration::from_micros(2);
/// Waits that sleep at once after many in a row were not answered in time.
const MAX_SKIPPED: u32 = 255;

/// How one end waits.
#[derive(Debug)]
pub(crate) struct Spin {
    most: Duration,
    window: Duration,
    /// Waits that sleep at once before spinning is tried again, and how many it will be after the next failure.
    skip: u32,
    skip_next: u32,
    /// Since when it spins.
    since: Option<Instant>,
}

impl Spin {
    /// One that waits at most so long without sleeping; never, if that is zero.
    pub(crate) fn new(most: Duration) -> Self {
        Self { most: most.min(MAX_SPIN), window: most.min(MAX_SPIN), skip: 0, skip_next: 0, since: None }
    }

    /// Whether to look again rather than to sleep. Ends with [`Self::answered`], or by saying no.
    pub(crate) fn again(&mut self) -> bool {
        self.again_at(Instant::now(), is_allowed)
    }

    fn again_at(&mut self, now: Instant, allowed: impl FnOnce() -> bool) -> bool {
        match self.since {
            Some(since) if now.duration_since(since) < self.window => true,
            Some(_) => {
                self.since = None;
                self.skip_next = (2 * self.skip_next + 1).min(MAX_SKIPPED);
                self.skip = self.skip_next;
                self.window = self.most;
                false
            }
            None if self.most.is_zero() => false,
            None if self.skip > 0 => {
                self.skip -= 1;
                false
            }
            None => {
                self.since = allowed().then_some(now);
                self.since.is_some()
            }
        }
    }

    /// What it waited for has come.
    pub(crate) fn answered(&mut self) {
        if self.since.is_some() {
            self.answered_at(Instant::now());
        }
    }

    fn answered_at(&mut self, now: Instant) {
        let Some(since) = self.since.take() else { return };
        let took = now.duration_since(since);
        self.skip_next = 0;
        // Long enough for answers that take four times as long; shorter again only slowly.
        self.window =
            (4 * took).max(self.window - self.window / 8).clamp(MIN_WINDOW.min(self.most), self.most);
    }
}

/// Whether there is a processor to keep busy.
fn is_allowed() -> bool {
    processors() > 1 && !is_busy()
}

/// Processors that this process may use: by affinity, and by the limits of its cgroups.
fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Whether more threads want to run than the machine has processors; looked at every few milliseconds.
fn is_busy() -> bool {
    const EVERY: Duration = Duration::from_millis(5);
    /// So many looks in a row must find it calm.
    const CALM: u32 = 4;
    static START: OnceLock<Instant> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static BUSY_FOR: AtomicU32 = AtomicU32::new(0);
    let now = START.get_or_init(Instant::now).elapsed().as_micros() as u64;
    let next = NEXT.load(Ordering::Relaxed);
    let after = now + EVERY.as_micros() as u64;
    let ours =
        now >= next && NEXT.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    if ours {
        let online = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
        let busy = match (running(), online) {
            (Some(running), Some(online)) => running > online as u64,
            // Unknown is busy.
            _ => true,
        };
        let before = BUSY_FOR.load(Ordering::Relaxed);
        BUSY_FOR.store(if busy { CALM } else { before.saturating_sub(1) }, Ordering::Relaxed);
    }
    BUSY_FOR.load(Ordering::Relaxed) > 0
}

/// Threads of the whole machine that run or want to.
fn running() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').nth(3)?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(20);

    /// Waits once; the answer comes after so long. Returns for how long it spun.
    fn wait(spin: &mut Spin, now: Instant, answer: Duration) -> Duration {
        let step = Duration::from_nanos(100);
        let mut spun = Duration::ZERO;
        while spin.again_at(now + spun, || true) {
            spun += step;
            if spun >= answer {
                spin.answered_at(now + spun);
                return spun;
            }
        }
        spun
    }

    #[test]
    fn soon_answers_are_waited_for_and_late_ones_are_not() {
        let (now, mut spin) = (Instant::now(), Spin::new(MOST));
        let (soon, late) = (Duration::from_micros(1), Duration::from_millis(1));
        for _ in 0..1000 {
            assert_eq!(wait(&mut spin, now, soon), soon);
        }
        assert!(spin.window <= 4 * soon, "it learned how long is long enough");
        let spun: Duration = (0..10_000).map(|_| wait(&mut spin, now, late)).sum();
        assert!(spun < MOST * 60, "{spun:?} of 10,000 waits that could not succeed");
        let mut waits = 0;
        while wait(&mut spin, now, soon) < soon {
            waits += 1;
        }
        assert!(waits <= MAX_SKIPPED, "it tries again after {waits} waits");
    }

    #[test]
    fn no_spinning_is_none() {
        assert_eq!(wait(&mut Spin::new(Duration::ZERO), Instant::now(), MOST), Duration::ZERO);
        let mut refused = Spin::new(MOST);
        assert!(!refused.again_at(Instant::now(), || false), "there is no processor to spare");
    }

    #[test]
    fn the_machine_says_how_many_threads_want_to_run() {
        assert!(running().expect("/proc/loadavg") >= 1, "this one at least");
    }
}
