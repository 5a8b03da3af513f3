//! Recovery: a Manager is killed with live sessions and starts again from its database.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::fleet::Fleet;
use super::manager::Manager;
use super::{MANAGER_MEMORY, graph};
use crate::case::{Bench, Case, Measured, Pace};
use crate::sample::{Metric, Unit};

/// From the start of the program to its first answer.
const RECOVERY: Metric = Metric::less("recovery", Unit::Nanoseconds);
/// Requests under way while sessions are opened.
const UNDER_WAY: usize = 2_000;

/// More and more to be read back.
pub struct Recovery {
    /// Agents, instances, sessions.
    sizes: Vec<(usize, usize, u64)>,
}

impl Recovery {
    /// In all: up to 100,000 instances and 1,000,000 sessions.
    pub fn new(pace: &Pace) -> Self {
        let sizes = match pace.full {
            true => vec![(20, 2_000, 10_000), (100, 10_000, 100_000), (1_000, 100_000, 1_000_000)],
            false => vec![(20, 2_000, 1_000), (20, 2_000, 10_000)],
        };
        Self { sizes }
    }
}

fn name(sessions: u64, instances: usize) -> String {
    format!("{sessions} sessions of {instances} instances")
}

impl Case for Recovery {
    fn name(&self) -> String {
        "control/manager/recovery".into()
    }

    fn about(&self) -> String {
        "a Manager is killed and started again; all sessions are known at its first answer".into()
    }

    fn alternatives(&self) -> Vec<String> {
        self.sizes.iter().map(|(_, instances, sessions)| name(*sessions, *instances)).collect()
    }

    fn estimate(&self, pace: &Pace) -> Duration {
        Duration::from_secs(if pace.full { 90 } else { 2 })
    }

    fn rounds(&self, pace: &Pace) -> usize {
        // Filling takes most of the time.
        if pace.full { 1 } else { pace.rounds }
    }

    fn measure(&mut self, alternative: &str, bench: &Bench<'_>) -> Result<Measured> {
        let found =
            self.sizes.iter().find(|(_, instances, sessions)| name(*sessions, *instances) == alternative);
        let (agents, instances, sessions) = *found.context("no such size")?;
        let load = graph::load(instances);
        let mut manager = Manager::start(bench.binaries, bench.lab.folder())?;
        let fleet = Fleet::connect(manager.agents, agents, &load.services)?;
        manager.wait_for("nodes", agents as u64)?;
        manager.apply(&load.text)?;
        manager.wait_for("instances", load.instances)?;
        fleet.open(sessions, agents, UNDER_WAY.div_ceil(agents))?;
        manager.wait_for("sessions", sessions)?;
        let took = manager.restart()?;
        let known = manager.count("sessions")?;
        ensure!(known == sessions, "{known} of {sessions} sessions are known after the restart");
        let samples =
            vec![RECOVERY.sample(took.as_nanos() as f64), MANAGER_MEMORY.sample(manager.memory() as f64)];
        Ok(Measured { samples, commands: vec![manager.line()] })
    }
}
