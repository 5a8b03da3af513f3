//! Whatever happens, the indexes equal a recount.

use std::collections::BTreeSet;

use proptest::prelude::*;
use ssmmp::Port;

use super::*;
use crate::InstanceRow;
use crate::graph::policy::{Balance, Near};
use crate::policy::choice::tests::{Candidate, naive};
use crate::policy::choice::{Turn, choose};

impl Inventory {
    /// Fails when an index disagrees with a recount.
    pub(crate) fn assert_recount(&self) {
        let mut fresh = Self::default();
        for node in self.nodes() {
            fresh.put_node(node.clone());
        }
        for instance in self.instances() {
            fresh.add(instance.clone());
        }
        for (address, on_node) in &self.on_node {
            for (id, stranger) in &on_node.strangers {
                fresh.add_stranger(*address, *id, stranger.clone());
            }
        }
        assert_eq!((self.strangers, self.services), (fresh.strangers, fresh.services));
        assert_eq!(self.by_connection, fresh.by_connection);
        let services: BTreeSet<&Name> = self.nodes().flat_map(|node| &node.repository).collect();
        for service in services {
            let able = |inventory: &Self| inventory.able.of(service.as_str()).collect::<Vec<_>>();
            assert_eq!(able(self), able(&fresh), "nodes for {service}");
        }
        assert_eq!(self.running, fresh.running);
        for (address, on_node) in &self.on_node {
            let counted = fresh.on_node.remove(address).unwrap_or_default();
            assert_eq!(
                (&on_node.alive, on_node.starting, on_node.running),
                (&counted.alive, counted.starting, counted.running)
            );
            assert!(on_node.free_ports().eq(counted.free_ports()), "ports of {address}");
        }
        assert!(fresh.on_node.values().all(|on_node| on_node.alive.is_empty()));
        for (app, services) in &self.of_service {
            for (service, found) in services {
                let counted = fresh.of_service(app.as_str(), service.as_str());
                let mut counted = counted.cloned().unwrap_or_default();
                counted.newest = found.newest;
                assert_eq!(found, &counted);
            }
        }
        let ended = self.instances().filter(|instance| !instance.state.is_alive()).count();
        assert_eq!(self.ended.len(), ended);
    }
}

