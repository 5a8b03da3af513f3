//! The agent's program: flags, logs, start and end.

use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use patchbay_agent::core::{Core, Redirects};
use patchbay_agent::datapath::{self, Datapath, Options};
use patchbay_agent::detach::{self, Detach};
use patchbay_agent::instance_listener::{self, Directory};
use patchbay_agent::manager_link;
use patchbay_agent::node::{Control, Node};
use patchbay_agent::probe::{self, Probe};
use patchbay_agent::processes::{self, Places};
use patchbay_agent::profile_file;
use patchbay_agent::profile_table::{self, ProfileTable};
use patchbay_agent::redirection::Redirection;
use patchbay_agent::repository::{self, Repository};
use patchbay_agent::scope::{self, Exec, Standalone};
use patchbay_agent::trace::{self, Trace};
use patchbay_agent::{require_root, reserved_ports};
use ssmmp::AGENT_PORT;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};

/// Events that may wait for the core; senders wait when it is full.
const EVENT_QUEUE: usize = 4_096;

/// The Patchbay agent: executes service instances on this node and redirects their sessions.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  patchbay-agent run --manager 10.0.0.1:55555 --address 10.0.0.2 --repository repository.toml\n  \
                  patchbay-agent check --repository repository.toml\n\n\
                  Signals of a running agent: SIGTERM ends its instances, then itself; SIGHUP ends it and leaves its \
                  instances and their sessions to the next agent; SIGUSR1 switches redirection off for \
                  further messages, SIGUSR2 on again."
)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Register with the Manager and serve this node
    Run(Run),
    /// Run a program and its children with redirection between them, without a Manager
    #[command(after_help = "Example:\n  patchbay-agent exec --always -- sh -c 'redis-server --port 7000 & \
                            sleep 1; redis-benchmark -p 7000; redis-cli -p 7000 shutdown'")]
    Exec(Exec),
    /// Redirect inside a cgroup until it is ended, without a Manager
    Standalone(Standalone),
    /// Try what redirection does on this kernel and print how it differs from TCP
    Probe(Probe),
    #[command(hide = true)]
    ProbePeer,
    /// Show the messages of a session, which tcpdump can't see once they are redirected
    #[command(
        after_help = "Example:\n  patchbay-agent trace --source-port 40122 --destination-port 54001 --bytes 32"
    )]
    Trace(Trace),
    /// Take all sessions back to TCP and remove what an agent left in the kernel
    Detach(Detach),
    /// Show what was learned of programs and of their traffic, and what `auto` makes of it
    Profiles(ProfileTable),
    /// Read a repository file and print its problems
    Check {
        /// The repository file
        #[arg(long, value_name = "FILE")]
        repository: PathBuf,
    },
}

