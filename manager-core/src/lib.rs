//! The Manager's logic: a pure state machine. [`Core::handle`] takes the time and an event and returns effects;
//! it does no I/O, reads no clock and uses no randomness. [`graph`] is what people write, [`policy`] decides,
//! [`inventory`] and [`SessionTable`] are what exists.

mod apps;
mod by_hash;
mod closing;
mod commands;
mod config;
mod counters;
mod delayed;
mod ending;
pub mod engine;
mod events;
mod execution;
pub mod graph;
mod health;
mod inspect;
mod interned;
pub mod inventory;
pub mod memory;
mod message_ids;
mod nodes;
mod outputs;
mod ownership;
mod placing;
pub mod policy;
mod probing;
mod reconcile;
mod redirecting;
mod replacing;
mod requests;
mod restoring;
mod resync;
mod row;
mod saving;
mod scaling;
mod secret;
mod session;
mod session_table;
mod sessions;
mod settling;
mod shutdown;
mod state;
mod steps;
mod view;
mod waiting;
mod waits;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use closing::Closings;
pub use commands::{Command, Refusal};
pub use config::Config;
use delayed::{Delayed, STARTS_AT_ONCE};
pub use events::{Apply, Effect, Event, Ticket};
use inventory::Inventory;
pub use outputs::OutputQuestion;
pub use ownership::{Identity, Ownership, Peer};
use patchbay_api as api;
pub use redirecting::Redirected;
pub use row::{AppRow, InstanceRow, NodeRow, Row, Saved, ServiceRow};
pub use secret::SecretHash;
pub use session::{Edge, Session, SessionKey, SessionState};
pub use session_table::SessionTable;
use ssmmp::extension::{Ahead, Exiting, Forced, Output};
use ssmmp::{Address, Envelope, InstanceId, Message, MessageId};
pub use state::{
    App, Connection, Instance, InstanceState, Leaving, Millis, Node, Polls, ServiceState, Stopping, Waiting,
};
pub use view::{Gateway, Page};
pub use waiting::{MAX_PENDING_OF_ONE, MAX_WAITING, MAX_WAITING_OF_ONE};
use waits::{Answers, Outstanding, Timer, Timers};

use crate::graph::policy::Policy;

/// Ended instances and sessions kept in memory for questions; older ones are on disk only.
pub const ENDED_KEPT: usize = 1000;
/// Longest line, name or reason of a peer's that is kept, in characters.
const LONGEST_TEXT: usize = 500;
/// Lines of an instance's last output that are kept.
const MAX_OUTPUT_LINES: usize = 40;

/// The Manager's state and its only owner.
pub struct Core {
    pub(crate) config: Config,
    /// Who this Manager is; agents are told.
    pub identity: Option<Identity>,
    /// What other Managers own; it is refused here.
    pub ownership: Ownership,
    pub(crate) apps: BTreeMap<String, App>,
    pub(crate) inventory: Inventory,
    pub(crate) sessions: SessionTable,
    pub(crate) answers: Answers,
    pub(crate) refreshing: HashMap<Ticket, usize>,
    /// Questions for outputs that wait for their agents.
    pub(crate) asking: BTreeSet<Ticket>,
    /// Sessions confirmed by agents that have not told all of theirs yet.
    pub(crate) told: HashMap<Connection, HashSet<u64>>,
    /// Nodes where nothing is executed.
    pub(crate) drained: BTreeSet<Address>,
    pub(crate) closings: Closings,
    /// Agents that wait to take the place of a connected one.
    pub(crate) candidates: HashMap<Address, probing::Candidate>,
    /// What agents have told before they register.
    pub(crate) parts: nodes::Parts,
    pub(crate) delayed: Delayed,
    /// Starts of minimums that this event may still begin.
    pub(crate) starts_left: usize,
    seed: u64,
    timers: Timers,
    next_instance: u64,
    next_session: u64,
    message_ids: message_ids::MessageIds,
    /// The current second and the refusals published in it.
    pub(crate) refusals: (u64, u32),
    pub(crate) now: Millis,
    effects: Vec<Effect>,
    /// What this event has changed of what is kept on disk.
    changed: Vec<row::Key>,
}

impl Core {
    /// A Manager that knows nothing yet. `epoch` must be larger than at every earlier start: message
    /// ids never repeat.
    pub fn new(config: Config, epoch: u64, now: Millis) -> Self {
        Self {
            config,
            identity: None,
            ownership: Ownership::default(),
            apps: BTreeMap::new(),
            inventory: Inventory::default(),
            sessions: SessionTable::default(),
            answers: Answers::default(),
            refreshing: HashMap::new(),
            asking: BTreeSet::new(),
            told: HashMap::new(),
            drained: BTreeSet::new(),
            closings: Closings::default(),
            candidates: HashMap::new(),
            parts: nodes::Parts::default(),
            delayed: Delayed::default(),
            starts_left: STARTS_AT_ONCE,
            seed: epoch,
            timers: Timers::default(),
            next_instance: 1,
            next_session: 1,
            message_ids: message_ids::MessageIds::new(epoch),
            refusals: (0, 0),
            now,
            effects: Vec::new(),
            changed: Vec::new(),
        }
    }

