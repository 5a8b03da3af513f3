//! Executions: an application is applied, and all its instances run.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::fleet::Fleet;
use super::manager::Manager;
use super::{MANAGER_CPU, MANAGER_MEMORY, graph};
use crate::case::{Bench, Case, Measured, Pace};
use crate::sample::metrics::RATE;

/// Agents for so many instances.
const INSTANCES_OF_AN_AGENT: usize = 100;

/// More and more instances at one Manager.
pub struct Executions {
    sizes: Vec<usize>,
}

impl Executions {
    /// In all: up to 100,000 instances on 1,000 nodes.
    pub fn new(pace: &Pace) -> Self {
        Self { sizes: if pace.full { vec![100, 1_000, 10_000, 100_000] } else { vec![100, 1_000] } }
    }
}

fn name(size: usize) -> String {
    format!("{size} instances")
}

impl Case for Executions {
    fn name(&self) -> String {
        "control/manager/executions".into()
    }

    fn about(&self) -> String {
        "from applying an application to all its instances running, on agents that answer at once".into()
    }

    fn alternatives(&self) -> Vec<String> {
        self.sizes.iter().map(|size| name(*size)).collect()
    }

    fn estimate(&self, pace: &Pace) -> Duration {
        Duration::from_secs(if pace.full { 10 } else { 1 })
    }

    fn measure(&mut self, alternative: &str, bench: &Bench<'_>) -> Result<Measured> {
        let size = *self.sizes.iter().find(|size| name(**size) == alternative).context("no such size")?;
        let load = graph::load(size);
        let agents = size.div_ceil(INSTANCES_OF_AN_AGENT);
        let manager = Manager::start(bench.binaries, bench.lab.folder())?;
        let _fleet = Fleet::connect(manager.agents, agents, &load.services)?;
        manager.wait_for("nodes", agents as u64)?;
        let (begun, before) = (Instant::now(), manager.cpu());
        manager.apply(&load.text)?;
        manager.wait_for("instances", load.instances)?;
        let count = load.instances as f64;
        let samples = vec![
            RATE.sample(count / begun.elapsed().as_secs_f64()),
            MANAGER_CPU.sample((manager.cpu() - before) as f64 / count),
            MANAGER_MEMORY.sample(manager.memory() as f64),
        ];
        Ok(Measured { samples, commands: vec![manager.line()] })
    }
}
