//! What exists: nodes and their instances, with the indexes that keep every look-up's cost flat. They
//! change only through here, so that an index never disagrees with what it is of.

mod of_service;
mod on_node;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

pub use of_service::{OfService, Rank};
pub use on_node::OnNode;
use ssmmp::{Address, InstanceId, Name, Port};

use super::ENDED_KEPT;
use super::state::{Connection, Instance, InstanceState, Millis, Node};

/// The one owner of nodes and instances.
#[derive(Debug, Default)]
pub struct Inventory {
    nodes: BTreeMap<Address, Node>,
    by_connection: HashMap<Connection, Address>,
    /// Connected nodes by what they can execute, the fewest living instances first.
    able: HashMap<Name, BTreeSet<(usize, Address)>>,
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
    sessions: usize,
}

impl Standing {
    fn of(instance: &Instance) -> Self {
        Self { state: instance.state, overloaded: instance.overloaded, sessions: instance.sessions.len() }
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

    /// Connected nodes that can execute a service, the one with the fewest living instances first.
    pub fn able(&self, service: &str) -> impl Iterator<Item = &Node> {
        self.able.get(service).into_iter().flatten().filter_map(|(_, address)| self.nodes.get(address))
    }

    /// An instance, alive or remembered.
    pub fn instance(&self, id: InstanceId) -> Option<&Instance> {
        self.instances.get(&id).map(Box::as_ref)
    }

    /// All instances, alive or remembered, in the order of their ids.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values().map(Box::as_ref)
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
            of_service.index(id, address, before, after);
        }
        let is = |standing: Option<Standing>, state| standing.is_some_and(|s| s.state == state);
        let runs = |standing| is(standing, InstanceState::Running);
        let lives = |standing: Option<Standing>| standing.is_some_and(|s| s.state.is_alive());
        self.running = self.running + usize::from(runs(after)) - usize::from(runs(before));
        let on_node = self.on_node.entry(address).or_default();
        on_node.running = on_node.running + usize::from(runs(after)) - usize::from(runs(before));
        if lives(before) == lives(after) {
            return;
        }
        let load = on_node.alive.len();
        match lives(after) {
            true => on_node.add(instance),
            false => on_node.remove(instance),
        }
        let new_load = on_node.alive.len();
        if before.is_some() && !lives(after) {
            self.ended.push_back(id);
        }
        self.move_in_lists(address, load, new_load);
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
        let load = self.load(address);
        let Some(node) = self.nodes.get(&address) else { return };
        let Some(connection) = node.connection else { return };
        self.by_connection.remove(&connection);
        for service in &node.repository {
            if let Some(list) = self.able.get_mut(service) {
                list.remove(&(load, address));
                if list.is_empty() {
                    self.able.remove(service);
                }
            }
        }
    }

    fn list(&mut self, address: Address) {
        let load = self.load(address);
        let Some(node) = self.nodes.get(&address) else { return };
        let Some(connection) = node.connection else { return };
        self.by_connection.insert(connection, address);
        for service in &node.repository {
            self.able.entry(service.clone()).or_default().insert((load, address));
        }
    }

    fn move_in_lists(&mut self, address: Address, before: usize, after: usize) {
        let Some(node) = self.nodes.get(&address).filter(|node| node.connection.is_some()) else { return };
        for service in &node.repository {
            if let Some(list) = self.able.get_mut(service)
                && list.remove(&(before, address))
            {
                list.insert((after, address));
            }
        }
    }
}
