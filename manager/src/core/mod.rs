//! The Manager's logic: a pure state machine. It takes the time and an event and returns effects; it
//! does no I/O, reads no clock and uses no randomness.

mod apps;
mod counters;
mod execution;
mod health;
mod inspect;
mod interned;
pub mod inventory;
mod nodes;
pub mod policy;
mod reconcile;
mod requests;
mod resync;
mod session;
mod session_table;
mod sessions;
mod shutdown;
mod state;
mod view;
mod waits;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use inventory::Inventory;
use patchbay_api as api;
pub use requests::{MAX_PENDING_OF_ONE, MAX_WAITING, MAX_WAITING_OF_ONE};
pub use session::{Edge, Session, SessionKey, SessionState};
pub use session_table::SessionTable;
use ssmmp::{Address, Envelope, InstanceId, Message, MessageId};
pub use state::{App, Connection, Instance, InstanceState, Millis, Node, Polls, Waiting};
pub use view::Gateway;
use waits::{Answers, Outstanding, Timer, Timers};

use crate::graph::Graph;
use crate::graph::policy::{Health, Policy};

/// Times and bounds.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long an instance may take to start, milliseconds.
    pub start_timeout: Millis,
    /// How long a graceful shutdown may take before it is forced, milliseconds.
    pub shutdown_timeout: Millis,
    /// Between two polls of an agent or instance, milliseconds.
    pub health_interval: Millis,
    /// An instance without sessions for so long is shut down, milliseconds.
    pub idle_timeout: Millis,
    /// How long a lost agent may take to return before its instances count as lost, milliseconds.
    pub agent_grace: Millis,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            start_timeout: 30_000,
            shutdown_timeout: 10_000,
            health_interval: 5_000,
            idle_timeout: 600_000,
            agent_grace: 15_000,
        }
    }
}

impl Config {
    /// The policy where a graph says nothing.
    pub fn policy(&self) -> Policy {
        let usual = Policy::default();
        Policy {
            start_within: self.start_timeout,
            stop_within: self.shutdown_timeout,
            idle: Some(self.idle_timeout),
            health: Health { every: self.health_interval, ..usual.health },
            ..usual
        }
    }
}

/// What happens to the Manager.
#[derive(Debug)]
pub enum Event {
    /// An agent's message.
    Message(Connection, Envelope),
    /// An agent's connection ended.
    Lost(Connection),
    /// Somebody applies a checked graph; its text is kept.
    Apply(Graph, String),
    /// Somebody stops an application.
    StopApp(String),
    /// Somebody stops an instance.
    StopInstance(InstanceId),
    /// Somebody wants fresh counters; answered by [`Effect::Refreshed`].
    Refresh(u64),
    /// The time that [`Core::next_deadline`] asked for has come.
    Tick,
}

/// What the Manager does. Rows first, then everything else: the truth is on disk before it is spoken.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send a message to an agent.
    Send(Connection, Envelope),
    /// End an agent's connection.
    Close(Connection),
    /// Write an application's row, or remove it.
    SaveApp(String),
    /// Write an instance's row.
    SaveInstance(InstanceId),
    /// Write a session's row.
    SaveSession(u64),
    /// Keep and publish an event; its sequence number is given when it is kept.
    Publish(api::Event),
    /// All agents have told their counters.
    Refreshed(u64),
}

/// Failed starts in a row after which a service counts as failing; it is still retried.
pub const FAILING_AFTER: u32 = 5;
/// Ended instances and sessions kept in memory for questions; older ones are on disk only.
pub const ENDED_KEPT: usize = 1000;

/// The Manager's state and its only owner.
pub struct Core {
    pub(crate) config: Config,
    pub(crate) apps: BTreeMap<String, App>,
    pub(crate) inventory: Inventory,
    pub(crate) sessions: SessionTable,
    pub(crate) answers: Answers,
    pub(crate) refreshing: HashMap<u64, usize>,
    /// Sessions confirmed by agents that have not told all of theirs yet.
    pub(crate) told: HashMap<Connection, HashSet<u64>>,
    timers: Timers,
    next_instance: u64,
    next_session: u64,
    next_message: u64,
    /// The current second and the refusals published in it.
    pub(crate) refusals: (u64, u32),
    pub(crate) now: Millis,
    effects: Vec<Effect>,
}

