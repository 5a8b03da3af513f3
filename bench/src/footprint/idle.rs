//! A Manager and an agent that have nothing to do.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::case::{Bench, Case, Measured, Pace};
use crate::lab::{Place, Role, Running, usage};
use crate::sample::{Metric, Unit};

/// The case's name.
pub const CASE: &str = "footprint/idle";
/// The agent's name in it.
pub const AGENT: &str = "agent";
/// Resident memory after a while.
pub const RESIDENT: Metric = Metric::less("resident memory", Unit::Bytes);
/// Processor time while nothing happens, in percent of one processor.
pub const CPU: Metric = Metric::less("idle CPU", Unit::Percent);
/// How often it wakes up while nothing happens.
const WAKE_UPS: Metric = Metric::less("wake-ups", Unit::PerSecond);
/// From its start until it says that it is ready.
const START: Metric = Metric::less("start to ready", Unit::Nanoseconds);

/// How long it may calm down.
const CALM: Duration = Duration::from_millis(1_000);

/// The case.
pub struct Idle;

impl Idle {
    fn watched_for(pace: &Pace) -> Duration {
        Duration::from_secs(if pace.full { 30 } else { 2 })
    }

    /// Starts both; returns them with the time until each was ready.
    fn start(bench: &Bench<'_>) -> Result<[(Running, Duration); 2]> {
        let folder = bench.lab.folder();
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(folder.join(format!("idle.db{suffix}")));
        }
        fs::write(folder.join("repository.toml"), "")?;
        let manager = bench
            .lab
            .program(Role::Control, Place::Loopback, bench.binaries.join("patchbay-manager"))
            .joined()
            .args(["--listen-agents", "127.0.0.1:55555", "--socket"])
            .arg(folder.join("idle.sock"))
            .arg("--database")
            .arg(folder.join("idle.db"));
        let agent = bench
            .lab
            .program(Role::Control, Place::Loopback, bench.binaries.join("patchbay-agent"))
            .joined()
            .args(["run", "--manager", "127.0.0.1:55555", "--address", "127.0.0.1", "--node", "bench"])
            .args(["--cgroup", "patchbay-bench/agent", "--repository"])
            .arg(folder.join("repository.toml"))
            .arg("--state-dir")
            .arg(folder.join("agent"))
            .arg("--pins")
            .arg(folder.join("pins"));
        let begun = Instant::now();
        let mut manager = manager.start()?;
        manager.wait_for("ready")?;
        let manager = (manager, begun.elapsed());
        let begun = Instant::now();
        let mut agent = agent.start()?;
        agent.wait_for("ready")?;
        Ok([(agent, begun.elapsed()), manager])
    }
}

impl Case for Idle {
    fn name(&self) -> String {
        CASE.into()
    }

    fn about(&self) -> String {
        "a Manager and an agent with nothing to do".into()
    }

    fn alternatives(&self) -> Vec<String> {
        vec![AGENT.into(), "Manager".into()]
    }

    fn compares(&self) -> bool {
        false
    }

    fn rounds(&self, pace: &Pace) -> usize {
        if pace.full { 3 } else { 1 }
    }

    fn estimate(&self, pace: &Pace) -> Duration {
        CALM + Self::watched_for(pace) + Duration::from_secs(1)
    }

    fn measure(&mut self, alternative: &str, bench: &Bench<'_>) -> Result<Measured> {
        let [agent, manager] = Self::start(bench)?;
        let (watched, ready) = if alternative == AGENT { &agent } else { &manager };
        let process = watched.id();
        std::thread::sleep(CALM);
        let (switches, cpu) = (usage::context_switches(process), usage::process_cpu(process));
        let begun = Instant::now();
        std::thread::sleep(Self::watched_for(&bench.pace));
        let lasted = begun.elapsed().as_secs_f64();
        let wake_ups = (usage::context_switches(process) - switches) as f64 / lasted;
        let cpu = (usage::process_cpu(process) - cpu) as f64 / 1e9 / lasted;
        let samples = vec![
            RESIDENT.sample(usage::resident(process) as f64),
            CPU.sample(100.0 * cpu),
            WAKE_UPS.sample(wake_ups),
            START.sample(ready.as_nanos() as f64),
        ];
        let commands = vec![manager.0.line().to_owned(), agent.0.line().to_owned()];
        agent.0.terminate()?;
        manager.0.terminate()?;
        Ok(Measured { samples, commands })
    }
}
