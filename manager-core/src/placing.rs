//! Where an instance is executed, and with which ports (X1).

use std::collections::BTreeSet;

use ssmmp::{Address, InstanceId, Name, Port};

use crate::graph::{Service, State};
use crate::inventory::on_node::{MAX_STARTS, OnNode};
use crate::policy::placement::{self, Place};
use crate::state::ManagerState;
use crate::state::node::Node;

/// Nodes that are weighed against each other for one instance, the least loaded ones.
const PLACES_WEIGHED: usize = 32;

/// What came of looking for a place.
#[derive(Debug)]
pub(crate) enum Placed {
    /// A node, and a port for each socket.
    At(Address, Vec<(Name, Port)>),
    /// Nodes that could take it have too many starts under way.
    Later,
    /// No node can take it.
    Nowhere,
}

/// What is to be known of an instance before it is started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Start {
    /// A node that it had better be on.
    pub(crate) near: Option<Address>,
    /// The only node that it may be on.
    pub(crate) only: Option<Address>,
    /// The instance that ends when it runs.
    pub(crate) replaces: Option<InstanceId>,
    /// Nodes where its start failed.
    pub(crate) tried: BTreeSet<Address>,
    /// It is delayed when the nodes have too many starts under way.
    pub(crate) may_wait: bool,
}

/// The node for an instance, and a port for each socket.
pub(crate) fn place(
    core: &ManagerState,
    app: &str,
    service: &str,
    vertex: &Service,
    start: &Start,
) -> Placed {
    let home = core.apps.get(app).and_then(|app| app.state(service)).and_then(|state| state.home);
    let home = home.filter(|_| vertex.state == State::Node);
    let of_service = core.inventory.of_service(app, service);
    let may = |node: &&Node| {
        !core.drained.contains(&node.address)
            && !node.ending
            && !start.tried.contains(&node.address)
            && start.only.is_none_or(|only| only == node.address)
            && home.is_none_or(|home| home == node.address)
    };
    let on = |node: &Node| core.inventory.on_node(node.address);
    let is_busy =
        |node: &Node| start.may_wait && on(node).is_some_and(|on_node| on_node.starting >= MAX_STARTS);
    let weigh = |node: &Node| Place {
        address: node.address,
        is_near: Some(node.address) == start.near,
        replicas: of_service.map_or(0, |of| of.replicas_on(node.address)),
        load: on(node).map_or(0, |on_node| on_node.alive.len() as u32),
    };
    // Those without room for another start are the last ones.
    let able = || core.inventory.able(&vertex.program).filter(may);
    let free = || able().take_while(|node| !is_busy(node));
    let near = start.near.and_then(|near| core.inventory.node(near)).filter(may).filter(|node| {
        node.connection.is_some() && node.repository.contains(vertex.program.as_str()) && !is_busy(node)
    });
    let mut places: Vec<Place> = free().take(PLACES_WEIGHED).map(weigh).collect();
    places.extend(near.map(weigh).filter(|near| places.iter().all(|place| place.address != near.address)));
    let weighed = placement::order(places, core.policy(app, service).near);
    let others = free().skip(PLACES_WEIGHED).map(|node| node.address);
    let place = |address| Some((address, ports(core, address, vertex)?));
    match weighed.into_iter().chain(others).find_map(place) {
        Some((address, ports)) => Placed::At(address, ports),
        None if start.may_wait && able().any(is_busy) => Placed::Later,
        None => Placed::Nowhere,
    }
}

/// Free ports on a node; `None` when a fixed port is taken or the range is used up.
pub(crate) fn ports(core: &ManagerState, node: Address, service: &Service) -> Option<Vec<(Name, Port)>> {
    let none = OnNode::default();
    let on_node = core.inventory.on_node(node).unwrap_or(&none);
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

pub(crate) fn unplaced(core: &mut ManagerState, app_name: &str, service: &str) {
    let Some(app) = core.apps.get(app_name) else { return };
    let Some(vertex) = app.service(service) else { return };
    let home = app.state(service).and_then(|state| state.home).filter(|_| vertex.state == State::Node);
    let problem = match home.and_then(|home| core.inventory.node(home)) {
        _ if core.inventory.connected() == 0 => "no agent is registered".to_owned(),
        Some(node) => format!("its state is on node {}, which can't execute it now", node.name),
        None if core.inventory.able(&vertex.program).next().is_some() => format!(
            "no node can take it now: those with `{}` in their repositories have its ports taken, are drained or ending, or have just failed to start it",
            vertex.program
        ),
        None => format!(
            "no node can take it: none has `{}` in its repository{}",
            vertex.program,
            lacking(core, &vertex.program)
        ),
    };
    let Some(app) = core.apps.get_mut(app_name) else { return };
    let failures = &mut app.state_mut(service).failures;
    if failures.problem != problem {
        failures.problem.clone_from(&problem);
        core.publish("service-unplaced", format!("service {service}"), problem);
    }
}

/// What nodes say of a program that they have in their repositories and can't execute.
pub(crate) fn lacking(core: &ManagerState, program: &str) -> String {
    let said = core
        .inventory
        .nodes()
        .filter(|node| node.connection.is_some())
        .filter_map(|node| Some(format!("; node {}: {}", node.name, node.unavailable.get(program)?)));
    said.take(3).collect()
}
