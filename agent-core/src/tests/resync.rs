//! The Manager is away, and comes back; this agent follows another one. Each was found by the simulation.

use std::collections::BTreeMap;

use ssmmp::extension::Redirection;
use ssmmp::{InstanceId, Message, PlugConfiguration, SocketConfiguration};

use super::{Core, Effect, Event, Node, Notice, Profiles, Redirects, SessionReport, parse};
use crate::session_report::Cause;
use crate::{ACKNOWLEDGE_LOOK, Millis, Start};

/// Between two looks for an acknowledgement.
const LOOK: Millis = ACKNOWLEDGE_LOOK.as_millis() as Millis;

const REQUEST: &str = "type: session_request ~ message_id: 1000 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: in";
const ACK: &str = "type: session_ack ~ message_id: 1000 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_port: 40000 ~ status: 200";
const ENDS: &str =
    "type: service_instance_termination_info ~ message_id: 9 ~ service_name: A ~ service_instance_id: 7";

/// Lines of an extension in what goes to the Manager.
fn lines(effects: &[Effect], name: &str) -> Vec<String> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::ToManager(envelope) => envelope.extension(name).map(str::to_owned),
            _ => None,
        })
        .collect()
}

fn requests(effects: &[Effect]) -> usize {
    let is_request = |effect: &&Effect| matches!(effect, Effect::ToManager(e) if matches!(e.message, Message::SessionRequest(_)));
    effects.iter().filter(is_request).count()
}

/// Seed 99.
#[test]
fn a_request_without_an_answer_is_told_again_after_a_reconnect() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    assert_eq!(requests(&node.instance(7, REQUEST)), 1);
    assert_eq!(requests(&node.instance(7, REQUEST)), 0, "one is on its way already");
    node.handle(Event::ManagerLost);
    assert_eq!(requests(&node.register()), 1);
    node.session(9, "10.0.0.1", "auto");
    node.handle(Event::ManagerLost);
    assert_eq!(requests(&node.register()), 0, "it was answered");
}

/// Seed 99.
#[test]
fn a_request_that_is_made_while_the_manager_is_away_waits() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    node.handle(Event::ManagerLost);
    assert_eq!(requests(&node.instance(7, REQUEST)), 0);
    assert_eq!(requests(&node.register()), 1);
}

/// Seed 115.
#[test]
fn a_second_answer_to_one_request_is_none() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    let to_instance =
        |effects: &[Effect]| effects.iter().filter(|e| matches!(e, Effect::ToInstance(..))).count();
    assert_eq!(to_instance(&node.session(9, "10.0.0.1", "auto")), 1);
    let line = "type: session_response ~ message_id: 1000 ~ source_service_name: A ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_service_instance_id: 9 ~ dest_socket_name: in ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_port: 54009 ~ status: 200";
    assert_eq!(to_instance(&node.manager(line)), 0);
    // A program that has lost the answer asks again, and is answered again.
    assert_eq!(requests(&node.instance(7, REQUEST)), 1);
    assert_eq!(to_instance(&node.manager(line)), 1);
}

/// Seed 133.
#[test]
fn starting_and_ending_instances_are_reported_as_such() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    node.execute("redis", 8, "");
    node.manager("type: hard_shutdown_request ~ message_id: 50 ~ service_name: A ~ service_instance_id: 9");
    let effects = node.handle(Event::ManagerUp);
    let items: Vec<String> =
        lines(&effects, "x_running")[0].split(" & ").map(|item| item.replace("in=", "")).collect();
    assert_eq!(items, ["A, 7, 54007, running", "redis, 8, 54008, starting", "A, 9, 54009, ending"]);
}

/// Seed 53.
#[test]
fn an_instance_that_says_it_ends_is_told_of_when_it_is_gone_and_ended_if_it_is_not() {
    let mut node = Node::running(&[("A", 7)]);
    let effects = node.instance(7, ENDS);
    let [Effect::ToManager(told)] = &effects[..] else { panic!("{effects:?}") };
    assert!(node.pass(9_000).is_empty());
    assert_eq!((told.message.message_id(), told.extension("x_exiting")), (9.into(), Some("yes")));
    assert!(matches!(&node.instance(7, ENDS)[..], [Effect::ToManager(_)]), "said twice, it has one deadline");
    assert_eq!(node.pass(1_000), [Effect::End(InstanceId(7))]);
    let effects = node.handle(Event::Exited(InstanceId(7), "exit status 0".into(), Vec::new()));
    assert_eq!(lines(&effects, "x_reason"), ["ended by itself"]);
    assert!(node.pass(20_000).is_empty());
}

/// Seed 135: the Manager may have given the session up before its acknowledgement came.
#[test]
fn an_acknowledgement_tells_all_of_its_session() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    node.session(9, "10.0.0.1", "auto");
    assert_eq!(lines(&node.instance(7, ACK), "x_live"), ["7, 40000, 9, 10.0.0.1, 54009, 1000, P"]);
}

