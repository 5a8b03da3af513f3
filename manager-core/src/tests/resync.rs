//! Agents and the Manager lose each other and meet again. Each was found by the simulation.

use super::*;
use crate::SessionState;

const ACK: &str =
    "source_service_name: gate ~ source_plug_port: 40000 ~ dest_socket_new_port: 54000 ~ status: 200";

/// A gateway and a store, connected by an acknowledged session if `acknowledged`.
fn connected(acknowledged: bool) -> (Cluster, InstanceId, InstanceId) {
    let mut cluster = Cluster::new();
    cluster.register(1, "10.0.0.1", "gate, store");
    cluster.apply();
    let (gate, _) = cluster.execute("gate", 200);
    cluster.request(1, gate, 1000, "store");
    let (store, _) = cluster.execute("store", 200);
    if acknowledged {
        cluster.message(1, &ack(gate));
    }
    (cluster, gate, store)
}

fn ack(gate: InstanceId) -> String {
    format!("type: session_ack ~ message_id: 1000 ~ source_service_instance_id: {gate} ~ {ACK}")
}

/// The agent registers again and tells what runs, then which sessions live.
fn returns(cluster: &mut Cluster, connection: u64, running: &str, live: &[String]) {
    cluster.message(connection, &format!("type: initiation_request ~ message_id: 1 ~ agent_network_address: 10.0.0.1 ~ service_repository: (gate, store) ~ x_running: {running}"));
    for line in live {
        cluster.message(connection, &format!("type: agent_health_control_response ~ message_id: 2 ~ agent_network_address: 10.0.0.1 ~ status: 200 ~ {line}"));
    }
}

fn live(gate: InstanceId, store: InstanceId, request: u64, plug: &str) -> Vec<String> {
    vec![
        format!("x_live: {gate}, 40000, {store}, 10.0.0.1, 54000, {request}, {plug}"),
        "x_live_complete: yes".to_owned(),
    ]
}

fn both(gate: InstanceId, store: InstanceId) -> String {
    format!("gate, {gate}, http=8080, running & store, {store}, api=54000, running")
}

fn states(cluster: &Cluster) -> Vec<SessionState> {
    cluster.engine.core.every_session().map(|session| session.state).collect()
}

fn state(cluster: &Cluster, id: InstanceId) -> Option<InstanceState> {
    cluster.engine.core.instance(id.0).map(|instance| instance.state)
}

fn count(cluster: &Cluster, is: impl Fn(&Message) -> bool) -> usize {
    cluster.sent.iter().filter(|(_, envelope)| is(&envelope.message)).count()
}

/// Seed 66.
#[test]
fn a_session_that_was_answered_is_known_to_the_next_manager_and_may_be_acknowledged_there() {
    let (mut cluster, gate, store) = connected(false);
    cluster.restart();
    assert_eq!(states(&cluster), [SessionState::Pending]);
    returns(&mut cluster, 2, &both(gate, store), &["x_live_complete: yes".to_owned()]);
    assert_eq!(states(&cluster), [SessionState::Pending], "nobody can have acknowledged it yet");
    cluster.message(2, &ack(gate));
    assert_eq!(states(&cluster), [SessionState::Open]);
}

/// Seed 189.
#[test]
fn a_session_whose_acknowledgement_was_lost_is_told_again() {
    for plug in ["store", "-"] {
        let (mut cluster, gate, store) = connected(false);
        cluster.restart();
        // An agent that was restarted too knows neither plug nor request.
        let request = if plug == "-" { 77 } else { 1000 };
        returns(&mut cluster, 2, &both(gate, store), &live(gate, store, request, plug));
        assert_eq!(states(&cluster), [SessionState::Open], "{plug}");
    }
}

/// Seed 135, S9.
#[test]
fn a_session_that_was_given_up_is_adopted_when_it_turns_up() {
    for plug in ["store", "-"] {
        let (mut cluster, gate, store) = connected(false);
        cluster.pass(11_000);
        assert_eq!(states(&cluster), [SessionState::Closed]);
        let line = &live(gate, store, 1000, plug)[0];
        cluster.message(1, &format!("{} ~ {line}", ack(gate)));
        assert_eq!(states(&cluster), [SessionState::Closed, SessionState::Open]);
        let sessions = cluster.engine.core.sessions(None, false, Page::ALL);
        assert_eq!(
            (sessions[0].source.name.as_str(), sessions[0].destination.name.as_str()),
            ("store", "api")
        );
        cluster.message(1, &format!("{} ~ {line}", ack(gate)));
        assert_eq!(states(&cluster).len(), 2, "told again, it is the same session");
    }
}

