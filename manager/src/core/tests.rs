//! Scenarios of the core, through one helper: a Manager whose agents are written out as messages.

mod peers;

use proptest::prelude::*;
use ssmmp::{Address, Envelope, InstanceId, Message};

use super::{Config, Connection, Core, Effect, Event, InstanceState, Millis};
use crate::graph::Graph;

const GRAPH: &str = r#"app = "t"
[service.gate]
kind = "gateway"
sockets.http = { protocol = "http", port = 8080 }
plugs.store = { protocol = "p" }
[service.store]
kind = "baas"
sockets.api = { protocol = "p" }
[[connection]]
from = "gate.store"
to = "store.api"
"#;

struct Cluster {
    core: Core,
    now: Millis,
    sent: Vec<(Connection, Envelope)>,
}

impl Cluster {
    fn new() -> Self {
        Self { core: Core::new(Config::default(), 1, 0), now: 0, sent: Vec::new() }
    }

    fn handle(&mut self, event: Event) {
        for effect in self.core.handle(self.now, event) {
            if let Effect::Send(connection, envelope) = effect {
                self.sent.push((connection, envelope));
            }
        }
    }

    fn message(&mut self, connection: u64, line: &str) {
        let envelope = Envelope::parse(line).expect(line);
        self.handle(Event::Message(Connection(connection), envelope));
    }

    fn register(&mut self, connection: u64, address: &str, services: &str) {
        self.message(connection, &format!(
            "type: initiation_request ~ message_id: 1 ~ agent_network_address: {address} ~ service_repository: ({services}) ~ x_node: n{connection}"
        ));
    }

    fn apply(&mut self) {
        let (graph, _) = Graph::read(GRAPH).expect("good");
        self.handle(Event::Apply(graph, GRAPH.into()));
    }

    /// Answers the latest execution_request of a service and returns the instance and its node.
    fn execute(&mut self, service: &str, status: u16) -> (InstanceId, Connection) {
        let (connection, request) = self
            .sent
            .iter()
            .rev()
            .find_map(|(connection, envelope)| match &envelope.message {
                Message::ExecutionRequest(request) if request.service_name.as_str() == service => {
                    Some((*connection, request.clone()))
                }
                _ => None,
            })
            .expect("an execution was requested");
        self.message(
            connection.0,
            &format!("type: execution_response ~ message_id: {} ~ status: {status}", request.message_id),
        );
        (request.service_instance_id, connection)
    }

    fn request(&mut self, connection: u64, source: InstanceId, id: u64, dest: &str) {
        self.message(connection, &format!(
            "type: session_request ~ message_id: {id} ~ sub_type: agent_to_Manager ~ source_service_name: gate ~ source_service_instance_id: {source} ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: store ~ dest_service_name: {dest} ~ dest_socket_name: api"
        ));
    }

    /// Statuses of the session_responses sent so far.
    fn responses(&self) -> Vec<u16> {
        self.sent
            .iter()
            .filter_map(|(_, envelope)| match &envelope.message {
                Message::SessionResponse(response) => Some(response.status.code()),
                _ => None,
            })
            .collect()
    }

    fn executions(&self) -> usize {
        self.sent.iter().filter(|(_, e)| matches!(e.message, Message::ExecutionRequest(_))).count()
    }

    fn pass(&mut self, time: Millis) {
        let end = self.now + time;
        while let Some(at) = self.core.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.handle(Event::Tick);
        }
        self.now = end;
    }

    fn running() -> (Self, InstanceId) {
        let mut cluster = Self::new();
        cluster.register(1, "10.0.0.1", "gate, store");
        cluster.apply();
        let (gate, _) = cluster.execute("gate", 200);
        (cluster, gate)
    }
}

