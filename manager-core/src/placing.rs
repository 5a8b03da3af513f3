//! Where an instance is executed, and with which ports (X1).

use ssmmp::{Address, Name, Port};

use super::execution::Start;
use super::inventory::{MAX_STARTS, OnNode};
use super::policy::placement::{self, Place};
use super::{Core, Node};
use crate::graph::{Service, State};

/// Nodes that are weighed against each other for one instance, the least loaded ones.
const PLACES_WEIGHED: usize = 32;

/// What came of looking for a place.
#[derive(Debug)]
pub(super) enum Placed {
    /// A node, and a port for each socket.
    At(Address, Vec<(Name, Port)>),
    /// Nodes that could take it have too many starts under way.
    Later,
    /// No node can take it.
    Nowhere,
}

impl Core {
    /// The node for an instance, and a port for each socket.
    pub(super) fn place(&self, app: &str, service: &str, vertex: &Service, start: &Start) -> Placed {
        let home = self.apps.get(app).and_then(|app| app.state(service)).and_then(|state| state.home);
        let home = home.filter(|_| vertex.state == State::Node);
        let of_service = self.inventory.of_service(app, service);
        let may = |node: &&Node| {
            !self.drained.contains(&node.address)
                && !node.ending
                && !start.tried.contains(&node.address)
                && start.only.is_none_or(|only| only == node.address)
                && home.is_none_or(|home| home == node.address)
        };
        let on = |node: &Node| self.inventory.on_node(node.address);
        let is_busy =
            |node: &Node| start.may_wait && on(node).is_some_and(|on_node| on_node.starting >= MAX_STARTS);
        let weigh = |node: &Node| Place {
            address: node.address,
            is_near: Some(node.address) == start.near,
            replicas: of_service.map_or(0, |of| of.replicas_on(node.address)),
            load: on(node).map_or(0, |on_node| on_node.alive.len() as u32),
        };
        // Those without room for another start are the last ones.
        let able = || self.inventory.able(&vertex.program).filter(may);
        let free = || able().take_while(|node| !is_busy(node));
        let near = start.near.and_then(|near| self.inventory.node(near)).filter(may).filter(|node| {
            node.connection.is_some() && node.repository.contains(vertex.program.as_str()) && !is_busy(node)
        });
        let mut places: Vec<Place> = free().take(PLACES_WEIGHED).map(weigh).collect();
        places
            .extend(near.map(weigh).filter(|near| places.iter().all(|place| place.address != near.address)));
        let weighed = placement::order(places, self.policy(app, service).near);
        let others = free().skip(PLACES_WEIGHED).map(|node| node.address);
        let place = |address| Some((address, self.ports(address, vertex)?));
        match weighed.into_iter().chain(others).find_map(place) {
            Some((address, ports)) => Placed::At(address, ports),
            None if start.may_wait && able().any(is_busy) => Placed::Later,
            None => Placed::Nowhere,
        }
    }

    /// Free ports on a node; `None` when a fixed port is taken or the range is used up.
    pub(super) fn ports(&self, node: Address, service: &Service) -> Option<Vec<(Name, Port)>> {
        let none = OnNode::default();
        let on_node = self.inventory.on_node(node).unwrap_or(&none);
        let fixed: Vec<u16> = service.sockets.values().filter_map(|socket| socket.port).collect();
        let mut free = on_node.free_ports().filter(|port| !fixed.contains(&port.0));
        service
            .sockets
            .iter()
            .map(|(socket, description)| {
                let port = match description.port.map(Port) {
                    Some(port) => (!on_node.is_taken(port)).then_some(port)?,
                    None => free.next()?,
                };
                Some((Name::new(socket).ok()?, port))
            })
            .collect()
    }

    pub(super) fn unplaced(&mut self, app_name: &str, service: &str) {
        let Some(app) = self.apps.get(app_name) else { return };
        let Some(vertex) = app.service(service) else { return };
        let home = app.state(service).and_then(|state| state.home).filter(|_| vertex.state == State::Node);
        let problem = match home.and_then(|home| self.inventory.node(home)) {
            _ if self.inventory.connected() == 0 => "no agent is registered".to_owned(),
            Some(node) => format!("its state is on node {}, which can't execute it now", node.name),
            None => format!(
                "no node can take it: none has `{}` in its repository, its ports free, and is not drained{}",
                vertex.program,
                self.lacking(&vertex.program)
            ),
        };
        let Some(app) = self.apps.get_mut(app_name) else { return };
        let failures = &mut app.state_mut(service).failures;
        if failures.problem != problem {
            failures.problem.clone_from(&problem);
            self.publish("service-unplaced", format!("service {service}"), problem);
        }
    }

    /// What nodes say of a program that they have in their repositories and can't execute.
    pub(super) fn lacking(&self, program: &str) -> String {
        let said = self
            .inventory
            .nodes()
            .filter(|node| node.connection.is_some())
            .filter_map(|node| Some(format!("; node {}: {}", node.name, node.unavailable.get(program)?)));
        said.take(3).collect()
    }
}
