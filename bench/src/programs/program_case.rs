//! A real program as a case: off, on, and behind sidecars.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::RealProgram;
use crate::case::{Bench, Case, Measured, Pace};
use crate::lab::{Place, Role, Running, end_processes, usage};
use crate::matrix::sidecars::{SOURCE_PORT, Sidecars, wait_until_listening};
use crate::matrix::way::Way;
use crate::sample::metrics;

/// The first port; each program has its own, by which `auto` learns.
const FIRST_PORT: u16 = 5_000;
/// How much longer than planned a client may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The agent looks ten times a second at what listens.
const LOOKED_AT: Duration = Duration::from_millis(150);
/// Runs of `auto` that only learn.
const LEARNING_RUNS: usize = 2;
/// How a real program is run; a Unix socket is not among what its users compare.
const WAYS: [Way; 5] = [Way::Tcp, Way::Auto, Way::Always, Way::Haproxy, Way::Nginx];

/// The case.
pub struct ProgramCase {
    program: Box<dyn RealProgram>,
    port: u16,
    server: Option<Running>,
}

impl ProgramCase {
    /// The case with this number.
    pub fn new(number: usize, program: Box<dyn RealProgram>) -> Self {
        Self { program, port: FIRST_PORT + u16::try_from(number).unwrap_or(0), server: None }
    }

    fn run(&self, way: Way, bench: &Bench<'_>) -> Result<Measured> {
        let server = self.server.as_ref().context("the server runs")?;
        let switch = way.switch_on(bench, Place::Loopback, self.port)?;
        if switch.is_some() {
            std::thread::sleep(LOOKED_AT);
        }
        let sidecars = match way {
            Way::Haproxy | Way::Nginx => Some(Sidecars::start(bench, Place::Loopback, way, self.port)?),
            _ => None,
        };
        let port = if sidecars.is_some() { SOURCE_PORT } else { self.port };
        let client = self.program.client(bench, port)?;
        let mut commands: Vec<String> = switch.iter().map(|switch| switch.line.clone()).collect();
        commands.push(server.line().to_owned());
        commands.extend(sidecars.iter().flat_map(|sidecars| sidecars.lines.clone()));
        commands.push(client.line());
        let before = cpu(bench);
        let output = client.output(self.program.lasts(&bench.pace) + PATIENCE)?;
        let used = cpu(bench) - before;
        let said = self.program.read(&output).with_context(|| format!("the client said:\n{output}"))?;
        drop(sidecars);
        let mut samples = said.samples;
        if said.requests > 0.0 {
            samples.push(metrics::CPU_REQUEST.sample(used as f64 / said.requests));
        }
        if let Some(share) = switch.map(|switch| switch.end()).transpose()?.flatten() {
            samples.push(metrics::REDIRECTED.sample(share));
        }
        Ok(Measured { samples, commands })
    }
}

impl Case for ProgramCase {
    fn name(&self) -> String {
        format!("programs/{}", self.program.name())
    }

    fn about(&self) -> String {
        self.program.about()
    }

    fn alternatives(&self) -> Vec<String> {
        WAYS.map(|way| way.name().to_owned()).to_vec()
    }

    fn rounds(&self, pace: &Pace) -> usize {
        pace.rounds.min(if pace.full { 5 } else { 2 })
    }

    fn estimate(&self, pace: &Pace) -> Duration {
        self.program.lasts(pace) + Duration::from_millis(200)
    }

    fn prepare(&mut self, bench: &Bench<'_>) -> Result<()> {
        let server = self.program.server(bench, self.port)?.start()?;
        wait_until_listening(&server, self.port)?;
        self.server = Some(server);
        self.program.fill(bench, self.port)?;
        for _ in 0..LEARNING_RUNS {
            self.run(Way::Auto, bench).context("a run that learns")?;
        }
        Ok(())
    }

    fn measure(&mut self, alternative: &str, bench: &Bench<'_>) -> Result<Measured> {
        self.run(Way::named(alternative).context("a way")?, bench)
    }

    fn finish(&mut self, bench: &Bench<'_>) {
        self.server = None;
        // With the processes that it made.
        if let Err(error) = end_processes(&bench.lab.cgroup(Role::Destination)) {
            eprintln!("error: a server goes on running: {error:#}");
        }
    }
}

/// Processor time of everything that took part so far.
fn cpu(bench: &Bench<'_>) -> u64 {
    let roles = [Role::Source, Role::Destination, Role::SourceSidecar, Role::DestinationSidecar];
    roles.iter().filter_map(|role| usage::cgroup_cpu(&bench.lab.cgroup(*role)).ok()).sum()
}
