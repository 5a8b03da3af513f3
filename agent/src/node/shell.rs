//! Whatever the core decides is done here: messages, processes, the kernel, files.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use patchbay_agent_core::engine::Shell;
use patchbay_agent_core::profiles::Profiles;
use patchbay_agent_core::reports::Reports;
use patchbay_agent_core::repository::{Entry, Kind};
use patchbay_agent_core::session_report::SessionReport;
use patchbay_agent_core::{Declare, Event, Lead, Notice, Start, Waiting};
use ssmmp::extension::{self, Log, LogLines, LogMore, Switch};
use ssmmp::{Address, Envelope, InstanceId, Name, Repeated, Status};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::instance_listener::Directory;
use crate::manager_link::Queue;
use crate::memory::Memory;
use crate::plugs::Plugs;
use crate::processes::{self, Places, Process};
use crate::profile_file::Keeper;
use crate::redirection::Redirection;
use crate::{message_ids, monotonic_time, notices, output, socket_table};

/// Messages to the Manager that were lost.
static UNSENT: Repeated = Repeated::new();
/// Connections that could not be ended.
static NOT_DESTROYED: Repeated = Repeated::new();
/// Looks for what is to be removed that failed.
static NOT_REMOVED: Repeated = Repeated::new();

/// An instance's process as the node reaches it.
pub(super) struct Running {
    /// Has it ended: politely, then by force after this time.
    pub(super) end: mpsc::Sender<Duration>,
    cgroup: PathBuf,
}

/// The parts of a node.
pub struct NodeShell {
    /// The kernel part.
    pub redirection: Redirection,
    /// The plugs' own addresses.
    pub plugs: Plugs,
    /// What hands memory out.
    pub memory: Memory,
    /// Who is who.
    pub directory: Directory,
    /// Where instances live.
    pub places: Places,
    /// The node's address.
    pub address: Address,
    /// To the Manager.
    pub manager: Queue,
    /// Back to the node.
    pub events: mpsc::Sender<Event>,
    pub(super) keeper: Keeper,
    pub(super) running: HashMap<InstanceId, Running>,
    pub(super) tasks: TaskTracker,
}

impl NodeShell {
    /// Parts that are ready.
    pub fn new(
        (redirection, plugs): (Redirection, Plugs),
        directory: Directory,
        places: Places,
        address: Address,
        manager: Queue,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            keeper: Keeper::new(places.state.clone()),
            redirection,
            plugs,
            memory: Memory::default(),
            directory,
            places,
            address,
            manager,
            events,
            running: HashMap::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// What ended instances left is kept for a while only.
    pub(super) fn remove_old(&self) {
        let names: HashSet<String> = self
            .running
            .values()
            .filter_map(|r| Some(r.cgroup.file_name()?.to_string_lossy().into()))
            .collect();
        let instances = self.places.instances();
        self.tasks.spawn_blocking(move || {
            if let Err(error) = output::remove_old(&instances, |name| names.contains(name))
                && let Some(times) = crate::again(&NOT_REMOVED)
            {
                warn!(times, "what ended instances left can't be removed: {error}");
            }
        });
    }

    /// An instance's cgroup and its plugs, with which of its limits are not applied.
    fn prepare_all(&mut self, start: &Start, entry: &Entry) -> Result<(u64, String), String> {
        let (cgroup, unlimited) = processes::prepare(&self.places, start, entry)?;
        self.directory.add(start.id, &start.service, cgroup);
        self.memory.add(start.id, start.app.as_ref());
        if entry.kind == Kind::Adapted {
            let folder = self.places.instance_cgroup(&processes::instance_name(start));
            self.plugs.open(start, cgroup, &folder)?;
        }
        Ok((cgroup, unlimited))
    }

    fn start_failed(&self, start: &Start, reason: String) {
        let (places, start, events) = (self.places.clone(), start.clone(), self.events.clone());
        self.tasks.spawn(async move { fail(&places, &start, &events, reason).await });
    }

    /// Watches a process that runs already.
    pub(super) fn watch(&mut self, start: &Start, cgroup: u64, process: Process) {
        let (sender, receiver) = mpsc::channel(1);
        let cgroup_path = self.places.instance_cgroup(&processes::instance_name(start));
        self.running.insert(start.id, Running { end: sender, cgroup: cgroup_path });
        let events = self.events.clone();
        self.tasks.spawn(processes::watch(process, start.clone(), cgroup, events, receiver));
    }
}

impl Shell for NodeShell {
    fn reserve_messages(&mut self, next: u64) {
        message_ids::reserve(&self.places.state, next);
    }

    fn keep(&mut self, _: &Profiles) {
        self.keeper.changed();
    }

    fn notice(&mut self, notice: Notice) {
        notices::log(&notice);
    }

    fn to_manager(&mut self, envelope: Envelope) {
        if !self.manager.send(envelope)
            && let Some(times) = crate::again(&UNSENT)
        {
            warn!(times, "the Manager does not read; a message to it is lost until it reconciles");
        }
    }

    fn registered(&mut self) {
        info!("registered with the Manager");
    }

    fn refused(&mut self, status: Status) {
        warn!("the Manager refuses this agent ({status})");
    }

