//! Instances and sessions come and go.

use super::*;
use crate::inventory::on_node::MAX_STARTS;
use crate::state::delayed::STARTS_AT_ONCE;

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
    let sessions = cluster.engine.core.sessions(None, false, Page::ALL);
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
    let failed = cluster.engine.core.instances(None, true, Page::ALL);
    assert_eq!((failed[0].reason.as_deref(), failed[0].output.len()), (Some("exit status 1"), 2));
    assert_eq!(cluster.executions(), 2, "one that had run is replaced at once");
    cluster.execute("gate", 500);
    cluster.pass(1_900);
    assert_eq!(cluster.executions(), 2, "then there is a pause");
    cluster.pass(100);
    assert_eq!(cluster.executions(), 3);
    cluster.execute("gate", 500);
    cluster.pass(3_900);
    assert_eq!(cluster.executions(), 3, "and a longer one");
    cluster.pass(100);
    assert_eq!(cluster.executions(), 4);
}

#[test]
fn one_that_wrote_nothing_has_no_output_to_show() {
    let (mut cluster, gate) = Cluster::running();
    cluster.message(1, &format!("type: service_instance_termination_info ~ message_id: 5 ~ service_name: gate ~ service_instance_id: {gate} ~ x_reason: signal 9 ~ x_output: "));
    let ended = cluster.engine.core.instances(None, true, Page::ALL);
    assert_eq!((ended[0].reason.as_deref(), ended[0].output.len()), (Some("signal 9"), 0));
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
    let sessions = cluster.engine.core.sessions(None, true, Page::ALL);
    assert_eq!((sessions.len(), sessions[0].status), (1, Some(111)));
    assert!(cluster.engine.core.sessions(None, false, Page::ALL).is_empty());
}

#[test]
fn stopping_closes_sessions_first_then_asks_then_forces() {
    let (mut cluster, gate) = Cluster::running();
    cluster.request(1, gate, 1000, "store");
    let (store, _) = cluster.execute("store", 200);
    cluster.message(1, &format!("type: session_ack ~ message_id: 1000 ~ source_service_name: gate ~ source_service_instance_id: {gate} ~ source_plug_port: 40000 ~ status: 200"));
    cluster.sent.clear();
    cluster.handle(Event::Command(Ticket(1), Command::StopInstance(store)));
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
    cluster.pass(31_000);
    assert_eq!(cluster.engine.core.instance(store.0).map(|i| i.state), Some(InstanceState::Ended));
}

#[test]
fn an_agent_that_returns_is_reconciled() {
    let (mut cluster, gate) = Cluster::running();
    cluster.handle(Event::Lost(Connection(1)));
    cluster.pass(5_000);
    cluster.message(2, &format!("type: initiation_request ~ message_id: 1 ~ agent_network_address: 10.0.0.1 ~ service_repository: (gate, store) ~ x_running: gate, {gate}, http=8080 & store, 77, api=54009"));
    assert_eq!(cluster.engine.core.instance(gate.0).map(|i| i.state), Some(InstanceState::Running));
    let stranger = cluster.sent.iter().any(|(_, e)| matches!(&e.message, Message::HardShutdownRequest(r) if r.service_instance_id == InstanceId(77)));
    assert!(stranger, "an instance nobody knows is ended");
    cluster.handle(Event::Lost(Connection(2)));
    cluster.pass(20_000);
    assert_eq!(cluster.engine.core.instance(gate.0).map(|i| i.state), Some(InstanceState::Ended));
}

#[test]
fn lists_are_told_page_by_page() {
    let mut cluster = Cluster::with_nodes(&["gate, middle, store"]);
    cluster.apply_text(CHAIN);
    cluster.live(10);
    let gate = InstanceId(cluster.of("gate")[0].0);
    cluster.sessions(7, gate, "middle", "middle", "api");
    let all: Vec<u64> =
        cluster.engine.core.sessions(None, false, Page::ALL).iter().map(|session| session.id).collect();
    assert_eq!(all.len(), 7);
    let mut paged = Vec::new();
    loop {
        let page = Page { after: paged.last().copied().unwrap_or(0), limit: 3 };
        let told = cluster.engine.core.sessions(Some("t"), false, page);
        assert!(told.len() <= 3);
        if told.is_empty() {
            break;
        }
        paged.extend(told.iter().map(|session| session.id));
    }
    assert_eq!(paged, all);
    let instances = cluster.engine.core.instances(None, false, Page { after: gate.0, limit: 10 });
    assert!(instances.iter().all(|instance| instance.id > gate.0) && !instances.is_empty());
}

