//! Agents that say what is not theirs to say, and that say too much.

use ssmmp::{InstanceId, Message};

use super::{Cluster, Connection, Event, Page};
use crate::InstanceState;
use crate::queued_requests::MAX_WAITING_OF_ONE;
use crate::requests::MAX_PENDING_OF_ONE;

/// A cluster with an open session from the gateway on 10.0.0.1 to the store there, and a second agent.
fn with_session() -> (Cluster, InstanceId, InstanceId) {
    let (mut cluster, gate) = Cluster::running();
    cluster.request(1, gate, 1000, "store");
    let (store, _) = cluster.execute("store", 200);
    cluster.message(1, &format!("type: session_ack ~ message_id: 1000 ~ source_service_name: gate ~ source_service_instance_id: {gate} ~ source_plug_port: 40000 ~ status: 200"));
    cluster.register(2, "10.0.0.2", "gate, store");
    (cluster, gate, store)
}

fn open(cluster: &Cluster) -> usize {
    cluster.engine.core.sessions(None, false, Page::ALL).len()
}

fn closed_by(source: InstanceId, address: &str) -> String {
    format!(
        "type: source_service_session_close_info ~ message_id: 7 ~ source_service_name: gate ~ source_service_instance_id: {source} ~ source_service_instance_network_address: {address} ~ source_plug_name: store ~ source_plug_port: 40000 ~ dest_service_name: store ~ dest_service_instance_network_address: {address} ~ dest_socket_name: api ~ dest_socket_port: 54000 ~ status: 111"
    )
}

#[test]
fn an_agent_can_not_end_what_is_not_on_its_node() {
    let (mut cluster, gate, store) = with_session();
    cluster.message(2, &closed_by(gate, "10.0.0.1"));
    cluster.message(2, &format!("type: service_instance_termination_info ~ message_id: 8 ~ service_name: store ~ service_instance_id: {store}"));
    let counters = "10.0.0.1, 40000, 10.0.0.1, 54000, kernel, -, 1, 1, 1, 1, 1, 1, 1, 1, closed";
    cluster.message(
        2,
        &format!(
            "type: agent_health_control_response ~ message_id: 9 ~ status: 200 ~ x_sessions: {counters}"
        ),
    );
    assert_eq!(open(&cluster), 1);
    assert_eq!(cluster.engine.core.sessions(None, false, Page::ALL)[0].path, "unknown");
    assert_eq!(cluster.engine.core.instance(store.0).map(|i| i.state), Some(InstanceState::Running));
    cluster.message(1, &closed_by(gate, "10.0.0.1"));
    assert_eq!(open(&cluster), 0);
}

#[test]
fn an_answer_counts_only_from_the_agent_that_was_asked() {
    let (mut cluster, gate) = Cluster::running();
    cluster.register(2, "10.0.0.2", "gate");
    cluster.request(1, gate, 1000, "store");
    let id = cluster.sent.iter().rev().find_map(|(_, e)| match &e.message {
        Message::ExecutionRequest(request) => Some(request.message_id),
        _ => None,
    });
    let answer =
        |status| format!("type: execution_response ~ message_id: {} ~ status: {status}", id.expect("asked"));
    cluster.message(2, &answer(200));
    assert!(cluster.responses().is_empty());
    // What only informs is not the answer yet either.
    cluster.message(1, &answer(102));
    assert!(cluster.responses().is_empty());
    cluster.message(1, &answer(200));
    assert_eq!(cluster.responses(), [200]);
}

#[test]
fn the_sketchs_300_for_an_unknown_service_is_a_failure() {
    let (mut cluster, gate) = Cluster::running();
    cluster.request(1, gate, 1000, "store");
    cluster.execute("store", 300);
    assert_eq!(cluster.responses(), [503]);
}

#[test]
fn a_session_behind_a_translated_address_is_found_by_its_source_and_port() {
    let (mut cluster, gate, _) = with_session();
    cluster.message(1, &closed_by(gate, "127.0.0.1"));
    assert_eq!(open(&cluster), 0);
    // One with the same ends: the earlier one must be over, though nobody said so.
    let (mut cluster, gate, _) = with_session();
    cluster.message(1, &format!("type: session_request ~ message_id: 1001 ~ source_service_name: gate ~ source_service_instance_id: {gate} ~ source_plug_name: store ~ dest_service_name: store ~ dest_socket_name: api"));
    cluster.message(1, &format!("type: session_ack ~ message_id: 1001 ~ source_service_instance_id: {gate} ~ source_plug_port: 40000 ~ status: 200"));
    assert_eq!(open(&cluster), 1);
    cluster.message(1, &closed_by(gate, "127.0.0.1"));
    assert_eq!(open(&cluster), 0);
}

