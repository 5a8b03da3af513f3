//! Instances as processes: each in a cgroup of its own, ended with everything it started.

mod cgroup;
mod command;
mod watch;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

pub use cgroup::{end_all, is_stopped, pass_controllers_on, remove_cgroup};
pub use command::enter_cgroup;
use tokio::process::Child;
use tracing::{info, warn};
pub use watch::{POLITE_TIME, watch};

use crate::adopted::{AdoptedProcess, Record};
use crate::core::Start;
use crate::data_folder::DataFolder;
use crate::datapath::cgroup_id;
use crate::repository::Entry;

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
    /// Numbers of its descriptors of its plugs' listeners, where an earlier agent started it.
    plug_listeners: BTreeMap<String, i32>,
}

impl Process {
    /// The listener of a plug that an adopted process has kept.
    pub fn plug_listener(&self, plug: &str) -> Option<OwnedFd> {
        let Main::Adopted(process) = &self.main else { return None };
        process.descriptor(*self.plug_listeners.get(plug)?).ok()
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
    cgroup::limit(&cgroup, &entry.limits);
    cgroup_id(&cgroup).map_err(fail)
}

/// Starts an instance's process in its prepared cgroup.
///
/// # Errors
/// What could not be done, for people.
pub fn start(
    places: &Places,
    start: &Start,
    entry: &Entry,
    plugs: BTreeMap<String, (SocketAddr, BorrowedFd<'_>)>,
) -> Result<Process, String> {
    let addresses = plugs.iter().map(|(plug, (at, _))| (plug.clone(), *at)).collect();
    let start = &Start { plug_addresses: addresses, ..start.clone() };
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

    let data = match entry.data {
        true => Some(DataFolder::claim(&places.state, start)?),
        false => DataFolder::none(&places.state, start).map(|()| None)?,
    };
    let mut command =
        command::command(places, start, entry, &folder, data.as_ref().map(|data| data.path.as_path()))?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
    enter_cgroup(&mut command, members);
    // The process has the claim for as long as it lives, also when this agent does not.
    if let Some(data) = &data {
        command::keep_open(&mut command, data.lock.as_fd())?;
    }
    // So have the listeners of its plugs: what connects while no agent is there waits for the next one.
    let mut listeners = BTreeMap::new();
    for (plug, (_, listener)) in plugs {
        listeners.insert(plug, command::keep_open(&mut command, listener)?);
    }
    let child = command.spawn().map_err(|e| fail("starting", &entry.program, e))?;
    let record = folder.with_extension("toml");
    let process = child.id().map_or(0, u32::cast_signed);
    Record::new(start, process, listeners).write(&record).map_err(|e| fail("writing", &record, e))?;
    let main = Main::Child(child);
    Ok(Process { main, cgroup, output, record, plug_listeners: BTreeMap::new() })
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
    let (start, id, plug_listeners) = Record::read(&record)?;
    let members = fs::read_to_string(cgroup.join("cgroup.procs")).map_err(|error| error.to_string())?;
    if !members.lines().any(|member| member == id.to_string()) {
        return Err("its process has ended".into());
    }
    let number = cgroup_id(cgroup).map_err(|error| error.to_string())?;
    let ports: Vec<u16> = start.sockets.0.iter().map(|socket| socket.port.0).collect();
    if !watch::listens(number, &ports) {
        return Err("its sockets do not listen".into());
    }
    let main = AdoptedProcess::open(id).map_err(|error| error.to_string())?;
    let output = folder.with_extension("log");
    let (main, cgroup) = (Main::Adopted(main), cgroup.to_owned());
    Ok((start, number, Process { main, cgroup, output, record, plug_listeners }))
}
