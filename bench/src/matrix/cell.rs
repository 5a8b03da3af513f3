//! One cell of the matrix: one kind of work in one place, every way.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::sidecars::{SOURCE_PORT, Sidecars};
use super::way::Way;
use crate::case::{Bench, Case, Measured, Pace};
use crate::ends::{EndReport, Kind, Style, Work};
use crate::lab::{Place, Program, Role, usage};
use crate::sample::{Sample, metrics};

/// The first port of cells; each has its own, by which `auto` learns.
const FIRST_PORT: u16 = 3_000;
/// How much longer than planned an end may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What starting and ending takes, about.
const AROUND: Duration = Duration::from_millis(110);
/// The agent looks ten times a second.
const LOOKED_AT: Duration = Duration::from_millis(150);
/// Sessions that `auto` learns from; the agent asks for 50.
const LEARNED_FROM: usize = 52;
/// Runs that learn: the second one shows what a redirected session carries.
const LEARNING_RUNS: usize = 2;
/// How long one of them lasts at least.
const LEARN_FOR: Duration = Duration::from_millis(150);

/// A cell.
pub struct Cell {
    place: Place,
    work: Work,
    port: u16,
}

impl Cell {
    /// The cell with this number.
    pub fn new(number: usize, place: Place, work: Work) -> Self {
        let port = FIRST_PORT + u16::try_from(number).unwrap_or(0);
        Self { place, work, port }
    }

    /// Both ends, until the source is done.
    /// Redirection may be switched on around it by others: then the way is plain TCP.
    pub fn run(&self, way: Way, bench: &Bench<'_>, measure: Duration) -> Result<Measured> {
        let mut commands = Vec::new();
        let switch = way.switch_on(bench, self.place, self.port)?;
        commands.extend(switch.iter().map(|switch| switch.line.clone()));
        let served = self.served(way, bench);
        let destination = self.end(bench, Role::Destination, "serve", "--at", &served)?;
        commands.push(destination.line());
        let mut destination = destination.start()?;
        destination.wait_for("ready")?;
        let sidecars = match way {
            Way::Haproxy | Way::Nginx => Some(Sidecars::start(bench, self.place, way, self.port)?),
            _ => None,
        };
        let target = match sidecars {
            Some(_) => format!("tcp:{}:{SOURCE_PORT}", self.place.address(Role::SourceSidecar)),
            None => served,
        };
        let source = self
            .end(bench, Role::Source, "drive", "--to", &target)?
            .args(["--measure", &measure.as_millis().to_string()]);
        commands.extend(sidecars.iter().flat_map(|sidecars| sidecars.lines.clone()));
        commands.push(source.line());
        if way == Way::Auto {
            // A new listening socket is known after the agent's next look.
            std::thread::sleep(LOOKED_AT);
        }
        let before = Beside::now(bench);
        let source = source.start()?;
        std::thread::sleep(bench.pace.warm_up + measure / 2);
        let socket_memory = usage::tcp_memory();
        let within = measure + bench.pace.warm_up + PATIENCE;
        let source: EndReport = read(&source.finish(within)?)?;
        let beside = Beside::now(bench).since(&before);
        let destination: EndReport = read(&destination.finish(within)?)?;
        drop(sidecars);
        let redirected = switch.map(|switch| switch.end()).transpose()?.flatten();
        let mut samples = self.samples(&source, &destination, &beside);
        samples.push(metrics::SOCKET_MEMORY.sample(socket_memory as f64));
        samples.extend(redirected.map(|share| metrics::REDIRECTED.sample(share)));
        Ok(Measured { samples, commands })
    }

    /// Where the destination listens.
    fn served(&self, way: Way, bench: &Bench<'_>) -> String {
        match way {
            Way::Unix => format!("unix:{}", bench.lab.folder().join("ends.socket").display()),
            _ => format!("tcp:{}:{}", self.place.address(Role::Destination), self.port),
        }
    }

    fn end(&self, bench: &Bench<'_>, role: Role, task: &str, flag: &str, address: &str) -> Result<Program> {
        let work = Work { warm_up: bench.pace.warm_up.as_millis() as u64, ..self.work.clone() };
        let program = bench.lab.own_program(role, self.place)?;
        Ok(program.args(["end", task, flag, address]).args(work.arguments()))
    }