/// Seed 99.
#[test]
fn sessions_that_an_agent_does_not_tell_again_are_over() {
    let (mut cluster, gate, store) = connected(true);
    cluster.handle(Event::Lost(Connection(1)));
    returns(&mut cluster, 2, &both(gate, store), &live(gate, store, 1000, "store"));
    assert_eq!(states(&cluster), [SessionState::Open]);
    cluster.handle(Event::Lost(Connection(2)));
    returns(&mut cluster, 3, &both(gate, store), &[]);
    assert_eq!(states(&cluster), [SessionState::Open], "the agent does not know all of its sessions");
    returns(&mut cluster, 3, &both(gate, store), &["x_live_complete: yes".to_owned()]);
    assert_eq!(states(&cluster), [SessionState::Closed]);
}

/// Seed 68.
#[test]
fn a_living_session_with_an_end_that_is_gone_is_closed_by_its_source() {
    let (mut cluster, gate, store) = connected(true);
    cluster.handle(Event::Lost(Connection(1)));
    let running = format!("gate, {gate}, http=8080, running");
    returns(&mut cluster, 2, &running, &live(gate, store, 1000, "store"));
    assert_eq!(states(&cluster), [SessionState::Closed]);
    let asked = count(
        &cluster,
        |message| matches!(message, Message::SourceServiceSessionCloseRequest(r) if r.source_plug_port.0 == 40000),
    );
    assert_eq!(asked, 1);
}

/// Seed 133.
#[test]
fn a_start_that_goes_on_during_a_restart_is_answered_to_the_next_manager() {
    let mut cluster = Cluster::new();
    cluster.register(1, "10.0.0.1", "gate, store");
    cluster.apply();
    let gate = InstanceId(1);
    cluster.restart();
    returns(&mut cluster, 2, &format!("gate, {gate}, http=8080, starting"), &[]);
    assert_eq!((cluster.executions(), state(&cluster, gate)), (2, Some(InstanceState::Starting)));
    let ids = cluster.sent.iter().filter_map(|(_, envelope)| match &envelope.message {
        Message::ExecutionRequest(request) => Some(request.service_instance_id),
        _ => None,
    });
    assert!(ids.eq([gate, gate]), "the same instance is asked for again, under another message id");
    cluster.execute("gate", 200);
    assert_eq!(state(&cluster, gate), Some(InstanceState::Running));
}

/// Seed 1701: the agent told of the failed start after it was asked to start the instance again.
#[test]
fn only_the_answer_to_the_latest_execution_request_counts() {
    let mut cluster = Cluster::new();
    cluster.register(1, "10.0.0.1", "gate, store");
    cluster.apply();
    let request = |cluster: &Cluster| match cluster.sent.last().map(|(_, envelope)| &envelope.message) {
        Some(Message::ExecutionRequest(request)) => request.message_id,
        other => panic!("an execution is requested, not {other:?}"),
    };
    let first = request(&cluster);
    cluster.handle(Event::Lost(Connection(1)));
    returns(&mut cluster, 2, "gate, 1, http=8080, starting", &[]);
    let second = request(&cluster);
    let answer = |id: ssmmp::MessageId, status| {
        format!("type: execution_response ~ message_id: {id} ~ status: {status}")
    };
    cluster.message(2, &answer(first, 500));
    assert_eq!(state(&cluster, InstanceId(1)), Some(InstanceState::Starting));
    cluster.message(2, &answer(second, 200));
    assert_eq!(state(&cluster, InstanceId(1)), Some(InstanceState::Running));
}