impl Core {
    /// A Manager that knows nothing yet. `epoch` must be larger than at every earlier start: message
    /// ids never repeat.
    pub fn new(config: Config, epoch: u64, now: Millis) -> Self {
        Self {
            config,
            apps: BTreeMap::new(),
            inventory: Inventory::default(),
            sessions: SessionTable::default(),
            answers: Answers::default(),
            refreshing: HashMap::new(),
            told: HashMap::new(),
            timers: Timers::default(),
            next_instance: 1,
            next_session: 1,
            // A peer may read ids as 32-bit numbers: 2000 starts of a million messages fit.
            next_message: (epoch % 2000) * 1_000_000 + 30_000,
            refusals: (0, 0),
            now,
            effects: Vec::new(),
        }
    }

    /// Takes back what an earlier run had on disk: instances wait for their agents to return.
    pub fn restore(
        &mut self,
        apps: Vec<(Graph, String, Millis)>,
        instances: Vec<Instance>,
        sessions: Vec<Session>,
        last_instance: u64,
        last_session: u64,
    ) {
        self.next_instance = last_instance + 1;
        self.next_session = last_session + 1;
        for (graph, text, applied) in apps {
            self.apps.insert(graph.app.clone(), App::new(graph, text, applied));
        }
        for mut instance in instances {
            instance.idle_since = self.now;
            let (id, runs) = (instance.id, instance.state == InstanceState::Running);
            self.expect_node(instance.address);
            self.inventory.add(instance);
            if runs {
                self.plan_instance_polls(id);
            }
        }
        for mut session in sessions {
            if session.state == SessionState::Pending {
                // Its time begins again: while the Manager was away nobody could acknowledge.
                session.opened = self.now;
            }
            self.add_session(session);
        }
    }

    /// The one way in.
    pub fn handle(&mut self, now: Millis, event: Event) -> Vec<Effect> {
        self.now = self.now.max(now);
        match event {
            Event::Message(connection, envelope) => self.message(connection, envelope),
            Event::Lost(connection) => self.connection_lost(connection),
            Event::Apply(graph, text) => self.apply(graph, text),
            Event::StopApp(app) => self.stop_app(&app),
            Event::StopInstance(id) => self.stop_instance(id, "stopped on request"),
            Event::Refresh(ticket) => self.refresh(ticket),
            Event::Tick => {}
        }
        self.run_timers();
        let mut effects = std::mem::take(&mut self.effects);
        effects.sort_by_key(|effect| {
            !matches!(effect, Effect::SaveApp(_) | Effect::SaveInstance(_) | Effect::SaveSession(_))
        });
        effects.dedup();
        effects
    }

