//! Moves, drains and new versions: without a failed request when services follow the protocol.

use super::*;
use crate::Redirected;

/// A gateway on the first node with sessions to a service on the second, which has sessions to a store.
pub(super) fn chain(nodes: &[&str], sessions: usize) -> (Cluster, InstanceId, u64) {
    let mut cluster = Cluster::with_nodes(nodes);
    cluster.apply_text(CHAIN);
    cluster.obey();
    let gate = InstanceId(cluster.of("gate")[0].0);
    cluster.sessions(sessions, gate, "middle", "middle", "api");
    let middle = cluster.of("middle")[0].0;
    cluster.sessions(2, InstanceId(middle), "store", "store", "api");
    (cluster, gate, middle)
}

pub(super) const NODES: [&str; 3] = ["gate", "middle, middle-2, store", "middle, middle-2, store"];

/// The one running instance of a service.
#[track_caller]
pub(super) fn only(cluster: &Cluster, service: &str) -> (u64, String) {
    let found = cluster.of(service);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn a_move_starts_the_new_one_first_and_loses_no_request() {
    let (mut cluster, _, middle) = chain(&NODES, 20);
    let from = cluster.sent.len();
    let done = cluster.command(Command::Move(InstanceId(middle), "n3".into())).expect("it can be moved");
    assert_eq!((done.instances, done.sessions), (1, 22));
    assert!(matches!(cluster.sent[from].1.message, Message::ExecutionRequest(_)));
    assert_eq!(cluster.sent.len(), from + 1, "nothing is closed before it runs");
    cluster.obey();
    let (new, node) = only(&cluster, "middle");
    assert_eq!((node.as_str(), cluster.accepted(new), cluster.agents.failed.len()), ("n3", 20, 0));
    assert_ne!(new, middle);
    assert!(!cluster.agents.running.contains_key(&InstanceId(middle)));
    let again = cluster.command(Command::Move(InstanceId(new), "n3".into())).expect("it is there");
    assert_eq!(again.instances, 0);
}

#[test]
fn a_move_that_cannot_be_is_refused_with_the_reason() {
    let (mut cluster, gate, middle) = chain(&NODES, 1);
    let store = cluster.of("store")[0].0;
    cluster.command(Command::Drain("n3".into())).expect("it is known");
    for (id, node, expected) in [
        (middle, "n1", "no `middle` in its repository"),
        (middle, "n3", "is drained"),
        (store, "n1", "holds its state on node"),
        (gate.0, "n2", "no `gate`"),
        (middle, "n7", "no node `n7`"),
    ] {
        match cluster.command(Command::Move(InstanceId(id), node.into())) {
            Err(Refusal::Conflict(text) | Refusal::Unknown(text)) => {
                assert!(text.contains(expected), "{text}")
            }
            other => panic!("{id} to {node}: {other:?}"),
        }
    }
}

#[test]
fn a_move_to_a_node_that_fails_leaves_the_instance_where_it_is() {
    let (mut cluster, _, middle) = chain(&NODES, 3);
    cluster.agents.broken.insert("middle".into());
    cluster.command(Command::Move(InstanceId(middle), "n3".into())).expect("it can be tried");
    cluster.live(20_000);
    assert_eq!(only(&cluster, "middle").0, middle);
    assert_eq!((cluster.accepted(middle), cluster.agents.closed), (3, 0));
    assert!(cluster.has_event("instance-stays", "it is not moved"));
}

#[test]
fn draining_a_node_moves_all_but_state_and_executes_nothing_there() {
    let (mut cluster, gate, middle) = chain(&NODES, 12);
    let there = cluster.engine.core.instance(middle).expect("it runs").node.clone();
    let other = if there == "n2" { "n3" } else { "n2" };
    let done = cluster.command(Command::Drain(there.clone())).expect("it is known");
    assert_eq!(done.instances, 1);
    cluster.obey();
    let (new, node) = only(&cluster, "middle");
    assert_eq!((node.as_str(), cluster.accepted(new), cluster.agents.failed.len()), (other, 12, 0));
    let nodes = cluster.engine.core.nodes();
    assert!(nodes.iter().any(|node| node.name == there && node.draining));
    // Its end brings nothing back to the drained node.
    cluster.command(Command::StopInstance(InstanceId(new))).expect("it runs");
    cluster.live(1_000);
    assert_eq!(only(&cluster, "middle").1, other);
    cluster.command(Command::Drain(other.into())).expect("it is known");
    cluster.live(1_000);
    assert_eq!(only(&cluster, "middle").1, other, "there is nowhere to go");
    cluster.command(Command::Undrain(there.clone())).expect("it is known");
    cluster.live(31_000);
    assert_eq!(only(&cluster, "middle").1, there, "it goes as soon as it can");
    assert_eq!((cluster.agents.failed.len(), cluster.of("gate").len()), (0, 1));
    let _ = gate;
}

#[test]
fn a_new_version_replaces_the_old_one_at_a_time() {
    let text = CHAIN.replace("[service.middle]", "[service.middle]\nreplicas = { min = 3, max = 3 }");
    let mut cluster = Cluster::with_nodes(&NODES);
    cluster.apply_text(&text);
    cluster.obey();
    let gate = InstanceId(cluster.of("gate")[0].0);
    cluster.sessions(30, gate, "middle", "middle", "api");
    let new = text.replace("[service.middle]", "[service.middle]\nprogram = \"middle-2\"");
    let (graph, _) = Graph::read(&new).expect("good");
    let steps = crate::planning::steps(&cluster.engine.core.state, &graph).join("\n");
    assert!(
        steps.contains("middle: 3 replaced by `middle-2`, one at a time, the new one first; 30 sessions"),
        "{steps}"
    );
    let mut most = 0;
    cluster.apply_text(&new);
    while let Some((connection, envelope)) = cluster.next() {
        cluster.deal_with(connection, &envelope);
        let alive = cluster
            .engine
            .core
            .instances(None, false, Page::ALL)
            .iter()
            .filter(|i| i.service == "middle" && i.state != "ended")
            .count();
        most = most.max(alive);
    }
    assert_eq!((most, cluster.agents.failed.len()), (4, 0), "one more than its replicas at a time");
    let programs: Vec<&str> = cluster.agents.running.values().map(|p| p.program.as_str()).collect();
    assert_eq!(programs.iter().filter(|program| **program == "middle-2").count(), 3, "{programs:?}");
    assert!(!programs.contains(&"middle"));
    assert!(crate::planning::steps(&cluster.engine.core.state, &graph).is_empty(), "it is so");
}

#[test]
fn a_new_version_that_does_not_start_changes_nothing_for_those_who_call() {
    let (mut cluster, _, middle) = chain(&NODES, 5);
    cluster.agents.broken.insert("middle-2".into());
    cluster.apply_text(&CHAIN.replace("[service.middle]", "[service.middle]\nprogram = \"middle-2\""));
    cluster.live(60_000);
    assert_eq!((only(&cluster, "middle").0, cluster.accepted(middle)), (middle, 5));
    assert_eq!(cluster.engine.core.apps()[0].state, "degraded");
    cluster.apply_text(CHAIN);
    cluster.live(1_000);
    assert_eq!(
        (only(&cluster, "middle").0, cluster.engine.core.apps()[0].state.as_str()),
        (middle, "running")
    );
}

#[test]
fn a_store_ends_before_its_new_version_runs_on_the_same_node() {
    let nodes = ["gate", "middle, store, store-2", "middle, store, store-2"];
    let (mut cluster, _, middle) = chain(&nodes, 1);
    let (store, home) = only(&cluster, "store");
    cluster.apply_text(&CHAIN.replace("[service.store]", "[service.store]\nprogram = \"store-2\""));
    while let Some((connection, envelope)) = cluster.next() {
        cluster.deal_with(connection, &envelope);
        let stores = cluster.agents.running.values().filter(|p| p.program.starts_with("store")).count();
        assert!(stores <= 1, "two would share the state");
    }
    let (new, node) = only(&cluster, "store");
    assert_ne!(new, store);
    assert_eq!((node, cluster.agents.failed.len()), (home, 0));
    assert_eq!(cluster.accepted(new), 2, "the sessions of instance {middle} came back and waited");
}

#[test]
fn a_store_comes_back_on_the_node_that_holds_its_state() {
    let (mut cluster, _, middle) = chain(&["gate", "middle, store", "middle, store"], 1);
    let (store, home) = only(&cluster, "store");
    let agent: u64 = home.trim_start_matches('n').parse().expect("a number");
    cluster.agents.running.retain(|_, process| process.agent != agent);
    cluster.handle(Event::Lost(Connection(agent)));
    cluster.live(20_000);
    let asker = cluster.of("middle").first().map_or(InstanceId(middle), |(id, _)| InstanceId(*id));
    let asker = if cluster.agents.running.contains_key(&asker) {
        asker
    } else {
        let gate = InstanceId(cluster.of("gate")[0].0);
        cluster.sessions(1, gate, "middle", "middle", "api");
        InstanceId(only(&cluster, "middle").0)
    };
    cluster.want(asker, "store", "store", "api");
    cluster.live(1_000);
    assert!(cluster.of("store").is_empty(), "no other node has its state");
    let problem = cluster.engine.core.apps()[0]
        .services
        .iter()
        .find(|s| s.name == "store")
        .and_then(|s| s.problem.clone());
    assert!(problem.is_some_and(|problem| problem.contains(&format!("its state is on node {home}"))));
    cluster.reconnect(agent, agent + 100, "middle, store");
    cluster.want(asker, "store", "store", "api");
    cluster.live(31_000);
    let (new, node) = only(&cluster, "store");
    assert_eq!(node, home);
    assert_ne!(new, store);
}

#[test]
fn a_plug_that_leads_elsewhere_now_serves_until_its_instance_is_replaced() {
    let (mut cluster, gate, middle) = chain(&["gate", "middle, store, other"], 4);
    let changed = CHAIN.replace("to = \"store.api\"", "to = \"other.api\"").replace(
        "[service.store]",
        "[service.other]\nkind = \"baas\"\nsockets.api = { protocol = \"p\" }\n[service.gone]",
    );
    let changed =
        changed.replace("[service.gone]\nkind = \"baas\"\nsockets.api = { protocol = \"p\" }\n", "");
    cluster.apply_text(&changed);
    // Before its replacement runs, the old one still reaches what it was executed with.
    cluster.want(InstanceId(middle), "store", "store", "api");
    cluster.obey();
    assert_eq!(cluster.agents.failed, Vec::<u16>::new());
    let (new, _) = only(&cluster, "middle");
    assert_ne!(new, middle);
    cluster.live(1_000);
    assert!(cluster.of("store").is_empty(), "what the graph has no more ends last");
    cluster.sessions(1, InstanceId(new), "store", "other", "api");
    assert_eq!(cluster.of("other").len(), 1);
    let _ = gate;
}

/// A chain whose Manager keeps its state.
fn kept_chain(sessions: usize) -> (Cluster, u64) {
    let mut cluster = Cluster::new();
    for (programs, number) in NODES.iter().zip(1..) {
        cluster.register(number, &format!("10.0.0.{number}"), programs);
    }
    cluster.apply_text(CHAIN);
    cluster.obey();
    let gate = InstanceId(cluster.of("gate")[0].0);
    cluster.sessions(sessions, gate, "middle", "middle", "api");
    let middle = cluster.of("middle")[0].0;
    (cluster, middle)
}

fn come_back(cluster: &mut Cluster) {
    for (number, programs) in (1..).zip(NODES) {
        cluster.reconnect(number, number, programs);
    }
    cluster.live(40_000);
}

#[test]
fn a_move_goes_on_after_the_manager_was_killed_at_any_message() {
    for killed_after in 0..12 {
        let (mut cluster, middle) = kept_chain(6);
        cluster.command(Command::Move(InstanceId(middle), "n3".into())).expect("it can be moved");
        for _ in 0..killed_after {
            let Some((connection, envelope)) = cluster.next() else { break };
            cluster.deal_with(connection, &envelope);
        }
        cluster.restart();
        come_back(&mut cluster);
        let (new, node) = only(&cluster, "middle");
        assert_eq!((new != middle, node.as_str()), (true, "n3"), "killed after {killed_after}");
        assert!(!cluster.agents.running.contains_key(&InstanceId(middle)), "killed after {killed_after}");
    }
}

#[test]
fn drains_scales_and_homes_are_known_after_a_restart() {
    let (mut cluster, middle) = kept_chain(1);
    cluster.sessions(1, InstanceId(middle), "store", "store", "api");
    let (_, home) = only(&cluster, "store");
    let other = if home == "n2" { "n3" } else { "n2" };
    cluster.command(Command::Drain(other.into())).expect("it is known");
    cluster.apply_text(&CHAIN.replace("[service.middle]", "[service.middle]\nreplicas = { max = 3 }"));
    cluster.command(Command::Scale("t".into(), "middle".into(), Some(2))).expect("within its bounds");
    cluster.live(1_000);
    cluster.restart();
    come_back(&mut cluster);
    let app = &cluster.engine.core.apps()[0];
    assert_eq!(app.services.iter().find(|service| service.name == "middle").and_then(|s| s.scaled), Some(2));
    assert!(cluster.engine.core.nodes().iter().any(|node| node.name == other && node.draining));
    assert_eq!(cluster.of("middle").iter().filter(|(_, node)| *node == home).count(), 2);
    let state = cluster.engine.core.app("t").and_then(|app| app.state("store"));
    assert!(state.is_some_and(|state| state.home.is_some()));
}

/// A Manager that has started again knows its nodes' names; one that it has forgotten is named by its address.
#[test]
fn a_drained_node_that_has_not_come_back_is_undrained_by_its_name_or_address() {
    let mut cluster = Cluster::with_nodes(&["gate"]);
    cluster.handle(Event::Command(Ticket(1), Command::Drain("n1".into())));
    cluster.restart();
    assert_eq!(cluster.engine.core.nodes().iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["n1"]);
    cluster.handle(Event::Command(Ticket(2), Command::Undrain("n2".into())));
    let refused = cluster.answers.last().expect("answered").clone().expect_err("its name is not known");
    assert!(
        matches!(&refused, Refusal::Unknown(text) if text.contains("drained are: 10.0.0.1")),
        "{refused:?}"
    );
    cluster.handle(Event::Command(Ticket(3), Command::Undrain("10.0.0.1".into())));
    assert!(cluster.answers.last().expect("answered").is_ok());
    assert!(!cluster.engine.core.is_drained(Address("10.0.0.1".parse().expect("an address"))));
}

#[test]
fn what_a_connection_allows_is_told_with_each_session() {
    for (line, expected) in [("allow = [\"splice\"]", Some("splice")), ("", None)] {
        let mut cluster = Cluster::new();
        cluster.register(1, "10.0.0.1", "gate, store");
        cluster.apply_text(&format!("{GRAPH}{line}\n"));
        let (gate, _) = cluster.execute("gate", 200);
        cluster.request(1, gate, 1000, "store");
        cluster.execute("store", 200);
        let answer = cluster.sent.iter().find(|(_, e)| matches!(e.message, Message::SessionResponse(_)));
        let (_, answer) = answer.expect("the session is answered");
        assert_eq!((answer.extension("x_redirect"), answer.extension("x_allow")), (Some("auto"), expected));
    }
}

#[test]
fn a_session_that_is_switched_is_named_by_both_its_ends() {
    let (mut cluster, gate) = Cluster::running();
    cluster.request(1, gate, 1000, "store");
    cluster.execute("store", 200);
    cluster.message(1, &format!("type: session_ack ~ message_id: 1000 ~ source_service_name: gate ~ source_service_instance_id: {gate} ~ source_plug_port: 40000 ~ status: 200"));
    let session = cluster.engine.core.sessions(None, false, Page::ALL)[0].id;
    cluster.sent.clear();
    cluster.handle(Event::Command(Ticket(1), Command::Redirect(Redirected::Session(session), false)));
    let [(_, told)] = &cluster.sent[..] else { panic!("{:?}", cluster.sent) };
    let expected = format!("off, {gate}, 40000, 10.0.0.1, 54000");
    assert_eq!(told.extension("x_redirect"), Some(expected.as_str()));
}
