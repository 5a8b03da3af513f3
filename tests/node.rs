//! One node for one test: a network namespace, a cgroup, a Manager and an agent: the real programs, built
//! in release mode by `cargo xtask test`. Everything is removed even when the test fails.

pub mod social;
pub mod talker;
pub mod user;

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use patchbay_agent::datapath::cgroup2_mount;
use patchbay_api as api;
use patchbay_testbed::for_programs;
use serde_json::Value;

/// The graph of the smallest application.
pub const HELLO: &str = include_str!("../examples/hello/hello.toml");
/// What executes it.
pub const REPOSITORY: &str = include_str!("../examples/hello/repository.toml");

/// A user of it who asks once and prints the answer, in Python.
pub const GREET: &str = "import socket; s = socket.create_connection(('127.0.0.1', 9000), 20); \
                     s.settimeout(20); s.sendall(b'world\\n'); print(s.recv(100).decode())";

/// How long anything may take to come true.
const WITHIN: Duration = Duration::from_secs(20);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A program that ends with the test.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node with its Manager.
pub struct Node {
    name: String,
    folder: PathBuf,
    cgroup: PathBuf,
    agent_flags: Vec<String>,
    manager_flags: Vec<String>,
    environment: Vec<(String, String)>,
    manager: Option<Child>,
    agent: Option<Child>,
}

impl Node {
    /// Starts Manager and agent; `{bin}` in the repository stands for the built programs, `{tests}` for
    /// this folder.
    #[must_use]
    pub fn start(repository: &str) -> Self {
        Self::start_with(repository, &[])
    }

    /// Starts Manager and agent, the agent with further flags.
    #[must_use]
    pub fn start_with(repository: &str, agent_flags: &[&str]) -> Self {
        Self::start_with_both(repository, agent_flags, &[])
    }

    /// Starts Manager and agent, each with further flags.
    #[must_use]
    pub fn start_with_both(repository: &str, agent_flags: &[&str], manager_flags: &[&str]) -> Self {
        let mut node = Self::prepare(repository, agent_flags, manager_flags);
        node.start_manager();
        node.start_agent();
        node
    }

    /// Starts the Manager; the agent is started later.
    #[must_use]
    pub fn start_without_agent(repository: &str) -> Self {
        let mut node = Self::prepare(repository, &[], &[]);
        node.start_manager();
        node
    }

    /// A node on which nothing runs yet.
    #[must_use]
    pub fn prepare(repository: &str, agent_flags: &[&str], manager_flags: &[&str]) -> Self {
        let name = format!("pbe{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir_all(&folder).expect("a folder");
        let cgroup = cgroup2_mount().expect("cgroup v2 is mounted").join(&name);
        fs::create_dir_all(cgroup.join("control")).expect("root makes cgroups");
        let node = Self {
            name,
            folder,
            cgroup,
            agent_flags: agent_flags.iter().map(ToString::to_string).collect(),
            manager_flags: manager_flags.iter().map(ToString::to_string).collect(),
            environment: Vec::new(),
            manager: None,
            agent: None,
        };
        ip(&["netns", "add", &node.name]);
        ip(&["-n", &node.name, "link", "set", "lo", "up"]);
        let text = for_programs(repository, &bin()).replace("{tests}", env!("CARGO_MANIFEST_DIR"));
        fs::write(node.folder.join("repository.toml"), text).expect("written");
        node
    }

    /// What Manager and agent find in their environment when they start next.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.environment = variables.iter().map(owned).collect();
    }

    /// Starts the Manager, again after [`Self::kill_manager`].
    pub fn start_manager(&mut self) {
        self.start_manager_on("manager.db");
    }

    /// Starts the Manager with a database of this name in the test's folder.
    pub fn start_manager_on(&mut self, database: &str) {
        let database = self.folder.join(database).display().to_string();
        let socket = self.folder.join("manager.sock").display().to_string();
        let mut arguments = vec!["--database", &database, "--socket", &socket];
        arguments.extend(self.manager_flags.iter().map(String::as_str));
        self.manager = Some(self.spawn("patchbay-manager", &arguments));
        let ready = |node: &Self| node.patchbay(&["status"]).status.success();
        self.wait("the Manager answers", ready);
    }

    /// Starts the agent, again after [`Self::kill_agent`], and waits until it knows what it can redirect: sessions
    /// before that stay on TCP.
    pub fn start_agent(&mut self) {
        let arguments = self.agent_arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.agent = Some(self.spawn("patchbay-agent", &arguments));
        self.wait_for_agent();
    }

    /// Starts the agent and waits only until it is registered.
    pub fn start_agent_untested(&mut self) {
        let arguments = self.agent_arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.agent = Some(self.spawn("patchbay-agent", &arguments));
        self.wait_until_registered();
    }

    /// Starts the agent and waits for nothing: the test itself is its Manager.
    pub fn start_agent_alone(&mut self) {
        let arguments = self.agent_arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.agent = Some(self.spawn("patchbay-agent", &arguments));
    }

