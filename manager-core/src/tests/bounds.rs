//! What agents can make the Manager keep is bounded, for each and for all, and goes with them.

use super::{Cluster, Connection, Event};
use crate::admission::{MAX_LOST, MAX_NODES};
use crate::inventory::{MAX_SERVICES, MAX_STRANGERS, MAX_STRANGERS_OF_ALL};

/// Statuses of registrations answered so far.
fn answers(cluster: &Cluster) -> Vec<u16> {
    cluster
        .sent
        .iter()
        .filter_map(|(_, envelope)| match &envelope.message {
            ssmmp::Message::InitiationResponse(response) => Some(response.status.code()),
            _ => None,
        })
        .collect()
}

fn address(number: usize) -> String {
    format!("10.{}.{}.{}", 1 + number / 65_536, number / 256 % 256, number % 256)
}

fn tell(cluster: &mut Cluster, connection: usize, services: usize, strangers: usize) -> u16 {
    let services: Vec<String> = (0..services).map(|n| format!("s{n}")).collect();
    let running: Vec<String> = (0..strangers).map(|n| format!("s, {}", 1_000_000 + n)).collect();
    cluster.message(connection as u64, &format!(
        "type: initiation_request ~ message_id: 1 ~ agent_network_address: {} ~ service_repository: ({}) ~ x_running: {}",
        address(connection), services.join(", "), running.join(" & ")
    ));
    *answers(cluster).last().expect("answered")
}

#[test]
fn an_agent_tells_so_many_services_and_unknown_instances_and_no_more() {
    let mut cluster = Cluster::new();
    assert_eq!(tell(&mut cluster, 1, MAX_SERVICES, MAX_STRANGERS), 200);
    assert_eq!(tell(&mut cluster, 2, MAX_SERVICES + 1, 0), 400);
    assert_eq!(tell(&mut cluster, 3, 0, MAX_STRANGERS + 1), 400);
    let reason = cluster.sent.last().and_then(|(_, envelope)| envelope.extension("x_reason"));
    assert!(reason.is_some_and(|reason| reason.contains(&MAX_STRANGERS.to_string())), "{reason:?}");
    // It registers anew: what it told before does not count twice.
    assert_eq!(tell(&mut cluster, 1, MAX_SERVICES, MAX_STRANGERS), 200);
    cluster.engine.core.state.inventory.assert_recount();
}

#[test]
fn all_agents_together_tell_so_many_and_what_is_told_goes_with_them() {
    let mut cluster = Cluster::new();
    let full = MAX_STRANGERS_OF_ALL / MAX_STRANGERS;
    for agent in 0..full {
        assert_eq!(tell(&mut cluster, agent, 1, MAX_STRANGERS), 200);
        cluster.sent.clear();
    }
    assert_eq!(tell(&mut cluster, full, 1, 1), 503);
    cluster.handle(Event::Lost(Connection(0)));
    cluster.pass(20_000);
    assert_eq!(tell(&mut cluster, full, 1, 1), 200, "there is room again");
}

#[test]
fn an_unknown_instance_is_asked_to_end_three_times_then_its_agent_is_left_alone() {
    let mut cluster = Cluster::new();
    tell(&mut cluster, 1, 1, 1);
    for _ in 0..20 {
        cluster.pass(5_000);
        cluster.message(1, "type: agent_health_control_response ~ message_id: 7 ~ status: 200");
    }
    let asked = |cluster: &Cluster| {
        let is_hard = |(_, e): &&(Connection, ssmmp::Envelope)| {
            matches!(e.message, ssmmp::Message::HardShutdownRequest(_))
        };
        cluster.sent.iter().filter(is_hard).count()
    };
    assert_eq!(asked(&cluster), 3);
    // It tells of it again: so does the Manager.
    tell(&mut cluster, 1, 1, 1);
    assert_eq!(asked(&cluster), 4);
}

#[test]
fn nodes_that_come_and_go_are_forgotten_before_those_that_have_been_here() {
    let mut cluster = Cluster::new();
    tell(&mut cluster, 0, 1, 0);
    cluster.sent.clear();
    cluster.handle(Event::Lost(Connection(0)));
    for node in 1..=MAX_NODES + 10 {
        cluster.now += 1;
        tell_quickly(&mut cluster, node);
        cluster.handle(Event::Lost(Connection(node as u64)));
        cluster.sent.clear();
    }
    cluster.pass(20_000);
    let nodes = cluster.engine.core.nodes();
    assert_eq!(nodes.len(), MAX_LOST);
    assert!(nodes.iter().any(|node| node.address == address(0)), "the first one is remembered");
}

fn tell_quickly(cluster: &mut Cluster, node: usize) {
    cluster.message(
        node as u64,
        &format!(
            "type: initiation_request ~ message_id: 1 ~ agent_network_address: {} ~ service_repository: (a)",
            address(node)
        ),
    );
    assert_eq!(answers(cluster), [200]);
}

/// An agent that has a source's instance tells of sessions that can't be: nothing is kept of them.
#[test]
fn sessions_that_can_not_be_are_not_adopted() {
    let (mut cluster, gate) = Cluster::running();
    cluster.request(1, gate, 1000, "store");
    let (store, _) = cluster.execute("store", 200);
    let port = cluster.engine.core.instance(store.0).expect("it runs").sockets[0].1;
    let mut live = |item: String| {
        let text =
            format!("type: agent_health_control_response ~ message_id: 5 ~ status: 200 ~ x_live: {item}");
        cluster.message(1, &text);
        cluster.engine.core.sessions(None, false, crate::Page::ALL).len()
    };
    assert_eq!(live(format!("{gate}, 40001, {store}, 10.9.9.9, {port}, 7, store")), 0, "not its address");
    assert_eq!(live(format!("{gate}, 40001, {store}, 10.0.0.1, {port}, 7, made-up")), 1);
    assert_eq!(live(format!("{gate}, 40001, {store}, 10.0.0.1, {port}, 8, store")), 1, "the same one");
    let plug = cluster.engine.core.sessions(None, false, crate::Page::ALL)[0].source.name.clone();
    assert_eq!(plug, "store", "a plug of the graph, not a text of the agent's");
}
