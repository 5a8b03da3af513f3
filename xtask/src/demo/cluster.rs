//! Two nodes on this machine: network namespaces joined by a bridge in a third, cgroups of their own.
//!
//! Everything has a name of its own, so that whatever a killed demo left can be found and removed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SigSet, Signal};

use super::folder;
use crate::command::{output, run_quietly};
use crate::workspace;

/// The namespace of the bridge, the Manager and the users.
pub const HUB: &str = "patchbay-hub";
/// The nodes' names.
const NODES: [&str; 2] = ["a", "b"];
/// The nodes' addresses.
pub const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
/// The Manager's and the users' address.
const HUB_ADDRESS: &str = "10.77.0.100";
/// The cgroup above everything, below the cgroup v2 mount.
const CGROUP: &str = "patchbay-demo";
/// How long Manager and agents may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How long processes may take to be gone after they were killed.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// The running cluster.
pub struct Cluster {
    agents: Vec<Child>,
}

impl Cluster {
    /// Makes the network and starts a Manager and two agents.
    pub fn start() -> Result<Self> {
        make_network()?;
        let cgroup = cgroup()?;
        fs::create_dir_all(cgroup.join("control"))?;
        let bin = workspace().join("target/release");
        let database = folder().join("manager.db");
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", database.display()));
        }
        start(HUB, &bin.join("patchbay-manager"), "manager", |command| {
            command
                .args(["--listen-agents", &format!("{HUB_ADDRESS}:55555")])
                .arg("--database")
                .arg(&database);
        })?;
        let mut agents = Vec::new();
        for (node, address) in NODES.iter().zip(ADDRESSES) {
            let repository = write_repository(node, &bin)?;
            let state = folder().join(node);
            let _ = fs::remove_dir_all(&state);
            agents.push(start(&namespace(node), &bin.join("patchbay-agent"), node, |command| {
                command.args(["run", "--manager", &format!("{HUB_ADDRESS}:55555"), "--address", address]);
                command.args(["--node", node, "--cgroup", &format!("{CGROUP}/{node}")]);
                command.arg("--pins").arg(pins(node));
                command.arg("--repository").arg(&repository).arg("--state-dir").arg(&state);
            })?);
        }
        let cluster = Self { agents };
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let begun = Instant::now();
        while self.patchbay(&["nodes", "--output", "json"]).map_or(0, |text| text.matches("\"up\"").count())
            < 2
        {
            if begun.elapsed() > READY_WITHIN {
                bail!("Manager and agents were not ready in time; their logs are in {}", folder().display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The agents' process ids.
    pub fn agents(&self) -> [u32; 2] {
        [self.agents[0].id(), self.agents[1].id()]
    }

    /// The graph file.
    pub fn graph(&self) -> String {
        workspace().join("examples/social/social.toml").display().to_string()
    }

    /// A command in the hub's namespace.
    pub fn in_hub(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{HUB}")).args(arguments);
        command
    }

    /// Runs the `patchbay` command against the Manager.
    pub fn patchbay(&self, arguments: &[&str]) -> Result<String> {
        let program = workspace().join("target/release/patchbay").display().to_string();
        output(self.in_hub(&[&program]).args(arguments))
    }
}

/// Where a node's agent pins its programs: a mount of its own, which takes them away with it.
fn pins(node: &str) -> PathBuf {
    folder().join(format!("pins-{node}"))
}

fn namespace(node: &str) -> String {
    format!("patchbay-{node}")
}

fn cgroup() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    });
    Ok(mount.context("cgroup v2 is not mounted on this machine")?.join(CGROUP))
}

fn ip(arguments: &str) -> Result<()> {
    run_quietly(Command::new("ip").args(arguments.split(' ')))
}

fn make_network() -> Result<()> {
    ip(&format!("netns add {HUB}"))?;
    ip(&format!("-n {HUB} link add bridge0 type bridge"))?;
    ip(&format!("-n {HUB} addr add {HUB_ADDRESS}/24 dev bridge0"))?;
    ip(&format!("-n {HUB} link set bridge0 up"))?;
    ip(&format!("-n {HUB} link set lo up"))?;
    for (node, address) in NODES.iter().zip(ADDRESSES) {
        let namespace = namespace(node);
        ip(&format!("netns add {namespace}"))?;
        ip(&format!("-n {HUB} link add port-{node} type veth peer name eth0 netns {namespace}"))?;
        ip(&format!("-n {HUB} link set port-{node} master bridge0 up"))?;
        ip(&format!("-n {namespace} addr add {address}/24 dev eth0"))?;
        ip(&format!("-n {namespace} link set eth0 up"))?;
        ip(&format!("-n {namespace} link set lo up"))?;
    }
    Ok(())
}

/// What a node can execute: files are kept on the second one, everything else can run on both.
fn write_repository(node: &str, bin: &Path) -> Result<PathBuf> {
    let text = fs::read_to_string(workspace().join("examples/social/repository.toml"))?;
    let text = text.replace("{bin}", &bin.display().to_string());
    let text = match node {
        "a" => text
            .split("\n\n")
            .filter(|entry| !entry.contains("[service.file-store]"))
            .collect::<Vec<_>>()
            .join("\n\n"),
        _ => text,
    };
    let file = folder().join(format!("repository-{node}.toml"));
    fs::write(&file, text)?;
    Ok(file)
}

/// Starts a program in a namespace, in the control cgroup, with its log in the demo's folder.
fn start(namespace: &str, program: &Path, name: &str, arguments: impl FnOnce(&mut Command)) -> Result<Child> {
    let log = File::create(folder().join(format!("{name}.log")))?;
    let mut command = Command::new("sh");
    // The shell enters the cgroup first and then becomes the program. `ip netns exec` would hide the
    // cgroup mount.
    command.args(["-c", "echo $$ > \"$0\" && exec nsenter \"$@\""]);
    command.arg(cgroup()?.join("control/cgroup.procs"));
    command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
    arguments(&mut command);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("{} can't be started", program.display()))
}

/// The calling process becomes part of the demo and ends with it.
pub fn join() -> Result<()> {
    fs::write(cgroup()?.join("control/cgroup.procs"), "0").context("the demo is not running")
}

/// Removes whatever a demo made: processes, cgroups, namespaces.
pub fn clean() -> Result<()> {
    let cgroup = cgroup()?;
    if cgroup.exists() {
        fs::write(cgroup.join("cgroup.kill"), "1").context("the demo's processes can't be ended")?;
        let begun = Instant::now();
        while remove_folders(&cgroup).is_err() {
            if begun.elapsed() > GONE_WITHIN {
                bail!("the cgroup {} can't be removed", cgroup.display());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    for node in NODES {
        // What is not mounted needs no unmounting.
        let _ = nix::mount::umount2(&pins(node), nix::mount::MntFlags::MNT_DETACH);
    }
    for name in [HUB, "patchbay-a", "patchbay-b"] {
        if Path::new("/run/netns").join(name).exists() {
            ip(&format!("netns delete {name}"))?;
        }
    }
    Ok(())
}

fn remove_folders(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_folders(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

/// Ctrl-C and SIGTERM leave nothing behind.
pub fn clean_on_signals() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            eprintln!("==> {signal}: cleaning up");
            let cleaned = clean();
            if let Err(error) = &cleaned {
                eprintln!("error: {error:#}; run `cargo xtask demo --clean`");
            }
            std::process::exit(128 + signal as i32);
        }
    });
    Ok(())
}
