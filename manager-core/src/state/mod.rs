//! What the Manager knows, and the few things that everybody does with it: effects, marks, ids.

pub mod agenda;
pub mod app;
mod by_hash;
pub mod candidates;
pub mod closings;
pub mod config;
pub mod delayed;
pub mod instance;
pub mod interned;
mod message_ids;
pub mod node;
pub mod ownership;
pub mod parts;
pub mod pending_requests;
pub mod secret;
pub mod session;
pub mod session_table;
pub mod timers;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use agenda::{Agenda, Task};
use app::App;
use candidates::Candidates;
use closings::Closings;
use config::Config;
use delayed::{Delayed, MOMENT, STARTS_AT_ONCE};
use instance::InstanceState;
use message_ids::MessageIds;
use node::Connection;
use ownership::{Identity, Ownership};
use parts::Parts;
use patchbay_api as api;
use pending_requests::{Outstanding, PendingRequests};
use session_table::SessionTable;
use ssmmp::{Address, Envelope, InstanceId, Message, MessageId};
use timers::{Timer, Timers};

use crate::events::{Effect, Ticket};
use crate::graph::policy::Policy;
use crate::inventory::Inventory;
use crate::row::Key;
use crate::time::Millis;

/// Refusals published in one second; further ones are answered all the same.
const MAX_REFUSALS_PUBLISHED: u32 = 100;

/// All that the Manager knows.
pub struct ManagerState {
    pub(crate) config: Config,
    /// Who this Manager is; agents are told.
    pub(crate) identity: Option<Identity>,
    /// What other Managers own; it is refused here.
    pub(crate) ownership: Ownership,
    pub(crate) apps: BTreeMap<String, App>,
    pub(crate) inventory: Inventory,
    pub(crate) sessions: SessionTable,
    pub(crate) answers: PendingRequests,
    pub(crate) refreshing: HashMap<Ticket, usize>,
    /// Questions for outputs that wait for their agents.
    pub(crate) asking: BTreeSet<Ticket>,
    /// Sessions confirmed by agents that have not told all of theirs yet.
    pub(crate) told: HashMap<Connection, HashSet<u64>>,
    /// Nodes where nothing is executed.
    pub(crate) drained: BTreeSet<Address>,
    pub(crate) closings: Closings,
    /// Agents that wait to take the place of a connected one.
    pub(crate) candidates: Candidates,
    /// What agents have told before they register.
    pub(crate) parts: Parts,
    pub(crate) delayed: Delayed,
    /// Starts of minimums that this event may still begin.
    pub(crate) starts_left: usize,
    pub(crate) seed: u64,
    pub(crate) timers: Timers,
    pub(crate) next_instance: u64,
    pub(crate) next_session: u64,
    pub(crate) message_ids: MessageIds,
    /// The current second and the refusals published in it.
    pub(crate) refusals: (u64, u32),
    pub(crate) now: Millis,
    pub(crate) effects: Vec<Effect>,
    /// What this event has changed of what is kept on disk.
    pub(crate) changed: Vec<Key>,
    /// What it has touched.
    pub(crate) agenda: Agenda,
}

impl ManagerState {
    /// Nothing yet.
    pub(crate) fn new(config: Config, epoch: u64, now: Millis) -> Self {
        Self {
            config,
            identity: None,
            ownership: Ownership::default(),
            apps: BTreeMap::new(),
            inventory: Inventory::default(),
            sessions: SessionTable::default(),
            answers: PendingRequests::default(),
            refreshing: HashMap::new(),
            asking: BTreeSet::new(),
            told: HashMap::new(),
            drained: BTreeSet::new(),
            closings: Closings::default(),
            candidates: Candidates::new(),
            parts: Parts::default(),
            delayed: Delayed::default(),
            starts_left: STARTS_AT_ONCE,
            seed: epoch,
            timers: Timers::default(),
            next_instance: 1,
            next_session: 1,
            message_ids: MessageIds::new(epoch),
            refusals: (0, 0),
            now,
            effects: Vec::new(),
            changed: Vec::new(),
            agenda: Agenda::default(),
        }
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(crate) fn publish(&mut self, kind: &str, subject: String, text: String) {
        let event = api::Event { sequence: 0, at_ms: self.now, kind: kind.into(), subject, text };
        self.effect(Effect::Publish(event));
    }

    /// Something has changed that is kept on disk.
    pub(crate) fn save(&mut self, key: Key) {
        self.changed.push(key);
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
            self.save(Key::MessageIds);
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

    /// Whether an agent may speak for an instance: it must be on its node, and not over.
    pub(crate) fn speaks_for(&self, connection: Connection, id: InstanceId) -> bool {
        let node = self.inventory.node_of(connection);
        self.inventory.instance(id).is_some_and(|i| Some(i.address) == node && i.state.is_alive())
    }

    /// Whether one more refusal is published in this second.
    pub(crate) fn may_publish_refusal(&mut self) -> bool {
        let second = self.now / 1_000;
        let (counted, published) = self.refusals;
        self.refusals = if counted == second { (second, published + 1) } else { (second, 1) };
        self.refusals.1 <= MAX_REFUSALS_PUBLISHED
    }

    /// Delayed starts may go on in a moment.
    pub(crate) fn continue_later(&mut self) {
        if self.delayed.len() > 0 {
            self.at(self.now + MOMENT, Timer::Starts);
        }
    }

    /// One service may have other instances than it should.
    pub(crate) fn touch(&mut self, app: &str, service: &str) {
        self.agenda.add(Task::Settle(app.to_owned(), service.to_owned()));
    }

    /// All services of an application.
    pub(crate) fn touch_app(&mut self, app: &str) {
        let services = self.apps.get(app).into_iter().flat_map(|app| app.graph.services.keys());
        for service in services {
            self.agenda.add(Task::Settle(app.to_owned(), service.clone()));
        }
    }

    /// All services of all applications: a node has come, or may be used again.
    pub(crate) fn touch_all(&mut self) {
        for (app, known) in &self.apps {
            for service in known.graph.services.keys() {
                self.agenda.add(Task::Settle(app.clone(), service.clone()));
            }
        }
    }

    /// Who waits for a service may be served.
    pub(crate) fn touch_waiting(&mut self, app: &str, service: &str) {
        self.agenda.add(Task::Serve(app.to_owned(), service.to_owned()));
    }

    /// A service's load is to be weighed.
    pub(crate) fn touch_load(&mut self, app: &str, service: &str) {
        self.agenda.add(Task::Weigh(app.to_owned(), service.to_owned()));
    }

    /// The shutdown of an instance, if it is shut down, may go on.
    pub(crate) fn touch_stopping(&mut self, id: InstanceId) {
        if self.inventory.instance(id).is_some_and(|instance| instance.state == InstanceState::Stopping) {
            self.agenda.add(Task::Stop(id));
        }
    }

    /// Somebody has left a node, which may be ending.
    pub(crate) fn touch_ending_node(&mut self, address: Address) {
        if self.inventory.is_ending(address) {
            self.agenda.add(Task::EndingNode(address));
        }
    }

    /// A node's agent is gone: somebody may wait for its place.
    pub(crate) fn touch_candidate(&mut self, address: Address) {
        if self.candidates.contains_key(&address) {
            self.agenda.add(Task::TakeOver(address));
        }
    }

    /// Ends a connection, which counts as lost.
    pub(crate) fn cut_off(&mut self, connection: Connection) {
        self.effect(Effect::Close(connection));
        self.agenda.add(Task::Lost(connection));
    }
}
