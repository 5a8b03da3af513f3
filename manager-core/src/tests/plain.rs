//! Agents that speak the 22 types and nothing else: they fare as the specification says.

use ssmmp::{InstanceId, Message};

use super::{Cluster, Connection, Event, Page};
use crate::InstanceState;

fn register(cluster: &mut Cluster, connection: u64) {
    cluster.message(connection, "type: initiation_request ~ message_id: 1 ~ agent_network_address: 10.0.0.1 ~ service_repository: (gate, store)");
}

/// A gateway that runs on a node whose agent knows no extensions.
fn running() -> (Cluster, InstanceId) {
    let mut cluster = Cluster::new();
    register(&mut cluster, 1);
    cluster.apply();
    let (gate, _) = cluster.execute("gate", 200);
    (cluster, gate)
}

fn state(cluster: &Cluster, id: InstanceId) -> Option<InstanceState> {
    cluster.engine.core.instance(id.0).map(|instance| instance.state)
}

fn healthy(cluster: &mut Cluster, connection: u64, id: InstanceId) {
    cluster.message(
        connection,
        &format!(
            "type: service_instance_health_response ~ message_id: 5 ~ service_instance_id: {id} ~ status: 200"
        ),
    );
}

#[test]
fn an_agent_that_returns_in_time_keeps_its_instances_and_they_are_asked_for_their_health() {
    let (mut cluster, gate) = running();
    cluster.handle(Event::Lost(Connection(1)));
    cluster.pass(5_000);
    cluster.sent.clear();
    register(&mut cluster, 2);
    assert_eq!(state(&cluster, gate), Some(InstanceState::Running));
    let is_asked = cluster.sent.iter().any(|(_, e)| matches!(&e.message, Message::ServiceInstanceHealthRequest(r) if r.service_instance_id == gate));
    assert!(is_asked);
    for _ in 0..10 {
        cluster.pass(5_000);
        healthy(&mut cluster, 2, gate);
        cluster.message(2, "type: agent_health_control_response ~ message_id: 7 ~ agent_network_address: 10.0.0.1 ~ status: 200");
    }
    assert_eq!(state(&cluster, gate), Some(InstanceState::Running));
}

#[test]
fn one_that_does_not_answer_for_its_instances_has_lost_them() {
    let (mut cluster, gate) = running();
    cluster.handle(Event::Lost(Connection(1)));
    register(&mut cluster, 2);
    cluster.register(3, "10.0.0.2", "gate, store");
    for _ in 0..12 {
        cluster.pass(5_000);
        cluster.message(3, "type: agent_health_control_response ~ message_id: 7 ~ agent_network_address: 10.0.0.2 ~ status: 200");
        cluster.message(2, "type: agent_health_control_response ~ message_id: 7 ~ agent_network_address: 10.0.0.1 ~ status: 200");
    }
    assert_eq!(state(&cluster, gate), Some(InstanceState::Ended));
    assert!(cluster.executions() > 1, "another one is started");
}

#[test]
fn a_late_acknowledgement_is_adopted() {
    let (mut cluster, gate) = running();
    cluster.request(1, gate, 1000, "store");
    cluster.execute("store", 200);
    let ack = |id: u64, port: u16| {
        format!(
            "type: session_ack ~ message_id: {id} ~ source_service_name: gate ~ source_service_instance_id: {gate} ~ source_plug_port: {port} ~ dest_socket_new_port: 54000 ~ status: 200"
        )
    };
    cluster.pass(10_001);
    let open = |cluster: &Cluster| cluster.engine.core.sessions(None, false, Page::ALL);
    assert!(open(&cluster).is_empty(), "it was given up");
    cluster.message(1, &ack(999, 40_000));
    assert!(open(&cluster).is_empty(), "nobody asked for that");
    cluster.message(1, &ack(1000, 40_001));
    let sessions = open(&cluster);
    assert_eq!(sessions.len(), 1);
    assert_eq!((sessions[0].source.port, sessions[0].source.name.as_str()), (40_001, "store"));
    cluster.message(1, &ack(1000, 40_001));
    assert_eq!(open(&cluster).len(), 1, "it came twice");
}

#[test]
fn a_request_before_the_registration_is_answered_then_the_connection_ends() {
    let mut cluster = Cluster::new();
    cluster.request(9, InstanceId(1), 1000, "store");
    assert_eq!(cluster.responses(), [403]);
}

#[test]
fn an_instance_speaks_for_its_own_service_only() {
    let (mut cluster, gate) = running();
    let ask = |service: &str, id: u64| {
        format!(
            "type: session_request ~ message_id: {id} ~ source_service_name: {service} ~ source_service_instance_id: {gate} ~ source_plug_name: store ~ dest_service_name: store ~ dest_socket_name: api"
        )
    };
    cluster.message(1, &ask("store", 5));
    assert_eq!(cluster.responses(), [403]);
    cluster.message(1, &ask("gate", 6));
    cluster.execute("store", 200);
    assert_eq!(cluster.responses(), [403, 200]);
}
