//! When counting begins and ends, for all threads of an end, and what the process used in between.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// What a process has used so far.
#[derive(Clone, Copy, Default)]
pub struct Used {
    /// User and kernel time, in nanoseconds.
    pub cpu: u64,
    /// Voluntary and involuntary.
    pub switches: u64,
    /// Largest resident memory, in bytes.
    pub memory: u64,
}

impl Used {
    /// By all threads of this process.
    pub fn now() -> Self {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Self::default() };
        let time = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        let switches = usage.voluntary_context_switches() + usage.involuntary_context_switches();
        Self {
            cpu: u64::try_from(time).unwrap_or(0) * 1_000,
            switches: u64::try_from(switches).unwrap_or(0),
            memory: u64::try_from(usage.max_rss()).unwrap_or(0) * 1024,
        }
    }
}

/// The marks of one run.
pub struct Clock {
    made: Instant,
    counting: AtomicBool,
    stopped: AtomicBool,
    begun: OnceLock<(Duration, Used)>,
    /// When something last came, in nanoseconds after `made`.
    latest: AtomicU64,
}

impl Clock {
    pub fn new() -> Self {
        Self {
            made: Instant::now(),
            counting: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            begun: OnceLock::new(),
            latest: AtomicU64::new(0),
        }
    }

    /// From now on it counts.
    pub fn begin(&self) {
        self.begun.get_or_init(|| (self.made.elapsed(), Used::now()));
        self.counting.store(true, Ordering::Relaxed);
    }

    /// From now on nothing new is begun.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub fn is_counting(&self) -> bool {
        self.counting.load(Ordering::Relaxed)
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Something was done just now.
    pub fn done(&self) {
        let now = self.made.elapsed().as_nanos();
        self.latest.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long it counted, in seconds until the latest thing done, and what was used since.
    pub fn end(&self) -> (f64, Used) {
        let now = Used::now();
        let Some((begun, used)) = self.begun.get() else { return (0.0, now) };
        let latest = Duration::from_nanos(self.latest.load(Ordering::Relaxed));
        let lasted = latest.saturating_sub(*begun).as_secs_f64();
        (lasted, Used { cpu: now.cpu - used.cpu, switches: now.switches - used.switches, memory: now.memory })
    }
}
