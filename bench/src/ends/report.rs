//! What an end says when it is done.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::clock::{Clock, Used};

/// Longest time that the histogram tells from longer ones, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;
/// Digits that it keeps.
const DIGITS: u8 = 3;

/// What one end did and used while it counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EndReport {
    /// For how long, in seconds.
    pub seconds: f64,
    /// Requests, in the time that counts.
    pub requests: u64,
    /// Bytes read, in the time that counts.
    pub bytes: u64,
    /// Requests and bytes of the warm-up too: what sidecars worked for.
    pub all_requests: u64,
    /// Bytes of the warm-up too.
    pub all_bytes: u64,
    /// CPU time of this process, kernel included, in nanoseconds.
    pub cpu: u64,
    /// Context switches of this process.
    pub switches: u64,
    /// Largest resident memory of this process, in bytes.
    pub memory: u64,
    /// Latencies in nanoseconds: p50, p99, p99.9 and the longest; absent where there are no requests.
    pub latency: Option<Latency>,
}

/// Latencies, in nanoseconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Half took no longer.
    pub p50: u64,
    /// 99 % took no longer.
    pub p99: u64,
    /// 99.9 % took no longer.
    pub p999: u64,
    /// None took longer.
    pub longest: u64,
}

/// What is counted by one thread.
pub struct Counts {
    pub requests: u64,
    pub bytes: u64,
    pub all_requests: u64,
    pub all_bytes: u64,
    pub latencies: Histogram<u64>,
}

impl Counts {
    pub fn new() -> Self {
        // The bounds are valid by themselves.
        let latencies = Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("valid bounds");
        Self { requests: 0, bytes: 0, all_requests: 0, all_bytes: 0, latencies }
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.all_requests += other.all_requests;
        self.all_bytes += other.all_bytes;
        // Made with the same bounds.
        let _ = self.latencies.add(&other.latencies);
    }

    /// The report of the process.
    pub fn report(&self, clock: &Clock) -> EndReport {
        let (seconds, Used { cpu, switches, memory }) = clock.end();
        let at = |quantile| self.latencies.value_at_quantile(quantile);
        let latency = (!self.latencies.is_empty()).then(|| Latency {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            longest: self.latencies.max(),
        });
        EndReport {
            seconds,
            requests: self.requests,
            bytes: self.bytes,
            all_requests: self.all_requests,
            all_bytes: self.all_bytes,
            cpu,
            switches,
            memory,
            latency,
        }
    }
}
