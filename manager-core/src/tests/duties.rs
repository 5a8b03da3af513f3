//! The Manager's duties when others fail: I6, M6, T8, F2, F3, X7.

use super::*;

const NODES: [&str; 3] = ["gate", "middle, store", "middle, store"];

/// A gateway with sessions to a service.
fn serving(sessions: usize) -> (Cluster, InstanceId, u64) {
    let mut cluster = Cluster::with_nodes(&NODES);
    cluster.apply_text(CHAIN);
    cluster.live(100);
    let gate = InstanceId(cluster.of("gate")[0].0);
    cluster.sessions(sessions, gate, "middle", "middle", "api");
    let middle = cluster.of("middle")[0].0;
    (cluster, gate, middle)
}

fn registrations(cluster: &Cluster, connection: u64) -> Vec<u16> {
    let to_it = cluster.sent.iter().filter(|(to, _)| *to == Connection(connection));
    to_it
        .filter_map(|(_, envelope)| match &envelope.message {
            Message::InitiationResponse(response) => Some(response.status.code()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_second_agent_is_refused_while_the_first_lives() {
    let (mut cluster, _, middle) = serving(2);
    cluster.register(9, "10.0.0.2", "other");
    assert!(registrations(&cluster, 9).is_empty(), "the first is probed before");
    cluster.obey();
    assert_eq!(registrations(&cluster, 9), [409]);
    assert!(cluster.has_event("node-refused", "10.0.0.2"));
    assert_eq!(cluster.of("middle")[0].0, middle);
}

#[test]
fn a_second_agent_takes_over_from_a_silent_or_lost_one() {
    for lost in [false, true] {
        let (mut cluster, ..) = serving(2);
        cluster.agents.frozen.insert(2);
        cluster.register(9, "10.0.0.2", "other");
        match lost {
            true => cluster.handle(Event::Lost(Connection(2))),
            false => cluster.live(2_000),
        }
        assert_eq!(registrations(&cluster, 9), [200], "lost: {lost}");
        let nodes = cluster.engine.core.nodes();
        assert!(nodes.iter().any(|node| node.services == ["other"] && node.state == "up"));
    }
}

#[test]
fn an_instance_that_answers_no_poll_is_ended_by_its_peers_then_by_force_and_replaced() {
    let (mut cluster, _, middle) = serving(3);
    cluster.agents.deaf.insert(InstanceId(middle));
    let from = cluster.sent.len();
    cluster.live(40_000);
    assert!(cluster.has_event("instance-silent", "504"));
    let place = |wanted: fn(&Message) -> bool| {
        cluster.sent[from..].iter().position(|(_, e)| wanted(&e.message)).expect("it was sent")
    };
    let closed = place(|m| matches!(m, Message::SourceServiceSessionCloseRequest(_)));
    let forced = place(|m| matches!(m, Message::HardShutdownRequest(_)));
    assert!(closed < forced, "its peers close first");
    let now = cluster.of("middle");
    assert_eq!((now.len(), cluster.accepted(now[0].0)), (1, 3));
    assert_ne!(now[0].0, middle);
    assert_eq!(cluster.agents.failed, Vec::<u16>::new());
}

#[test]
fn an_instance_that_does_not_end_when_it_is_asked_to_is_forced() {
    let (mut cluster, _, middle) = serving(1);
    let middle = InstanceId(middle);
    cluster.agents.deaf.insert(middle);
    cluster.command(Command::StopInstance(middle)).expect("it runs");
    cluster.live(9_000);
    assert!(cluster.agents.running.contains_key(&middle));
    cluster.live(2_000);
    assert!(!cluster.agents.running.contains_key(&middle));
}

#[test]
fn when_a_node_is_lost_the_surviving_ends_close_and_ask_again_elsewhere() {
    let (mut cluster, _, middle) = serving(4);
    let lost: u64 =
        cluster.engine.core.instance(middle).expect("known").node.trim_start_matches('n').parse().expect("n");
    cluster.agents.frozen.insert(lost);
    cluster.handle(Event::Lost(Connection(lost)));
    cluster.live(14_000);
    assert_eq!((cluster.of("middle")[0].0, cluster.agents.closed), (middle, 0), "it may come back");
    cluster.live(2_000);
    let now = cluster.of("middle");
    assert_eq!((now.len(), cluster.accepted(now[0].0), cluster.agents.closed), (1, 4, 4));
    assert_ne!(now[0].1, format!("n{lost}"));
    assert_eq!(cluster.agents.failed, Vec::<u16>::new());
}

#[test]
fn the_surviving_ends_of_a_lost_node_are_closed_a_few_at_a_time() {
    use crate::closing::MAX_ENDS_AT_ONCE;
    let (mut cluster, _, middle) = serving(3 * MAX_ENDS_AT_ONCE);
    let node = cluster.engine.core.instance(middle).expect("known").node.clone();
    let lost: u64 = node.trim_start_matches('n').parse().expect("n");
    cluster.agents.frozen.insert(lost);
    cluster.handle(Event::Lost(Connection(lost)));
    let from = cluster.sent.len();
    let asked = |cluster: &Cluster| {
        let is_close = |m: &Message| matches!(m, Message::SourceServiceSessionCloseRequest(_));
        cluster.sent[from..].iter().filter(|(_, envelope)| is_close(&envelope.message)).count()
    };
    cluster.pass(15_000);
    assert_eq!(asked(&cluster), MAX_ENDS_AT_ONCE);
    cluster.pass(100);
    assert_eq!(asked(&cluster), 2 * MAX_ENDS_AT_ONCE);
    cluster.live(2_000);
    assert_eq!((asked(&cluster), cluster.agents.closed), (3 * MAX_ENDS_AT_ONCE, 3 * MAX_ENDS_AT_ONCE));
    assert_eq!(cluster.agents.failed, Vec::<u16>::new());
}

#[test]
fn who_waits_for_a_start_is_told_504_when_no_agent_answers() {
    let mut cluster = Cluster::with_nodes(&NODES);
    cluster.apply_text(CHAIN);
    cluster.live(100);
    let gate = InstanceId(cluster.of("gate")[0].0);
    cluster.agents.frozen = [2, 3].into();
    cluster.want(gate, "middle", "middle", "api");
    cluster.live(5_000);
    assert!(cluster.agents.failed.is_empty());
    cluster.live(90_000);
    assert_eq!(cluster.agents.failed.len(), 1);
    assert!([503, 504].contains(&cluster.agents.failed[0]), "{:?}", cluster.agents.failed);
    assert_eq!(cluster.agents.running.values().filter(|process| process.program == "middle").count(), 0);
}

#[test]
fn an_application_with_a_service_that_no_node_can_execute_is_degraded() {
    let mut cluster = Cluster::with_nodes(&["gate, middle"]);
    let (graph, _) = Graph::read(CHAIN).expect("good");
    assert!(
        crate::planning::steps(&cluster.engine.core.state, &graph)
            .contains(&"store: waits for a node that has `store` in its repository".into())
    );
    cluster.apply_text(CHAIN);
    cluster.live(100);
    let app = &cluster.engine.core.apps()[0];
    assert_eq!(app.state, "degraded");
    cluster.register(2, "10.0.0.2", "store");
    assert_eq!(cluster.engine.core.apps()[0].state, "running");
}

#[test]
fn an_instance_that_ends_is_replaced_when_its_minimum_says_so() {
    let (mut cluster, gate, _) = serving(1);
    cluster.command(Command::StopInstance(gate)).expect("it runs");
    cluster.live(1_000);
    let gates = cluster.of("gate");
    assert_eq!(gates.len(), 1, "a gateway is always kept (F4)");
    assert_ne!(gates[0].0, gate.0);
}
