//! What exists: nodes and their instances, with the indexes that keep every look-up's cost flat. They
//! change only through here, so that an index never disagrees with what it is of.

mod able;
mod of_service;
pub mod offer;
pub mod on_node;
mod standing;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;

use able::{Able, Turn};
pub use of_service::OfService;
use on_node::{MAX_STARTS, OnNode, Stranger};
use ssmmp::{Address, InstanceId, Name};
use standing::Standing;

use crate::state::instance::{Instance, InstanceState};
use crate::state::node::{Connection, Node, NodeState, Polls};
use crate::time::Millis;

/// Ended instances and sessions kept in memory for questions; older ones are on disk only.
pub const ENDED_KEPT: usize = 1000;
/// Instances of one node that may run though they count as over; a registration that tells of more is
/// refused with 400. No node has ports for so many.
pub const MAX_STRANGERS: usize = 4_096;
/// The same of all nodes; a registration that tells of more is refused with 503.
pub const MAX_STRANGERS_OF_ALL: usize = 131_072;
/// Services that one agent's repository may name; a registration with more is refused with 400.
pub const MAX_SERVICES: usize = 4_096;
/// The same of all nodes; a registration with more is refused with 503.
pub const MAX_SERVICES_OF_ALL: usize = 1_000_000;

/// The one owner of nodes and instances.
#[derive(Debug, Default)]
pub struct Inventory {
    nodes: BTreeMap<Address, Node>,
    by_connection: HashMap<Connection, Address>,
    able: Able,
    instances: BTreeMap<InstanceId, Box<Instance>>,
    on_node: HashMap<Address, OnNode>,
    of_service: BTreeMap<Name, BTreeMap<Name, OfService>>,
    /// How many instances may run though they count as over.
    strangers: usize,
    /// Names in all repositories.
    services: usize,
    /// In the order in which they ended.
    ended: VecDeque<InstanceId>,
    running: usize,
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

    /// The ids of a node's living instances, in their order.
    pub fn living_on(&self, address: Address) -> Vec<InstanceId> {
        self.on_node(address).map(|node| node.alive.iter().copied().collect()).unwrap_or_default()
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
        self.services += node.repository.len();
        if let Some(earlier) = self.nodes.insert(address, node) {
            self.assert_way(earlier.state(), address);
            self.services -= earlier.repository.len();
        }
        self.list(address);
    }

    /// Whether there is room for what an agent's registration tells: so many services, and so many instances
    /// that nobody knows.
    ///
    /// # Errors
    /// The status and the reason that it is refused with.
    pub fn room_for(
        &self,
        address: Address,
        services: usize,
        strangers: usize,
    ) -> Result<(), (ssmmp::Status, String)> {
        let (bad, full) = (ssmmp::Status::BAD_REQUEST, ssmmp::Status::UNAVAILABLE);
        if services > MAX_SERVICES {
            return Err((bad, format!("a repository may name {MAX_SERVICES} services, not {services}")));
        }
        if strangers > MAX_STRANGERS {
            let text = format!(
                "it tells of {strangers} instances that this Manager does not know; {MAX_STRANGERS} may be"
            );
            return Err((bad, text));
        }
        let here = self.node(address).map_or(0, |node| node.repository.len());
        if self.services - here + services > MAX_SERVICES_OF_ALL {
            return Err((full, format!("all repositories together name {MAX_SERVICES_OF_ALL} services")));
        }
        let here = self.on_node(address).map_or(0, |on_node| on_node.strangers.len());
        if self.strangers - here + strangers > MAX_STRANGERS_OF_ALL {
            let text = format!(
                "all agents together tell of {MAX_STRANGERS_OF_ALL} instances that this Manager does not know"
            );
            return Err((full, text));
        }
        Ok(())
    }

    /// Forgets lost nodes without living instances until at most `most` of them are left, those first that
    /// are known for the shortest time: nodes that come and go can't drive out one that has been here.
    pub fn forget_lost(&mut self, most: usize) -> Vec<Address> {
        let mut lost: Vec<(Millis, Address)> = self
            .nodes
            .values()
            .filter(|node| node.connection.is_none() && self.load(node.address) == 0)
            .map(|node| (node.first, node.address))
            .collect();
        if lost.len() <= most {
            return Vec::new();
        }
        lost.sort_unstable();
        let gone: Vec<Address> = lost.split_off(most).into_iter().map(|(_, address)| address).collect();
        for address in &gone {
            self.forget_node(*address);
        }
        gone
    }

    /// Forgets a lost node.
    pub fn forget_node(&mut self, address: Address) {
        self.forget_strangers(address);
        if let Some(node) = self.nodes.remove(&address) {
            self.services -= node.repository.len();
        }
        self.on_node.remove(&address);
    }

    /// What a lost agent told of its node goes: it tells it again when it is back.
    pub fn forget_told(&mut self, address: Address) {
        self.forget_strangers(address);
        if let Some(node) = self.nodes.get_mut(&address).filter(|node| node.connection.is_none()) {
            self.services -= std::mem::take(&mut node.repository).len();
        }
    }

    /// A node's name and secret belong to another address from now on.
    pub fn unbind(&mut self, address: Address) {
        if let Some(node) = self.nodes.get_mut(&address) {
            node.name = address.to_string();
            node.secret = None;
        }
    }