    /// The one way in.
    pub fn handle(&mut self, now: Millis, event: Event) -> Vec<Effect> {
        self.now = self.now.max(now);
        self.starts_left = STARTS_AT_ONCE;
        self.delayed.hear(matches!(event, Event::Tick));
        match event {
            Event::Message(connection, envelope) => self.message(connection, envelope),
            Event::Lost(connection) => self.connection_lost(connection),
            Event::Apply(ticket, apply) => self.apply_planned(ticket, *apply),
            Event::Command(ticket, command) => {
                let answer = self.command(&command);
                self.effect(Effect::Answer(ticket, answer));
            }
            Event::Refresh(ticket) => self.refresh(ticket),
            Event::Output(ticket, question) => self.ask_output(ticket, question),
            Event::Tick => {}
        }
        self.run_timers();
        let mut effects = self.take_rows();
        self.sessions.forget_ended();
        self.inventory.forget_ended();
        self.effects.dedup();
        effects.append(&mut self.effects);
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
                Timer::Starts => self.continue_starts(),
                Timer::Start(id) => self.start_timed_out(id),
                Timer::Settle(app, service) => self.settle(&app, &service),
                Timer::Waiting(app, service) => self.waited_long(&app, &service),
                Timer::Close(session) => self.close_overdue(session),
                Timer::SurvivingEnds => self.close_next_ends(),
                Timer::NodeGrace(address) => self.grace_ended(address),
                Timer::NodeEnds(address) => self.end_node_now(address),
                Timer::Drain(id) => self.ask_to_end(id),
                Timer::Graceful(id) => self.force_end(id),
                Timer::Probe(address) => self.probe_overdue(address),
                Timer::Force(id) => self.send_hard(id, 0),
                Timer::Hard(id, tries) => self.send_hard(id, tries),
                Timer::Refresh(ticket) => self.refreshed(ticket),
                Timer::Output(ticket) => self.output_overdue(ticket),
            }
        }
    }

    fn message(&mut self, connection: Connection, envelope: Envelope) {
        match &envelope.message {
            Message::InitiationRequest(_) => self.register(connection, &envelope),
            message if self.inventory.node_of(connection).is_none() => {
                // Nothing is done for an agent that has not registered.
                if let Message::SessionRequest(request) = message {
                    let waiting = Waiting { connection, request: request.clone(), since: self.now };
                    self.refuse_request(&waiting, ssmmp::Status::FORBIDDEN, "this agent has not registered");
                }
                self.effect(Effect::Close(connection));
            }
            Message::SessionRequest(request) if envelope.line::<Ahead>().is_some() => {
                self.choice_requested(connection, request.clone());
            }
            Message::SessionRequest(request) => self.session_requested(connection, request.clone()),
            Message::SessionAck(ack) => {
                self.session_acknowledged(connection, ack.clone(), envelope.line());
            }
            Message::SourceServiceSessionCloseInfo(_) | Message::DestServiceSessionCloseInfo(_) => {
                self.session_close_told(connection, &envelope.message);
            }
            Message::ServiceInstanceTerminationInfo(_) if is_exiting(&envelope) => {}
            Message::ServiceInstanceTerminationInfo(info) => {
                self.stranger_gone(connection, info.service_instance_id);
                if self.speaks_for(connection, info.service_instance_id) {
                    self.instance_told_end(info.service_instance_id, &envelope);
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
                self.execution_answered(id, envelope, response.status);
            }
            (Outstanding::CloseSession(id), message) => {
                if let Some(status) = close_status(message) {
                    self.close_answered(id, status, envelope.line().map(|Forced(why)| why));
                }
            }
            (Outstanding::Graceful(id), Message::GracefulShutdownResponse(response)) => {
                if is_exiting(envelope) && response.status.is_success() {
                    // Its agent says when its process is gone.
                } else if response.status.is_success() {
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

    /// The policy for a service of an application.
    pub(crate) fn policy(&self, app: &str, service: &str) -> Policy {
        let usual = self.config.policy();
        self.apps
            .get(app)
            .and_then(|app| app.service(service))
            .map_or(usual, |service| usual.with(&service.policy))
    }

    pub(crate) fn message_id(&mut self) -> MessageId {
        let (id, is_new_reservation) = self.message_ids.take();
        if is_new_reservation {
            self.save(row::Key::MessageIds);
        }
        MessageId::from(id)
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

fn close_status(message: &Message) -> Option<ssmmp::Status> {
    match message {
        Message::SourceServiceSessionCloseResponse(response) => Some(response.status),
        Message::DestServiceSessionCloseResponse(response) => Some(response.status),
        _ => None,
    }
}

/// Whether an instance has said itself that it ends, and its agent will say when its process is gone.
fn is_exiting(envelope: &Envelope) -> bool {
    envelope.line::<Exiting>().is_some()
}

/// The last output lines that an agent sent with a failure.
fn output_of(envelope: &Envelope) -> Vec<String> {
    let lines = envelope.line().map(|Output(lines)| lines).unwrap_or_default();
    lines.iter().take(MAX_OUTPUT_LINES).map(|line| first(line, LONGEST_TEXT)).collect()
}

/// A peer's text, no longer than is kept.
fn first(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}
