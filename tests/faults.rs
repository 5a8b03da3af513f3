//! Every party is killed, frozen, cut off and started again, under the real social application.

use std::time::Duration;

use nix::sys::signal::Signal;
use patchbay_testbed::{Cluster, Party};
use patchbay_tests::social::{A, B, Social};

/// Requests that show that the application works.
const ENOUGH: u64 = 30;

fn open_sessions(cluster: &Cluster) -> Vec<u64> {
    let sessions = cluster.sessions().unwrap_or_default();
    sessions.iter().filter(|session| session.state == "open").map(|session| session.id).collect()
}

/// Agents and Manager come and go; nobody who uses the application notices.
fn control_plane_faults_are_not_noticed(agent_flags: &[&str]) {
    let mut social = Social::start(agent_flags);
    let load = social.load();
    load.wait_for(ENOUGH);
    let (before, instances) = (open_sessions(&social.cluster), social.cluster.instances().expect("known"));
    let run = |social: &mut Social, fault: &dyn Fn(&mut Cluster)| {
        fault(&mut social.cluster);
        load.wait_for(ENOUGH);
    };
    for node in [A, B] {
        run(&mut social, &|cluster| {
            cluster.kill(&Party::Agent(node)).expect("killed");
        });
        run(&mut social, &|cluster| cluster.start_agent(node).expect("started"));
    }
    run(&mut social, &|cluster| cluster.kill(&Party::Manager).expect("killed"));
    run(&mut social, &|cluster| cluster.start_manager().expect("started"));
    for party in [Party::Manager, Party::Agent(A), Party::Agent(B)] {
        run(&mut social, &|cluster| cluster.signal(&party, Signal::SIGSTOP).expect("frozen"));
        run(&mut social, &|cluster| cluster.signal(&party, Signal::SIGCONT).expect("thawed"));
    }
    social.wait("all agents are back", |cluster| {
        cluster.nodes().is_ok_and(|nodes| nodes.iter().all(|node| node.state == "up"))
    });
    social.assert_consistent();
    let kept = open_sessions(&social.cluster);
    assert!(before.iter().all(|id| kept.contains(id)), "{before:?} {kept:?}");
    let after = social.cluster.instances().expect("known");
    let ids = |all: &[patchbay_api::Instance]| all.iter().map(|i| i.id).collect::<Vec<_>>();
    assert_eq!(ids(&after), ids(&instances), "nothing was started or ended");
    // What dies now is noticed by agents that did not start it, and its sessions are known to be broken.
    let table = social.running("table");
    social.cluster.kill(&Party::from(&table)).expect("killed");
    social.wait("its end and its sessions' end are known", |cluster| {
        let instances = cluster.instances().unwrap_or_default();
        let sessions = cluster.sessions().unwrap_or_default();
        instances.iter().any(|i| i.id == table.id && i.state == "ended")
            && sessions
                .iter()
                .filter(|s| s.source.instance == table.id || s.destination.instance == table.id)
                .all(|s| s.state == "closed")
    });
    load.wait_for(ENOUGH);
    let (_, failures) = load.end();
    assert_eq!(failures, Vec::<String>::new());
}

#[test]
fn lost_and_frozen_agents_and_managers_are_not_noticed_by_users() {
    control_plane_faults_are_not_noticed(&[]);
}

#[test]
fn nor_are_they_when_sessions_stay_on_tcp() {
    control_plane_faults_are_not_noticed(&["--redirection=off"]);
}

#[test]
fn stateless_and_storing_instances_are_killed_and_no_request_fails() {
    let mut social = Social::start(&[]);
    let load = social.load();
    load.wait_for(ENOUGH);
    for service in ["login", "posts", "redis", "table", "redis"] {
        let victim = social.instance(service);
        social.cluster.kill(&victim).expect("killed");
        load.wait_for(ENOUGH);
    }
    let (_, failures) = load.end();
    assert_eq!(failures, Vec::<String>::new());
    social.assert_consistent();
}

#[test]
fn a_frozen_instance_is_noticed_and_replaced() {
    let social = Social::start(&[]);
    let load = social.load();
    load.wait_for(ENOUGH);
    for service in ["login", "redis"] {
        let frozen = social.running(service);
        social.cluster.signal(&Party::from(&frozen), Signal::SIGSTOP).expect("frozen");
        social.wait("it is ended", |cluster| {
            let instances = cluster.instances().unwrap_or_default();
            instances.iter().any(|i| i.id == frozen.id && i.state == "ended")
        });
        load.wait_for(ENOUGH);
    }
    let (_, failures) = load.end();
    assert_eq!(failures, Vec::<String>::new());
    social.assert_consistent();
}

