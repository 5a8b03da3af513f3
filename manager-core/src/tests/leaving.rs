//! Instances leave: what goes wrong meanwhile, and what becomes of their sessions and their data.

use super::reconfiguration::{NODES, chain, only};
use super::*;

/// Seed 10349: the service stayed below its minimum for ever.
#[test]
fn an_instance_that_ends_while_it_is_moved_is_replaced_though_the_move_fails() {
    let text = CHAIN.replace("[service.middle]", "[service.middle]\nreplicas = { min = 1, max = 1 }");
    let (mut cluster, _, middle) = chain(&NODES, 1);
    cluster.apply_text(&text);
    cluster.live(1_000);
    cluster.command(Command::Move(InstanceId(middle), "n3".into())).expect("it can be moved");
    cluster.agents.running.remove(&InstanceId(middle));
    let ended = "type: service_instance_termination_info ~ message_id: 9 ~ service_name: middle";
    cluster.message(2, &format!("{ended} ~ service_instance_id: {middle} ~ x_reason: signal 9"));
    cluster.execute("middle", 504);
    cluster.next();
    cluster.live(60_000);
    assert_ne!(only(&cluster, "middle").0, middle);
    assert!(!cluster.has_event("instance-stays", ""));
}

/// Seed 302411: services that need each other waited for each other's pauses, up to five minutes each.
#[test]
fn a_node_that_may_be_used_again_ends_the_pauses_of_what_failed() {
    let text = CHAIN.replace("[service.middle]", "[service.middle]\nreplicas = { min = 1, max = 1 }");
    let mut cluster = Cluster::with_nodes(&NODES);
    cluster.agents.broken.insert("middle".into());
    cluster.command(Command::Drain("n3".into())).expect("it is known");
    cluster.apply_text(&text);
    cluster.live(600_000);
    assert!(cluster.has_event("service-failing", "budget"), "{:?}", cluster.events);
    cluster.agents.broken.clear();
    cluster.live(1_000);
    assert_eq!(cluster.of("middle").len(), 0, "it is tried every five minutes");
    cluster.command(Command::Undrain("n3".into())).expect("it is known");
    cluster.obey();
    only(&cluster, "middle");
}

#[test]
fn a_session_moves_once_though_several_instances_leave_its_node() {
    let text = CHAIN.replace("[service.middle]", "[service.middle]\nreplicas = { max = 3 }");
    let mut cluster = Cluster::with_nodes(&["gate", "middle, store", "nothing"]);
    cluster.apply_text(&text);
    cluster.obey();
    let gate = InstanceId(cluster.of("gate")[0].0);
    cluster.sessions(30, gate, "middle", "middle", "api");
    // The others have no sessions yet: they would be preferred.
    cluster.command(Command::Scale("t".into(), "middle".into(), Some(3))).expect("it may have three");
    cluster.obey();
    cluster.register(4, "10.0.0.4", "middle");
    cluster.command(Command::Drain("n2".into())).expect("it is known");
    cluster.live(60_000);
    assert!(cluster.of("middle").iter().all(|(_, node)| node == "n4"), "{:?}", cluster.of("middle"));
    assert_eq!((cluster.of("middle").len(), cluster.agents.failed.len()), (3, 0));
    assert_eq!(cluster.agents.closed, 30, "each was closed once");
}

#[test]
fn whatever_entry_a_service_is_executed_from_its_agent_is_told_which_it_is() {
    let mut cluster = Cluster::with_nodes(&NODES);
    cluster.apply_text(&CHAIN.replace("[service.middle]", "[service.middle]\nprogram = \"middle-2\""));
    cluster.obey();
    let gate = InstanceId(cluster.of("gate")[0].0);
    cluster.want(gate, "middle", "middle", "api");
    let (_, told) = cluster.sent.last().expect("an execution");
    let Message::ExecutionRequest(request) = &told.message else { panic!("{told:?}") };
    assert_eq!(request.service_name.as_str(), "middle-2");
    assert_eq!((told.extension("x_app"), told.extension("x_service")), (Some("t"), Some("middle")));
}
