//! The shell around the core: it performs the effects and feeds back what came of them.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use patchbay_agent_core::repository::Kind;
use patchbay_agent_core::{Core, Effect, Event, Lead, Millis, Start};
use ssmmp::extension::{self, Log, LogLines, LogMore};
use ssmmp::{Address, Envelope, InstanceId, Name, Repeated, Status};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::instance_listener::{Directory, Said};
use crate::manager_link::Queue;
use crate::plugs::Plugs;
use crate::probe::{self, Matrix};
use crate::processes::{self, Adopted, Places, Process};
use crate::profile_file::Keeper;
use crate::redirection::{LOOK_EVERY, Redirection, TICK};
use crate::{message_ids, notices, output, socket_table};

/// How often changed counters are told to the Manager.
const REPORT_EVERY: Duration = TICK;
/// Ticks after the last instance has gone until the agent sleeps: what is left to report is reported by then.
const LAST_TICKS: u8 = 3;
/// A look at all sessions is followed by a pause of so many times what it took: at most 2 % of a
/// processor goes into looking, however many there are.
const LOOK_PAUSE: u32 = 50;
/// Events handled before signals, timers and the kernel are looked at again.
const BATCH: usize = 64;
/// How long instances that are ended at once may take.
const END_WITHIN: Duration = Duration::from_secs(5);
/// At the end of the time that an ending agent gives its instances: those that are left are ended by it.
const LAST_PART: u32 = 4;
/// How long the last messages to the Manager may take to leave.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// Messages to the Manager that were lost.
static UNSENT: Repeated = Repeated::new();
/// Connections that could not be ended.
static NOT_DESTROYED: Repeated = Repeated::new();
/// Looks for what is to be removed that failed.
static NOT_REMOVED: Repeated = Repeated::new();

/// A switch from outside.
#[derive(Debug, Clone, Copy)]
pub enum Control {
    /// Redirection on or off.
    Redirect(bool),
    /// End all instances within a time, then the agent; the second time at once.
    End(Duration),
    /// End the agent and leave its instances to the next one.
    HandOver,
    /// Read the repository again.
    Reload,
}

/// How a node has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With its instances.
    WithAll,
    /// Its instances go on.
    HandedOver,
}

/// An instance's process as the node reaches it.
struct Running {
    /// Has it ended: politely, then by force after this time.
    end: mpsc::Sender<Duration>,
    cgroup: PathBuf,
}

/// When an ending agent does what.
#[derive(Debug, Clone, Copy)]
struct Ending {
    /// It ends itself what the Manager has not.
    force: Instant,
    /// It goes, whatever is left.
    end: Instant,
}

/// The agent's one owner of state.
pub struct Node {
    /// The logic.
    pub core: Core,
    /// The kernel part.
    pub redirection: Redirection,
    /// The plugs' own addresses.
    pub plugs: Plugs,
    /// Who is who.
    pub directory: Directory,
    /// Where instances live.
    pub places: Places,
    /// The node's address.
    pub address: Address,
    /// To the Manager.
    pub manager: Queue,
    /// Back to itself.
    pub events: mpsc::Sender<Event>,
    self_test: probe::Running,
    keeper: Keeper,
    running: HashMap<InstanceId, Running>,
    tasks: TaskTracker,
    /// When the core's clock began.
    began: Instant,
    next_look: Instant,
    last_ticks: u8,
    ending: Option<Ending>,
    repository: PathBuf,
}