/// Seed 146.
#[test]
fn an_instance_that_is_ending_is_not_believed_to_run() {
    let (mut cluster, gate, store) = connected(true);
    cluster.handle(Event::Lost(Connection(1)));
    returns(&mut cluster, 2, &both(gate, store).replace("54000, running", "54000, ending"), &[]);
    cluster.pass(6_000);
    let request = cluster.sent.iter().rev().find_map(|(_, envelope)| match &envelope.message {
        Message::HardShutdownRequest(request) if request.service_instance_id == store => {
            Some(request.message_id)
        }
        _ => None,
    });
    let id = request.expect("its end is asked for, so that it is told");
    cluster.message(
        2,
        &format!(
            "type: hard_shutdown_response ~ message_id: {id} ~ service_instance_id: {store} ~ status: 200"
        ),
    );
    assert_eq!(state(&cluster, store), Some(InstanceState::Ended));
}

/// Seed 53: the node returned, and another instance was given the ports of one that still ran.
#[test]
fn what_should_not_run_keeps_its_ports_until_it_is_gone() {
    let (mut cluster, gate, store) = connected(true);
    cluster.handle(Event::Lost(Connection(1)));
    cluster.pass(20_000);
    assert_eq!(state(&cluster, gate), Some(InstanceState::Ended));
    let before = cluster.executions();
    returns(&mut cluster, 2, &both(gate, store), &[]);
    assert_eq!(cluster.executions(), before, "the gateway's port is taken by the old one");
    let ask = |message: &Message| matches!(message, Message::HardShutdownRequest(r) if r.service_instance_id == gate);
    assert_eq!(count(&cluster, ask), 1);
    cluster.pass(6_000);
    assert!(count(&cluster, ask) > 1, "it is asked for again with every poll");
    cluster.message(2, &format!("type: service_instance_termination_info ~ message_id: 9 ~ service_name: gate ~ service_instance_id: {gate} ~ service_instance_network_address: 10.0.0.1 ~ x_reason: signal 9"));
    assert_eq!(cluster.executions(), before + 1);
}

/// Seed 58: a start was given up after its time, and its ports were given to the next one.
#[test]
fn a_start_that_was_given_up_keeps_its_ports_until_it_is_gone() {
    let mut cluster = Cluster::new();
    cluster.register(1, "10.0.0.1", "gate, store");
    cluster.apply();
    for _ in 0..8 {
        cluster.pass(4_000);
        cluster.message(1, "type: agent_health_control_response ~ message_id: 2 ~ agent_network_address: 10.0.0.1 ~ status: 200");
    }
    assert_eq!(cluster.executions(), 1, "its port may be in use");
    let request = cluster.sent.iter().rev().find_map(|(_, envelope)| match &envelope.message {
        Message::HardShutdownRequest(request) => Some(request.message_id),
        _ => None,
    });
    let id = request.expect("its end is asked for");
    cluster.message(
        1,
        &format!("type: hard_shutdown_response ~ message_id: {id} ~ service_instance_id: 1 ~ status: 404"),
    );
    assert_eq!(cluster.executions(), 2);
}

/// Seed 56.
#[test]
fn an_instance_that_is_over_is_not_served() {
    let (mut cluster, gate, _) = connected(true);
    cluster.message(1, &format!("type: service_instance_termination_info ~ message_id: 9 ~ service_name: gate ~ service_instance_id: {gate} ~ service_instance_network_address: 10.0.0.1 ~ x_reason: signal 9"));
    cluster.request(1, gate, 1001, "store");
    assert_eq!(cluster.responses().last(), Some(&403));
}

/// Seed 249: a node with eleven instances went down, and its service was not started for minutes.
#[test]
fn a_lost_node_is_no_failure_of_its_services() {
    let graph = GRAPH.replace(
        "[service.store]\nkind = \"baas\"",
        "[service.store]\nkind = \"regular\"\nreplicas = { min = 11, max = 11 }\nplugs.data = { protocol = \"p\" }\nsockets.api = { protocol = \"p\" }\n[service.data]\nkind = \"baas\"",
    ) + "[[connection]]\nfrom = \"store.data\"\nto = \"data.api\"\n";
    let mut cluster = Cluster::new();
    cluster.register(1, "10.0.0.1", "store");
    cluster.apply_text(&graph);
    assert_eq!(cluster.executions(), 11);
    cluster.register(2, "10.0.0.2", "store");
    cluster.handle(Event::Lost(Connection(1)));
    cluster.pass(15_000);
    assert_eq!(cluster.executions(), 22, "all are started elsewhere at once");
}