    fn samples(&self, source: &EndReport, destination: &EndReport, beside: &Beside) -> Vec<Sample> {
        let memory = (source.memory + destination.memory + beside.memory) as f64;
        let mut samples = Vec::new();
        // Each end counts in a window of its own; what sidecars did is counted over the whole run.
        let each = |of: fn(&EndReport) -> u64, unit: fn(&EndReport) -> u64, more: u64, all: u64| {
            [source, destination]
                .into_iter()
                .filter(|end| unit(end) > 0)
                .map(|end| of(end) as f64 / unit(end) as f64)
                .sum::<f64>()
                + more as f64 / all.max(1) as f64
        };
        match self.work.kind {
            Kind::Request | Kind::Short => {
                let requests: fn(&EndReport) -> u64 = |end| end.requests;
                let all = source.all_requests;
                if let Some(latency) = &source.latency {
                    samples.push(metrics::P50.sample(latency.p50 as f64));
                    samples.push(metrics::P99.sample(latency.p99 as f64));
                    samples.push(metrics::P999.sample(latency.p999 as f64));
                }
                samples.push(metrics::RATE.sample(source.requests as f64 / source.seconds));
                samples.push(metrics::CPU_REQUEST.sample(each(|end| end.cpu, requests, beside.cpu, all)));
                let switches = each(|end| end.switches, requests, beside.switches, all);
                samples.push(metrics::SWITCHES_REQUEST.sample(switches));
            }
            Kind::Stream | Kind::Halves => {
                let rate = |end: &EndReport| match end.seconds {
                    0.0 => 0.0,
                    seconds => end.bytes as f64 / seconds,
                };
                let (bytes, all) =
                    (rate(source) + rate(destination), source.all_bytes + destination.all_bytes);
                let share = |of: fn(&EndReport) -> u64| -> f64 {
                    [source, destination]
                        .map(|end| of(end) as f64 / end.seconds.max(1e-9))
                        .iter()
                        .sum::<f64>()
                        / bytes
                };
                let cpu = share(|end| end.cpu) + beside.cpu as f64 / all.max(1) as f64;
                let switches = share(|end| end.switches) + beside.switches as f64 / all.max(1) as f64;
                samples.push(metrics::THROUGHPUT.sample(bytes));
                samples.push(metrics::CPU_KIB.sample(cpu * 1024.0));
                samples.push(metrics::SWITCHES_MIB.sample(switches * 1024.0 * 1024.0));
            }
        }
        samples.push(metrics::MEMORY.sample(memory));
        samples
    }
}

impl Case for Cell {
    fn name(&self) -> String {
        let Work { kind, size, connections, style, no_delay, .. } = &self.work;
        let kind = format!("{kind:?}").to_lowercase();
        let mut name = format!("matrix/{}/{kind}/{}", self.place.name(), size_text(*size));
        if *connections > 1 {
            name.push_str(&format!("/x{connections}"));
        }
        if matches!(kind.as_str(), "request" | "short") == (*style == Style::Epoll) {
            name.push_str(if *style == Style::Epoll { "/epoll" } else { "/blocking" });
        }
        if !no_delay {
            name.push_str("/delayed");
        }
        name
    }

    fn about(&self) -> String {
        let Work { kind, size, connections, style, no_delay, .. } = &self.work;
        let size = size_text(*size).replace("KiB", " KiB").replace("MiB", " MiB");
        let size = if size.contains(' ') { size } else { size.replace('B', " B") };
        let what = match kind {
            Kind::Request => format!("requests of {size} and responses of {size}"),
            Kind::Stream => format!("streams of {size} writes"),
            Kind::Halves => format!("streams of {size} writes, half of them back"),
            Kind::Short => format!("a connection for each request of {size}"),
        };
        let place = match self.place {
            Place::Loopback => "on loopback",
            Place::Namespaces => "between network namespaces",
        };
        let connections =
            if *connections == 1 { "one at a time".into() } else { format!("{connections} at once") };
        let style = if *style == Style::Epoll { "epoll" } else { "blocking" };
        let delay = if *no_delay { "" } else { ", without TCP_NODELAY" };
        format!("{what}, {connections}, {style}, {place}{delay}")
    }

    fn alternatives(&self) -> Vec<String> {
        Way::ALL.iter().map(|way| way.name().to_owned()).collect()
    }

    fn estimate(&self, pace: &Pace) -> Duration {
        pace.warm_up + pace.measure + AROUND
    }

    fn prepare(&mut self, bench: &Bench<'_>) -> Result<()> {
        let connections = self.work.connections.max(LEARNED_FROM);
        let many = Self { work: Work { connections, ..self.work.clone() }, ..*self };
        for _ in 0..LEARNING_RUNS {
            many.run(Way::Auto, bench, bench.pace.measure.max(LEARN_FOR)).context("a run that learns")?;
        }
        Ok(())
    }

    fn measure(&mut self, alternative: &str, bench: &Bench<'_>) -> Result<Measured> {
        let way = Way::named(alternative).context("an alternative of the matrix")?;
        self.run(way, bench, bench.pace.measure)
    }
}

/// What processes besides the two ends used: sidecars.
struct Beside {
    cpu: u64,
    switches: u64,
    memory: u64,
}

impl Beside {
    fn now(bench: &Bench<'_>) -> Self {
        let cgroups = [Role::SourceSidecar, Role::DestinationSidecar].map(|role| bench.lab.cgroup(role));
        let processes: Vec<u32> = cgroups.iter().flat_map(|cgroup| usage::processes(cgroup)).collect();
        Self {
            cpu: cgroups.iter().filter_map(|cgroup| usage::cgroup_cpu(cgroup).ok()).sum(),
            switches: processes.iter().map(|process| usage::context_switches(*process)).sum(),
            memory: processes.iter().map(|process| usage::resident(*process)).sum(),
        }
    }

    fn since(self, before: &Self) -> Self {
        Self {
            cpu: self.cpu - before.cpu,
            switches: self.switches.saturating_sub(before.switches),
            memory: self.memory,
        }
    }
}

fn read(text: &str) -> Result<EndReport> {
    serde_json::from_str(text).with_context(|| format!("an end's report: {text:?}"))
}

/// A size as people write it.
pub fn size_text(bytes: usize) -> String {
    match bytes {
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}
