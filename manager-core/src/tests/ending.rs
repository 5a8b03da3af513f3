//! Agents announce their end: what runs there goes elsewhere in time, and nobody's budget pays for it.

use super::reconfiguration::{chain, only};
use super::*;

/// A node for each service, and one that can take all but the gateway.
const NODES: [&str; 4] = ["gate", "middle", "store", "middle, store"];

fn announce(cluster: &mut Cluster, agent: u64) {
    cluster.message(agent, &format!("type: agent_health_control_response ~ message_id: 77 ~ agent_network_address: 10.0.0.{agent} ~ status: 503 ~ x_ending: 10000"));
}

fn state_of(cluster: &Cluster, node: &str) -> String {
    cluster.engine.core.nodes().into_iter().find(|found| found.name == node).expect("known").state
}

#[test]
fn what_an_ending_agent_has_is_started_elsewhere_first_and_no_request_fails() {
    let (mut cluster, gate, middle) = chain(&NODES, 20);
    announce(&mut cluster, 2);
    assert_eq!(state_of(&cluster, "n2"), "ending");
    let (to, request) = cluster.sent.last().cloned().expect("an execution");
    assert!(matches!(request.message, Message::ExecutionRequest(_)) && to.0 == 4, "{request:?}");
    cluster.live(1_000);
    let (new, node) = only(&cluster, "middle");
    assert!(new != middle && node == "n4");
    assert_eq!((cluster.accepted(new), cluster.agents.failed.len()), (20, 0));
    assert!(!cluster.agents.running.contains_key(&InstanceId(middle)), "nothing is left there");
    cluster.handle(Event::Lost(Connection(2)));
    assert_eq!(state_of(&cluster, "n2"), "ended");
    cluster.want(gate, "middle", "middle", "api");
    cluster.live(60_000);
    assert_eq!(cluster.agents.failed.len(), 0);
    assert!(!cluster.has_event("service-failing", "") && !cluster.has_event("instance-failed", ""));
}

#[test]
fn with_nowhere_to_go_they_end_in_order_and_start_at_once_when_an_agent_is_back() {
    let mut cluster = Cluster::with_nodes(&["gate, middle, store"]);
    cluster.apply_text(CHAIN);
    cluster.obey();
    let gate = InstanceId(cluster.of("gate")[0].0);
    cluster.sessions(3, gate, "middle", "middle", "api");
    let middle = InstanceId(cluster.of("middle")[0].0);
    cluster.sessions(3, middle, "store", "store", "api");
    let before = cluster.executions();
    announce(&mut cluster, 1);
    cluster.live(60_000);
    assert_eq!(cluster.executions(), before, "nothing is executed on a node that ends");
    assert!(cluster.agents.running.is_empty());
    cluster.handle(Event::Lost(Connection(1)));
    cluster.register(2, "10.0.0.1", "gate, middle, store");
    cluster.obey();
    assert_eq!(cluster.of("gate").len(), 1, "no pause: nothing had failed");
}

/// Whatever its instances look like when they end, it was asked for.
#[test]
fn ends_at_an_ending_agent_count_against_no_budget() {
    for how in ["x_reason: signal 9", "x_reason: exit status 1", ""] {
        let (mut cluster, _, _) = chain(&NODES, 1);
        for _ in 0..20 {
            let (id, node) = only(&cluster, "middle");
            let agent: u64 = node[1..].parse().expect("a number");
            announce(&mut cluster, agent);
            cluster.agents.running.remove(&InstanceId(id));
            cluster.message(agent, &format!("type: service_instance_termination_info ~ message_id: 9 ~ service_name: middle ~ service_instance_id: {id} ~ {how}"));
            cluster.handle(Event::Lost(Connection(agent)));
            cluster.register(agent, &format!("10.0.0.{agent}"), NODES[agent as usize - 1]);
            cluster.live(2_000);
            let gate = InstanceId(cluster.of("gate")[0].0);
            cluster.want(gate, "middle", "middle", "api");
            cluster.obey();
        }
        assert!(!cluster.has_event("service-failing", ""), "{:?}", cluster.events);
        assert_eq!(cluster.agents.failed.len(), 0);
    }
}

#[test]
fn what_holds_state_on_an_ending_node_ends_last() {
    let mut cluster = Cluster::with_nodes(&["gate", "middle, store", "middle"]);
    cluster.apply_text(CHAIN);
    cluster.obey();
    let gate = InstanceId(cluster.of("gate")[0].0);
    cluster.sessions(2, gate, "middle", "middle", "api");
    let (middle, node) = only(&cluster, "middle");
    if node != "n2" {
        cluster.command(Command::Move(InstanceId(middle), "n2".into())).expect("it can be moved");
        cluster.live(1_000);
    }
    let middle = InstanceId(only(&cluster, "middle").0);
    cluster.sessions(2, middle, "store", "store", "api");
    let store = InstanceId(only(&cluster, "store").0);
    announce(&mut cluster, 2);
    let sent = cluster.sent.len();
    cluster.live(30_000);
    let ended: Vec<InstanceId> = cluster.sent[sent..]
        .iter()
        .filter_map(|(_, envelope)| match &envelope.message {
            Message::GracefulShutdownRequest(request) => Some(request.service_instance_id),
            _ => None,
        })
        .collect();
    assert_eq!(ended, [middle, store]);
}

#[test]
fn a_repository_that_is_told_again_loses_no_execution_on_its_way() {
    let mut cluster = Cluster::new();
    cluster.register(1, "10.0.0.1", "gate");
    cluster.apply_text(CHAIN);
    let before = cluster.executions();
    // The agent has not read the execution_request yet.
    cluster.register(1, "10.0.0.1", "gate, middle");
    assert_eq!(cluster.executions(), before + 1, "asked again, which starts nothing twice");
    cluster.obey();
    assert_eq!(cluster.of("gate").len(), 1);
    assert!(!cluster.has_event("instance-ended", ""), "{:?}", cluster.events);
    let nodes = cluster.engine.core.nodes();
    assert_eq!((nodes[0].services.len(), nodes[0].state.as_str()), (2, "up"));
}