/// Answers the executions that were requested so far and not answered yet; returns how many.
fn answer_all(cluster: &mut Cluster, answered: &mut usize) -> usize {
    let requests: Vec<_> = cluster
        .sent
        .iter()
        .filter_map(|(connection, envelope)| match &envelope.message {
            Message::ExecutionRequest(request) => Some((connection.0, request.message_id)),
            _ => None,
        })
        .skip(*answered)
        .collect();
    *answered += requests.len();
    for (connection, id) in &requests {
        cluster.message(*connection, &format!("type: execution_response ~ message_id: {id} ~ status: 200"));
    }
    requests.len()
}

#[test]
fn a_node_has_a_bounded_number_of_starts_under_way_and_the_rest_does_not_time_out() {
    let many = CHAIN.replace("[service.middle]", "[service.middle]\nreplicas = { min = 100, max = 100 }");
    let mut cluster = Cluster::new();
    cluster.register(1, "10.0.0.1", "gate, middle, store");
    cluster.apply_text(&many);
    cluster.pass(9_000);
    assert_eq!(cluster.executions(), MAX_STARTS, "the others wait");
    let (mut answered, mut waves) = (0, 0);
    while answer_all(&mut cluster, &mut answered) > 0 {
        waves += 1;
        cluster.message(1, "type: agent_health_control_response ~ message_id: 1 ~ agent_network_address: 10.0.0.1 ~ status: 200");
        for id in 1..=101 {
            cluster.message(1, &format!("type: service_instance_health_response ~ message_id: 1 ~ service_instance_id: {id} ~ status: 200"));
        }
        cluster.pass(9_000);
    }
    assert!(waves >= 4, "{waves}: the last ones waited for longer than a start may take");
    assert_eq!(
        (cluster.executions(), cluster.engine.core.status().instances),
        (101, 101),
        "none was tried again"
    );
    assert!(!cluster.events.iter().any(|(kind, _)| kind == "instance-failed"), "{:?}", cluster.events);
}

#[test]
fn one_event_begins_a_bounded_number_of_starts() {
    let many = CHAIN.replace("[service.middle]", "[service.middle]\nreplicas = { min = 100, max = 100 }");
    let mut cluster = Cluster::new();
    for node in 1..=5 {
        cluster.register(node, &format!("10.0.0.{node}"), "gate, middle, store");
    }
    cluster.apply_text(&many);
    assert_eq!(cluster.executions(), STARTS_AT_ONCE);
    cluster.pass(5);
    assert_eq!(cluster.executions(), 101);
}

/// Its process is still there, with its ports and its data.
#[test]
fn an_instance_that_says_it_ends_counts_until_its_agent_says_that_it_is_gone() {
    for is_asked in [true, false] {
        let (mut cluster, gate) = Cluster::running();
        let info = format!(
            "type: service_instance_termination_info ~ message_id: 9 ~ service_name: gate ~ service_instance_id: {gate} ~ service_instance_network_address: 10.0.0.1"
        );
        cluster.sent.clear();
        if is_asked {
            cluster.handle(Event::Command(Ticket(1), Command::StopInstance(gate)));
            let [(_, request)] = &cluster.sent[..] else { panic!("{:?}", cluster.sent) };
            let id = request.message.message_id();
            cluster.message(
                1,
                &format!(
                    "type: graceful_shutdown_response ~ message_id: {id} ~ status: 200 ~ x_exiting: yes"
                ),
            );
        } else {
            cluster.message(1, &format!("{info} ~ x_exiting: yes"));
        }
        let ended = |cluster: &Cluster| {
            cluster.engine.core.instance(gate.0).map(|i| i.state) == Some(InstanceState::Ended)
        };
        assert!(!ended(&cluster), "asked: {is_asked}");
        cluster.message(1, &format!("{info} ~ x_reason: exit status 0"));
        assert!(ended(&cluster), "asked: {is_asked}");
    }
}

/// G10: an agent that answers none of it is not asked for ever.
#[test]
fn what_should_not_run_is_asked_to_end_three_times_at_most() {
    let (mut cluster, gate) = Cluster::running();
    cluster.handle(Event::Lost(Connection(1)));
    let agent = "agent_network_address: 10.0.0.1";
    cluster.message(2, &format!("type: initiation_request ~ message_id: 1 ~ {agent} ~ service_repository: (gate, store) ~ x_running: gate, {gate}, http=8080 & store, 77, api=54009"));
    for _ in 0..20 {
        cluster.pass(5_000);
        cluster.message(
            2,
            &format!("type: agent_health_control_response ~ message_id: 7 ~ {agent} ~ status: 200"),
        );
    }
    let is_asked = |envelope: &ssmmp::Envelope| matches!(&envelope.message, Message::HardShutdownRequest(r) if r.service_instance_id == InstanceId(77));
    assert_eq!(cluster.sent.iter().filter(|(_, envelope)| is_asked(envelope)).count(), 3);
}