fn address(number: u8) -> Address {
    Address::from(std::net::IpAddr::from([10, 0, 0, number]))
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn node(number: u8, connection: Option<u64>, services: &[&str]) -> Node {
    let mut node = Node::lost(address(number), 0);
    node.connection = connection.map(Connection);
    node.repository = services.iter().map(|service| name(service)).collect();
    node
}

fn instance(id: u64, service: &str, on: u8, port: u16) -> Instance {
    Instance::from(InstanceRow {
        id: InstanceId(id),
        app: name("a"),
        service: name(service),
        address: address(on),
        node: "n".into(),
        sockets: vec![(name("s"), Port(port))],
        state: InstanceState::Starting,
        created: 0,
        ended: None,
        reason: None,
        output: Vec::new(),
        program: name(service),
        recipe: String::new(),
        leaving: None,
        replaces: None,
    })
}

#[test]
fn the_least_loaded_able_node_comes_first() {
    let mut inventory = Inventory::default();
    inventory.put_node(node(1, Some(1), &["x", "y"]));
    inventory.put_node(node(2, Some(2), &["x"]));
    inventory.put_node(node(3, None, &["x"]));
    inventory.add(instance(1, "x", 1, 54_000));
    let able = |inventory: &Inventory, service| -> Vec<Address> {
        inventory.able(service).map(|node| node.address).collect()
    };
    assert_eq!(able(&inventory, "x"), [address(2), address(1)]);
    assert_eq!(able(&inventory, "y"), [address(1)]);
    inventory.add(instance(2, "x", 2, 54_000));
    inventory.add(instance(3, "x", 2, 54_001));
    assert_eq!(able(&inventory, "x"), [address(1), address(2)]);
    inventory.disconnect(address(1), 5);
    assert_eq!(able(&inventory, "x"), [address(2)]);
}

#[test]
fn a_connection_speaks_for_the_node_that_it_registered_last() {
    let mut inventory = Inventory::default();
    inventory.put_node(node(1, Some(1), &["x"]));
    inventory.put_node(node(2, Some(1), &["x"]));
    assert_eq!(inventory.node_of(Connection(1)), Some(address(2)));
    assert_eq!(inventory.node(address(1)).and_then(|node| node.connection), None);
    inventory.assert_recount();
}

#[test]
fn ports_are_free_again_when_their_instance_has_ended() {
    let mut inventory = Inventory::default();
    inventory.add(instance(1, "x", 1, 54_000));
    inventory.add(instance(2, "x", 1, 80));
    let first_free =
        |inventory: &Inventory| inventory.on_node(address(1)).and_then(|on| on.free_ports().next());
    assert_eq!(first_free(&inventory), Some(Port(54_001)));
    assert!(inventory.on_node(address(1)).is_some_and(|on| on.is_taken(Port(80))));
    inventory.change(InstanceId(1), |instance| instance.state = InstanceState::Ended);
    assert_eq!(first_free(&inventory), Some(Port(54_000)));
    let all = inventory.on_node(address(1)).map(|on| on.free_ports().count());
    assert_eq!(all, Some(ssmmp::SOCKET_PORTS.count()));
}

/// A service's choice for every node and balance is the one that looking at every instance gives.
#[track_caller]
fn assert_choices(inventory: &Inventory, service: &str, random: u64, latest: u64) {
    let turn = Turn { latest: InstanceId(latest), random };
    for (number, socket) in [(1, "s"), (2, "s"), (3, "t"), (4, "s")] {
        let mut candidates: Vec<(Vec<&Name>, Candidate)> = inventory
            .instances()
            .filter(|i| i.service.as_str() == service && i.state == InstanceState::Running)
            .filter(|i| i.port(socket).is_some())
            .map(|i| {
                let candidate = Candidate {
                    id: i.id,
                    is_near: i.address == address(number),
                    sessions: i.sessions.len() as u32,
                    is_overloaded: i.overloaded,
                };
                (i.sockets.iter().map(|(name, _)| name).collect(), candidate)
            })
            .collect();
        candidates.sort_by(|one, other| (&one.0, one.1.id).cmp(&(&other.0, other.1.id)));
        let candidates: Vec<Candidate> = candidates.into_iter().map(|(_, candidate)| candidate).collect();
        let fields = inventory.of_service("a", service).map(|of| of.fields(socket, address(number)));
        let fields = fields.unwrap_or_default();
        let sessions = |id| inventory.instance(id).map_or(0, |instance| instance.sessions.len() as u32);
        for balance in [Balance::LeastSessions, Balance::RoundRobin, Balance::TwoChoices] {
            let near = Near { weight: 2, imbalance: 3 };
            let expected = naive(&candidates, balance, near, turn);
            assert_eq!(
                choose(&fields, sessions, balance, near, turn),
                expected,
                "{balance:?} {candidates:?}"
            );
        }
    }
}

proptest! {
    #[test]
    fn any_changes_keep_the_indexes_equal_to_a_recount(
        steps in prop::collection::vec((0u8..11, 1u64..12, 1u8..4, any::<u64>()), 1..80),
    ) {
        let mut inventory = Inventory::default();
        let mut next = 0;
        for (step, id, number, random) in steps {
            let of = InstanceId(id);
            match step {
                0 => inventory.put_node(node(number, Some(id), &["x", "y"][..1 + id as usize % 2])),
                1 => inventory.disconnect(address(number), id),
                2 | 3 => {
                    next += 1;
                    let mut new = instance(next, ["x", "y"][id as usize % 2], number, 54_000 + next as u16);
                    new.replaces = (random % 3 == 0).then_some(of);
                    if id % 3 == 0 {
                        new.sockets.push((name("t"), Port(55_000 + next as u16)));
                    }
                    inventory.add(new);
                }
                4 => drop(inventory.change(of, |instance| {
                    if instance.state == InstanceState::Starting {
                        instance.state = InstanceState::Running;
                    }
                })),
                5 => drop(inventory.change(of, |instance| instance.overloaded = number == 1)),
                6 | 7 => drop(inventory.change(of, |instance| {
                    instance.sessions.insert(random % 16);
                    instance.accepted += 1;
                })),
                8 => drop(inventory.change(of, |instance| {
                    instance.sessions.pop_first();
                    instance.accepted = instance.accepted.saturating_sub(1);
                })),
                9 => drop(inventory.change(of, |instance| {
                    if instance.state == InstanceState::Starting {
                        instance.state = InstanceState::Running;
                    }
                })),
                _ => drop(inventory.change(of, |instance| {
                    if instance.state.is_alive() {
                        instance.state = if number == 1 { InstanceState::Stopping } else { InstanceState::Ended };
                    }
                })),
            }
            inventory.assert_recount();
            assert_choices(&inventory, "x", random, id);
            assert_choices(&inventory, "y", random, id);
        }
    }
}
