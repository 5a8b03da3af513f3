//! Several nodes on this machine: network namespaces joined by a bridge in one more, cgroups of their own,
//! a Manager and an agent each: the real programs. Every party can be killed, frozen, cut off and started
//! again. Everything has the plan's name, so that whatever a killed run left can be found and removed.

mod belief;
mod cgroup;
mod network;
mod orphans;
mod parties;
mod programs;
mod replacing;
mod users;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
pub use parties::{Party, RealInstance};
use patchbay_api as api;
pub use programs::for_programs;
use serde::de::DeserializeOwned;

/// The Manager's and the users' address.
pub const HUB_ADDRESS: &str = "10.77.0.100";
/// How long Manager and agents may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How long the Manager may take to answer a command: it may be frozen.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Begins the name of every namespace and is the cgroup's; short, and of one run at a time only.
    pub name: String,
    /// Where logs, the database and the nodes' state are.
    pub folder: PathBuf,
    /// Where the built programs are.
    pub programs: PathBuf,
    /// Each node's name and the text of its repository.
    pub nodes: Vec<(String, String)>,
    /// Further flags of the Manager.
    pub manager_flags: Vec<String>,
    /// Further flags of every agent.
    pub agent_flags: Vec<String>,
}

/// The running cluster. Dropping it ends and removes everything, but for the folder.
pub struct Cluster {
    plan: Plan,
    manager: Option<Child>,
    agents: Vec<Option<Child>>,
    /// Agents that hand over to those, by node.
    earlier: Vec<Option<Child>>,
    left_running: bool,
}

impl Plan {
    /// A node's address.
    pub fn address(node: usize) -> String {
        format!("10.77.0.{}", node + 1)
    }

    /// Removes whatever a run of this plan made or left: processes, cgroups, mounts, namespaces.
    ///
    /// # Errors
    /// Something can't be removed.
    pub fn clean(&self) -> Result<()> {
        cgroup::remove(&self.name)?;
        for (node, _) in &self.nodes {
            // What is not mounted needs no unmounting.
            let _ = nix::mount::umount2(&self.pins(node), nix::mount::MntFlags::MNT_DETACH);
        }
        network::remove(self)
    }

    /// The calling process becomes part of the cluster and ends with it.
    ///
    /// # Errors
    /// The cluster is not running.
    pub fn join(&self) -> Result<()> {
        fs::write(cgroup::path(&self.name)?.join("control/cgroup.procs"), "0").context("it is not running")
    }

    /// A command in the hub's network namespace, where the Manager and the users are.
    pub fn in_hub(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.hub_namespace().display())).args(arguments);
        command
    }

    /// The file of the hub's network namespace.
    pub fn hub_namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(network::namespace(self, "hub"))
    }

    /// Where people ask the Manager.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("manager.sock")
    }

    /// Where a node's agent pins its programs: a mount of its own, which takes them away with it.
    fn pins(&self, node: &str) -> PathBuf {
        self.folder.join(format!("pins-{node}"))
    }
}