    /// When [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.timers.earliest().into_iter().chain(self.sessions.next_overdue()).min()
    }

    fn run_timers(&mut self) {
        while let Some(id) = self.sessions.overdue(self.now) {
            self.session_closed(id, ssmmp::Status::NO_ANSWER);
        }
        while let Some((at, timer)) = self.timers.due(self.now) {
            match timer {
                Timer::PollNode(address) => self.poll_node(address, at),
                Timer::PollInstance(id) => self.poll_instance(id, at),
                Timer::Start(id) => self.start_timed_out(id),
                Timer::Restart(app, service) => self.keep_minimum(&app, &service),
                Timer::NodeGrace(address) => self.grace_ended(address),
                Timer::CloseSessions(id) => self.ask_to_end(id),
                Timer::Graceful(id) => self.force_end(id),
                Timer::Hard(id) => self.hard_timed_out(id),
                Timer::Refresh(ticket) => self.refreshed(ticket),
            }
        }
    }

    fn message(&mut self, connection: Connection, envelope: Envelope) {
        match &envelope.message {
            Message::InitiationRequest(_) => self.register(connection, &envelope),
            _ if self.inventory.node_of(connection).is_none() => {
                // Nothing is done for an agent that has not registered.
                self.effect(Effect::Close(connection));
            }
            Message::SessionRequest(request) => self.session_requested(connection, request.clone()),
            Message::SessionAck(ack) => {
                self.session_acknowledged(connection, ack.clone(), envelope.extension("x_live"));
            }
            Message::SourceServiceSessionCloseInfo(_) | Message::DestServiceSessionCloseInfo(_) => {
                self.session_close_told(connection, &envelope.message);
            }
            Message::ServiceInstanceTerminationInfo(info) => {
                self.stranger_gone(connection, info.service_instance_id);
                if self.speaks_for(connection, info.service_instance_id) {
                    let reason = envelope.extension("x_reason").unwrap_or("ended by itself").to_owned();
                    let output = output_of(&envelope);
                    self.instance_ended(info.service_instance_id, &reason, output);
                }
            }
            Message::ServiceInstanceHealthResponse(response) => {
                if self.speaks_for(connection, response.service_instance_id) {
                    self.instance_health(response.service_instance_id, response.status);
                }
            }
            Message::AgentHealthControlResponse(_) => self.agent_health(connection, &envelope),
            _ => self.answered(connection, &envelope),
        }
    }

    fn answered(&mut self, connection: Connection, envelope: &Envelope) {
        // What only informs is not the answer yet.
        if envelope.message.status().is_some_and(|status| !status.is_final()) {
            return;
        }
        let Some(node) = self.inventory.node_of(connection) else { return };
        let Some(outstanding) = self.answers.take(envelope.message.message_id(), node) else { return };
        match (outstanding, &envelope.message) {
            (Outstanding::Execution(id), Message::ExecutionResponse(response)) => {
                let reason = envelope.extension("x_reason").unwrap_or("the agent gave no reason").to_owned();
                self.executed(id, response.status, &reason, output_of(envelope));
            }
            (Outstanding::CloseSession(id), _) => self.session_closed(id, ssmmp::Status::CLOSED),
            (Outstanding::Graceful(id), Message::GracefulShutdownResponse(response)) => {
                if response.status.is_success() {
                    self.instance_ended(id, "shut down", Vec::new());
                } else {
                    self.force_end(id);
                }
            }
            (Outstanding::Hard(id), _) => {
                self.instance_ended(id, "shut down hard", Vec::new());
                self.stranger_gone(connection, id);
            }
            _ => {}
        }
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(crate) fn publish(&mut self, kind: &str, subject: String, text: String) {
        let event = api::Event { sequence: 0, at_ms: self.now, kind: kind.into(), subject, text };
        self.effect(Effect::Publish(event));
    }

    pub(crate) fn at(&mut self, at: Millis, timer: Timer) {
        self.timers.add(at, timer);
    }

    pub(crate) fn message_id(&mut self) -> MessageId {
        self.next_message += 1;
        MessageId::from(self.next_message)
    }

    pub(crate) fn instance_id(&mut self) -> InstanceId {
        self.next_instance += 1;
        InstanceId(self.next_instance - 1)
    }

    pub(crate) fn session_id(&mut self) -> u64 {
        self.next_session += 1;
        self.next_session - 1
    }

    /// Sends to a node's agent; while it is away nothing is sent, and reconciling settles it.
    pub(crate) fn send_to(&mut self, node: Address, message: impl Into<Message>, waits: Option<Outstanding>) {
        self.send_with(node, Envelope::new(message, ssmmp::Hop::ManagerToAgent), waits);
    }

    /// As [`Self::send_to`], with extension lines.
    pub(crate) fn send_with(&mut self, node: Address, envelope: Envelope, waits: Option<Outstanding>) {
        let Some(connection) = self.inventory.node(node).and_then(|node| node.connection) else { return };
        if let Some(waits) = waits {
            self.answers.expect(self.now, envelope.message.message_id(), node, waits);
        }
        self.effect(Effect::Send(connection, envelope));
    }
}

/// The last output lines that an agent sent with a failure.
fn output_of(envelope: &Envelope) -> Vec<String> {
    envelope
        .extension("x_output")
        .map(|text| text.split('|').map(|line| line.trim().to_owned()).collect())
        .unwrap_or_default()
}