/// Seed 267: an agent that was restarted knew neither request nor plug; the acknowledgement came later.
#[test]
fn a_connection_that_was_taken_for_another_request_is_one_session() {
    let (mut cluster, gate, store) = connected(false);
    cluster.request(1, gate, 1001, "store");
    assert_eq!(states(&cluster), [SessionState::Pending; 2]);
    cluster.handle(Event::Lost(Connection(1)));
    returns(&mut cluster, 2, &both(gate, store), &live(gate, store, 77, "-"));
    assert_eq!(states(&cluster), [SessionState::Open, SessionState::Pending]);
    let late = ack(gate).replace("1000", "1001");
    cluster.message(2, &format!("{late} ~ {}", live(gate, store, 1001, "store")[0]));
    assert_eq!(states(&cluster), [SessionState::Closed, SessionState::Open]);
}

/// Seed 317: its agent was asked once more meanwhile, and had started it again.
#[test]
fn a_start_that_is_told_to_have_ended_is_doubted() {
    let mut cluster = Cluster::new();
    cluster.register(1, "10.0.0.1", "gate, store");
    cluster.apply();
    let gate = cluster.engine.core.instances(None, false, Page::ALL)[0].id;
    cluster.message(1, &format!("type: service_instance_termination_info ~ message_id: 9 ~ service_name: gate ~ service_instance_id: {gate} ~ x_reason: signal 9"));
    let hard = cluster.sent.iter().find_map(|(_, envelope)| match &envelope.message {
        Message::HardShutdownRequest(request) if request.service_instance_id.0 == gate => {
            Some(request.message_id)
        }
        _ => None,
    });
    let hard = hard.expect("it is asked to be ended");
    // Its port is taken until its agent says that it is gone.
    cluster.pass(2_000);
    assert_eq!(cluster.executions(), 1);
    cluster.message(
        1,
        &format!(
            "type: hard_shutdown_response ~ message_id: {hard} ~ service_instance_id: {gate} ~ status: 200"
        ),
    );
    cluster.pass(2_000);
    assert_eq!(cluster.executions(), 2);
}

fn part(cluster: &mut Cluster, connection: u64, id: u64, running: &str) {
    cluster.message(connection, &format!("type: initiation_request ~ message_id: {id} ~ agent_network_address: 10.0.0.1 ~ service_repository: () ~ x_running: {running} ~ x_running_more: yes"));
}

/// More instances than fit into one message.
#[test]
fn an_agent_tells_its_instances_in_parts() {
    let (mut cluster, gate, store) = connected(true);
    cluster.handle(Event::Lost(Connection(1)));
    part(&mut cluster, 2, 5, &format!("store, {store}, api=54000, running"));
    let (_, answer) = cluster.sent.last().expect("answered");
    let Message::InitiationResponse(answer) = &answer.message else { panic!("{answer:?}") };
    assert_eq!((answer.status.code(), answer.message_id.to_string().as_str()), (100, "5"));
    assert_eq!(cluster.engine.core.status().nodes, 0, "the last part registers");
    returns(&mut cluster, 2, &format!("gate, {gate}, http=8080, running"), &[]);
    assert_eq!(cluster.engine.core.status().nodes, 1);
    let running = Some(InstanceState::Running);
    assert_eq!((state(&cluster, gate), state(&cluster, store)), (running, running));
    // What another connection told does not count for this one.
    cluster.handle(Event::Lost(Connection(2)));
    part(&mut cluster, 3, 6, &format!("store, {store}, api=54000, running"));
    cluster.handle(Event::Lost(Connection(3)));
    returns(&mut cluster, 4, &format!("gate, {gate}, http=8080, running"), &[]);
    assert_eq!(state(&cluster, store), Some(InstanceState::Ended));
}

#[test]
fn what_is_told_in_parts_is_bounded() {
    let (mut cluster, ..) = connected(true);
    cluster.handle(Event::Lost(Connection(1)));
    let many = "store, 7, api=54000, running & ".repeat(1_000);
    let answers: Vec<u16> = (1..=20)
        .map(|id| {
            part(&mut cluster, 2, id, many.trim_end_matches(" & "));
            match &cluster.sent.last().expect("answered").1.message {
                Message::InitiationResponse(answer) => answer.status.code(),
                other => panic!("{other:?}"),
            }
        })
        .collect();
    assert_eq!((answers[0], answers[19]), (100, 400), "{answers:?}");
}