    /// A listener of this test in the node's network.
    #[must_use]
    pub fn listener(&self, at: &str) -> TcpListener {
        let namespace = File::open(format!("/run/netns/{}", self.name)).expect("the node's network");
        let listen = || {
            // Only this thread goes there.
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may");
            TcpListener::bind(at).expect("it is free there")
        };
        std::thread::scope(|scope| scope.spawn(listen).join().expect("bound"))
    }

    /// Replaces the agent by one that takes over from it.
    pub fn replace_agent(&mut self) {
        let mut earlier = self.agent.take().expect("it runs");
        let mut arguments = self.agent_arguments();
        arguments.push("--take-over".into());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.agent = Some(self.spawn("patchbay-agent", &arguments));
        self.wait_for_agent();
        assert!(earlier.wait().expect("it ends").success(), "it hands over");
    }

    fn wait_for_agent(&self) {
        self.wait_until_registered();
        self.wait("the self-test has ended", |node| !node.list("nodes").contains("self-test has not ended"));
    }

    fn wait_until_registered(&self) {
        self.wait("the agent is registered", |node| {
            let log = fs::read_to_string(node.folder.join("patchbay-agent.log")).unwrap_or_default();
            log.contains("registered") && node.list("nodes").contains("\"up\"")
        });
    }

    /// The agent's arguments.
    #[must_use]
    pub fn agent_arguments(&self) -> Vec<String> {
        let repository = self.folder.join("repository.toml").display().to_string();
        let state = self.folder.join("state").display().to_string();
        let cgroup = format!("{}/node", self.name);
        let mut arguments = vec!["run", "--manager=127.0.0.1:55555", "--node=test"];
        if !self.agent_flags.iter().any(|flag| flag.starts_with("--address=")) {
            arguments.push("--address=127.0.0.1");
        }
        let pins = self.folder.join("pins").display().to_string();
        arguments.extend(["--pins", &pins]);
        arguments.extend(["--repository", &repository, "--cgroup", &cgroup, "--state-dir", &state]);
        // Other tests look at what kernel and TCP do between services that could do without.
        if !self.agent_flags.iter().any(|flag| flag.starts_with("--memory=")) {
            arguments.push("--memory=off");
        }
        arguments.extend(self.agent_flags.iter().map(String::as_str));
        arguments.into_iter().map(str::to_owned).collect()
    }

    /// The agent's process id.
    #[must_use]
    pub fn agent_process(&self) -> u32 {
        self.agent.as_ref().map(Child::id).expect("it runs")
    }

    /// The Manager's process id.
    #[must_use]
    pub fn manager_process(&self) -> u32 {
        self.manager.as_ref().map(Child::id).expect("it runs")
    }

    /// Has the agent's next start have a further flag.
    pub fn add_agent_flag(&mut self, flag: &str) {
        self.agent_flags.push(flag.to_owned());
    }

    /// Sends the agent a signal.
    pub fn signal_agent(&self, signal: &str) {
        let id = self.agent_process().to_string();
        let status = Command::new("kill").args([signal, &id]).status().expect("it runs");
        assert!(status.success(), "kill {signal} {id}");
    }

