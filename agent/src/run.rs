//! `run`: everything of a node is claimed, loaded and joined, then served until it ends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use patchbay_agent_core::Core;
use patchbay_agent_core::repository::Repository;
use patchbay_logging::LogFormat;
use patchbay_shared_memory::{DEFAULT_RING_BYTES, MAX_RING_BYTES, MIN_RING_BYTES, Rings};
use ssmmp::{AGENT_PORT, NodeName};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::claim::{Claim, Thing};
use crate::datapath::{self, Datapath, Options, PlugAddresses};
use crate::fresh::Fresh;
use crate::instance_listener::{self, Directory};
use crate::known_manager::KnownManager;
use crate::memory::{self, Memory};
use crate::node::{Ended, Node, NodeShell};
use crate::observe::{self, At, Counting, Observed};
use crate::plugs::Plugs;
use crate::processes::{self, Places};
use crate::redirection::Redirection;
use crate::repository;
use crate::secured::Secured;
use crate::{
    manager_link, message_ids, node_secret, private, probe, profile_file, require_root, reserved_ports,
    signals,
};

/// Events that may wait for the core; senders wait when it is full.
const EVENT_QUEUE: usize = 4_096;
/// How long the instances' port may be taken: a child of an agent that was killed has its listener until it
/// executes its program.
const LISTEN_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// How a node is served.
#[derive(Args)]
pub struct Run {
    /// Where the Manager listens for agents
    #[arg(long, env = "PATCHBAY_MANAGER_AGENTS", value_parser = host_and_port, value_name = "HOST:PORT")]
    manager: String,
    /// What this node proves itself with to the Manager, and checks the Manager with: ca.pem, cert.pem, key.pem, made by
    /// `patchbay certs node`; read again on SIGHUP
    #[arg(long, env = "PATCHBAY_CERTIFICATES", value_name = "FOLDER")]
    certificates: Option<PathBuf>,
    /// Speak without TLS to a Manager on another machine, whoever answers there
    #[arg(long, env = "PATCHBAY_PLAIN", conflicts_with = "certificates")]
    plain: bool,
    /// This node's address, under which its instances are reached
    #[arg(long, env = "PATCHBAY_ADDRESS", value_parser = node_address, value_name = "ADDRESS")]
    address: IpAddr,
    /// This node's name; the host's name if absent
    #[arg(long, env = "PATCHBAY_NODE", value_parser = NodeName::new, value_name = "NAME")]
    node: Option<NodeName>,
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
    /// one is mounted there [default: patchbay/NODE in /sys/fs/bpf, or in one mounted at /run/patchbay/bpf]
    #[arg(long, value_name = "FOLDER")]
    pins: Option<PathBuf>,
    /// Outputs, folders and data of instances; `/var/lib/patchbay/nodes/NODE` if absent
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Whether to redirect same-node sessions inside the kernel
    #[arg(long, default_value = "on", value_enum)]
    redirection: Switch,
    /// Unread redirected bytes allowed for each direction; 0 for the receiver's buffer size
    #[arg(long, default_value_t = datapath::DEFAULT_IN_FLIGHT_BYTES, value_name = "BYTES")]
    in_flight_bytes: u32,
    /// Whether same-node sessions between services with an SDK get shared memory
    #[arg(long, default_value = "on", value_enum)]
    memory: Switch,
    /// Memory of sessions on this node, counted as the sizes of their rings
    #[arg(long, default_value_t = memory::NODE_BYTES, value_name = "BYTES")]
    memory_bytes: usize,
    /// The same of one application
    #[arg(long, default_value_t = memory::APP_BYTES, value_name = "BYTES")]
    memory_app_bytes: usize,
    /// The size of each of a session's two rings, a power of two
    #[arg(long, default_value_t = DEFAULT_RING_BYTES, value_parser = ring_bytes, value_name = "BYTES")]
    memory_ring_bytes: usize,
    /// Older dialects that instances may speak besides SSMMP/1.1; they are answered in kind
    #[arg(long, value_enum, value_name = "DIALECT")]
    accept_dialect: Vec<Dialect>,
    /// How long instances may take when this agent is told to end, seconds
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3_600), value_name = "SECONDS")]
    stop_within: u64,
    /// Replace the running agent of this node: it hands its instances and sessions over once this one is ready
    #[arg(long)]
    take_over: bool,
    /// Give what runs on this node to the Manager that answers next, though it belongs to another one (one with
    /// another database): that one ends what it does not know. For one start, not for a service's file
    #[arg(long)]
    new_manager: bool,
    /// Where to tell metrics and health: a port of the loopback device, ADDRESS:PORT, unix, or unix:FILE; may be given
    /// several times
    #[arg(long, value_name = "WHERE", value_parser = At::read)]
    observe: Vec<At>,
    /// Log lines for people or for programs
    #[arg(long, default_value = "text", value_enum)]
    pub log_format: LogFormat,
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