/// Seed 160: the Manager was asked, answered when the connection was over, and believed in it for ever.
/// Seed 250: it chose another instance than the connection leads to.
#[test]
fn a_further_connection_of_an_adapted_program_is_told_as_it_is() {
    let mut node = Node::registered();
    node.execute("proxy", 7, "back, in, B");
    let Some(Effect::ToManager(request)) = node.handle(Event::ManagerUp).pop() else { panic!("registers") };
    node.manager(&format!(
        "type: initiation_response ~ message_id: {} ~ status: 200 ~ x_manager: m",
        request.message.message_id()
    ));
    let mut report = SessionReport::between(7, 9, "10.0.0.2:54009".parse().expect("an address"));
    let answer = node.0.asked.unanswered()[0].message.message_id();
    node.manager(&format!("type: session_response ~ message_id: {answer} ~ source_service_name: proxy ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_service_instance_id: 9 ~ dest_socket_name: in ~ dest_service_instance_network_address: 10.0.0.2 ~ dest_socket_port: 54009 ~ status: 200"));
    node.handle(Event::Listening(InstanceId(7)));
    for (port, asked_ahead) in [(40001, 1), (40002, 0)] {
        report.source = format!("10.0.0.1:{port}").parse().expect("an address");
        let effects = node.handle(Event::Established(report.clone()));
        assert_eq!(requests(&effects), asked_ahead, "for the next connection, not for this one");
        let line = &lines(&effects, "x_live")[0];
        assert!(line.starts_with(&format!("7, {port}, 9, 10.0.0.2, 54009, ")), "{line}");
        assert!(line.ends_with(", back"), "{line}");
    }
}

/// Seed 189.
#[test]
fn a_successor_tells_sessions_of_native_instances_too() {
    let address = ssmmp::Address("10.0.0.1".parse().expect("an address"));
    let mut sessions = Vec::new();
    for (sees_all, complete) in [(true, 1), (false, 0)] {
        let redirection = if sees_all { Redirection::Kernel } else { Redirection::Off("off: no BTF".into()) };
        let redirects = Redirects { redirection, sees_all, observes: true, harmless: u32::MAX };
        let repository = parse("r", super::REPOSITORY, |_, _| None).expect("good");
        let mut node = Node(Core::new(address, "n".into(), redirects, repository, Profiles::default()), 0);
        let start = Start {
            id: InstanceId(7),
            service: ssmmp::Name::new("A").expect("a name"),
            address,
            app: None,
            vertex: None,
            sockets: SocketConfiguration::parse("in, 54007").expect("good"),
            plugs: PlugConfiguration::parse("P, in, B").expect("good"),
            plug_addresses: BTreeMap::new(),
        };
        let mut report = SessionReport::between(7, 9, "10.0.0.2:54009".parse().expect("an address"));
        report.source = "10.0.0.1:40001".parse().expect("an address");
        // The kernel gives a port twice, where the destinations differ.
        let mut other = SessionReport::between(7, 8, "10.0.0.2:54008".parse().expect("an address"));
        other.source = report.source;
        node.handle(Event::Adopted(start, true, vec![report, other], Vec::new()));
        node.0.message_id();
        node.0.take_effects();
        let told = node.register();
        assert_eq!(lines(&told, "x_live_complete").len(), complete, "{sees_all}");
        sessions = lines(&told, "x_live");
    }
    let told: Vec<&str> = sessions[0].split(" & ").collect();
    assert!(told[0].starts_with("7, 40001, 8, 10.0.0.2, 54008, ") && told[0].ends_with(", -"), "{told:?}");
    assert!(told[1].starts_with("7, 40001, 9, 10.0.0.2, 54009, ") && told[1].ends_with(", -"), "{told:?}");
}

/// Seed 7: the acknowledgement of the first answer was on its way when the program asked again.
#[test]
fn a_repeated_request_keeps_its_first_answer() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    node.session(9, "10.0.0.1", "auto");
    assert_eq!(requests(&node.instance(7, REQUEST)), 1);
    assert_eq!(lines(&node.instance(7, ACK), "x_live"), ["7, 40000, 9, 10.0.0.1, 54009, 1000, P"]);
}

/// A native program connects where it was told to, from port 40000.
fn connect(node: &mut Node) -> Vec<Effect> {
    let mut report = SessionReport::between(7, 9, "10.0.0.1:54009".parse().expect("an address"));
    report.source = "10.0.0.1:40000".parse().expect("an address");
    node.handle(Event::Established(report))
}

#[test]
fn a_connection_that_is_never_acknowledged_is_told_of_and_ended() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    node.session(9, "10.0.0.1", "auto");
    connect(&mut node);
    // This agent may have been stopped itself: what the program said is looked for once more.
    assert!(node.pass(LOOK).is_empty());
    assert!(node.pass(LOOK - 1).is_empty());
    let effects = node.pass(1);
    let [Effect::Notice(notice), Effect::Destroy(source, destination), Effect::ToManager(told)] =
        &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!((source.port(), destination.port()), (40000, 54009));
    let (instance, source, destination) = (InstanceId(7), *source, *destination);
    assert_eq!(*notice, Notice::NotAcknowledged { instance, source, destination });
    let Message::SessionAck(ack) = &told.message else { panic!("{told:?}") };
    assert_eq!((ack.message_id, ack.status), (1000.into(), ssmmp::Status::NO_ANSWER));
    assert!(node.pass(LOOK).is_empty());
}