#[test]
fn a_flood_of_requests_is_bounded_and_hinders_no_other_instance() {
    let (mut cluster, gate) = Cluster::running();
    for id in 0..MAX_WAITING_OF_ONE as u64 + 10 {
        cluster.request(1, gate, 1000 + id, "store");
    }
    assert_eq!(cluster.responses(), [429; 10]);
    cluster.sent.retain(|(_, e)| !matches!(e.message, Message::SessionResponse(_)));
    cluster.execute("store", 200);
    assert_eq!(cluster.responses(), [200; MAX_WAITING_OF_ONE]);
    cluster.sent.clear();
    for id in 0..MAX_PENDING_OF_ONE as u64 {
        cluster.request(1, gate, 100_000 + id, "store");
    }
    let refused = cluster.responses().iter().filter(|status| **status == 429).count();
    assert_eq!(refused, MAX_WAITING_OF_ONE);
    // They are released when they are not acknowledged in time.
    cluster.pass(10_001);
    cluster.sent.clear();
    cluster.request(1, gate, 5, "store");
    assert_eq!(cluster.responses(), [200]);
}

#[test]
fn nothing_is_done_for_an_agent_that_has_not_registered() {
    let (mut cluster, gate) = Cluster::running();
    cluster.sent.clear();
    cluster.request(9, gate, 1, "store");
    assert_eq!((cluster.responses(), cluster.sent.len()), (vec![403], 1));
    cluster.handle(Event::Lost(Connection(9)));
    assert_eq!(cluster.engine.core.instance(gate.0).map(|i| i.state), Some(InstanceState::Running));
}

#[test]
fn health_that_is_told_unasked_counts_and_its_time_is_kept() {
    let (mut cluster, gate) = Cluster::running();
    cluster.register(2, "10.0.0.2", "store");
    let told = |status| {
        format!(
            "type: service_instance_health_response ~ message_id: 77 ~ service_instance_id: {gate} ~ status: {status}"
        )
    };
    cluster.pass(4_000);
    let at = cluster.now;
    cluster.message(2, &told(199));
    let seen = |cluster: &Cluster| {
        let instance = cluster.engine.core.instance(gate.0).expect("it is known");
        (instance.overloaded, instance.polls.healthy, instance.polls.misses)
    };
    assert!(!seen(&cluster).0 && seen(&cluster).1 < at, "another node's agent does not speak for it");
    cluster.message(1, &told(199));
    assert_eq!(seen(&cluster), (true, at, 0));
    cluster.pass(100);
    cluster.message(1, &told(504));
    assert_eq!(seen(&cluster).1, at, "no good answer");
    cluster.message(1, &told(200));
    assert_eq!(seen(&cluster), (false, at + 100, 0));
    cluster.message(2, "type: agent_health_control_response ~ message_id: 78 ~ status: 200");
    let node = cluster.engine.core.every_node().find(|node| node.name == "n2").expect("registered");
    assert_eq!(node.polls.healthy, at + 100);
}

#[test]
fn the_destination_alone_can_tell_that_a_session_ended() {
    let (mut cluster, _, _) = with_session();
    cluster.message(1, "type: dest_service_session_close_info ~ message_id: 8 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: - ~ source_plug_port: 40000 ~ dest_service_name: store ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_name: api ~ dest_socket_port: 54000 ~ status: 111");
    assert_eq!(open(&cluster), 0);
    assert_eq!(cluster.engine.core.sessions(None, true, Page::ALL)[0].status, Some(111));
}

#[test]
fn limits_that_an_agent_could_not_apply_are_shown_with_their_instance_while_it_lives() {
    let mut cluster = Cluster::new();
    cluster.register(1, "10.0.0.1", "gate, store");
    cluster.apply();
    let request = cluster.sent.iter().find_map(|(_, envelope)| match &envelope.message {
        Message::ExecutionRequest(request) => Some(request.clone()),
        _ => None,
    });
    let request = request.expect("the gateway is executed");
    let (id, message) = (request.service_instance_id, request.message_id);
    let shown = |cluster: &Cluster| {
        let all = cluster.engine.core.instances(None, true, Page::ALL);
        all.into_iter().find(|instance| instance.id == id.0).expect("known").unlimited
    };
    cluster.message(
        1,
        &format!(
            "type: execution_response ~ message_id: {message} ~ status: 200 ~ x_unlimited: limit not applied"
        ),
    );
    assert_eq!(shown(&cluster).as_deref(), Some("limit not applied"));
    cluster.handle(Event::Lost(Connection(1)));
    let registration = "type: initiation_request ~ message_id: 1 ~ agent_network_address: 10.0.0.1 ~ service_repository: (gate, store)";
    cluster.message(2, &format!("{registration} ~ x_running: gate, {id}, http=8080 ~ x_unlimited: {id}, no memory controller & 99, what"));
    assert_eq!(shown(&cluster).as_deref(), Some("no memory controller"));
    cluster.message(2, &format!("type: service_instance_termination_info ~ message_id: 9 ~ service_name: gate ~ service_instance_id: {id} ~ service_instance_network_address: 10.0.0.1 ~ x_reason: signal 9"));
    assert_eq!(shown(&cluster), None);
}