/// An address at which others can reach one machine.
fn node_address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "write an IPv4 or IPv6 address".to_owned())?;
    let is_of_one =
        !address.is_unspecified() && !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST);
    match is_of_one {
        true => Ok(address),
        false => Err("it is no machine's own address: name one of this machine's, under which other nodes reach it (`ip address` lists them)".into()),
    }
}

/// Warns where instances could not listen at the node's address.
fn look_at_address(address: IpAddr) {
    if let Err(error) = UdpSocket::bind((address, 0)) {
        warn!(
            %address,
            "this machine does not have the address ({error}): instances can't listen there; say one that `ip address` lists with --address"
        );
    }
}

fn host_and_port(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match parts.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port > 0) {
        Some(_) => Ok(text.to_owned()),
        None => Err("write it as HOST:PORT, with the port where the Manager listens for agents".into()),
    }
}

fn ring_bytes(text: &str) -> Result<usize, String> {
    let rings = text.parse().ok().and_then(|bytes| Some((bytes, Rings::new(bytes, bytes)?)));
    rings
        .map(|(bytes, _)| bytes)
        .ok_or_else(|| format!("it must be a power of two from {MIN_RING_BYTES} to {MAX_RING_BYTES} bytes"))
}

/// Reads a repository file.
///
/// # Errors
/// All its problems, one a line.
pub fn read_repository(file: &Path) -> Result<Repository> {
    repository::read(file).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("the repository has {} problem(s):\n{}", problems.len(), lines.join("\n"))
    })
}

/// Reads a repository file, and says in the log what of it can't be executed.
///
/// # Errors
/// As [`read_repository`].
pub fn load_repository(file: &Path) -> Result<Repository> {
    let repository = read_repository(file)?;
    for (service, entry) in &repository {
        if let Some(problem) = &entry.unavailable {
            warn!(%service, "not available on this node: {problem}");
        }
    }
    Ok(repository)
}

/// Serves the node until it ends.
///
/// # Errors
/// What is missing, or who has the node already; then nothing was changed.
pub async fn run(arguments: Run) -> Result<()> {
    let node = node_name(arguments.node.as_ref())?;
    let (pins, cgroup) = (pins(&arguments, &node), node_cgroup(&arguments, &node)?);
    let fresh = Fresh::look(&pins, &[&cgroup.join("instances"), &state_folder(&arguments, &node)]);
    let mut is_ready = false;
    let ended = serve(arguments, &node, (pins, cgroup), &mut is_ready).await;
    if !is_ready {
        fresh.remove();
    }
    ended
}