#[derive(Args)]
struct Run {
    /// Where the Manager listens for agents
    #[arg(long, env = "PATCHBAY_MANAGER_AGENTS", value_parser = host_and_port, value_name = "HOST:PORT")]
    manager: String,
    /// This node's address, under which its instances are reached
    #[arg(long, env = "PATCHBAY_ADDRESS", value_name = "ADDRESS")]
    address: IpAddr,
    /// This node's name; the host's name if absent
    #[arg(long, env = "PATCHBAY_NODE", value_name = "NAME")]
    node: Option<String>,
    /// What this node can execute
    #[arg(long, env = "PATCHBAY_REPOSITORY", value_name = "FILE")]
    repository: PathBuf,
    /// This node's cgroup below the cgroup v2 mount; `patchbay/NODE` if absent
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Where instances connect
    #[arg(long, default_value_t = SocketAddr::from(([127, 0, 0, 1], AGENT_PORT)), value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Where kernel programs and maps are pinned, so that they outlive the agent; in a BPF file system, or
    /// one is mounted there [default: BPF-MOUNT/patchbay/NODE]
    #[arg(long, value_name = "FOLDER")]
    pins: Option<PathBuf>,
    /// Outputs and folders of instances; `/run/patchbay/NODE` if absent
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Whether to redirect same-node sessions inside the kernel
    #[arg(long, default_value = "on", value_enum)]
    redirection: Switch,
    /// Unread redirected bytes allowed for each direction; 0 for the receiver's buffer size
    #[arg(long, default_value_t = datapath::DEFAULT_IN_FLIGHT_BYTES, value_name = "BYTES")]
    in_flight_bytes: u32,
    /// Older dialects that instances may speak besides SSMMP/1.1; they are answered in kind
    #[arg(long, value_enum, value_name = "DIALECT")]
    accept_dialect: Vec<Dialect>,
    /// Log lines for people or for programs
    #[arg(long, default_value = "text", value_enum)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

/// A dialect besides SSMMP/1.1.
#[derive(Clone, PartialEq, clap::ValueEnum)]
enum Dialect {
    /// Fields joined by `;`, as the public Java implementation sends them
    Semi,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn host_and_port(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match parts.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port > 0) {
        Some(_) => Ok(text.to_owned()),
        None => Err("write it as HOST:PORT, with the port where the Manager listens for agents".into()),
    }
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Task::Check { repository } => check(&repository).map(|()| ExitCode::SUCCESS),
        Task::Run(arguments) => {
            start_logging(arguments.log_format);
            in_runtime(run(arguments)).map(|()| ExitCode::SUCCESS)
        }
        Task::Exec(exec) => {
            start_logging(LogFormat::Text);
            in_runtime(scope::exec(&exec))
        }
        Task::Probe(probe) => in_runtime(probe::run(&probe)).map(|()| ExitCode::SUCCESS),
        Task::ProbePeer => probe::run_peer().map(|()| ExitCode::SUCCESS),
        Task::Trace(trace) => in_runtime(trace::run(&trace)).map(|()| ExitCode::SUCCESS),
        Task::Detach(detach) => in_runtime(detach::run(&detach)).map(|()| ExitCode::SUCCESS),
        Task::Profiles(profiles) => profile_table::print(&profiles).map(|()| ExitCode::SUCCESS),
        Task::Standalone(standalone) => {
            start_logging(LogFormat::Text);
            in_runtime(scope::standalone(&standalone)).map(|()| ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// One thread for everything: a message on its way through the agent wakes no other thread, which would take
/// longer than all that the agent does with it.
fn in_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime can't be started")?
        .block_on(work)
}

fn start_logging(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn read_repository(file: &Path) -> Result<Repository> {
    repository::read(file).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("the repository has {} problem(s):\n{}", problems.len(), lines.join("\n"))
    })
}

fn check(file: &Path) -> Result<()> {
    let repository = read_repository(file)?;
    println!("{}: {} services, no problems", file.display(), repository.len());
    Ok(())
}

async fn run(arguments: Run) -> Result<()> {
    require_root("the agent starts instances in cgroups of their own")?;
    let repository = read_repository(&arguments.repository)?;
    let node = match &arguments.node {
        Some(node) => node.clone(),
        None => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
    };
    let cgroup = datapath::cgroup2_mount()?
        .join(arguments.cgroup.clone().unwrap_or_else(|| PathBuf::from("patchbay").join(&node)));
    let state = arguments.state_dir.clone().unwrap_or_else(|| PathBuf::from("/run/patchbay").join(&node));
    let listener = TcpListener::bind(arguments.listen).await.with_context(|| {
        format!(
            "can't listen for instances at {}; another agent runs here, or choose --listen",
            arguments.listen
        )
    })?;
    let places = Places { cgroup, state, agent: listener.local_addr()?.to_string(), node: node.clone() };
    std::fs::create_dir_all(&places.cgroup)
        .with_context(|| format!("the cgroup {} can't be made", places.cgroup.display()))?;
    std::fs::create_dir_all(&places.state)
        .with_context(|| format!("the folder {} can't be made", places.state.display()))?;
    std::fs::create_dir_all(places.cgroup.join("instances"))
        .with_context(|| format!("cgroups can't be made in {}", places.cgroup.display()))?;
    processes::pass_controllers_on(&datapath::cgroup2_mount()?, &places.cgroup);
    let adopted = processes::adopt(&places).await.context("instances of an earlier agent can't be seen")?;
    if let Err(error) = reserved_ports::reserve() {
        warn!("the ports of sockets can't be reserved, a plug may take one by chance: {error}");
    }

    let mut options = Options::new(places.cgroup.clone());
    options.in_flight_budget = arguments.in_flight_bytes;
    let pins = arguments.pins.clone().unwrap_or_else(|| default_pins(&node));
    options.pins = Some(pins.clone());
    let mut trusted = true;
    if arguments.redirection == Switch::On {
        match probe::try_everything().await {
            Ok(matrix) => {
                options.harmful = matrix.harmful();
                trusted = matrix.redirects;
                info!(kernel = matrix.kernel, milliseconds = matrix.milliseconds, "self-test done");
            }
            // Loading says the same, or succeeds; every difference then counts as present.
            Err(error) => warn!("the self-test could not be done: {error:#}"),
        }
    }
    let redirection = match arguments.redirection {
        Switch::On if trusted => Redirection::load(&options),
        Switch::On => Redirection::failed(),
        Switch::Off => Redirection::off(),
    };
    let (events, event_receiver) = mpsc::channel(EVENT_QUEUE);
    let (manager, manager_receiver) = manager_link::queue();
    let (said, said_receiver) = mpsc::channel(instance_listener::QUEUE);
    let directory = Directory::default();
    let address = arguments.address.into();
    let redirects = Redirects {
        description: redirection.describe(),
        observes: redirection.observes(),
        harmful: options.harmful,
    };
    let profiles = profile_file::read(&places.state)?;
    let mut core = Core::new(address, node.clone(), redirects, repository, profiles);
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    core.number_messages_from(since_1970.as_secs() * 10);
    info!(node, address = %arguments.address, redirection = redirection.describe(), "ready");
    let (controls, control_receiver) = mpsc::channel(16);
    let signals = watch_signals(controls)?;
    let cgroup = places.cgroup.clone();
    let mut node = Node::new(core, redirection, directory.clone(), places, address, manager, events.clone());
    node.adopt(adopted);
    let semi = arguments.accept_dialect.contains(&Dialect::Semi);
    tokio::spawn(instance_listener::serve(listener, directory, said, semi));
    tokio::spawn(manager_link::run(arguments.manager, events, manager_receiver));
    tokio::spawn(signals);
    if node.run(event_receiver, said_receiver, control_receiver).await {
        info!("ended; the instances go on and wait for the next agent");
        return Ok(());
    }
    Datapath::detach(&pins).with_context(|| format!("the pins at {} can't be removed", pins.display()))?;
    // Only what is empty can be removed.
    let _ = std::fs::remove_dir(cgroup.join("instances"));
    let _ = std::fs::remove_dir(&cgroup);
    let _ = cgroup.parent().map(std::fs::remove_dir);
    Ok(())
}

fn watch_signals(controls: mpsc::Sender<Control>) -> Result<impl Future<Output = ()>> {
    let mut off = signal(SignalKind::user_defined1())?;
    let mut on = signal(SignalKind::user_defined2())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hand_over = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            let control = tokio::select! {
                _ = off.recv() => Control::Redirect(false),
                _ = on.recv() => Control::Redirect(true),
                _ = hand_over.recv() => Control::HandOver,
                _ = terminate.recv() => Control::End,
                _ = interrupt.recv() => Control::End,
            };
            if controls.send(control).await.is_err() {
                return;
            }
        }
    })
}

/// Where maps and programs are pinned: in a BPF file system, the node's own when there is none.
fn default_pins(node: &str) -> PathBuf {
    let mount = datapath::bpf_mount().unwrap_or_else(|| PathBuf::from("/run/patchbay/bpf"));
    mount.join("patchbay").join(node)
}