#[test]
fn a_connection_that_is_acknowledged_before_or_after_it_is_seen_stays() {
    for early in [true, false] {
        let mut node = Node::running(&[("A", 7), ("A", 9)]);
        node.session(9, "10.0.0.1", "auto");
        let acknowledged = if early { node.instance(7, ACK) } else { connect(&mut node) };
        let then = if early { connect(&mut node) } else { node.instance(7, ACK) };
        assert_eq!(acknowledged.len() + then.len(), 1, "{acknowledged:?} {then:?}");
        for _ in 0..2 {
            assert!(node.pass(LOOK).is_empty(), "early: {early}");
        }
    }
}

/// The kernel gives a port to connections of one source to several destinations.
#[test]
fn of_two_connections_from_one_port_the_one_that_is_not_acknowledged_is_ended() {
    let mut node = Node::running(&[("A", 7)]);
    let [acknowledged, forgotten] = ["10.0.0.1", "10.0.0.2"].map(|address| format!("{address}:54009"));
    for (id, at) in [(1000, &acknowledged), (1001, &forgotten)] {
        let (address, _) = at.split_once(':').expect("an address");
        node.instance(7, &REQUEST.replace("1000", &id.to_string()));
        node.manager(&format!("type: session_response ~ message_id: {id} ~ source_service_name: A ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_service_instance_id: {id} ~ dest_socket_name: in ~ dest_service_instance_network_address: {address} ~ dest_socket_port: 54009 ~ status: 200"));
        let mut report = SessionReport::between(7, id, at.parse().expect("an address"));
        report.source = "10.0.0.1:40000".parse().expect("an address");
        node.handle(Event::Established(report));
    }
    node.instance(7, ACK);
    let mut ended = Vec::new();
    for _ in 0..2 {
        let effects = node.pass(LOOK);
        ended.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Destroy(_, at) => Some(at.to_string()),
            _ => None,
        }));
    }
    assert_eq!(ended, [forgotten]);
}

/// Seed 315949: the request was forgotten, and never answered.
#[test]
fn an_acknowledgement_of_what_was_not_answered_is_none() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    node.instance(7, REQUEST);
    assert!(node.instance(7, ACK).is_empty());
    node.handle(Event::ManagerLost);
    assert_eq!(requests(&node.register()), 1, "it waits");
}

/// Seed 311822: a program told an agent that was killed that its session is over.
#[test]
fn a_session_that_the_kernel_saw_end_is_told_no_more() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    node.session(9, "10.0.0.1", "auto");
    node.instance(7, ACK);
    let mut report = SessionReport::between(7, 9, "10.0.0.1:54009".parse().expect("an address"));
    report.source = "10.0.0.1:40000".parse().expect("an address");
    let told = |node: &mut Node| {
        node.handle(Event::ManagerLost);
        lines(&node.register(), "x_live").len()
    };
    assert_eq!(told(&mut node), 1);
    node.handle(Event::Closed(report, Cause::SourceFinished));
    assert_eq!(told(&mut node), 0);
    // Nobody has said how it ended: its source's end says so.
    let ended = node.handle(Event::Exited(InstanceId(7), "signal 9".into(), Vec::new()));
    assert_eq!(super::statuses(&ended), [ssmmp::Status::BROKEN]);
}

#[test]
fn more_instances_than_fit_into_a_message_are_told_in_parts() {
    let many: Vec<(&str, u64)> = (1..=1_500).map(|id| ("A", id)).collect();
    let mut node = Node::running(&many);
    node.handle(Event::ManagerLost);
    let effects = node.handle(Event::ManagerUp);
    let told: Vec<u64> = lines(&effects, "x_running")
        .iter()
        .filter(|part| !part.is_empty())
        .flat_map(|part| part.split(" & "))
        .map(|item| item.split(", ").nth(1).and_then(|id| id.parse().ok()).expect("an id"))
        .collect();
    assert_eq!(told, (1..=1_500).collect::<Vec<u64>>());
    let parts: Vec<_> = effects
        .iter()
        .map(|effect| match effect {
            Effect::ToManager(envelope) => envelope,
            other => panic!("{other:?}"),
        })
        .collect();
    let mut ids: Vec<_> = parts.iter().map(|part| part.message.message_id()).collect();
    ids.dedup();
    assert_eq!(ids.len(), parts.len());
    for (number, part) in parts.iter().enumerate() {
        let mut text = String::new();
        part.encode_into(&mut text);
        assert!(text.len() < ssmmp::MAX_MESSAGE_BYTES, "{} bytes", text.len());
        assert_eq!(part.extension("x_running_more").is_none(), number + 1 == parts.len());
    }
    let answer = |id, status| format!("type: initiation_response ~ message_id: {id} ~ status: {status}");
    node.manager(&answer(ids[0], 100));
    assert!(!node.0.is_registered());
    node.manager(&answer(ids[ids.len() - 1], 200));
    assert!(node.0.is_registered());
}