#[test]
fn a_gateway_starts_with_its_application_and_everything_else_on_demand() {
    let (mut cluster, gate) = Cluster::running();
    assert_eq!(cluster.executions(), 1);
    cluster.request(1, gate, 1000, "store");
    cluster.request(1, gate, 1001, "store");
    assert_eq!(cluster.executions(), 2, "one start serves both requests");
    assert!(cluster.responses().is_empty());
    let (store, _) = cluster.execute("store", 200);
    assert_eq!(cluster.responses(), [200, 200]);
    cluster.message(1, &format!("type: session_ack ~ message_id: 1000 ~ source_service_name: gate ~ source_service_instance_id: {gate} ~ source_plug_port: 40000 ~ dest_socket_new_port: 54000 ~ status: 200"));
    let sessions = cluster.core.sessions(None, false);
    assert_eq!(sessions.len(), 1);
    assert_eq!((sessions[0].destination.instance, sessions[0].source.port), (store.0, 40000));
}

#[test]
fn what_the_graph_does_not_connect_is_refused() {
    let (mut cluster, gate) = Cluster::running();
    cluster.request(1, gate, 1, "nothing");
    cluster.register(2, "10.0.0.2", "store");
    cluster.request(2, gate, 2, "store");
    assert_eq!(cluster.responses(), [404, 403]);
}

#[test]
fn a_failed_start_is_tried_elsewhere_and_then_refused() {
    let (mut cluster, gate) = Cluster::running();
    cluster.register(2, "10.0.0.2", "store");
    cluster.request(1, gate, 1, "store");
    cluster.execute("store", 500);
    assert_eq!(cluster.executions(), 3, "the other node is tried");
    cluster.execute("store", 404);
    assert_eq!(cluster.responses(), [503]);
}

#[test]
fn a_gateway_that_dies_is_started_again_with_growing_pauses() {
    let (mut cluster, gate) = Cluster::running();
    cluster.message(1, &format!("type: service_instance_termination_info ~ message_id: 5 ~ service_name: gate ~ service_instance_id: {gate} ~ x_reason: exit status 1 ~ x_output: a | last"));
    let failed = cluster.core.instances(None, true);
    assert_eq!((failed[0].reason.as_deref(), failed[0].output.len()), (Some("exit status 1"), 2));
    assert_eq!(cluster.executions(), 1);
    cluster.pass(1_000);
    assert_eq!(cluster.executions(), 2);
    cluster.execute("gate", 500);
    cluster.pass(1_000);
    assert_eq!(cluster.executions(), 2, "the second pause is longer");
    cluster.pass(1_500);
    assert_eq!(cluster.executions(), 3);
}

#[test]
fn the_second_report_of_a_closed_session_changes_nothing() {
    let (mut cluster, gate) = Cluster::running();
    cluster.request(1, gate, 1000, "store");
    let (store, _) = cluster.execute("store", 200);
    cluster.message(1, &format!("type: session_ack ~ message_id: 1000 ~ source_service_name: gate ~ source_service_instance_id: {gate} ~ source_plug_port: 40000 ~ status: 200"));
    let source = format!(
        "type: source_service_session_close_info ~ message_id: 7 ~ source_service_name: gate ~ source_service_instance_id: {gate} ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: store ~ source_plug_port: 40000 ~ dest_service_name: store ~ dest_service_instance_id: {store} ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_name: api ~ dest_socket_port: 54000 ~ status: 111"
    );
    let dest = format!(
        "type: dest_service_session_close_info ~ message_id: 8 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: - ~ source_plug_port: 40000 ~ dest_service_name: store ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_service_instance_id: {store} ~ dest_socket_name: api ~ dest_socket_port: 54000 ~ status: 122"
    );
    cluster.message(1, &source);
    cluster.message(1, &dest);
    let sessions = cluster.core.sessions(None, true);
    assert_eq!((sessions.len(), sessions[0].status), (1, Some(111)));
    assert!(cluster.core.sessions(None, false).is_empty());
}

