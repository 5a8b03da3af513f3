//! Sessions through the real agent: an instance asks its agent, which asks the Manager, and back.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::manager::{Manager, command, free_address};
use super::{AGENT_CPU, AGENT_MEMORY, ESTABLISHED, MANAGER_CPU};
use crate::case::{Bench, Case, Measured, Pace};
use crate::lab::usage;
use crate::sample::metrics::{P50, P99};

/// Sessions opened for each measurement: one at a time, and as fast as can be.
const ONE_BY_ONE: u64 = 2_000;
const AT_ONCE: u64 = 20_000;
/// Requests under way while they are opened as fast as can be: as many as an agent takes of one instance.
const UNDER_WAY: usize = 64;
/// How long instances may take to run.
const RUN_WITHIN: Duration = Duration::from_secs(20);
/// How long the agent may take to end.
const END_WITHIN: Duration = Duration::from_secs(10);
/// The gateway's public port, where its orders come.
const ORDERS_PORT: u16 = 18_080;

/// More live sessions through one agent.
pub struct ThroughAgent {
    sizes: Vec<u64>,
    running: Option<Running>,
}

struct Running {
    // Ended in this order: the agent while its Manager listens.
    agent: Agent,
    manager: Manager,
    live: u64,
}

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It ends its instances, then itself.
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let begun = Instant::now();
        while begun.elapsed() < END_WITHIN && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl ThroughAgent {
    /// The protocol's target is at 10,000.
    pub fn new(pace: &Pace) -> Self {
        Self { sizes: if pace.full { vec![100, 1_000, 10_000] } else { vec![100, 10_000] }, running: None }
    }
}

fn name(size: u64) -> String {
    format!("{size} live sessions")
}

impl Case for ThroughAgent {
    fn name(&self) -> String {
        "control/agent/sessions".into()
    }

    fn about(&self) -> String {
        "session_request to session_response, and establishment, through a real agent and Manager on loopback"
            .into()
    }

    fn alternatives(&self) -> Vec<String> {
        self.sizes.iter().map(|size| name(*size)).collect()
    }

    fn estimate(&self, _pace: &Pace) -> Duration {
        Duration::from_secs(3)
    }

    fn rounds(&self, _pace: &Pace) -> usize {
        // Live sessions only become more.
        1
    }

    fn prepare(&mut self, bench: &Bench<'_>) -> Result<()> {
        let manager = Manager::start(bench.binaries, bench.lab.folder())?;
        let folder = bench.lab.folder().join("agent");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let repository = folder.join("repository.toml");
        fs::write(&repository, repository_text()?)?;
        let program = bench.binaries.join("patchbay-agent");
        let log = fs::File::create(folder.join("log"))?;
        let node = format!("bench-{}", std::process::id());
        let child = command(&program)
            .args(["run", "--manager", &manager.agents.to_string(), "--address", "127.0.0.1"])
            .args(["--node", &node, "--listen", &free_address()?.to_string(), "--repository"])
            .arg(&repository)
            .arg("--state-dir")
            .arg(folder.join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} can't be started", program.display()))?;
        let agent = Agent(child);
        manager.wait_for("nodes", 1)?;
        manager.apply(GRAPH)?;
        manager.wait_for("instances", 1)?;
        self.running = Some(Running { agent, manager, live: 0 });
        // The first request has the destination executed.
        let running = self.running.as_mut().context("just made")?;
        running.open(1, 1).map(drop)
    }

    fn measure(&mut self, alternative: &str, _bench: &Bench<'_>) -> Result<Measured> {
        let size = *self.sizes.iter().find(|size| name(**size) == alternative).context("no such size")?;
        let running = self.running.as_mut().context("not prepared")?;
        if running.live < size {
            running.open(size - running.live, UNDER_WAY)?;
        }
        let one_by_one = running.open(ONE_BY_ONE, 1)?;
        let (agent, manager) = (usage::process_cpu(running.agent.0.id()), running.manager.cpu());
        let at_once = running.open(AT_ONCE, UNDER_WAY)?;
        let each = |now: u64, before: u64| (now - before) as f64 / AT_ONCE as f64;
        let samples = vec![
            P50.sample(one_by_one.p50),
            P99.sample(one_by_one.p99),
            ESTABLISHED.sample(AT_ONCE as f64 / (at_once.took / 1e9)),
            MANAGER_CPU.sample(each(running.manager.cpu(), manager)),
            AGENT_CPU.sample(each(usage::process_cpu(running.agent.0.id()), agent)),
            AGENT_MEMORY.sample(usage::resident(running.agent.0.id()) as f64),
        ];
        let agent = "patchbay-agent run --manager ADDRESS --address 127.0.0.1 --repository FILE".into();
        Ok(Measured { samples, commands: vec![running.manager.line(), agent] })
    }

    fn finish(&mut self, _bench: &Bench<'_>) {
        self.running = None;
    }
}

/// What the instance says of an order, nanoseconds.
struct Told {
    took: f64,
    p50: f64,
    p99: f64,
}

impl Running {
    /// Has the instance open sessions, and waits until the Manager knows them.
    fn open(&mut self, sessions: u64, window: usize) -> Result<Told> {
        let begun = Instant::now();
        let mut stream = loop {
            match TcpStream::connect(("127.0.0.1", ORDERS_PORT)) {
                Ok(stream) => break stream,
                Err(error) if begun.elapsed() > RUN_WITHIN => bail!("the instance does not listen: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        writeln!(stream, "{sessions} {window}")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [took, p50, p99] = numbers[..] else { bail!("the instance failed: {line}") };
        self.live += sessions;
        self.manager.wait_for("sessions", self.live)?;
        Ok(Told { took, p50, p99 })
    }
}

const GRAPH: &str = r#"app = "through"
[service.asker]
kind = "gateway"
sockets.orders = { protocol = "orders", port = 18080 }
plugs.out = { protocol = "p" }
[service.asked]
kind = "baas"
sockets.s = { protocol = "p" }
[[connection]]
from = "asker.out"
to = "asked.s"
"#;

fn repository_text() -> Result<String> {
    let program = std::env::current_exe()?;
    let entry = |service, socket, plugs| {
        format!(
            "[service.{service}]\nkind = \"native\"\nuser = \"root\"\nprogram = \"{}\"\narguments = [\"instance\"]\n\
             sockets = [\"{socket}\"]\nplugs = [{plugs}]\n",
            program.display()
        )
    };
    Ok(entry("asker", "orders", "\"out\"") + &entry("asked", "s", ""))
}
