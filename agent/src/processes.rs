//! Instances as processes: each in a cgroup of its own, ended with everything it started.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ssmmp::{InstanceId, Status};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::adopted::{AdoptedProcess, Record};
use crate::core::{Event, Start};
use crate::datapath::cgroup_id;
use crate::repository::{Entry, Kind, Limits, fill};
use crate::socket_table;

/// How long an instance's sockets may take to listen.
const LISTEN_WITHIN: Duration = Duration::from_secs(20);
/// How often the socket table is read while an instance is starting.
const LISTEN_CHECK: Duration = Duration::from_millis(10);
/// Between the polite signal and the forced end.
pub const POLITE_TIME: Duration = Duration::from_secs(1);
/// Output lines that go with a failure.
const LAST_LINES: usize = 20;
/// Bytes at an output's end that are searched for them.
const LAST_BYTES: u64 = 4096;
/// An output file longer than this is cut once its instance is looked at, in bytes.
const MAX_OUTPUT_BYTES: u64 = 10 << 20;
/// How often output files are looked at.
const OUTPUT_CHECK: Duration = Duration::from_secs(10);
/// How long a cgroup may take to become empty after its processes were killed.
const EMPTY_WITHIN: Duration = Duration::from_secs(5);

/// Where instances live.
#[derive(Debug, Clone)]
pub struct Places {
    /// The node's cgroup.
    pub cgroup: PathBuf,
    /// Outputs and the instances' own folders.
    pub state: PathBuf,
    /// The agent's listener, for the instances' environment.
    pub agent: String,
    /// The node's name.
    pub node: String,
}

impl Places {
    /// An instance's cgroup.
    pub fn instance_cgroup(&self, name: &str) -> PathBuf {
        self.cgroup.join("instances").join(name)
    }
}

/// `service-id`, the name of an instance's cgroup, folder and output.
pub fn instance_name(start: &Start) -> String {
    format!("{}-{}", start.service, start.id)
}

/// An instance's processes.
pub struct Process {
    main: Main,
    cgroup: PathBuf,
    output: PathBuf,
    record: PathBuf,
}

/// The process that was started, by this agent or an earlier one.
enum Main {
    Child(Child),
    Adopted(AdoptedProcess),
}

impl Main {
    async fn wait(&mut self) -> String {
        match self {
            Self::Child(child) => child.wait().await.map_or_else(|error| error.to_string(), describe),
            Self::Adopted(process) => {
                process.wait().await;
                "exit status unknown, an earlier agent started it".into()
            }
        }
    }

    fn id(&self) -> Option<i32> {
        match self {
            Self::Child(child) => child.id().map(u32::cast_signed),
            Self::Adopted(process) => Some(process.id),
        }
    }
}

/// Makes an instance's cgroup and returns its id, so that the instance is known before it runs.
///
/// # Errors
/// What could not be done, for people.
pub fn prepare(places: &Places, start: &Start, entry: &Entry) -> Result<u64, String> {
    let cgroup = places.instance_cgroup(&instance_name(start));
    let fail = |error: io::Error| format!("making the cgroup {} failed: {error}", cgroup.display());
    fs::create_dir_all(&cgroup).map_err(fail)?;
    limit(&cgroup, &entry.limits);
    cgroup_id(&cgroup).map_err(fail)
}

/// Starts an instance's process in its prepared cgroup.
///
/// # Errors
/// What could not be done, for people.
pub fn start(places: &Places, start: &Start, entry: &Entry) -> Result<Process, String> {
    let name = instance_name(start);
    let cgroup = places.instance_cgroup(&name);
    let folder = places.state.join("instances").join(&name);
    let output = folder.with_extension("log");
    let fail =
        |what: &str, path: &Path, error: io::Error| format!("{what} {} failed: {error}", path.display());
    fs::create_dir_all(&folder).map_err(|e| fail("making the folder", &folder, e))?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&output)
        .map_err(|e| fail("opening", &output, e))?;
    let errors = log.try_clone().map_err(|e| fail("opening", &output, e))?;
    let join = cgroup.join("cgroup.procs");
    let members = OpenOptions::new().write(true).open(&join).map_err(|e| fail("opening", &join, e))?;

    let mut command = command(places, start, entry, &folder)?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
    enter_cgroup(&mut command, members);
    let child = command.spawn().map_err(|e| fail("starting", &entry.program, e))?;
    let record = folder.with_extension("toml");
    let process = child.id().map_or(0, u32::cast_signed);
    Record::new(start, process).write(&record).map_err(|e| fail("writing", &record, e))?;
    Ok(Process { main: Main::Child(child), cgroup, output, record })
}

