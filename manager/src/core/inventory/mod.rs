//! What exists: nodes and their instances, with the indexes that keep every look-up's cost flat. They
//! change only through here, so that an index never disagrees with what it is of.

mod able;
mod of_service;
mod offer;
mod on_node;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;

use able::{Able, Turn};
pub use of_service::OfService;
pub use offer::{Offer, Peers, Rank};
pub use on_node::{MAX_STARTS, OnNode};
use ssmmp::{Address, InstanceId, Name, Port};

use super::ENDED_KEPT;
use super::state::{Connection, Instance, InstanceState, Millis, Node};

/// The one owner of nodes and instances.
#[derive(Debug, Default)]
pub struct Inventory {
    nodes: BTreeMap<Address, Node>,
    by_connection: HashMap<Connection, Address>,
    able: Able,
    instances: BTreeMap<InstanceId, Box<Instance>>,
    on_node: HashMap<Address, OnNode>,
    of_service: BTreeMap<Name, BTreeMap<Name, OfService>>,
    /// Instances that may run though they count as over, with their nodes and services.
    strangers: BTreeMap<InstanceId, (Address, Name)>,
    /// In the order in which they ended.
    ended: VecDeque<InstanceId>,
    running: usize,
}

/// The part of an instance that changes and that indexes are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    state: InstanceState,
    overloaded: bool,
    sessions: u32,
    accepted: u32,
}

impl Standing {
    fn of(instance: &Instance) -> Self {
        Self {
            state: instance.state,
            overloaded: instance.overloaded,
            sessions: instance.sessions.len() as u32,
            accepted: instance.accepted,
        }
    }
}

impl Inventory {
    /// A node, connected or lost.
    pub fn node(&self, address: Address) -> Option<&Node> {
        self.nodes.get(&address)
    }

    /// All nodes in the order of their addresses.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// How many nodes are connected.
    pub fn connected(&self) -> usize {
        self.by_connection.len()
    }

    /// The node whose agent speaks on a connection.
    pub fn node_of(&self, connection: Connection) -> Option<Address> {
        self.by_connection.get(&connection).copied()
    }

    /// Connected nodes that can execute a service: those where [`MAX_STARTS`] are under way last, then the one
    /// with the fewest living instances first.
    pub fn able(&self, service: &str) -> impl Iterator<Item = &Node> {
        self.able.of(service).filter_map(|(_, _, address)| self.nodes.get(&address))
    }

    /// An instance, alive or remembered.
    pub fn instance(&self, id: InstanceId) -> Option<&Instance> {
        self.instances.get(&id).map(Box::as_ref)
    }