#[test]
fn the_manager_returns_and_learns_what_happened_meanwhile() {
    let mut social = Social::start(&[]);
    let load = social.load();
    load.wait_for(ENOUGH);
    social.cluster.kill(&Party::Manager).expect("killed");
    let load_ended = load.end();
    assert_eq!(load_ended.1, Vec::<String>::new());
    let before = social.cluster.instances();
    assert!(before.is_err(), "it is gone");
    let all = social.cluster.real_instances();
    let table = all.into_iter().find(|real| real.program == "table").expect("it runs");
    let id = table.id;
    social.cluster.kill(&Party::Instance(table)).expect("killed");
    std::thread::sleep(Duration::from_millis(300));
    social.cluster.start_manager().expect("started");
    social.wait("it knows the end and why", |cluster| {
        let instances = cluster.instances().unwrap_or_default();
        instances.iter().any(|i| i.id == id && i.state == "ended" && i.reason.is_some())
    });
    social.assert_consistent();
    let load = social.load();
    load.wait_for(ENOUGH);
    assert_eq!(load.end().1, Vec::<String>::new());
}

#[test]
fn a_node_that_returns_after_it_was_given_up_is_reconciled() {
    let social = Social::start(&[]);
    let (status, said) = social
        .ask("POST", "/register", Some(serde_json::json!({ "user": "ann", "password": "correct horse" })))
        .expect("answered");
    assert_eq!(status, 201, "{said}");
    let gateway_node = social.cluster.running("gateway")[0].node.clone();
    let lost = if gateway_node == "a" { A } else { B };
    social.cluster.cut_off(lost).expect("cut");
    social.wait("its instances are given up", |cluster| {
        let instances = cluster.instances().unwrap_or_default();
        instances.iter().any(|i| i.service == "gateway" && i.node == gateway_node && i.ended_ms.is_some())
    });
    social.wait("a gateway runs on the other node", |cluster| {
        cluster.running("gateway").iter().any(|gateway| gateway.node != gateway_node)
    });
    social.cluster.join_again(lost).expect("joined");
    social.wait("the node is back", |cluster| {
        cluster.nodes().is_ok_and(|nodes| nodes.iter().all(|node| node.state == "up"))
    });
    social.assert_consistent();
    let load = social.load();
    load.wait_for(ENOUGH);
    assert_eq!(load.end().1, Vec::<String>::new());
}

#[test]
fn what_a_killed_node_had_stored_is_there_when_it_returns() {
    let mut social = Social::start(&[]);
    let account = serde_json::json!({ "user": "ann", "password": "correct horse" });
    let (status, said) = social.ask("POST", "/register", Some(account.clone())).expect("answered");
    assert_eq!(status, 201, "{said}");
    social.cluster.kill_node(B).expect("killed");
    social.wait("its instances are given up", |cluster| cluster.running("redis").is_empty());
    social.cluster.start_agent(B).expect("started");
    social.wait("the gateway runs", |cluster| !cluster.running("gateway").is_empty());
    let (status, said) = social.ask("POST", "/login", Some(account)).expect("answered");
    assert_eq!(status, 200, "{said}");
    social.assert_consistent();
}

#[test]
fn a_service_that_cannot_be_placed_is_reported_and_started_when_a_node_comes() {
    let mut social = Social::nodes(&[]);
    social.cluster.kill(&Party::Agent(B)).expect("killed");
    social.wait("one node is left", |cluster| {
        cluster.nodes().is_ok_and(|nodes| nodes.iter().filter(|node| node.state == "up").count() == 1)
    });
    social.apply();
    let account = serde_json::json!({ "user": "ann", "password": "correct horse" });
    let asked = social.begin_to_ask("POST", "/register", Some(account));
    social.wait("it is said that Redis has no place", |cluster| {
        let events = cluster.patchbay(&["events"]).unwrap_or_default();
        events.contains("service-unplaced") && events.contains("redis")
    });
    social.cluster.start_agent(B).expect("started");
    let (status, said) = asked.join().expect("no panic").expect("answered");
    assert_eq!(status, 201, "{said}");
}