/// Takes over the instances that an earlier agent left running, and ends what it left otherwise.
///
/// # Errors
/// The folders can't be read.
pub async fn adopt(places: &Places) -> io::Result<Vec<(Start, u64, Process)>> {
    let mut adopted = Vec::new();
    let instances = places.cgroup.join("instances");
    fs::create_dir_all(&instances)?;
    for entry in fs::read_dir(&instances)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let (name, cgroup) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let folder = places.state.join("instances").join(&name);
        match adopt_one(&cgroup, &folder) {
            Ok((start, id, process)) => {
                info!(instance = %start.id, service = %start.service, "taken over from an earlier agent");
                adopted.push((start, id, process));
            }
            Err(reason) => {
                warn!(instance = name, "left by an earlier agent and ended: {reason}");
                remove_cgroup(&cgroup).await;
                let _ = fs::remove_file(folder.with_extension("toml"));
            }
        }
    }
    Ok(adopted)
}

fn adopt_one(cgroup: &Path, folder: &Path) -> Result<(Start, u64, Process), String> {
    let record = folder.with_extension("toml");
    let (start, id) = Record::read(&record)?;
    let members = fs::read_to_string(cgroup.join("cgroup.procs")).map_err(|error| error.to_string())?;
    if !members.lines().any(|member| member == id.to_string()) {
        return Err("its process has ended".into());
    }
    let number = cgroup_id(cgroup).map_err(|error| error.to_string())?;
    let ports: Vec<u16> = start.sockets.0.iter().map(|socket| socket.port.0).collect();
    if !listens(number, &ports) {
        return Err("its sockets do not listen".into());
    }
    let main = AdoptedProcess::open(id).map_err(|error| error.to_string())?;
    let output = folder.with_extension("log");
    Ok((start, number, Process { main: Main::Adopted(main), cgroup: cgroup.to_owned(), output, record }))
}

fn command(places: &Places, start: &Start, entry: &Entry, folder: &Path) -> Result<Command, String> {
    let value = |placeholder: &str| match placeholder.split_once(':') {
        None if placeholder == "addr" => Some(start.address.to_string()),
        None if placeholder == "state" => Some(folder.display().to_string()),
        Some(("port", socket)) => start.sockets.port(socket).map(|port| port.to_string()),
        Some((kind, plug)) => start.targets.get(plug).map(|at| match kind {
            "plug_addr" => at.ip().to_string(),
            "plug_port" => at.port().to_string(),
            _ => at.to_string(),
        }),
        None => None,
    };
    let mut command = Command::new(&entry.program);
    command.args(entry.arguments.iter().map(|argument| fill(argument, value)));
    if entry.kind == Kind::Native {
        command.args([start.service.as_str(), &start.id.to_string(), &start.address.to_string()]);
        command.args([start.sockets.encode(), start.plugs.encode()]);
    }
    command.envs(entry.environment.iter().map(|(name, text)| (name, fill(text, value))));
    command.env("SSMMP_AGENT", &places.agent).env("PATCHBAY_NODE", &places.node);
    command.env("PATCHBAY_STATE", folder);
    match &entry.working_directory {
        Some(directory) => command.current_dir(fill(directory, value)),
        None => command.current_dir(folder),
    };
    if let Some(name) = &entry.user {
        let user = nix::unistd::User::from_name(name)
            .ok()
            .flatten()
            .ok_or_else(|| format!("this machine has no user `{name}`"))?;
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        nix::unistd::chown(folder, Some(user.uid), Some(user.gid))
            .map_err(|e| format!("chown failed: {e}"))?;
    }
    Ok(command)
}

/// The process enters its cgroup before it runs anything, so that all its sockets are made there.
#[expect(unsafe_code, reason = "what runs between fork and exec must be said to be safe there")]
pub fn enter_cgroup(command: &mut Command, members: File) {
    let enter = move || {
        // "0" is the writing process itself.
        nix::unistd::write(&members, b"0").map(drop).map_err(io::Error::from)
    };
    // SAFETY: the closure makes one system call on an open descriptor: no allocation, no lock.
    unsafe { command.pre_exec(enter) };
}