impl Node {
    /// A node whose parts are ready.
    pub fn new(
        core: Core,
        (redirection, plugs): (Redirection, Plugs),
        directory: Directory,
        places: Places,
        address: Address,
        manager: Queue,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            keeper: Keeper::new(places.state.clone()),
            core,
            redirection,
            plugs,
            directory,
            places,
            address,
            manager,
            events,
            self_test: probe::Running::default(),
            running: HashMap::new(),
            tasks: TaskTracker::new(),
            began: Instant::now(),
            next_look: Instant::now(),
            last_ticks: LAST_TICKS,
            ending: None,
            repository: PathBuf::new(),
        }
    }

    /// Where the repository is read from when it is read again.
    pub fn reloads_from(&mut self, file: PathBuf) {
        self.repository = file;
    }

    /// Waits for a self-test, whose result decides whether anything is redirected.
    pub fn wait_for(&mut self, self_test: probe::Running) {
        self.self_test = self_test;
    }

    /// The self-test has ended.
    fn tested(&mut self, result: anyhow::Result<Matrix>) {
        let harmless = result.as_ref().map_or(0, Matrix::harmless);
        self.redirection.tested(result, &self.directory);
        let redirects = self.redirection.redirects(harmless);
        self.handle(Event::Tested(redirects));
    }

    /// Takes over instances of an earlier agent, before anything else happens.
    pub fn adopt(&mut self, adopted: Vec<Adopted>) {
        for found in &adopted {
            self.directory.add(found.start.id, &found.start.service, found.cgroup);
        }
        self.redirection.adopt(&self.directory);
        let sessions = self.redirection.sessions();
        let here: HashSet<InstanceId> = adopted.iter().map(|found| found.start.id).collect();
        for found in adopted {
            let (id, listens) = (found.start.id, found.listens());
            let leads = self.adopt_plugs(&found.start, found.cgroup, &found.process, &here);
            self.watch(&found.start, found.cgroup, found.process);
            let own = sessions.iter().filter(|session| session.source_instance == id.0).cloned().collect();
            let folder = self.places.instance_cgroup(&processes::instance_name(&found.start));
            let limits = self.core.entry(&found.start.service).map(|entry| entry.limits.clone());
            self.handle(Event::Adopted(found.start, listens, own, leads));
            self.core.note_unlimited(id, processes::limit(&folder, &limits.unwrap_or_default()));
        }
        self.remove_old();
    }

    /// Takes over the plugs of an adopted instance; returns where they lead.
    fn adopt_plugs(
        &mut self,
        start: &Start,
        cgroup: u64,
        process: &Process,
        here: &HashSet<InstanceId>,
    ) -> Vec<(Name, Lead)> {
        let folder = self.places.instance_cgroup(&processes::instance_name(start));
        let adopted = self.plugs.adopt(start, cgroup, &folder, |plug| process.plug_listener(plug));
        let leads = adopted.unwrap_or_else(|problem| {
            warn!(instance = %start.id, "what its plugs do not lead already can't connect: {problem}");
            Vec::new()
        });
        // What has ended on this node while no agent was here is led to no more.
        let (kept, ended): (Vec<_>, Vec<_>) = leads
            .into_iter()
            .partition(|(_, lead)| lead.at.ip() != self.address.0 || here.contains(&lead.destination));
        for (plug, _) in ended {
            self.plugs.perform(Effect::Lead(start.id, plug, None));
        }
        kept
    }

    /// Runs until it is told to end.
    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut said: mpsc::Receiver<Said>,
        mut controls: mpsc::Receiver<Control>,
    ) -> Ended {
        let mut report = interval(REPORT_EVERY);
        report.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            self.handle_waiting(&mut events, &mut said);
            if self.has_ended() {
                break;
            }
            let timeout = self.next_timeout();
            let event = tokio::select! {
                event = events.recv() => event,
                // What instances say is only taken while it can go on: they wait, not the Manager.
                Some(Said { id, envelope, .. }) = said.recv(), if self.manager.has_room() => {
                    Some(Event::FromInstance(id, envelope))
                }
                () = self.manager.left(), if !self.manager.has_room() => continue,
                event = self.redirection.next_event() => Some(event),
                control = controls.recv() => {
                    match control {
                        Some(Control::Redirect(on)) => self.redirection.switch(on),
                        Some(Control::HandOver) if self.ending.is_none() => {
                            self.keeper.write_at_last(self.core.profiles());
                            return Ended::HandedOver;
                        }
                        Some(Control::HandOver) => {}
                        Some(Control::Reload) => self.reload(),
                        Some(Control::End(within)) => self.begin_end(within),
                        None => break,
                    }
                    continue;
                }
                () = until(self.ending.map(|ending| ending.force)) => {
                    self.end_all(processes::POLITE_TIME);
                    continue;
                }
                () = until(timeout) => Some(Event::Tick),
                result = self.self_test.done() => {
                    self.tested(result);
                    continue;
                }
                _ = look.tick(), if self.redirection.is_moving() => {
                    self.redirection.move_sessions();
                    continue;
                }
                _ = report.tick(), if self.last_ticks > 0 || !self.running.is_empty() => {
                    self.last_ticks = if self.running.is_empty() { self.last_ticks - 1 } else { LAST_TICKS };
                    self.redirection.tick();
                    self.keeper.write_if_due(self.core.profiles());
                    if Instant::now() >= self.next_look {
                        self.look();
                    }
                    continue;
                }
            };
            let Some(event) = event else { break };
            self.handle(event);
        }
        self.end(&mut events).await;
        self.keeper.write_at_last(self.core.profiles());
        Ended::WithAll
    }

    /// What already waits, without looking whether anything else does.
    fn handle_waiting(&mut self, events: &mut mpsc::Receiver<Event>, said: &mut mpsc::Receiver<Said>) {
        for _ in 0..BATCH {
            if let Ok(event) = events.try_recv() {
                self.handle(event);
            } else if self.manager.has_room()
                && let Ok(Said { id, envelope, .. }) = said.try_recv()
            {
                self.handle(Event::FromInstance(id, envelope));
            } else {
                return;
            }
        }
    }

    /// Looks at all sessions: what programs do, and what is to be told to the Manager.
    fn look(&mut self) {
        let began = Instant::now();
        let observed = self.redirection.observed();
        if !observed.is_empty() {
            self.handle(Event::Observed(observed));
        }
        if self.core.is_registered() && self.core.is_extended() {
            self.report();
        }
        self.next_look = Instant::now() + began.elapsed() * LOOK_PAUSE;
    }

    /// The core's clock.
    fn now(&self) -> Millis {
        Millis::try_from(self.began.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    /// When the core waits no longer for something.
    fn next_timeout(&self) -> Option<Instant> {
        self.core.next_timeout().map(|at| self.began + Duration::from_millis(at))
    }

    fn handle(&mut self, event: Event) {
        if let Event::Exited(id, ..) | Event::StartFailed(id, ..) = &event {
            self.running.remove(id);
        }
        if let Event::PlugLeft(report, _) = &event {
            self.redirection.ended(report.clone());
        }
        let gone = match &event {
            Event::Exited(id, ..) | Event::StartFailed(id, ..) => Some(*id),
            _ => None,
        };
        for effect in self.core.handle(self.now(), event) {
            self.perform(effect);
        }
        if let Some(id) = gone {
            self.directory.remove(id);
            self.plugs.forget(id);
            self.remove_old();
        }
    }

    /// What ended instances left is kept for a while only.
    fn remove_old(&self) {
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

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::ToManager(envelope) => self.send_to_manager(envelope),
            Effect::ReportThen(envelope) => {
                self.report();
                self.send_to_manager(envelope);
            }
            Effect::Redirect(switching) => self.redirection.pause(&switching),
            Effect::TellOutput(asked, answer) => self.tell_output(asked, answer),
            Effect::ToManagerIfAwake(id, awake, stopped) => {
                let running = self.running.get(&id);
                let is_awake = running.is_some_and(|running| !processes::is_stopped(&running.cgroup));
                self.send_to_manager(if is_awake { awake } else { stopped });
            }
            Effect::ToInstance(id, envelope) => self.directory.send(id, envelope),
            Effect::AskInstance(id, envelope, absent) => {
                if self.directory.is_connected(id) {
                    self.directory.send(id, envelope);
                } else {
                    self.core.health_answered(id, absent.message.message_id());
                    self.send_to_manager(absent);
                }
            }
            Effect::Prepare(start) => {
                let entry = self.core.entry(&start.service);
                if let Some(Ok((cgroup, _))) =
                    entry.map(|entry| processes::prepare(&self.places, &start, entry))
                {
                    // What failed here fails again, and is told, when the instance is started.
                    self.directory.add(start.id, &start.service, cgroup);
                    let folder = self.places.instance_cgroup(&processes::instance_name(&start));
                    let _ = self.plugs.open(&start, cgroup, &folder);
                }
            }
            Effect::Start(start) => self.start(&start),
            Effect::Abandon(start) => {
                self.directory.remove(start.id);
                self.plugs.forget(start.id);
                let cgroup = self.places.instance_cgroup(&processes::instance_name(&start));
                self.tasks.spawn(async move { processes::remove_cgroup(&cgroup).await });
            }
            Effect::End(id) => {
                if let Some(running) = self.running.get(&id) {
                    let _ = running.end.try_send(processes::POLITE_TIME);
                }
            }
            Effect::Declare(declare) => self.redirection.declare(&declare, &self.directory),
            Effect::Lead(..) | Effect::HandPlug { .. } | Effect::RefusePlug(..) => self.plugs.perform(effect),
            Effect::Withdraw(id) => self.redirection.withdraw(id),
            Effect::Destroy(local, remote) => {
                if let Err(error) = socket_table::destroy(local, remote)
                    && let Some(times) = crate::again(&NOT_DESTROYED)
                {
                    warn!(times, %local, %remote, "the connection could not be ended: {error}");
                }
            }
            Effect::ReserveMessages(next) => message_ids::reserve(&self.places.state, next),
            Effect::Keep => self.keeper.changed(),
            Effect::Notice(notice) => notices::log(&notice),
            Effect::Registered => info!("registered with the Manager"),
            Effect::Refused(status) => warn!("the Manager refuses this agent ({status})"),
        }
    }

    /// Reads an instance's output, which may take as long as the disk does, and answers.
    fn tell_output(&self, asked: Log, answer: Envelope) {
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

    fn send_to_manager(&self, envelope: Envelope) {
        if !self.manager.send(envelope)
            && let Some(times) = crate::again(&UNSENT)
        {
            warn!(times, "the Manager does not read; a message to it is lost until it reconciles");
        }
    }

    fn report(&mut self) {
        let core = &mut self.core;
        let sessions = self.plugs.sessions();
        let envelopes = self.redirection.report(self.address, sessions, || core.message_id());
        for effect in self.core.take_effects() {
            self.perform(effect);
        }
        for envelope in envelopes {
            self.send_to_manager(envelope);
        }
    }

    /// Starts an instance beside everything else: whoever starts a process waits until it runs, and it may be kept
    /// from that, by a frozen cgroup or a dead file system.
    fn start(&mut self, start: &Start) {
        let id = start.id;
        let Some(entry) = self.core.entry(&start.service).cloned() else { return };
        let prepared = processes::prepare(&self.places, start, &entry).and_then(|(cgroup, unlimited)| {
            self.core.note_unlimited(id, unlimited);
            self.directory.add(id, &start.service, cgroup);
            if entry.kind == Kind::Adapted {
                let folder = self.places.instance_cgroup(&processes::instance_name(start));
                self.plugs.open(start, cgroup, &folder)?;
            }
            Ok((cgroup, self.plugs.of(id).map_err(|error| format!("its plugs failed: {error}"))?))
        });
        let (cgroup, plugs) = match prepared {
            Ok(prepared) => prepared,
            Err(reason) => return self.start_failed(start, reason),
        };
        let (end, ended) = mpsc::channel(1);
        let path = self.places.instance_cgroup(&processes::instance_name(start));
        self.running.insert(id, Running { end, cgroup: path });
        let (places, start, events) = (self.places.clone(), start.clone(), self.events.clone());
        self.tasks.spawn(async move {
            match processes::start_beside(places.clone(), start.clone(), entry, plugs, ended).await {
                Ok((process, ended)) => {
                    info!(instance = %id, service = %start.service, "started");
                    processes::watch(process, start, cgroup, events, ended).await;
                }
                Err(reason) => fail(&places, &start, &events, reason).await,
            }
        });
    }

    fn start_failed(&self, start: &Start, reason: String) {
        let (places, start, events) = (self.places.clone(), start.clone(), self.events.clone());
        self.tasks.spawn(async move { fail(&places, &start, &events, reason).await });
    }

    fn watch(&mut self, start: &Start, cgroup: u64, process: Process) {
        let (sender, receiver) = mpsc::channel(1);
        let cgroup_path = self.places.instance_cgroup(&processes::instance_name(start));
        self.running.insert(start.id, Running { end: sender, cgroup: cgroup_path });
        let events = self.events.clone();
        self.tasks.spawn(processes::watch(process, start.clone(), cgroup, events, receiver));
    }

    /// Begins to end: the Manager is told, and does what is to be done in order. Without one, or when it is
    /// told again, all instances are asked to end at once.
    fn begin_end(&mut self, within: Duration) {
        let now = Instant::now();
        let again = self.ending.is_some();
        let within = if again { END_WITHIN.min(within) } else { within };
        info!(instances = self.running.len(), ?within, "ending");
        self.ending = Some(Ending { force: now + within - within / LAST_PART, end: now + within });
        if !again {
            self.handle(Event::End(within));
        }
        if again || !self.core.is_registered() {
            self.end_all(within - within / LAST_PART);
        }
    }

    /// Asks every instance to end, and ends it by force after a time.
    fn end_all(&mut self, polite: Duration) {
        for running in self.running.values() {
            let _ = running.end.try_send(polite);
        }
        // Once is enough.
        self.ending = self.ending.map(|ending| Ending { force: ending.end, ..ending });
    }

    /// Whether an ending agent has nothing more to wait for.
    fn has_ended(&self) -> bool {
        self.ending.is_some_and(|ending| {
            self.running.is_empty() && self.core.instance_ids().is_empty() || Instant::now() >= ending.end
        })
    }

    /// Reads the repository again; one with problems changes nothing.
    fn reload(&mut self) {
        match crate::run::load_repository(&self.repository) {
            Ok(repository) => {
                info!(services = repository.len(), "the repository was read again");
                self.handle(Event::Reload(repository));
            }
            Err(error) => warn!("the repository stays as it was: {error:#}"),
        }
    }

    /// What is left ends by force, and the last messages leave.
    async fn end(&mut self, events: &mut mpsc::Receiver<Event>) {
        self.end_all(Duration::ZERO);
        self.tasks.close();
        let deadline = Instant::now() + END_WITHIN;
        while !self.running.is_empty() {
            match tokio::time::timeout_at(deadline, events.recv()).await {
                Ok(Some(event)) => self.handle(event),
                _ => break,
            }
        }
        let _ = tokio::time::timeout(LEAVE_WITHIN, self.manager.has_left()).await;
    }
}

/// Waits for a time, or for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// An instance could not be started.
async fn fail(places: &Places, start: &Start, events: &mpsc::Sender<Event>, reason: String) {
    warn!(instance = %start.id, service = %start.service, "could not be started: {reason}");
    processes::remove_cgroup(&places.instance_cgroup(&processes::instance_name(start))).await;
    drop(events.send(Event::StartFailed(start.id, Status::INTERNAL, reason, Vec::new())).await);
}
