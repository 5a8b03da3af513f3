//! The agent's one thread: what happens goes to the engine, which has the shell do what comes of it.

mod ending;
mod shell;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use ending::Ending;
use patchbay_agent_core::engine::Engine;
use patchbay_agent_core::{Core, Event, Lead, Millis, Start};
pub use shell::NodeShell;
use ssmmp::{InstanceId, Name};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::instance_listener::Said;
use crate::observe::Counting;
use crate::probe::{self, Matrix};
use crate::processes::{self, Adopted, Process};
use crate::redirection::{LOOK_EVERY, TICK};

/// How often changed counters are told to the Manager.
const REPORT_EVERY: Duration = TICK;
/// Ticks after the last instance has gone until the agent sleeps: what is left to report is reported by then.
const LAST_TICKS: u8 = 3;
/// A look at all sessions is followed by a pause of so many times what it took: at most 2 % of a
/// processor goes into looking, however many there are.
const LOOK_PAUSE: u32 = 50;
/// Events handled before signals, timers and the kernel are looked at again.
const BATCH: usize = 64;

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

/// The agent's one owner of state.
pub struct Node {
    engine: Engine,
    shell: NodeShell,
    self_test: probe::Running,
    /// When the core's clock began.
    began: Instant,
    next_look: Instant,
    last_ticks: u8,
    ending: Option<Ending>,
    repository: PathBuf,
    /// For who asks for metrics.
    counting: Counting,
}

impl Node {
    /// A node whose parts are ready.
    pub fn new(core: Core, shell: NodeShell) -> Self {
        Self {
            engine: Engine::new(core, shell.address),
            shell,
            self_test: probe::Running::default(),
            began: Instant::now(),
            next_look: Instant::now(),
            last_ticks: LAST_TICKS,
            ending: None,
            repository: PathBuf::new(),
            counting: Counting::default(),
        }
    }

    /// Where the repository is read from when it is read again.
    pub fn reloads_from(&mut self, file: PathBuf) {
        self.repository = file;
    }

    /// Counts for who asks for metrics.
    pub fn counts_for(&mut self, counting: Counting) {
        self.counting = counting;
    }

    /// Waits for a self-test, whose result decides whether anything is redirected.
    pub fn wait_for(&mut self, self_test: probe::Running) {
        self.self_test = self_test;
    }

    /// The self-test has ended.
    fn tested(&mut self, result: anyhow::Result<Matrix>) {
        let harmless = result.as_ref().map_or(0, Matrix::harmless);
        self.shell.redirection.tested(result, &self.shell.directory);
        let redirects = self.shell.redirection.redirects(harmless);
        self.counting.tested(self.shell.redirection.is_on());
        self.handle(Event::Tested(redirects));
    }

    /// Takes over instances of an earlier agent, before anything else happens.
    pub fn adopt(&mut self, adopted: Vec<Adopted>) {
        for found in &adopted {
            self.shell.directory.add(found.start.id, &found.start.service, found.cgroup);
            self.shell.memory.add(found.start.id, found.start.app.as_ref());
        }
        self.shell.redirection.adopt(&self.shell.directory);
        let sessions = self.shell.redirection.sessions();
        let here: HashSet<InstanceId> = adopted.iter().map(|found| found.start.id).collect();
        for found in adopted {
            let (id, listens) = (found.start.id, found.listens());
            let leads = self.adopt_plugs(&found.start, found.cgroup, &found.process, &here);
            self.shell.watch(&found.start, found.cgroup, found.process);
            let own = sessions.iter().filter(|session| session.source_instance == id.0).cloned().collect();
            let folder = self.shell.places.instance_cgroup(&processes::instance_name(&found.start));
            let limits = self.engine.core().entry(&found.start.service).map(|entry| entry.limits.clone());
            self.handle(Event::Adopted(found.start, listens, own, leads));
            self.engine.core_mut().note_unlimited(id, processes::limit(&folder, &limits.unwrap_or_default()));
        }
        self.shell.remove_old();
    }

