//! The Manager's logic: a pure state machine. It takes the time and an event and returns effects; it
//! does no I/O, reads no clock and uses no randomness.

mod apps;
mod execution;
mod nodes;
pub mod policy;
mod sessions;
mod shutdown;
mod state;
mod view;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use patchbay_api as api;
use ssmmp::{Address, Envelope, InstanceId, Message, MessageId};
pub use state::{
    App, Connection, Instance, InstanceState, Millis, Node, Session, SessionKey, SessionState, Waiting,
};

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

/// What a timer is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Health,
    Start(InstanceId),
    Restart(String, String),
    NodeGrace(Address),
    Acknowledge(u64),
    CloseSessions(InstanceId),
    Graceful(InstanceId),
    Hard(InstanceId),
    Refresh(u64),
}

/// A request of ours that waits for its answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outstanding {
    Execution(InstanceId),
    CloseSession(u64),
    Graceful(InstanceId),
    Hard(InstanceId),
    InstanceHealth(InstanceId),
    AgentHealth(Address, Option<u64>),
}

/// Failed starts in a row after which a service counts as failing; it is still retried.
pub const FAILING_AFTER: u32 = 5;
/// Ended instances and sessions kept in memory for questions; older ones are on disk only.
pub const ENDED_KEPT: usize = 1000;

/// The Manager's state and its only owner.
pub struct Core {
    pub(crate) config: Config,
    pub(crate) apps: BTreeMap<String, App>,
    pub(crate) nodes: BTreeMap<Address, Node>,
    pub(crate) instances: BTreeMap<InstanceId, Instance>,
    pub(crate) sessions: BTreeMap<u64, Session>,
    pub(crate) by_key: HashMap<SessionKey, u64>,
    pub(crate) pending: HashMap<(InstanceId, MessageId), u64>,
    pub(crate) outstanding: HashMap<MessageId, Outstanding>,
    pub(crate) refreshing: HashMap<u64, usize>,
    timers: BTreeSet<(Millis, Timer)>,
    next_instance: u64,
    next_session: u64,
    next_message: u64,
    pub(crate) now: Millis,
    effects: Vec<Effect>,
}

impl Core {
    /// A Manager that knows nothing yet. `epoch` must be larger than at every earlier start: message
    /// ids never repeat.
    pub fn new(config: Config, epoch: u64, now: Millis) -> Self {
        let mut core = Self {
            config,
            apps: BTreeMap::new(),
            nodes: BTreeMap::new(),
            instances: BTreeMap::new(),
            sessions: BTreeMap::new(),
            by_key: HashMap::new(),
            pending: HashMap::new(),
            outstanding: HashMap::new(),
            refreshing: HashMap::new(),
            timers: BTreeSet::new(),
            next_instance: 1,
            next_session: 1,
            // A peer may read ids as 32-bit numbers: 2000 starts of a million messages fit.
            next_message: (epoch % 2000) * 1_000_000 + 30_000,
            now,
            effects: Vec::new(),
        };
        core.at(now + core.config.health_interval, Timer::Health);
        core
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
        for instance in instances {
            let address = instance.address;
            let now = self.now;
            self.nodes.entry(address).or_insert_with(|| Node::lost(address, now));
            self.at(now + self.config.agent_grace, Timer::NodeGrace(address));
            self.instances.insert(instance.id, instance);
        }
        for session in sessions {
            if let Some(key) = session.key() {
                self.by_key.insert(key, session.id);
            }
            self.sessions.insert(session.id, session);
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
        self.timers.first().map(|(at, _)| *at)
    }

    fn run_timers(&mut self) {
        while let Some((at, timer)) = self.timers.first().cloned() {
            if at > self.now {
                return;
            }
            self.timers.pop_first();
            match timer {
                Timer::Health => self.poll_health(),
                Timer::Start(id) => self.start_timed_out(id),
                Timer::Restart(app, service) => self.keep_minimum(&app, &service),
                Timer::NodeGrace(address) => self.grace_ended(address),
                Timer::Acknowledge(id) => self.not_acknowledged(id),
                Timer::CloseSessions(id) => self.ask_to_end(id),
                Timer::Graceful(id) => self.force_end(id),
                Timer::Hard(id) => self.instance_ended(id, "no answer to the hard shutdown", Vec::new()),
                Timer::Refresh(ticket) => self.refreshed(ticket),
            }
        }
    }

    fn message(&mut self, connection: Connection, envelope: Envelope) {
        match &envelope.message {
            Message::InitiationRequest(_) => self.register(connection, &envelope),
            _ if self.node_of(connection).is_none() => {
                // Nothing is done for an agent that has not registered.
                self.effect(Effect::Close(connection));
            }
            Message::SessionRequest(request) => self.session_requested(connection, request.clone()),
            Message::SessionAck(ack) => self.session_acknowledged(connection, ack.clone()),
            Message::SourceServiceSessionCloseInfo(_) | Message::DestServiceSessionCloseInfo(_) => {
                self.session_close_told(&envelope.message);
            }
            Message::ServiceInstanceTerminationInfo(info) => {
                if self.speaks_for(connection, info.service_instance_id) {
                    let reason = envelope.extension("x_reason").unwrap_or("ended by itself").to_owned();
                    let output = output_of(&envelope);
                    self.instance_ended(info.service_instance_id, &reason, output);
                }
            }
            Message::AgentHealthControlResponse(_) => self.agent_health(connection, &envelope),
            _ => self.answered(&envelope),
        }
    }

    fn answered(&mut self, envelope: &Envelope) {
        let Some(outstanding) = self.outstanding.remove(&envelope.message.message_id()) else { return };
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
            (Outstanding::Hard(id), _) => self.instance_ended(id, "shut down hard", Vec::new()),
            (Outstanding::InstanceHealth(id), Message::ServiceInstanceHealthResponse(response)) => {
                self.instance_health(id, response.status);
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
        self.timers.insert((at, timer));
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
        let message = message.into();
        let Some(connection) = self.nodes.get(&node).and_then(|node| node.connection) else { return };
        if let Some(waits) = waits {
            self.outstanding.insert(message.message_id(), waits);
        }
        self.effect(Effect::Send(connection, Envelope::new(message, ssmmp::Hop::ManagerToAgent)));
    }
}

/// The last output lines that an agent sent with a failure.
fn output_of(envelope: &Envelope) -> Vec<String> {
    envelope
        .extension("x_output")
        .map(|text| text.split('|').map(|line| line.trim().to_owned()).collect())
        .unwrap_or_default()
}