/// Applies limits where the controllers exist, and says which do not.
fn limit(cgroup: &Path, limits: &Limits) {
    let period = 100_000.0;
    let wanted = [
        ("memory.max", limits.memory.clone()),
        ("pids.max", limits.processes.map(|count| count.to_string())),
        ("cpu.max", limits.cpus.map(|cpus| format!("{} {period}", (cpus * period).round()))),
    ];
    for (file, value) in wanted {
        let Some(value) = value else { continue };
        if let Err(error) = fs::write(cgroup.join(file), &value) {
            warn!(file, value, "a limit is not applied, this cgroup has no such controller: {error}");
        }
    }
}

/// Watches an instance until it ends; tells when it listens and when it is gone.
pub async fn watch(
    mut process: Process,
    id: InstanceId,
    cgroup: u64,
    ports: Vec<u16>,
    events: mpsc::Sender<Event>,
    mut end: mpsc::Receiver<()>,
) {
    let begun = Instant::now();
    // One that was adopted listens already.
    let mut listening = matches!(process.main, Main::Adopted(_));
    let mut next_look = begun + OUTPUT_CHECK;
    let mut failure = None;
    let reason = loop {
        let pause = if listening { OUTPUT_CHECK } else { LISTEN_CHECK };
        tokio::select! {
            reason = process.main.wait() => break reason,
            _ = end.recv() => {
                process.terminate();
                match tokio::time::timeout(POLITE_TIME, process.main.wait()).await {
                    Ok(reason) => break reason,
                    Err(_) => process.kill(),
                }
            }
            () = sleep(pause) => {}
        }
        if !listening && listens(cgroup, &ports) {
            listening = true;
            let _ = events.send(Event::Listening(id)).await;
        }
        if !listening && failure.is_none() && begun.elapsed() > LISTEN_WITHIN {
            failure = Some(format!("its sockets did not listen within {} s", LISTEN_WITHIN.as_secs()));
            process.kill();
        }
        if Instant::now() > next_look {
            next_look += OUTPUT_CHECK;
            process.cut_output();
        }
    };
    process.clean_up().await;
    let output = process.last_lines();
    info!(instance = %id, "ended: {reason}");
    let event = match failure {
        Some(failure) => Event::StartFailed(id, Status::NO_ANSWER, failure, output),
        None => Event::Exited(id, reason, output),
    };
    let _ = events.send(event).await;
}

fn listens(cgroup: u64, ports: &[u16]) -> bool {
    socket_table::listening().is_ok_and(|found| {
        ports
            .iter()
            .all(|port| found.iter().any(|socket| socket.at.port() == *port && socket.cgroup == cgroup))
    })
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "ended".into(),
    }
}

impl Process {
    fn terminate(&self) {
        if let Some(id) = self.main.id() {
            let group = nix::unistd::Pid::from_raw(id);
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGTERM);
        }
    }

    /// Ends everything in the cgroup (Linux 5.14).
    fn kill(&self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
    }

    /// Ends what the process left behind and removes its cgroup.
    async fn clean_up(&self) {
        remove_cgroup(&self.cgroup).await;
        let _ = fs::remove_file(&self.record);
    }

    fn last_lines(&self) -> Vec<String> {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.output)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<String> =
            text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].to_vec()
    }

    /// Keeps one earlier file and cuts the present one; the process goes on writing at its end.
    fn cut_output(&self) {
        let too_long = fs::metadata(&self.output).is_ok_and(|found| found.len() > MAX_OUTPUT_BYTES);
        if too_long && fs::copy(&self.output, self.output.with_extension("log.1")).is_ok() {
            let _ = OpenOptions::new().write(true).open(&self.output).and_then(|file| file.set_len(0));
        }
    }
}

/// Ends everything in a cgroup and removes it.
pub async fn remove_cgroup(cgroup: &Path) {
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    let begun = Instant::now();
    while fs::remove_dir(cgroup).is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
        if begun.elapsed() > EMPTY_WITHIN {
            warn!(cgroup = %cgroup.display(), "the cgroup does not become empty");
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
}