impl Cluster {
    /// Makes the network and starts a Manager and the agents, with an empty database and no state.
    ///
    /// # Errors
    /// Something of this name exists already, or it is not ready in 20 seconds.
    pub fn start(plan: Plan) -> Result<Self> {
        fs::create_dir_all(&plan.folder)?;
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(plan.folder.join(format!("manager.db{suffix}")));
        }
        let nobody = || plan.nodes.iter().map(|_| None).collect();
        let (agents, earlier) = (nobody(), nobody());
        let mut cluster = Self { plan, manager: None, agents, earlier, left_running: false };
        network::make(&cluster.plan)?;
        fs::create_dir_all(cgroup::path(&cluster.plan.name)?.join("control"))?;
        cluster.start_manager()?;
        for node in 0..cluster.plan.nodes.len() {
            let (name, text) = &cluster.plan.nodes[node];
            let _ = fs::remove_dir_all(cluster.plan.folder.join(name));
            let text = for_programs(text, &cluster.plan.programs);
            fs::write(cluster.repository_file(name), text)?;
            cluster.start_agent(node)?;
        }
        let all = cluster.plan.nodes.len();
        cluster.wait("all agents are ready", READY_WITHIN, |cluster| cluster.nodes_ready() == all)?;
        Ok(cluster)
    }

    /// Leaves everything running; [`Plan::clean`] ends it.
    pub fn leave_running(mut self) {
        self.left_running = true;
    }

    /// Its plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    fn repository_file(&self, node: &str) -> PathBuf {
        self.plan.folder.join(format!("repository-{node}.toml"))
    }

    /// Starts the Manager, again after it was killed.
    ///
    /// # Errors
    /// Its program can't be started.
    pub fn start_manager(&mut self) -> Result<()> {
        let mut arguments = vec!["--listen-agents".to_owned(), format!("{HUB_ADDRESS}:55555")];
        arguments.extend(self.security("manager"));
        arguments.extend(["--database".into(), self.plan.folder.join("manager.db").display().to_string()]);
        arguments.extend(["--socket".into(), self.plan.socket().display().to_string()]);
        arguments.extend(self.plan.manager_flags.iter().cloned());
        self.manager = Some(self.spawn("hub", "patchbay-manager", "manager", &arguments)?);
        Ok(())
    }

    /// Starts a node's agent, again after it was killed.
    ///
    /// # Errors
    /// Its program can't be started.
    pub fn start_agent(&mut self, node: usize) -> Result<()> {
        let (name, arguments) = self.agent_arguments(node);
        self.agents[node] =
            Some(self.spawn(&name, "patchbay-agent", &format!("agent-{name}"), &arguments)?);
        Ok(())
    }

    /// A node's name, and its agent's arguments.
    fn agent_arguments(&self, node: usize) -> (String, Vec<String>) {
        let name = self.plan.nodes[node].0.clone();
        let file = |path: PathBuf| path.display().to_string();
        let mut arguments = vec!["run".to_owned(), "--manager".into(), format!("{HUB_ADDRESS}:55555")];
        arguments.extend(["--address".into(), Plan::address(node), "--node".into(), name.clone()]);
        arguments.extend(["--cgroup".into(), format!("{}/{name}", self.plan.name)]);
        arguments.extend(["--pins".into(), file(self.plan.pins(&name))]);
        arguments.extend(["--repository".into(), file(self.repository_file(&name))]);
        arguments.extend(["--state-dir".into(), file(self.plan.folder.join(&name))]);
        // What plans are made for are faults of the kernel's ways, unless they say otherwise.
        if !self.plan.agent_flags.iter().any(|flag| flag.starts_with("--memory=")) {
            arguments.push("--memory=off".into());
        }
        arguments.extend(self.security(&format!("nodes/{name}")));
        arguments.extend(self.plan.agent_flags.iter().cloned());
        (name, arguments)
    }

    /// What a program proves itself with: its part of what `patchbay certs` made in the folder `certificates`, if the
    /// plan's folder has one; else nothing, between namespaces of this machine.
    fn security(&self, part: &str) -> Vec<String> {
        let certificates = self.plan.folder.join("certificates");
        match certificates.exists() {
            true => vec!["--certificates".into(), certificates.join(part).display().to_string()],
            false => vec!["--plain".into()],
        }
    }

    /// Starts a program in a namespace, in the control cgroup, with its log in the folder.
    fn spawn(&self, place: &str, program: &str, log: &str, arguments: &[String]) -> Result<Child> {
        let program = self.plan.programs.join(program);
        let log = self.plan.folder.join(format!("{log}.log"));
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new("sh");
        // The shell enters the cgroup first and then becomes the program. `ip netns exec` would hide the
        // cgroup mount.
        command.args(["-c", "echo $$ > \"$0\" && exec nsenter \"$@\""]);
        command.arg(cgroup::path(&self.plan.name)?.join("control/cgroup.procs"));
        command.arg(format!("--net=/run/netns/{}", network::namespace(&self.plan, place)));
        command.arg(&program).args(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("{} can't be started", program.display()))
    }

    /// Runs the `patchbay` command against the Manager and returns what it printed.
    ///
    /// # Errors
    /// It failed; with what it said.
    pub fn patchbay(&self, arguments: &[&str]) -> Result<String> {
        let program = self.plan.programs.join("patchbay").display().to_string();
        let within = ANSWER_WITHIN.as_secs().to_string();
        let output = self
            .plan
            .in_hub(&["timeout", &within, &program])
            .env("PATCHBAY_MANAGER", format!("unix:{}", self.plan.socket().display()))
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            bail!("`patchbay {}`: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn list<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<Vec<T>> {
        Ok(serde_json::from_str(&self.patchbay(&[arguments, &["--output", "json"]].concat())?)?)
    }

    /// Instances, the ended ones too.
    ///
    /// # Errors
    /// The Manager does not answer.
    pub fn instances(&self) -> Result<Vec<api::Instance>> {
        self.list(&["instances", "--ended"])
    }

    /// Sessions, the ended ones too.
    ///
    /// # Errors
    /// The Manager does not answer.
    pub fn sessions(&self) -> Result<Vec<api::Session>> {
        self.list(&["sessions", "--ended"])
    }

    /// Nodes.
    ///
    /// # Errors
    /// The Manager does not answer.
    pub fn nodes(&self) -> Result<Vec<api::Node>> {
        self.list(&["nodes"])
    }

    /// Those that are registered and know whether they can redirect: sessions before that stay on TCP.
    fn nodes_ready(&self) -> usize {
        let tested = |node: &api::Node| !node.redirection.contains("self-test has not ended");
        self.nodes().unwrap_or_default().iter().filter(|node| node.state == "up" && tested(node)).count()
    }

    /// The running instances of a service, by node's name.
    pub fn running(&self, service: &str) -> Vec<api::Instance> {
        let all = self.instances().unwrap_or_default();
        all.into_iter().filter(|found| found.service == service && found.state == "running").collect()
    }

    /// Waits until something is true.
    ///
    /// # Errors
    /// It is not true in time; with the ends of all logs.
    pub fn wait(&self, what: &str, within: Duration, is_true: impl Fn(&Self) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !is_true(self) {
            if begun.elapsed() > within {
                bail!("not within {} s: {what}\n{}", within.as_secs(), self.logs());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// The last lines of every log.
    pub fn logs(&self) -> String {
        let agents = self.plan.nodes.iter().map(|(name, _)| format!("agent-{name}"));
        let mut text = String::new();
        for name in std::iter::once("manager".to_owned()).chain(agents) {
            let log = fs::read_to_string(self.plan.folder.join(format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(60)..].join("\n");
            text.push_str(&format!("--- {name}\n{last}\n"));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.left_running {
            return;
        }
        if let Err(error) = self.plan.clean() {
            eprintln!("error: {} could not be removed: {error:#}", self.plan.name);
        }
        let agents = self.agents.drain(..).chain(self.earlier.drain(..)).flatten();
        for mut child in agents.chain(self.manager.take()) {
            let _ = child.wait();
        }
    }
}
