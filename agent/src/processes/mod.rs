//! Instances as processes: each in a cgroup of its own, ended with everything it started.

mod cgroup;
mod command;
mod members;
mod user;
mod watch;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

pub use cgroup::{end_all, is_stopped, limit, pass_controllers_on, remove_cgroup};
pub use command::{begin_anew, enter_cgroup};
use patchbay_agent_core::Start;
use patchbay_agent_core::repository::Entry;
use tokio::process::Child;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::spawn_blocking;
use tracing::{info, warn};
pub use user::{USUAL, User};
pub use watch::{POLITE_TIME, watch};

use crate::adopted::{AdoptedProcess, Record};
use crate::data_folder::DataFolder;
use crate::datapath::cgroup_id;
use crate::output::{self, Output};
use crate::private;

/// How long what an earlier agent left may take to end before the agent goes on.
const ENDED_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

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
    /// Where memory for sessions is asked for, for the instances' environment.
    pub memory: Option<PathBuf>,
}

impl Places {
    /// An instance's cgroup.
    pub fn instance_cgroup(&self, name: &str) -> PathBuf {
        self.cgroup.join("instances").join(name)
    }

    /// Where instances' folders, outputs and records are.
    pub fn instances(&self) -> PathBuf {
        self.state.join("instances")
    }
}

/// `service-id`, the name of an instance's cgroup, folder and output.
pub fn instance_name(start: &Start) -> String {
    format!("{}-{}", start.service, start.id)
}

/// An instance's processes.
pub struct Process {
    main: Main,
    /// The id of the main process, which leads a session.
    id: i32,
    cgroup: PathBuf,
    folder: PathBuf,
    output: Output,
    record: Record,
    /// It listened already.
    listens: bool,
    /// How often its process was found outside.
    left: u32,
}

impl Process {
    /// The listener of a plug that an adopted process has kept.
    pub fn plug_listener(&self, plug: &str) -> Option<OwnedFd> {
        let Main::Adopted(process) = &self.main else { return None };
        process.descriptor(self.record.plug_listener(plug)?).ok()
    }
}

/// The process that was started, by this agent or an earlier one.
enum Main {
    Child(Child),
    Adopted(AdoptedProcess),
}

impl Main {
    async fn wait(&mut self) -> String {
        match self {
            Self::Child(child) => child.wait().await.map_or_else(|error| error.to_string(), watch::describe),
            Self::Adopted(process) => {
                process.wait().await;
                "exit status unknown, an earlier agent started it".into()
            }
        }
    }
}

/// Makes an instance's cgroup and returns its id, so that the instance is known before it runs, and which of its limits
/// are not applied.
///
/// # Errors
/// What could not be done, for people.
pub fn prepare(places: &Places, start: &Start, entry: &Entry) -> Result<(u64, String), String> {
    let cgroup = places.instance_cgroup(&instance_name(start));
    let fail = |error: io::Error| format!("making the cgroup {} failed: {error}", cgroup.display());
    fs::create_dir_all(&cgroup).map_err(fail)?;
    let unlimited = limit(&cgroup, &entry.limits);
    if !unlimited.is_empty() {
        warn!(instance = %start.id, service = %start.service, "{unlimited}");
    }
    Ok((cgroup_id(&cgroup).map_err(fail)?, unlimited))
}

/// Starts an instance's process in its prepared cgroup.
///
/// # Errors
/// What could not be done, for people.
pub fn start(
    places: &Places,
    start: &Start,
    entry: &Entry,
    plugs: &BTreeMap<String, (SocketAddr, OwnedFd)>,
) -> Result<Process, String> {
    let addresses = plugs.iter().map(|(plug, (at, _))| (plug.clone(), *at)).collect();
    let start = &Start { plug_addresses: addresses, ..start.clone() };
    let name = instance_name(start);
    let cgroup = places.instance_cgroup(&name);
    let folder = places.instances().join(&name);
    let fail =
        |what: &str, path: &Path, error: io::Error| format!("{what} {} failed: {error}", path.display());
    let user = User::of(entry.user.as_deref())?;
    private::folder(&folder, user.owner()).map_err(|e| fail("making the folder", &folder, e))?;
    let data = match entry.data {
        true => Some(DataFolder::claim(&places.state, start, user.owner())?),
        false => DataFolder::none(&places.state, start).map(|()| None)?,
    };
    let join = cgroup.join("cgroup.procs");
    let members = OpenOptions::new().write(true).open(&join).map_err(|e| fail("opening", &join, e))?;
    let output = Output::of(&folder, &places.cgroup);
    let (out, errors) = output.begin(user.owner()).map_err(|e| fail("the output of", &folder, e))?;
    let data_path = data.as_ref().map(|data| data.path.as_path());
    let mut command = command::command(places, start, entry, &folder, data_path, &user);
    command.stdin(Stdio::null()).stdout(out).stderr(errors);
    begin_anew(&mut command);
    enter_cgroup(&mut command, members);
    // The process has the claim for as long as it lives, also when this agent does not.
    if let Some(data) = &data {
        command::keep_open(&mut command, data.lock.as_fd())?;
    }
    // So have the listeners of its plugs: what connects while no agent is there waits for the next one.
    let mut listeners = BTreeMap::new();
    for (plug, (_, listener)) in plugs {
        listeners.insert(plug.clone(), command::keep_open(&mut command, listener.as_fd())?);
    }
    let child = command.spawn().map_err(|error| not_started(entry, &user, &error))?;
    let id = child.id().map_or(0, u32::cast_signed);
    let record = Record::new(start, id, members::start_time(id), user.is_root(), listeners);
    record.write(&record_file(&folder)).map_err(|e| fail("writing the record of", &folder, e))?;
    Ok(Process { main: Main::Child(child), id, cgroup, folder, output, record, listens: false, left: 0 })
}