async fn serve(
    arguments: Run,
    node: &str,
    (pins, cgroup): (PathBuf, PathBuf),
    is_ready: &mut bool,
) -> Result<()> {
    require_root("the agent starts instances in cgroups of their own")?;
    let (controls, control_receiver) = mpsc::channel(16);
    let signals = signals::watch(controls, Duration::from_secs(arguments.stop_within))?;
    let repository = load_repository(&arguments.repository)?;
    let folder = arguments.certificates.clone();
    let secured = Secured::read(folder, node, arguments.plain, &arguments.manager)?;
    let certificates = secured.watch()?;
    look_at_address(arguments.address);
    let mut options = Options::new(cgroup);
    options.in_flight_budget = arguments.in_flight_bytes;
    options.pins = Some(pins.clone());
    let mut self_test = probe::Running::default();
    if arguments.take_over && arguments.redirection == Switch::On {
        // The agent that is to be replaced serves until this one has nothing more to find out.
        self_test = begin_self_test()?;
        self_test.wait().await;
    }
    let claim = claim(&arguments, node, &options).await?;
    if !arguments.take_over && arguments.redirection == Switch::On {
        self_test = begin_self_test()?;
    }
    let listener = listen(arguments.listen).await?;
    let directory = Directory::default();
    let (memory, memory_socket) = hand_memory_out(&arguments, node, &directory)?;
    let places = Places {
        cgroup: options.cgroup.clone(),
        state: state_folder(&arguments, node),
        agent: listener.local_addr()?.to_string(),
        node: node.to_owned(),
        memory: memory_socket,
    };
    std::fs::create_dir_all(places.cgroup.join("instances"))
        .with_context(|| format!("cgroups can't be made in {}", places.cgroup.display()))?;
    processes::pass_controllers_on(&datapath::cgroup2_mount()?, &places.cgroup);
    let adopted = processes::adopt(&places).await.context("instances of an earlier agent can't be seen")?;
    if let Err(error) = reserved_ports::reserve() {
        warn!("the ports of sockets can't be reserved, a plug may take one by chance: {error}");
    }
    let redirection = match arguments.redirection {
        Switch::On => Redirection::load(&options),
        Switch::Off => Redirection::off(),
    };
    let (events, event_receiver) = mpsc::channel(EVENT_QUEUE);
    let (manager, manager_receiver) = manager_link::queue();
    let (said, said_receiver) = mpsc::channel(instance_listener::QUEUE);
    let address = arguments.address.into();
    let redirects = redirection.redirects(options.harmless);
    let profiles = profile_file::read(&places.state);
    let secret = node_secret::of(&places.state)?;
    let known = KnownManager::read(&places.state, arguments.new_manager)
        .context("the state folder does not tell whose this node's instances are")?;
    let mut core = Core::new(address, node.to_owned(), redirects, repository, profiles);
    core.number_messages_from(message_ids::first(&places.state));
    *is_ready = true;
    info!(node, address = %arguments.address, redirection = redirection.describe().text(), "ready");
    let plugs = Plugs::new(Some(&pins), events.clone());
    let mut shell =
        NodeShell::new((redirection, plugs), directory.clone(), places, address, manager, events.clone());
    shell.memory = memory;
    let mut node = Node::new(core, shell);
    node.reloads_from(arguments.repository.clone());
    let observed = Observed::new(&observe::CONDITIONS);
    let mut listening = Vec::new();
    for at in &arguments.observe {
        listening.push(observe::listen(at, &observed).await?);
    }
    if !listening.is_empty() {
        node.counts_for(Counting::new(observed.clone()));
    }
    if arguments.redirection == Switch::Off {
        observed.set("self-test", Ok(()));
    }
    node.adopt(adopted);
    node.wait_for(self_test);
    let semi = arguments.accept_dialect.contains(&Dialect::Semi);
    tokio::spawn(instance_listener::serve(listener, directory, said, semi));
    let identified = (secret, manager_link::ANSWER_WITHIN, known);
    tokio::spawn(manager_link::run(arguments.manager, secured, identified, events, manager_receiver));
    tokio::spawn(certificates);
    tokio::spawn(signals);
    match node.run(event_receiver, said_receiver, control_receiver).await {
        Ended::HandedOver => info!("ended; the instances go on and wait for the next agent"),
        Ended::WithAll => leave_nothing(&options.cgroup, &pins).await?,
    }
    drop(claim);
    Ok(())
}

/// Claims everything that only one agent may have.
async fn claim(arguments: &Run, node: &str, options: &Options) -> Result<Claim> {
    let state = state_folder(arguments, node);
    let unmade = |folder: &Path| format!("{} can't be made", folder.display());
    private::passage(&state).with_context(|| unmade(&state))?;
    std::fs::create_dir_all(&options.cgroup).with_context(|| unmade(&options.cgroup))?;
    let things = [
        Thing::node(node).context("the node can't be claimed")?,
        Thing::folder("the state folder", &state),
        Thing::folder("the cgroup", &options.cgroup),
    ];
    let mut claim = Claim::take(&things, arguments.take_over).await?;
    if let (Switch::On, Some(pins)) = (arguments.redirection, &options.pins) {
        // Without a place for pins it is loading that says so.
        if datapath::prepare_pins(pins).is_ok() {
            claim.join(Claim::take(&[Thing::folder("the pins' folder", pins)], arguments.take_over).await?);
        }
    }
    Ok(claim)
}

