//! Sessions at one Manager: what each costs, however many live.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::fleet::Fleet;
use super::manager::Manager;
use super::{ESTABLISHED, EVENTS, IDLE_CPU, MANAGER_CPU, MANAGER_MEMORY, MEMORY_EACH, graph};
use crate::case::{Bench, Case, Measured, Pace};
use crate::sample::metrics::{P50, P99};

/// Sessions opened for each measurement: one at a time, and as fast as can be.
const ONE_BY_ONE: u64 = 2_000;
const AT_ONCE: u64 = 20_000;
/// Requests under way while they are opened as fast as can be.
const UNDER_WAY: usize = 2_000;
/// How long the idle Manager is looked at.
const IDLE: Duration = Duration::from_secs(2);

/// More and more live sessions at one Manager.
pub struct Sessions {
    sizes: Vec<u64>,
    agents: usize,
    instances: usize,
    running: Option<Running>,
}

struct Running {
    manager: Manager,
    fleet: Fleet,
    /// Resident memory before the first session, bytes.
    empty: u64,
    live: u64,
}

impl Sessions {
    /// In all: 1,000 agents with 100,000 instances and up to 1,000,000 sessions.
    pub fn new(pace: &Pace) -> Self {
        match pace.full {
            true => Self {
                sizes: vec![1_000, 10_000, 100_000, 1_000_000],
                agents: 1_000,
                instances: 100_000,
                running: None,
            },
            false => Self { sizes: vec![1_000, 10_000], agents: 20, instances: 2_000, running: None },
        }
    }
}

fn name(size: u64) -> String {
    format!("{size} live sessions")
}

impl Case for Sessions {
    fn name(&self) -> String {
        "control/manager/sessions".into()
    }

    fn about(&self) -> String {
        format!(
            "session_request to session_response, and establishment, at one Manager with {} agents and {} instances",
            self.agents, self.instances
        )
    }

    fn alternatives(&self) -> Vec<String> {
        self.sizes.iter().map(|size| name(*size)).collect()
    }

    fn estimate(&self, pace: &Pace) -> Duration {
        Duration::from_secs(if pace.full { 60 } else { 5 })
    }

    fn rounds(&self, _pace: &Pace) -> usize {
        // Live sessions only become more.
        1
    }

    fn prepare(&mut self, bench: &Bench<'_>) -> Result<()> {
        let load = graph::load(self.instances);
        let manager = Manager::start(bench.binaries, bench.lab.folder())?;
        let fleet = Fleet::connect(manager.agents, self.agents, &load.services)?;
        manager.wait_for("nodes", self.agents as u64)?;
        manager.apply(&load.text)?;
        manager.wait_for("instances", load.instances)?;
        let empty = manager.memory();
        self.running = Some(Running { manager, fleet, empty, live: 0 });
        Ok(())
    }

    fn measure(&mut self, alternative: &str, _bench: &Bench<'_>) -> Result<Measured> {
        let size = self.sizes.iter().find(|size| name(**size) == alternative).context("no such size")?;
        let agents = self.agents;
        let running = self.running.as_mut().context("not prepared")?;
        let window = UNDER_WAY.div_ceil(agents);
        if running.live < *size {
            running.fleet.open(size - running.live, agents, window)?;
            running.live = *size;
        }
        running.manager.wait_for("sessions", running.live)?;
        let memory = running.manager.memory();
        let before = running.manager.cpu();
        std::thread::sleep(IDLE);
        let idle = running.manager.cpu() - before;
        let one_by_one = running.fleet.open(ONE_BY_ONE, 1, 1)?;
        let before = running.manager.cpu();
        let at_once = running.fleet.open(AT_ONCE, agents, window)?;
        running.live += ONE_BY_ONE + AT_ONCE;
        running.manager.wait_for("sessions", running.live)?;
        let cpu = (running.manager.cpu() - before) as f64 / AT_ONCE as f64;
        let rate = AT_ONCE as f64 / at_once.took.as_secs_f64();
        let samples = vec![
            P50.sample(one_by_one.latencies.value_at_quantile(0.5) as f64),
            P99.sample(one_by_one.latencies.value_at_quantile(0.99) as f64),
            ESTABLISHED.sample(rate),
            // Each is told when it opens.
            EVENTS.sample(rate),
            MANAGER_CPU.sample(cpu),
            MANAGER_MEMORY.sample(memory as f64),
            MEMORY_EACH.sample(memory.saturating_sub(running.empty) as f64 / (*size).max(1) as f64),
            IDLE_CPU.sample(idle as f64 / IDLE.as_nanos() as f64 * 100.0),
        ];
        Ok(Measured { samples, commands: vec![running.manager.line()] })
    }

    fn finish(&mut self, _bench: &Bench<'_>) {
        self.running = None;
    }
}