    /// All instances, alive or remembered, in the order of their ids.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values().map(Box::as_ref)
    }

    /// Those with larger ids than this one.
    pub fn instances_after(&self, id: InstanceId) -> impl Iterator<Item = &Instance> {
        self.instances.range((Bound::Excluded(id), Bound::Unbounded)).map(|(_, instance)| instance.as_ref())
    }

    /// How many instances run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// A node's living instances and taken ports; `None` before its first.
    pub fn on_node(&self, address: Address) -> Option<&OnNode> {
        self.on_node.get(&address)
    }

    /// A service's living instances; `None` before its first.
    pub fn of_service(&self, app: &str, service: &str) -> Option<&OfService> {
        self.of_service.get(app)?.get(service)
    }

    /// An application's services that had an instance, with the living ones.
    pub fn of_app(&self, app: &str) -> impl Iterator<Item = (&Name, &OfService)> {
        self.of_service.get(app).into_iter().flatten()
    }

    /// A node registers, for the first time or again; it replaces what was known of its address.
    pub fn put_node(&mut self, node: Node) {
        let address = node.address;
        self.unlist(address);
        // A connection speaks for one node: the one that it registered for last.
        if let Some(other) = node.connection.and_then(|connection| self.node_of(connection)) {
            let since = node.since;
            self.disconnect(other, since);
        }
        self.nodes.insert(address, node);
        self.list(address);
    }

    /// Makes sure that one more node can be known; forgets a lost one without living instances if it must.
    /// False when there is none.
    pub fn make_room(&mut self, most: usize) -> bool {
        if self.nodes.len() < most {
            return true;
        }
        let useless = |node: &&Node| node.connection.is_none() && self.load(node.address) == 0;
        let Some(address) = self.nodes.values().find(useless).map(|node| node.address) else { return false };
        self.nodes.remove(&address);
        self.on_node.remove(&address);
        true
    }

    /// A node's connection has ended.
    pub fn disconnect(&mut self, address: Address, now: Millis) {
        self.unlist(address);
        if let Some(node) = self.nodes.get_mut(&address) {
            node.connection = None;
            node.since = now;
        }
    }

    /// What of a node no index is made of: its polls.
    pub fn node_polls(&mut self, address: Address) -> Option<&mut super::state::Polls> {
        self.nodes.get_mut(&address).map(|node| &mut node.polls)
    }

    /// A new instance, or one read back from disk.
    pub fn add(&mut self, instance: Instance) {
        let (id, standing) = (instance.id, Standing::of(&instance));
        let of_app = self.of_service.entry(instance.app.clone()).or_default();
        of_app.entry(instance.service.clone()).or_default().newest = id;
        self.instances.insert(id, Box::new(instance));
        self.index(id, None, Some(standing));
    }

    /// An instance that may run though it counts as over: its ports are taken.
    pub fn add_stranger(&mut self, address: Address, id: InstanceId, service: Name, ports: Vec<Port>) {
        self.strangers.insert(id, (address, service));
        self.on_node.entry(address).or_default().strangers.insert(id, ports);
    }

    /// It is gone. False when it was none.
    pub fn remove_stranger(&mut self, address: Address, id: InstanceId) -> bool {
        let is_there = self.strangers.get(&id).is_some_and(|(on, _)| *on == address);
        if is_there {
            self.strangers.remove(&id);
            if let Some(on_node) = self.on_node.get_mut(&address) {
                on_node.strangers.remove(&id);
            }
        }
        is_there
    }

    /// A node tells anew what runs there.
    pub fn forget_strangers(&mut self, address: Address) {
        for (id, ..) in self.strangers_on(address) {
            self.remove_stranger(address, id);
        }
    }

    /// What may run on a node though it counts as over, with its service and ports.
    pub fn strangers_on(&self, address: Address) -> Vec<(InstanceId, Name, Vec<Port>)> {
        let on_node = self.on_node.get(&address).into_iter().flat_map(|on_node| &on_node.strangers);
        let named = |(id, ports): (&InstanceId, &Vec<Port>)| {
            Some((*id, self.strangers.get(id)?.1.clone(), ports.clone()))
        };
        on_node.filter_map(named).collect()
    }

    /// Changes an instance; its id, application, service, node and ports never change.
    pub fn change<T>(&mut self, id: InstanceId, change: impl FnOnce(&mut Instance) -> T) -> Option<T> {
        let instance = self.instances.get_mut(&id)?;
        let before = Standing::of(instance);
        let result = change(instance);
        let after = Standing::of(instance);
        if before != after {
            self.index(id, Some(before), Some(after));
        }
        Some(result)
    }

    fn index(&mut self, id: InstanceId, before: Option<Standing>, after: Option<Standing>) {
        let Some(instance) = self.instances.get(&id) else { return };
        let address = instance.address;
        if let Some(of_service) =
            self.of_service.get_mut(&instance.app).and_then(|app| app.get_mut(&instance.service))
        {
            of_service.index(instance, before, after);
        }
        let of = |standing: Option<Standing>| standing.map(|standing| standing.state);
        let (was, is) = (of(before), of(after));
        if was == is {
            return;
        }
        let runs = |state| usize::from(state == Some(InstanceState::Running));
        self.running = self.running + runs(is) - runs(was);
        let on_node = self.on_node.entry(address).or_default();
        on_node.index(instance, was, is);
        let turn = turn(address, Some(on_node));
        self.able.change(turn);
        let lives = |state: Option<InstanceState>| state.is_some_and(InstanceState::is_alive);
        if lives(was) && !lives(is) {
            self.ended.push_back(id);
        }
        self.forget_ended();
    }

    /// Ended instances beyond [`ENDED_KEPT`] are on disk only.
    fn forget_ended(&mut self) {
        while self.ended.len() > ENDED_KEPT {
            if let Some(oldest) = self.ended.pop_front() {
                self.instances.remove(&oldest);
            }
        }
    }

    fn load(&self, address: Address) -> usize {
        self.on_node.get(&address).map_or(0, |on_node| on_node.alive.len())
    }

    /// Takes a node out of the lists of those that can execute something.
    fn unlist(&mut self, address: Address) {
        let Some(node) = self.nodes.get(&address) else { return };
        let Some(connection) = node.connection else { return };
        self.by_connection.remove(&connection);
        self.able.remove(&node.repository, address);
    }

    fn list(&mut self, address: Address) {
        let Some(node) = self.nodes.get(&address) else { return };
        let Some(connection) = node.connection else { return };
        self.by_connection.insert(connection, address);
        self.able.add(&node.repository, turn(address, self.on_node.get(&address)));
    }
}

fn turn(address: Address, on_node: Option<&OnNode>) -> Turn {
    on_node.map_or((false, 0, address), |on| (on.starting >= MAX_STARTS, on.alive.len(), address))
}