    /// Waits until the agent has ended by itself; whether it was successful, and how long it took.
    pub fn agent_ends(&mut self) -> (bool, Duration) {
        let begun = Instant::now();
        let mut agent = self.agent.take().expect("it runs");
        while begun.elapsed() < 2 * WITHIN {
            if let Some(status) = agent.try_wait().expect("it is ours") {
                return (status.success(), begun.elapsed());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        end(Some(agent));
        panic!("the agent does not end\n{}", self.log("patchbay-agent"));
    }

    /// What a program has logged since its last start.
    #[must_use]
    pub fn log(&self, program: &str) -> String {
        fs::read_to_string(self.folder.join(format!("{program}.log"))).unwrap_or_default()
    }

    /// `kill -9` for the Manager.
    pub fn kill_manager(&mut self) {
        end(self.manager.take());
    }

    /// `kill -9` for the agent.
    pub fn kill_agent(&mut self) {
        end(self.agent.take());
    }

    fn spawn(&self, program: &str, arguments: &[&str]) -> Child {
        let program = bin().join(program);
        assert!(program.exists(), "{} is not built: run `cargo xtask test`", program.display());
        let log = File::create(self.folder.join(program.file_name().expect("a name")).with_extension("log"))
            .expect("a log");
        Command::new("sh")
            .args(["-c", "echo $$ > \"$0\" && exec nsenter \"$@\""])
            .arg(self.cgroup.join("control/cgroup.procs"))
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg(program)
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("started")
    }

    /// A command in the node's network.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg(program).stdin(Stdio::null());
        command
    }

    /// Runs the `patchbay` command.
    #[must_use]
    pub fn patchbay(&self, arguments: &[&str]) -> Output {
        let socket = format!("unix:{}", self.folder.join("manager.sock").display());
        self.command(&bin().join("patchbay").display().to_string())
            .env("PATCHBAY_MANAGER", socket)
            .args(arguments)
            .output()
            .expect("it runs")
    }

    /// Applies a graph and returns what was said.
    #[must_use]
    pub fn apply(&self, graph: &str) -> Output {
        let file = self.folder.join("graph.toml");
        fs::write(&file, graph).expect("written");
        self.patchbay(&["apply", &file.display().to_string()])
    }

    /// What a `patchbay` command lists, as JSON.
    #[must_use]
    pub fn list(&self, what: &str) -> String {
        String::from_utf8_lossy(&self.patchbay(&[what, "--output", "json"]).stdout).into_owned()
    }

    /// Instances, the ended ones too.
    #[must_use]
    pub fn instances(&self) -> Vec<api::Instance> {
        let output = self.patchbay(&["instances", "--ended", "--output", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Sessions, the ended ones too.
    #[must_use]
    pub fn sessions(&self) -> Vec<api::Session> {
        let output = self.patchbay(&["sessions", "--ended", "--output", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Waits until something is true.
    pub fn wait(&self, what: &str, is_true: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_true(self) {
            let logs = || {
                ["patchbay-manager.log", "patchbay-agent.log"]
                    .map(|log| fs::read_to_string(self.folder.join(log)).unwrap_or_default())
                    .join("\n")
            };
            assert!(begun.elapsed() < WITHIN, "not in time: {what}\n{}", logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for a running instance of a service.
    #[must_use]
    pub fn running(&self, service: &str) -> api::Instance {
        let find =
            |node: &Self| node.instances().into_iter().find(|i| i.service == service && i.state == "running");
        self.wait(&format!("{service} runs"), |node| find(node).is_some());
        find(self).expect("it runs")
    }

    /// The cgroup above this test's node.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// One of the built programs.
    #[must_use]
    pub fn program(&self, name: &str) -> String {
        bin().join(name).display().to_string()
    }

    /// Memory of the Manager or the agent, in bytes.
    #[must_use]
    pub fn resident_bytes(&self, program: &str) -> u64 {
        let child = if program == "patchbay-agent" { &self.agent } else { &self.manager };
        let id = child.as_ref().map(Child::id).expect("it runs");
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    /// This test's own folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The output of an instance so far.
    #[must_use]
    pub fn output(&self, instance: &api::Instance) -> String {
        let file = format!("state/instances/{}-{}.log", instance.service, instance.id);
        fs::read_to_string(self.folder.join(file)).unwrap_or_default()
    }

    /// Processes of an instance.
    #[must_use]
    pub fn processes(&self, instance: &api::Instance) -> Vec<String> {
        self.processes_of(&instance.service, instance.id)
    }

    /// Processes of an instance that no Manager knows.
    #[must_use]
    pub fn processes_of(&self, service: &str, id: u64) -> Vec<String> {
        let procs = format!("node/instances/{service}-{id}/cgroup.procs");
        let text = fs::read_to_string(self.cgroup.join(procs)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// `kill -9` for an instance's processes.
    pub fn kill_instance(&self, service: &str, id: u64) {
        let kill = format!("node/instances/{service}-{id}/cgroup.kill");
        fs::write(self.cgroup.join(kill), "1").expect("it runs");
    }

    /// A command as a further process of an instance.
    #[must_use]
    pub fn inside(&self, instance: &api::Instance, program: &str) -> Command {
        let mut command = Command::new("sh");
        let procs = format!("node/instances/{}-{}/cgroup.procs", instance.service, instance.id);
        command.args(["-c", "echo $$ > \"$0\" && exec nsenter \"$@\""]).arg(self.cgroup.join(procs));
        command.arg(format!("--net=/run/netns/{}", self.name)).arg(program).stdin(Stdio::null());
        command
    }

    /// What an instance's environment says.
    #[must_use]
    pub fn environment(&self, instance: &api::Instance, name: &str) -> String {
        let process = self.processes(instance).into_iter().next().expect("it runs");
        let all = fs::read_to_string(format!("/proc/{process}/environ")).expect("readable");
        let value = all.split('\0').find_map(|entry| entry.strip_prefix(&format!("{name}=")));
        value.unwrap_or_else(|| panic!("{name} is not in {all:?}")).to_owned()
    }

    /// What a Python expression prints in the node's network.
    #[must_use]
    pub fn python(&self, script: &str) -> String {
        let output = self.command("python3").args(["-c", script]).output().expect("python3 is installed");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// A row of the Manager's database, by plain SQL through Python.
    #[must_use]
    pub fn sql(&self, query: &str) -> Value {
        let script = format!(
            "import sqlite3, json; print(json.dumps(sqlite3.connect('file:{}?mode=ro', uri=True).execute({query:?}).fetchall()))",
            self.folder.join("manager.db").display()
        );
        serde_json::from_str(&self.python(&script)).expect("rows")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        for child in [self.manager.take(), self.agent.take()] {
            end(child);
        }
        let begun = Instant::now();
        while remove(&self.cgroup).is_err() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
        let _ = Command::new("umount").args(["--lazy", "--quiet"]).arg(self.folder.join("pins")).output();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn remove(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

fn bin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release")
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments:?}: {status}");
}