    /// How many nodes are known.
    pub fn known(&self) -> usize {
        self.nodes.len()
    }

    /// A node's connection has ended.
    pub fn disconnect(&mut self, address: Address, now: Millis) {
        self.unlist(address);
        if let Some(node) = self.nodes.get_mut(&address) {
            let before = node.state();
            node.connection = None;
            node.since = now;
            self.assert_way(before, address);
        }
    }

    /// A node's agent ends: it can execute nothing any more. False when that was known, or it is not connected.
    pub fn begin_end(&mut self, address: Address) -> bool {
        let Some(node) = self.nodes.get_mut(&address) else { return false };
        if node.connection.is_none() || std::mem::replace(&mut node.ending, true) {
            return false;
        }
        self.able.remove(&node.repository, address);
        true
    }

    /// No transition of a node happens that is not drawn.
    fn assert_way(&self, before: NodeState, address: Address) {
        let after = self.nodes.get(&address).map_or(before, Node::state);
        debug_assert!(
            before == after || before.may_become(after),
            "the node at {address} becomes {after:?} from {before:?}"
        );
    }

    /// Whether a node's agent has announced its end.
    pub fn is_ending(&self, address: Address) -> bool {
        self.nodes.get(&address).is_some_and(|node| node.ending)
    }

    /// What of a node no index is made of: its polls.
    pub fn node_polls(&mut self, address: Address) -> Option<&mut Polls> {
        self.nodes.get_mut(&address).map(|node| &mut node.polls)
    }

    /// How far a node's clock is ahead, milliseconds.
    pub fn set_clock(&mut self, address: Address, ahead: i64) {
        if let Some(node) = self.nodes.get_mut(&address) {
            node.clock_ahead = Some(ahead);
        }
    }

    /// Whether a node redirects, as its agent says: `kernel`, or why not.
    pub fn set_redirection(&mut self, address: Address, redirection: &str) {
        if let Some(node) = self.nodes.get_mut(&address) {
            redirection.clone_into(&mut node.redirection);
        }
    }

    /// A new instance, or one read back from disk.
    pub fn add(&mut self, instance: Instance) {
        let (id, standing) = (instance.id, Standing::of(&instance));
        let of_app = self.of_service.entry(instance.app.clone()).or_default();
        of_app.entry(instance.service.clone()).or_default().newest = id;
        self.instances.insert(id, Box::new(instance));
        self.index(id, None, Some(standing));
    }

    /// One that had ended when it was read back from disk: it is remembered for people.
    pub fn add_ended(&mut self, instance: Instance) {
        let id = instance.id;
        let of_app = self.of_service.entry(instance.app.clone()).or_default();
        of_app.entry(instance.service.clone()).or_default().newest = id;
        self.instances.insert(id, Box::new(instance));
        self.ended.push_back(id);
    }

    /// An instance that may run though it counts as over: its ports are taken.
    pub fn add_stranger(&mut self, address: Address, id: InstanceId, stranger: Stranger) {
        let on_node = self.on_node.entry(address).or_default();
        self.strangers += usize::from(on_node.strangers.insert(id, stranger).is_none());
    }

    /// It is gone. False when it was none.
    pub fn remove_stranger(&mut self, address: Address, id: InstanceId) -> bool {
        let on_node = self.on_node.get_mut(&address);
        let was = on_node.is_some_and(|on_node| on_node.strangers.remove(&id).is_some());
        self.strangers -= usize::from(was);
        was
    }

    /// A node tells anew what runs there.
    pub fn forget_strangers(&mut self, address: Address) {
        if let Some(on_node) = self.on_node.get_mut(&address) {
            self.strangers -= std::mem::take(&mut on_node.strangers).len();
        }
    }

    /// One of a node's, to count that its agent is asked to end it.
    pub fn stranger(&mut self, address: Address, id: InstanceId) -> Option<&mut Stranger> {
        self.on_node.get_mut(&address)?.strangers.get_mut(&id)
    }

    /// What may run on a node though it counts as over.
    pub fn strangers_on(&self, address: Address) -> impl Iterator<Item = (InstanceId, &Stranger)> {
        let on_node = self.on_node.get(&address).into_iter().flat_map(|on_node| &on_node.strangers);
        on_node.map(|(id, stranger)| (*id, stranger))
    }

    /// Changes an instance; its id, application, service, node and ports never change.
    pub fn change<T>(&mut self, id: InstanceId, change: impl FnOnce(&mut Instance) -> T) -> Option<T> {
        let instance = self.instances.get_mut(&id)?;
        let before = Standing::of(instance);
        let result = change(instance);
        let after = Standing::of(instance);
        debug_assert!(
            before.state == after.state || before.state.may_become(after.state),
            "instance {id} becomes {:?} from {:?}",
            after.state,
            before.state
        );
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
    }

    /// Ended instances beyond [`ENDED_KEPT`] are on disk only, once they are there.
    pub fn forget_ended(&mut self) {
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
        if !node.ending {
            self.able.add(&node.repository, turn(address, self.on_node.get(&address)));
        }
    }
}

fn turn(address: Address, on_node: Option<&OnNode>) -> Turn {
    on_node.map_or((false, 0, address), |on| (on.starting >= MAX_STARTS, on.alive.len(), address))
}
