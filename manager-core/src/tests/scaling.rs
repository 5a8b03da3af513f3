//! Choice, replicas and restarts by policy.

use super::*;

fn graph(policy: &str) -> String {
    CHAIN.replace("[service.middle]", &format!("[service.middle]\nreplicas = {{ max = 3 }}\n{policy}"))
}

fn started(policy: &str, nodes: &[&str]) -> (Cluster, InstanceId) {
    let mut cluster = Cluster::with_nodes(nodes);
    cluster.apply_text(&graph(policy));
    cluster.live(10);
    let gate = InstanceId(cluster.of("gate")[0].0);
    (cluster, gate)
}

#[test]
fn sessions_beyond_the_threshold_make_replicas_up_to_the_bound() {
    let (mut cluster, gate) =
        started("policy.scale = { sessions = 10, pause = \"1s\" }", &["gate", "middle"]);
    for (sessions, replicas) in [(10, 1), (1, 2), (9, 2), (1, 3), (50, 3)] {
        cluster.sessions(sessions, gate, "middle", "middle", "api");
        assert_eq!(cluster.of("middle").len(), replicas, "after {sessions} more");
        cluster.live(1_000);
    }
    assert!(cluster.has_event("service-scaled", "11 sessions are more than 10"));
    let spread: Vec<usize> = cluster.of("middle").iter().map(|(id, _)| cluster.accepted(*id)).collect();
    assert!(spread.iter().all(|count| (20..=27).contains(count)), "{spread:?}");
}

#[test]
fn an_overloaded_instance_gets_no_new_sessions_and_a_replica() {
    let (mut cluster, gate) =
        started("policy.scale = { overloads = 2, pause = \"1ms\" }", &["gate", "middle"]);
    cluster.sessions(1, gate, "middle", "middle", "api");
    let first = cluster.of("middle")[0].0;
    cluster.agents.overloaded.insert(InstanceId(first));
    cluster.live(6_000);
    assert_eq!(cluster.of("middle").len(), 1, "one 199 may pass");
    cluster.live(5_000);
    let replicas = cluster.of("middle");
    assert!(replicas.len() >= 2, "{replicas:?}");
    cluster.sessions(4, gate, "middle", "middle", "api");
    assert_eq!(cluster.accepted(first), 1);
}

#[test]
fn idle_replicas_end_but_never_below_the_minimum() {
    let (mut cluster, gate) = started(
        "policy = { idle = \"20s\", scale.sessions = 1, scale.pause = \"1ms\" }",
        &["gate", "middle"],
    );
    for _ in 0..3 {
        cluster.sessions(1, gate, "middle", "middle", "api");
        cluster.live(10);
    }
    assert_eq!(cluster.of("middle").len(), 3);
    cluster.agents.running.remove(&gate);
    cluster.message(1, &format!("type: service_instance_termination_info ~ message_id: 5 ~ service_name: gate ~ service_instance_id: {gate}"));
    cluster.live(60_000);
    assert_eq!(cluster.of("middle").len(), 0, "its minimum is none");
    assert_eq!(cluster.of("gate").len(), 1, "a gateway is always kept");
    assert!(cluster.has_event("service-scaled", "no session for the idle time"));
}

#[test]
fn replicas_that_are_more_than_the_load_needs_end_after_the_idle_time() {
    let (mut cluster, gate) = started(
        "policy = { idle = \"20s\", scale = { sessions = 10, pause = \"1ms\" } }",
        &["gate", "middle"],
    );
    cluster.sessions(11, gate, "middle", "middle", "api");
    cluster.live(10);
    assert_eq!(cluster.of("middle").len(), 2);
    let sessions = cluster.engine.core.sessions(None, false, Page::ALL);
    for session in &sessions[..8] {
        let (port, to) = (session.source.port, session.destination.port);
        cluster.message(1, &format!("type: source_service_session_close_info ~ message_id: 7 ~ source_service_name: gate ~ source_service_instance_id: {gate} ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: middle ~ source_plug_port: {port} ~ dest_service_name: middle ~ dest_service_instance_id: {} ~ dest_service_instance_network_address: 10.0.0.2 ~ dest_socket_name: api ~ dest_socket_port: {to} ~ status: 111", session.destination.instance));
    }
    cluster.live(15_000);
    assert_eq!(cluster.of("middle").len(), 2);
    cluster.live(15_000);
    let left = cluster.of("middle");
    assert_eq!((left.len(), cluster.accepted(left[0].0)), (1, 3), "its sessions have moved");
    assert_eq!(cluster.agents.failed, Vec::<u16>::new());
}