/// Begins to hand memory out; without it sessions stay where they are.
fn hand_memory_out(arguments: &Run, node: &str, directory: &Directory) -> Result<(Memory, Option<PathBuf>)> {
    if arguments.memory == Switch::Off {
        return Ok((Memory::default(), None));
    }
    let bounds = memory::Bounds { node: arguments.memory_bytes, app: arguments.memory_app_bytes };
    let options = memory::Options { bounds, ring_bytes: arguments.memory_ring_bytes };
    let (state, cgroups) = (state_folder(arguments, node), datapath::cgroup2_mount()?);
    match Memory::begin(&state, cgroups, directory.clone(), options) {
        Ok((memory, socket)) => Ok((memory, Some(socket))),
        Err(error) => {
            warn!("sessions of this node get no memory: {error}");
            Ok((Memory::default(), None))
        }
    }
}

fn begin_self_test() -> Result<probe::Running> {
    probe::Running::begin().context("the self-test can't be started")
}

/// The node's name: as said, or the host's.
///
/// # Errors
/// The host's name is none for a node.
pub(crate) fn node_name(said: Option<&NodeName>) -> Result<String> {
    if let Some(said) = said {
        return Ok(said.to_string());
    }
    let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    match NodeName::new(&host) {
        Ok(name) => Ok(name.to_string()),
        Err(why) => bail!("this machine's name, {host:?}, is none for a node: {why}; choose one with --node"),
    }
}

/// Where a node's maps and programs are pinned unless said otherwise.
pub(crate) fn usual_pins(node: &str) -> PathBuf {
    let folder = match datapath::bpf_folder("patchbay") {
        Ok(folder) => folder.path,
        Err(missing) => {
            warn!("{missing}");
            PathBuf::from("/run/patchbay/bpf/patchbay")
        }
    };
    folder.join(node)
}

/// A node's cgroup below the mount unless said otherwise.
pub(crate) fn usual_cgroup(node: &str) -> PathBuf {
    PathBuf::from("patchbay").join(node)
}

/// Where maps and programs are pinned.
fn pins(arguments: &Run, node: &str) -> PathBuf {
    match (&arguments.pins, arguments.redirection) {
        (Some(pins), _) => pins.clone(),
        (None, Switch::On) => usual_pins(node),
        // Nothing will be there.
        (None, Switch::Off) => PathBuf::from("/run/patchbay/pins").join(node),
    }
}

/// The instances' listener.
async fn listen(at: SocketAddr) -> Result<TcpListener> {
    let begun = Instant::now();
    loop {
        match TcpListener::bind(at).await {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && begun.elapsed() < LISTEN_WITHIN =>
            {
                sleep(TRY_EVERY).await;
            }
            result => {
                return result.with_context(|| {
                    format!(
                        "can't listen for instances at {at} (tried for {} s); another program has it: end that, or choose another address with --listen",
                        LISTEN_WITHIN.as_secs()
                    )
                });
            }
        }
    }
}

/// All instances have ended: nothing of the node stays in the kernel.
async fn leave_nothing(cgroup: &Path, pins: &Path) -> Result<()> {
    processes::end_all(cgroup).await;
    PlugAddresses::remove(pins)
        .and_then(|()| Datapath::detach(pins))
        .with_context(|| format!("the pins at {} can't be removed", pins.display()))?;
    // Only what is empty can be removed: others may have the folders above.
    let _ = std::fs::remove_dir(cgroup);
    let _ = cgroup.parent().map(std::fs::remove_dir);
    Ok(())
}

fn node_cgroup(arguments: &Run, node: &str) -> Result<PathBuf> {
    let below = arguments.cgroup.clone().unwrap_or_else(|| usual_cgroup(node));
    Ok(datapath::cgroup2_mount()?.join(below))
}

fn state_folder(arguments: &Run, node: &str) -> PathBuf {
    let usual = || PathBuf::from("/var/lib/patchbay/nodes").join(node);
    arguments.state_dir.clone().unwrap_or_else(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_machines_own() {
        for bad in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "localhost", ""] {
            assert!(node_address(bad).is_err(), "{bad}");
        }
        for good in ["10.0.0.1", "127.0.0.1", "fd00::1"] {
            assert_eq!(node_address(good).map(|address| address.to_string()).as_deref(), Ok(good));
        }
    }
}
