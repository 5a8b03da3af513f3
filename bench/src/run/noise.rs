//! Whether the machine was quiet: what others used of it, what its host took away, and whether the same
//! work always took the same time.

use std::time::{Duration, Instant};

use super::results::{Noise, Results};
use crate::lab::{Lab, usage};

/// Turns of the loop that is timed, some tens of microseconds.
const TURNS: u32 = 100_000;
/// How often it is timed before each case.
const TIMES: usize = 40;
/// Others' share of the machine above which it counts as noisy, in percent.
const FOREIGN_LIMIT: f64 = 3.0;
/// The host's share above which it counts as noisy, in percent.
const STOLEN_LIMIT: f64 = 1.0;
/// How much longer the 90th percentile of the loop may take than its fastest, in percent.
const SPREAD_LIMIT: f64 = 15.0;
/// One tick of `/proc/stat`.
const TICK: Duration = Duration::from_millis(10);

/// Watches the machine during a run.
pub struct Watch {
    cgroup: std::path::PathBuf,
    cores: f64,
    load: f64,
    loops: Vec<Duration>,
    begun: Look,
}

/// The machine at one moment.
pub struct Look {
    at: Instant,
    processors: usage::Processors,
    ours: u64,
}

impl Watch {
    /// Begins.
    pub fn begin(lab: &Lab) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
        let cgroup = lab.everything().to_owned();
        let begun = look(&cgroup);
        Self { cgroup, cores, load, loops: Vec::new(), begun }
    }

    /// Times a loop that does the same each time.
    pub fn calibrate(&mut self) {
        for _ in 0..TIMES {
            let begun = Instant::now();
            let mut value = 1_u64;
            for turn in 0..TURNS {
                value = std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005) + u64::from(turn));
            }
            std::hint::black_box(value);
            self.loops.push(begun.elapsed());
        }
    }

    /// The machine now.
    pub fn look(&self) -> Look {
        look(&self.cgroup)
    }

    /// What others used and the host took since, in percent of the whole machine.
    pub fn since(&self, begun: &Look) -> (f64, f64) {
        let now = self.look();
        let whole = begun.at.elapsed().as_secs_f64() * self.cores;
        let ticks = |ticks: u64| ticks as f64 * TICK.as_secs_f64();
        let busy = ticks(now.processors.busy - begun.processors.busy);
        let ours = (now.ours - begun.ours) as f64 / 1e9;
        let share = |time: f64| (100.0 * time / whole).clamp(0.0, 100.0);
        (share(busy - ours), share(ticks(now.processors.stolen - begun.processors.stolen)))
    }

    /// The verdict on all that was measured.
    pub fn noise(&self, results: &Results) -> Noise {
        let rounds = results.cases.iter().flat_map(|case| &case.alternatives).flat_map(|a| &a.rounds);
        let mut shares: Vec<f64> = rounds.map(|round| round.foreign).collect();
        shares.sort_by(f64::total_cmp);
        let (_, stolen) = self.since(&self.begun);
        let mut loops = self.loops.clone();
        loops.sort();
        let at = |share: usize| loops.get(loops.len() * share / 100).map_or(0.0, Duration::as_secs_f64);
        let spread = if loops.is_empty() { 0.0 } else { 100.0 * (at(90) / at(1) - 1.0) };
        let foreign = shares.get(shares.len() / 2).copied().unwrap_or(0.0);
        let mut reasons = Vec::new();
        if foreign > FOREIGN_LIMIT {
            reasons.push(format!("other programs used {foreign:.0} % of the machine"));
        }
        if stolen > STOLEN_LIMIT {
            reasons.push(format!("the host took {stolen:.1} % of the processors' time away"));
        }
        if spread > SPREAD_LIMIT {
            reasons.push(format!("the same loop took up to {spread:.0} % longer at times"));
        }
        Noise { load_at_start: self.load, foreign, stolen, spread, reasons }
    }
}

fn look(cgroup: &std::path::Path) -> Look {
    Look {
        at: Instant::now(),
        processors: usage::Processors::now(),
        ours: usage::cgroup_cpu(cgroup).unwrap_or(0),
    }
}