#[test]
fn a_connections_balance_comes_before_its_destinations() {
    let text = graph("replicas_min")
        .replace("replicas = { max = 3 }\nreplicas_min", "replicas = { min = 3, max = 3 }");
    let text = text.replace("to = \"middle.api\"", "to = \"middle.api\"\nbalance = \"round-robin\"");
    let mut cluster = Cluster::with_nodes(&["gate, middle", "middle", "middle"]);
    cluster.apply_text(&text);
    cluster.obey();
    let gate = InstanceId(cluster.of("gate")[0].0);
    cluster.sessions(2, gate, "middle", "middle", "api");
    let near = |cluster: &Cluster| {
        let middle = cluster.of("middle");
        let near = middle.iter().find(|(_, node)| *node == "n1").expect("one is near");
        cluster.accepted(near.0)
    };
    assert_eq!(near(&cluster), 2, "the near one goes first");
    cluster.sessions(10, gate, "middle", "middle", "api");
    let spread: Vec<usize> = cluster.of("middle").iter().map(|(id, _)| cluster.accepted(*id)).collect();
    let least = spread.iter().min().expect("there are three");
    assert!(spread.iter().all(|count| *count <= 4 * (least + 1) + 1), "{spread:?}: but not by far");
    assert!(*least >= 1);
}

#[test]
fn the_budget_of_restarts_is_told_when_it_is_used_up() {
    let (mut cluster, gate) =
        started("policy.restarts = { tries = 2, within = \"10m\" }", &["gate", "middle, store"]);
    cluster.agents.broken.insert("middle".into());
    cluster.want(gate, "middle", "middle", "api");
    cluster.obey();
    assert_eq!(cluster.agents.failed, [503]);
    for _ in 0..2 {
        cluster.want(gate, "middle", "middle", "api");
        cluster.live(3_000);
    }
    assert_eq!(cluster.agents.failed, [503; 3], "within the budget requests wait for the next try");
    assert!(cluster.has_event("service-failing", "budget of 2"));
    assert!(cluster.has_event("service-failing", "growing pauses, next in"));
    let apps = cluster.engine.core.apps();
    let middle =
        apps[0].services.iter().find(|service| service.name == "middle").expect("it is in the graph");
    assert!(middle.retry_ms.is_some_and(|at| at > cluster.now), "it says when it is tried again");
    cluster.want(gate, "middle", "middle", "api");
    assert_eq!(
        cluster.sent.last().map(|(_, e)| matches!(e.message, Message::SessionResponse(_))),
        Some(true),
        "refused at once"
    );
    assert_eq!(cluster.engine.core.apps()[0].state, "degraded");
    cluster.agents.broken.clear();
    cluster.live(5_000);
    cluster.want(gate, "middle", "middle", "api");
    cluster.live(5_000);
    assert_eq!(cluster.engine.core.apps()[0].state, "running");
}

#[test]
fn scaling_on_request_holds_until_it_is_lifted() {
    let (mut cluster, _) = started("policy.idle = \"10s\"", &["gate", "middle", "middle"]);
    let scale = |replicas| Command::Scale("t".into(), "middle".into(), replicas);
    assert!(
        matches!(cluster.command(scale(Some(4))), Err(Refusal::Conflict(text)) if text.contains("1 to 3"))
    );
    cluster.command(scale(Some(3))).expect("within the bounds");
    cluster.obey();
    let nodes: Vec<String> = cluster.of("middle").into_iter().map(|(_, node)| node).collect();
    assert_eq!(nodes.len(), 3);
    assert!(nodes.contains(&"n2".into()) && nodes.contains(&"n3".into()), "they are spread: {nodes:?}");
    cluster.live(60_000);
    assert_eq!(cluster.of("middle").len(), 3, "idle as they are");
    cluster.command(scale(Some(1))).expect("within the bounds");
    cluster.live(100);
    assert_eq!(cluster.of("middle").len(), 1);
    cluster.command(scale(None)).expect("always");
    cluster.live(60_000);
    assert_eq!(cluster.of("middle").len(), 0);
}