    /// Takes over the plugs of an adopted instance; returns where they lead.
    fn adopt_plugs(
        &mut self,
        start: &Start,
        cgroup: u64,
        process: &Process,
        here: &HashSet<InstanceId>,
    ) -> Vec<(Name, Lead)> {
        let folder = self.shell.places.instance_cgroup(&processes::instance_name(start));
        let adopted = self.shell.plugs.adopt(start, cgroup, &folder, |plug| process.plug_listener(plug));
        let leads = adopted.unwrap_or_else(|problem| {
            warn!(instance = %start.id, "what its plugs do not lead already can't connect: {problem}");
            Vec::new()
        });
        // What has ended on this node while no agent was here is led to no more.
        let (kept, ended): (Vec<_>, Vec<_>) = leads
            .into_iter()
            .partition(|(_, lead)| lead.at.ip() != self.shell.address.0 || here.contains(&lead.destination));
        for (plug, _) in ended {
            self.shell.plugs.lead(start.id, &plug, None);
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
                Some(Said { id, envelope, .. }) = said.recv(), if self.shell.manager.has_room() => {
                    Some(Event::FromInstance(id, envelope))
                }
                () = self.shell.manager.left(), if !self.shell.manager.has_room() => continue,
                event = self.shell.redirection.next_event() => Some(event),
                control = controls.recv() => {
                    match control {
                        Some(Control::Redirect(on)) => {
                            self.shell.memory.switch_all(on);
                            self.shell.redirection.switch(on);
                        }
                        Some(Control::HandOver) if self.ending.is_none() => {
                            self.shell.keeper.write_at_last(self.engine.core_mut().profiles());
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
                () = self.counting.due() => {
                    let (sessions, limit, uncounted) = self.shell.redirection.table();
                    self.counting.count(&sessions, limit, uncounted, self.engine.core().is_registered());
                    continue;
                }
                _ = look.tick(), if self.shell.redirection.is_moving() => {
                    self.shell.redirection.move_sessions();
                    continue;
                }
                _ = report.tick(), if self.last_ticks > 0 || !self.shell.running.is_empty() => {
                    self.last_ticks = if self.shell.running.is_empty() { self.last_ticks - 1 } else { LAST_TICKS };
                    self.shell.redirection.tick();
                    self.shell.keeper.write_if_due(self.engine.core_mut().profiles());
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
        self.shell.keeper.write_at_last(self.engine.core_mut().profiles());
        Ended::WithAll
    }

    /// What already waits, without looking whether anything else does.
    fn handle_waiting(&mut self, events: &mut mpsc::Receiver<Event>, said: &mut mpsc::Receiver<Said>) {
        for _ in 0..BATCH {
            if let Ok(event) = events.try_recv() {
                self.handle(event);
            } else if self.shell.manager.has_room()
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
        let observed = self.shell.redirection.observed();
        if !observed.is_empty() {
            self.handle(Event::Observed(observed));
        }
        self.engine.report_regularly(&mut self.shell);
        self.next_look = Instant::now() + began.elapsed() * LOOK_PAUSE;
    }

    /// The core's clock.
    fn now(&self) -> Millis {
        Millis::try_from(self.began.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    /// When the core waits no longer for something.
    fn next_timeout(&self) -> Option<Instant> {
        self.engine.core().next_timeout().map(|at| self.began + Duration::from_millis(at))
    }

    fn handle(&mut self, event: Event) {
        if let Event::Exited(id, ..) | Event::StartFailed(id, ..) = &event {
            self.shell.running.remove(id);
        }
        let mut event = event;
        if let Event::Closed(session, _) = &mut event {
            self.shell.memory.count(std::iter::once(&mut *session));
            self.shell.memory.closed((session.source, session.destination));
        }
        self.counting.see(&event);
        self.engine.handle(self.now(), event, &mut self.shell);
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
}

/// Waits for a time, or for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