    fn to_instance(&mut self, id: InstanceId, envelope: Envelope) {
        self.directory.send(id, envelope);
    }

    fn is_connected(&self, id: InstanceId) -> bool {
        self.directory.is_connected(id)
    }

    fn is_awake(&self, id: InstanceId) -> bool {
        self.running.get(&id).is_some_and(|running| !processes::is_stopped(&running.cgroup))
    }

    fn sessions(&mut self, told: &Reports) -> Option<Vec<SessionReport>> {
        let mut live = self.redirection.counted(told)?;
        self.memory.count(live.iter_mut());
        live.extend(self.plugs.sessions());
        Some(live)
    }

    fn monotonic_time(&self) -> Option<u64> {
        monotonic_time()
    }

    /// Reading may take as long as the disk does.
    fn tell_output(&mut self, asked: Log, answer: Envelope) {
        let (instances, manager) = (self.places.instances(), self.manager.clone());
        self.tasks.spawn_blocking(move || {
            let answer = match output::read_of(&instances, &asked) {
                Ok(lines) => answer.with(LogLines(lines.lines)).with_some(lines.more.then_some(LogMore)),
                Err(error) => answer.with(extension::Reason(&format!("its output can't be read: {error}"))),
            };
            // Who asked asks again.
            manager.send(answer);
        });
    }

    fn switch(&mut self, switch: &Switch) {
        self.memory.switch(switch);
        self.redirection.pause(switch);
    }

    fn prepare(&mut self, start: &Start, entry: &Entry) {
        // What fails here fails again, and is told, when the instance is started.
        let _ = self.prepare_all(start, entry);
    }

    /// Beside everything else: whoever starts a process waits until it runs, and it may be kept from that, by a frozen
    /// cgroup or a dead file system.
    fn start(&mut self, start: &Start, entry: &Entry) -> String {
        let id = start.id;
        let prepared = self.prepare_all(start, entry).and_then(|(cgroup, unlimited)| {
            let plugs = self.plugs.of(id).map_err(|error| format!("its plugs failed: {error}"))?;
            Ok((cgroup, unlimited, plugs))
        });
        let (cgroup, unlimited, plugs) = match prepared {
            Ok(prepared) => prepared,
            Err(reason) => {
                self.start_failed(start, reason);
                return String::new();
            }
        };
        let (end, ended) = mpsc::channel(1);
        let path = self.places.instance_cgroup(&processes::instance_name(start));
        self.running.insert(id, Running { end, cgroup: path });
        let (places, start, events) = (self.places.clone(), start.clone(), self.events.clone());
        let entry = entry.clone();
        self.tasks.spawn(async move {
            match processes::start_beside(places.clone(), start.clone(), entry, plugs, ended).await {
                Ok((process, ended)) => {
                    info!(instance = %id, service = %start.service, "started");
                    processes::watch(process, start, cgroup, events, ended).await;
                }
                Err(reason) => fail(&places, &start, &events, reason).await,
            }
        });
        unlimited
    }

    fn abandon(&mut self, start: &Start) {
        self.directory.remove(start.id);
        self.memory.remove(start.id);
        self.plugs.forget(start.id);
        let cgroup = self.places.instance_cgroup(&processes::instance_name(start));
        self.tasks.spawn(async move { processes::remove_cgroup(&cgroup).await });
    }

    fn end(&mut self, id: InstanceId) {
        if let Some(running) = self.running.get(&id) {
            let _ = running.end.try_send(processes::POLITE_TIME);
        }
    }

    fn forget(&mut self, id: InstanceId) {
        self.directory.remove(id);
        self.memory.remove(id);
        self.plugs.forget(id);
        self.remove_old();
    }

    fn declare(&mut self, declare: &Declare) {
        self.memory.declare(declare);
        self.redirection.declare(declare, &self.directory);
    }

    fn withdraw(&mut self, id: InstanceId) {
        self.redirection.withdraw(id);
    }

    fn lead(&mut self, id: InstanceId, plug: Name, lead: Option<Lead>) {
        self.plugs.lead(id, &plug, lead);
    }

    fn hand_plug(&mut self, _: (InstanceId, Name), waiting: Waiting, at: SocketAddr, tries: u8) {
        self.plugs.hand(waiting, at, tries);
    }

    fn refuse_plug(&mut self, waiting: Waiting, why: String) {
        self.plugs.refuse(waiting, why);
    }

    fn destroy(&mut self, local: SocketAddr, remote: SocketAddr) {
        if let Err(error) = socket_table::destroy(local, remote)
            && let Some(times) = crate::again(&NOT_DESTROYED)
        {
            warn!(times, %local, %remote, "the connection could not be ended: {error}");
        }
    }
}

/// An instance could not be started.
async fn fail(places: &Places, start: &Start, events: &mpsc::Sender<Event>, reason: String) {
    warn!(instance = %start.id, service = %start.service, "could not be started: {reason}");
    processes::remove_cgroup(&places.instance_cgroup(&processes::instance_name(start))).await;
    drop(events.send(Event::StartFailed(start.id, Status::INTERNAL, reason, Vec::new())).await);
}