#[test]
fn stopping_closes_sessions_first_then_asks_then_forces() {
    let (mut cluster, gate) = Cluster::running();
    cluster.request(1, gate, 1000, "store");
    let (store, _) = cluster.execute("store", 200);
    cluster.message(1, &format!("type: session_ack ~ message_id: 1000 ~ source_service_name: gate ~ source_service_instance_id: {gate} ~ source_plug_port: 40000 ~ status: 200"));
    cluster.sent.clear();
    cluster.handle(Event::StopInstance(store));
    let id = match &cluster.sent[..] {
        [(_, envelope)] if matches!(envelope.message, Message::SourceServiceSessionCloseRequest(_)) => {
            envelope.message.message_id()
        }
        other => panic!("only the session's source is asked: {other:?}"),
    };
    cluster
        .message(1, &format!("type: source_service_session_close_response ~ message_id: {id} ~ status: 200"));
    assert!(matches!(cluster.sent[1].1.message, Message::GracefulShutdownRequest(_)));
    cluster.pass(11_000);
    assert!(cluster.sent.iter().any(|(_, e)| matches!(e.message, Message::HardShutdownRequest(_))));
    cluster.pass(11_000);
    assert_eq!(cluster.core.instance(store.0).map(|i| i.state), Some(InstanceState::Ended));
}

#[test]
fn an_agent_that_returns_is_reconciled() {
    let (mut cluster, gate) = Cluster::running();
    cluster.handle(Event::Lost(Connection(1)));
    cluster.pass(5_000);
    cluster.message(2, &format!("type: initiation_request ~ message_id: 1 ~ agent_network_address: 10.0.0.1 ~ service_repository: (gate, store) ~ x_running: gate, {gate}, http=8080 & store, 77, api=54009"));
    assert_eq!(cluster.core.instance(gate.0).map(|i| i.state), Some(InstanceState::Running));
    let stranger = cluster.sent.iter().any(|(_, e)| matches!(&e.message, Message::HardShutdownRequest(r) if r.service_instance_id == InstanceId(77)));
    assert!(stranger, "an instance nobody knows is ended");
    cluster.handle(Event::Lost(Connection(2)));
    cluster.pass(20_000);
    assert_eq!(cluster.core.instance(gate.0).map(|i| i.state), Some(InstanceState::Ended));
}

proptest! {
    #[test]
    fn any_sequence_of_events_keeps_the_invariants(steps in prop::collection::vec((0u8..9, 1u64..6, 1u64..4), 1..80)) {
        let mut cluster = Cluster::new();
        for (step, a, b) in steps {
            match step {
                0 => cluster.register(b, &format!("10.0.0.{b}"), "gate, store"),
                1 => cluster.apply(),
                2 => cluster.handle(Event::Lost(Connection(b))),
                3 => cluster.request(b, InstanceId(a), a * 100 + b, "store"),
                4 if cluster.executions() > 0 => drop(cluster.execute("gate", if b == 1 { 500 } else { 200 })),
                5 => cluster.handle(Event::StopInstance(InstanceId(a))),
                6 => cluster.pass(a * 3_000),
                7 => cluster.message(b, &format!("type: service_instance_termination_info ~ message_id: 5 ~ service_name: gate ~ service_instance_id: {a}")),
                _ => cluster.message(b, &format!("type: session_ack ~ message_id: {} ~ source_service_name: gate ~ source_service_instance_id: {a} ~ source_plug_port: 40000 ~ status: 200", a * 100 + b)),
            }
            cluster.core.inventory.assert_recount();
            cluster.core.sessions.assert_recount();
            let alive: Vec<_> = cluster.core.inventory.instances().filter(|i| i.state.is_alive()).collect();
            let mut ports: Vec<(Address, u16)> = alive.iter().flat_map(|i| i.sockets.iter().map(|(_, p)| (i.address, p.0))).collect();
            let all = ports.len();
            ports.sort();
            ports.dedup();
            prop_assert_eq!(ports.len(), all, "a port is given twice");
            for session in cluster.core.sessions.iter() {
                prop_assert!(cluster.core.inventory.instance(session.source).is_some());
                prop_assert!(cluster.core.inventory.instance(session.destination).is_some());
            }
        }
        let mut answered: Vec<_> = cluster.sent.iter().filter(|(_, e)| matches!(e.message, Message::ExecutionRequest(_))).map(|(_, e)| e.message.message_id()).collect();
        let all = answered.len();
        answered.sort();
        answered.dedup();
        prop_assert_eq!(answered.len(), all, "a message id is used twice");
    }
}