/// Why a program could not be executed.
fn not_started(entry: &Entry, user: &User, error: &io::Error) -> String {
    let program = entry.program.display();
    let mut text = format!("starting {program} as user {} failed: {error}", user.name);
    if error.kind() == io::ErrorKind::PermissionDenied {
        text.push_str("; the program, its folders and its working directory must be open to this user");
    }
    text
}

fn record_file(folder: &Path) -> PathBuf {
    output::with(folder, "toml")
}

/// An instance of an earlier agent.
pub struct Adopted {
    /// What was started.
    pub start: Start,
    /// Its cgroup's id.
    pub cgroup: u64,
    /// Its process.
    pub process: Process,
}

impl Adopted {
    /// Whether its sockets have listened: otherwise it is still starting.
    pub fn listens(&self) -> bool {
        self.process.listens
    }
}

/// The same in a thread of its own. An instance that is to end before it runs is killed where it is; what ends it
/// once it runs is given back with it.
///
/// # Errors
/// What could not be done, for people.
pub async fn start_beside(
    places: Places,
    start: Start,
    entry: Entry,
    plugs: BTreeMap<String, (SocketAddr, OwnedFd)>,
    mut ended: Receiver<Duration>,
) -> Result<(Process, Receiver<Duration>), String> {
    let cgroup = places.instance_cgroup(&instance_name(&start));
    let mut starting = spawn_blocking(move || self::start(&places, &start, &entry, &plugs));
    let started = tokio::select! {
        started = &mut starting => started,
        Some(within) = ended.recv() => {
            let _ = fs::write(cgroup.join("cgroup.kill"), "1");
            let started = starting.await;
            let (again, end) = channel(1);
            let _ = again.try_send(within);
            ended = end;
            started
        }
    };
    Ok((started.map_err(|error| format!("starting it crashed: {error}"))??, ended))
}

/// Takes over the instances that an earlier agent left running, and ends what it left otherwise.
///
/// # Errors
/// The folders can't be read.
pub async fn adopt(places: &Places) -> io::Result<Vec<Adopted>> {
    let mut adopted = Vec::new();
    let instances = places.cgroup.join("instances");
    fs::create_dir_all(&instances)?;
    private::passage(&places.instances())?;
    for entry in fs::read_dir(&instances)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let (name, cgroup) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let folder = places.instances().join(&name);
        match adopt_one(&cgroup, &folder, &places.cgroup) {
            Ok(found) => {
                info!(instance = %found.start.id, service = %found.start.service, "taken over from an earlier agent");
                adopted.push(found);
            }
            Err(reason) => {
                warn!(instance = name, "left by an earlier agent and ended: {reason}");
                let _ = tokio::time::timeout(ENDED_WITHIN, remove_cgroup(&cgroup)).await;
                let _ = fs::remove_file(record_file(&folder));
            }
        }
    }
    Ok(adopted)
}

fn adopt_one(cgroup: &Path, folder: &Path, node: &Path) -> Result<Adopted, String> {
    let (record, start) = Record::read(&record_file(folder))?;
    let id = record.process();
    // A process that is not the one that was started may have its id.
    let lives = record.started().is_none_or(|started| members::start_time(id) == Some(started));
    if !lives || !(members::is_in(cgroup, id) || record.is_root()) {
        return Err("its process has ended".into());
    }
    let number = cgroup_id(cgroup).map_err(|error| error.to_string())?;
    let main = AdoptedProcess::open(id).map_err(|error| error.to_string())?;
    let listens = record.has_listened() || watch::silent(number, &start).is_empty();
    let output = Output::of(folder, node);
    if let Err(error) = output.ensure_keeper() {
        warn!(instance = %start.id, "its output is not kept: {error}");
    }
    let (cgroup, folder) = (cgroup.to_owned(), folder.to_owned());
    let process = Process { main: Main::Adopted(main), id, cgroup, folder, output, record, listens, left: 0 };
    Ok(Adopted { start, cgroup: number, process })
}
