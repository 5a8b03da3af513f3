//! The agent is told to end, or its repository is read again.

use std::time::Duration;

use ssmmp::{InstanceId, Message, Status};

use super::{Effect, Event, Node, REPOSITORY, parse, statuses};

/// What the Manager is told of this agent's health.
fn told(effects: &[Effect]) -> Vec<(Status, Option<String>)> {
    let health = |effect: &Effect| match effect {
        Effect::ToManager(envelope) | Effect::ReportThen(envelope) => match &envelope.message {
            Message::AgentHealthControlResponse(response) => {
                Some((response.status, envelope.extension("x_ending").map(str::to_owned)))
            }
            _ => None,
        },
        _ => None,
    };
    effects.iter().filter_map(health).collect()
}

#[test]
fn an_agent_that_ends_says_so_and_executes_nothing_more() {
    let mut node = Node::running(&[("A", 7), ("proxy", 9)]);
    let ends = (Status::UNAVAILABLE, Some("15000".to_owned()));
    let effects = node.handle(Event::End(Duration::from_secs(15)));
    assert_eq!(told(&effects), std::slice::from_ref(&ends));
    assert_eq!(statuses(&node.execute("redis", 11, "")), [Status::UNAVAILABLE]);
    let poll = "type: agent_health_control_request ~ message_id: 4 ~ agent_network_address: 10.0.0.1";
    assert_eq!(
        told(&node.manager(poll)),
        std::slice::from_ref(&ends),
        "whoever knows no extension sees the status"
    );
    // Another Manager, or the same after a restart, learns it too, and finds nothing to execute here.
    node.handle(Event::ManagerLost);
    let effects = node.handle(Event::ManagerUp);
    let Effect::ToManager(registration) = &effects[0] else { panic!("{effects:?}") };
    let Message::InitiationRequest(request) = &registration.message else { panic!("{registration:?}") };
    assert!(request.service_repository.0.is_empty());
    let id = request.message_id;
    let effects =
        node.manager(&format!("type: initiation_response ~ message_id: {id} ~ status: 200 ~ x_manager: m"));
    assert!(told(&effects).contains(&ends));
    // Its instances still end in order, and their ends are asked for, not failures.
    let effects = node.manager(
        "type: graceful_shutdown_request ~ message_id: 5 ~ service_name: A ~ service_instance_id: 7",
    );
    assert!(matches!(&effects[..], [Effect::ToInstance(InstanceId(7), _)]), "{effects:?}");
    assert_eq!(
        statuses(&node.handle(Event::Exited(InstanceId(7), "exit status 0".into(), vec![]))),
        [Status::OK]
    );
    let effects = node.handle(Event::Exited(InstanceId(9), "signal 15".into(), vec![]));
    let reason = effects.iter().find_map(|effect| match effect {
        Effect::ToManager(envelope) => envelope.extension("x_reason").map(str::to_owned),
        _ => None,
    });
    assert_eq!(reason.as_deref(), Some("its agent ends"));
}

#[test]
fn what_waits_for_its_plugs_is_given_up_by_an_agent_that_ends() {
    let mut node = Node::registered();
    node.execute("proxy", 5, "back, in, B");
    let effects = node.handle(Event::End(Duration::from_secs(1)));
    assert_eq!(statuses(&effects), [Status::UNAVAILABLE]);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Abandon(_))));
    assert!(node.0.instance_ids().is_empty());
}

#[test]
fn another_repository_is_told_and_changes_nothing_that_runs() {
    let mut node = Node::running(&[("A", 7)]);
    let more = format!("{REPOSITORY}[service.new]\nkind = \"native\"\nprogram = \"/bin/sh\"\n");
    let effects = node.handle(Event::Reload(parse("r", &more, |_, _| None).expect("good")));
    let [Effect::ToManager(registration)] = &effects[..] else { panic!("{effects:?}") };
    let Message::InitiationRequest(request) = &registration.message else { panic!("{registration:?}") };
    assert_eq!(request.service_repository.0.len(), 4);
    assert!(registration.extension("x_running").is_some_and(|running| running.starts_with("A, 7")));
    assert!(node.0.is_registered(), "the Manager is spoken to all the time");
    let id = request.message_id;
    let effects =
        node.manager(&format!("type: initiation_response ~ message_id: {id} ~ status: 200 ~ x_manager: m"));
    assert_eq!(effects, []);
    assert!(matches!(&node.execute("new", 8, "")[..], [Effect::Start(_)]));
}
