//! A Manager and instances that speak the 22 types and nothing else fare as the specification says.

use ssmmp::{InstanceId, Message, Port, Status};

use super::{Effect, Event, Node, SessionReport, statuses};
use crate::session_report::Cause;

const ACK: &str = "type: session_ack ~ message_id: 1000 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_port: 40000 ~ dest_socket_new_port: 54009 ~ status: 200";
const ASKED: &str =
    "type: graceful_shutdown_request ~ message_id: 50 ~ service_name: A ~ service_instance_id: 7";
const HEALTH: &str = "type: service_instance_health_request ~ message_id: 30 ~ service_instance_id: 7";

/// What is sent to the Manager, none of it with a line of ours.
fn told(effects: &[Effect]) -> Vec<Message> {
    let mut found = Vec::new();
    for effect in effects {
        let envelope = match effect {
            Effect::ToManager(envelope) => envelope,
            Effect::ReportThen(envelope) => panic!("counters are nothing for it: {envelope:?}"),
            _ => continue,
        };
        let is_plain = !envelope.has_extensions();
        assert!(is_plain || matches!(envelope.message, Message::InitiationRequest(_)), "{envelope:?}");
        found.push(envelope.message.clone());
    }
    found
}

/// Two instances of A run; 7 has a session with 9.
fn node() -> Node {
    let mut node = Node::registered();
    node.register_plainly();
    for id in [7, 9] {
        told(&node.execute("A", id, "P, in, B"));
        told(&node.handle(Event::Listening(InstanceId(id))));
    }
    node.instance(7, "type: session_request ~ message_id: 1000 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: in");
    answer(&mut node);
    node
}

/// It does not name the instance that it has chosen.
fn answer(node: &mut Node) {
    let answered = node.manager("type: session_response ~ message_id: 1000 ~ source_service_name: A ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_service_instance_id: 0 ~ dest_socket_name: in ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_port: 54009 ~ status: 200");
    assert!(answered.iter().any(|effect| matches!(effect, Effect::ToInstance(InstanceId(7), _))));
}

fn report() -> SessionReport {
    let mut report = SessionReport::between(7, 9, "10.0.0.1:54009".parse().expect("an address"));
    report.source = "10.0.0.1:40000".parse().expect("an address");
    report
}

fn broken_ends(messages: &[Message]) -> usize {
    let is_end = |message: &&Message| match message {
        Message::DestServiceSessionCloseInfo(info) => {
            let ends = (info.dest_service_instance_id, info.source_plug_port, info.dest_socket_port);
            ends == (InstanceId(9), Port(40000), Port(54009)) && info.status == Status::BROKEN
        }
        _ => false,
    };
    messages.iter().filter(is_end).count()
}

#[test]
fn living_sessions_are_acknowledged_again_after_a_reconnect() {
    let mut node = node();
    assert_eq!(told(&node.instance(7, ACK)).len(), 1);
    for living in [1, 0] {
        node.handle(Event::ManagerLost);
        let again = told(&node.register_plainly());
        let rest = &again[..];
        assert_eq!(rest.len(), living, "{again:?}");
        if let [Message::SessionAck(ack)] = rest {
            let said = (ack.message_id, ack.source_service_instance_id, ack.source_plug_port, ack.status);
            assert_eq!(said, (1000.into(), InstanceId(7), Port(40000), Status::OK));
        }
        told(&node.handle(Event::Closed(report(), Cause::SourceFinished)));
    }
}

#[test]
fn no_line_of_ours_is_told_whatever_happens() {
    let mut node = node();
    told(&node.instance(7, ACK));
    told(
        &node.manager("type: agent_health_control_request ~ message_id: 4 ~ agent_network_address: 10.0.0.1"),
    );
    told(&node.execute("nothing", 11, ""));
    told(&node.execute("redis", 12, ""));
    told(&node.handle(Event::StartFailed(InstanceId(12), Status::INTERNAL, "no".into(), vec!["x".into()])));
    node.handle(Event::ManagerLost);
    told(&node.handle(Event::Exited(InstanceId(9), "signal 9".into(), vec!["x".into()])));
    told(&node.register_plainly());
    let again = told(&node.handle(Event::End(std::time::Duration::from_secs(1))));
    assert!(
        matches!(&again[..], [Message::AgentHealthControlResponse(h)] if h.status == Status::UNAVAILABLE)
    );
}

#[test]
fn an_instances_own_answer_to_a_graceful_shutdown_is_passed_on_at_once() {
    for status in [Status::OK, Status::CONFLICT] {
        let mut node = node();
        assert_eq!(told(&node.manager(ASKED)), []);
        let line =
            |status: &str| format!("type: graceful_shutdown_response ~ message_id: 50 ~ status: {status}");
        let informs = node.instance(7, &line("102"));
        assert_eq!(statuses(&informs).len(), 1, "it only informs");
        let answered = node.instance(7, &line(&status.to_string()));
        assert_eq!(statuses(&answered), [status]);
        told(&answered);
        assert_eq!(node.0.next_timeout().is_some(), status == Status::OK, "it has a time to end");
        assert!(node.instance(7, &line("200")).is_empty(), "nobody waits for another answer");
        let gone = told(&node.handle(Event::Exited(InstanceId(7), "exit status 0".into(), Vec::new())));
        // Who has said that it ends is told of once; who refused and ended all the same was not expected to.
        assert_eq!(gone.len(), usize::from(status == Status::CONFLICT), "{gone:?}");
    }
}

#[test]
fn both_shutdown_requests_are_answered_when_the_instance_answers_none() {
    let mut node = node();
    node.manager(ASKED);
    node.manager("type: hard_shutdown_request ~ message_id: 51 ~ service_name: A ~ service_instance_id: 7");
    let gone = told(&node.handle(Event::Exited(InstanceId(7), "signal 15".into(), Vec::new())));
    let [Message::GracefulShutdownResponse(graceful), Message::HardShutdownResponse(hard)] = &gone[..] else {
        panic!("{gone:?}")
    };
    assert_eq!((graceful.message_id, hard.message_id), (50.into(), 51.into()));
}

#[test]
fn an_instances_own_word_that_it_ends_is_passed_on_with_its_id_and_is_the_only_one() {
    let mut node = node();
    let said = told(&node.instance(
        7,
        "type: service_instance_termination_info ~ message_id: 1007 ~ service_name: A ~ service_instance_id: 7 ~ service_instance_network_address: 10.0.0.1",
    ));
    let [Message::ServiceInstanceTerminationInfo(info)] = &said[..] else { panic!("{said:?}") };
    assert_eq!((info.message_id, info.service_instance_id), (1007.into(), InstanceId(7)));
    assert_eq!(told(&node.handle(Event::Exited(InstanceId(7), "exit status 0".into(), Vec::new()))), []);
}

#[test]
fn a_killed_destinations_sessions_are_told_broken_and_only_those_it_never_ended() {
    let killed = || Event::Exited(InstanceId(9), "signal 9".into(), Vec::new());
    let mut node = node();
    node.instance(7, ACK);
    let gone = told(&node.handle(killed()));
    assert_eq!(broken_ends(&gone), 1, "{gone:?}");
    assert!(matches!(gone.last(), Some(Message::ServiceInstanceTerminationInfo(_))));
    // Either end has said that it is over.
    for ended in [
        (
            9,
            "type: dest_service_session_close_info ~ message_id: 5 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: - ~ source_plug_port: 40000 ~ dest_service_name: A ~ dest_socket_name: in ~ dest_socket_port: 54009 ~ status: 111",
        ),
        (
            7,
            "type: source_service_session_close_info ~ message_id: 7 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_name: P ~ source_plug_port: 40000 ~ dest_service_name: B ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_name: in ~ dest_socket_port: 54009 ~ status: 111",
        ),
    ] {
        let mut node = self::node();
        node.instance(7, ACK);
        assert_eq!(told(&node.instance(ended.0, ended.1)).len(), 1);
        assert_eq!(broken_ends(&told(&node.handle(killed()))), 0);
        assert!(node.0.accepted.is_empty());
    }
}

#[test]
fn an_execution_of_a_living_id_with_other_sockets_is_a_conflict() {
    let mut node = node();
    let execute = |sockets: &str| {
        format!(
            "type: execution_request ~ message_id: 60 ~ agent_network_address: 10.0.0.1 ~ service_name: A ~ service_instance_id: 7 ~ socket_configuration: {sockets} ~ plug_configuration: P, in, B"
        )
    };
    for (sockets, status) in [
        ("in, 54007", Status::OK),
        ("in, 54008", Status::CONFLICT),
        ("", Status::CONFLICT),
        ("in, 54007 & out, 54008", Status::CONFLICT),
    ] {
        assert_eq!(statuses(&node.manager(&execute(sockets))), [status], "{sockets}");
    }
}

#[test]
fn an_instance_that_says_nothing_of_its_health_is_spoken_for_and_one_that_is_not_connected_too() {
    let status_of = |messages: &[Message]| match messages {
        [Message::ServiceInstanceHealthResponse(response)] => Some(response.status),
        _ => None,
    };
    let ask = |node: &mut Node| {
        let effects = node.manager(HEALTH);
        let [Effect::AskInstance(InstanceId(7), _, absent)] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(absent.message.status(), Some(Status::NOT_FOUND), "when it is not connected");
    };
    let mut node = node();
    ask(&mut node);
    assert_eq!(status_of(&told(&node.pass(3_000))), Some(Status::NO_ANSWER));
    assert_eq!(told(&node.pass(3_000)), []);
    // A late answer is better than none.
    let well =
        "type: service_instance_health_response ~ message_id: 30 ~ service_instance_id: 7 ~ status: 200";
    assert_eq!(status_of(&told(&node.instance(7, well))), Some(Status::OK));
    ask(&mut node);
    node.instance(7, well);
    assert_eq!(told(&node.pass(3_000)), [], "it was answered");
    ask(&mut node);
    node.handle(Event::Exited(InstanceId(7), "signal 9".into(), Vec::new()));
    assert_eq!(status_of(&told(&node.pass(3_000))), Some(Status::NOT_FOUND));
    assert_eq!(status_of(&told(&node.manager(HEALTH))), Some(Status::NOT_FOUND));
}

#[test]
fn an_instance_speaks_for_its_own_service_only() {
    let mut node = node();
    let ask = |service: &str| {
        format!(
            "type: session_request ~ message_id: 1001 ~ source_service_name: {service} ~ source_service_instance_id: 7 ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: in"
        )
    };
    let effects = node.instance(7, &ask("redis"));
    let [Effect::ToInstance(InstanceId(7), refusal)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(refusal.message.status(), Some(Status::FORBIDDEN));
    assert_eq!(told(&node.instance(7, &ask("A"))).len(), 1);
}

/// The connection was ended for want of an acknowledgement; then it comes.
#[test]
fn a_late_acknowledgement_is_told_with_what_became_of_its_connection() {
    for (port, lives) in [(40000, false), (40001, true)] {
        let mut node = node();
        node.handle(Event::Established(report()));
        node.pass(5_000);
        let given_up = told(&node.pass(5_000));
        assert!(matches!(&given_up[..], [Message::SessionAck(ack)] if ack.status == Status::NO_ANSWER));
        let late = told(&node.instance(7, &ACK.replace("40000", &port.to_string())));
        assert!(matches!(&late[0], Message::SessionAck(ack) if ack.status == Status::OK), "{late:?}");
        let ended = matches!(&late[1..], [Message::SourceServiceSessionCloseInfo(info)] if info.status == Status::BROKEN);
        assert_eq!(ended, !lives, "{late:?}");
        node.handle(Event::ManagerLost);
        assert_eq!(told(&node.register_plainly()).len(), usize::from(lives));
    }
}

#[test]
fn message_ids_are_reserved_before_they_are_used_and_never_leave_their_range() {
    let mut node = Node::registered();
    let reserved = |node: &mut Node| {
        node.0.take_effects().iter().find_map(|effect| match effect {
            Effect::ReserveMessages(next) => Some(*next),
            _ => None,
        })
    };
    node.0.number_messages_from(super::super::LAST_MESSAGE - 2);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let id = node.0.message_id();
        let id: u64 = id.to_string().parse().expect("a number");
        assert!((super::super::FIRST_MESSAGE..=super::super::LAST_MESSAGE).contains(&id), "{id}");
        seen.push((id, reserved(&mut node)));
    }
    let ids: Vec<u64> = seen.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids[1], super::super::LAST_MESSAGE);
    assert_eq!(ids[2], super::super::FIRST_MESSAGE + 1);
    assert!(seen[0].1.is_some() && seen[1].1.is_none() && seen[2].1.is_some() && seen[3].1.is_none());
}

/// The kernel gives a port to connections of one source to several sockets.
#[test]
fn of_two_sessions_from_one_port_to_one_destination_only_the_one_that_it_closed_is_closed() {
    let mut node = Node::registered();
    node.register_plainly();
    node.execute("A", 7, "P, in, B");
    node.manager("type: execution_request ~ message_id: 9 ~ agent_network_address: 10.0.0.1 ~ service_name: A ~ service_instance_id: 9 ~ socket_configuration: in, 54009 & other, 54010 ~ plug_configuration: ");
    for id in [7, 9] {
        node.handle(Event::Listening(InstanceId(id)));
    }
    for (id, port) in [(1000, 54009), (1001, 54010)] {
        node.instance(7, &format!("type: session_request ~ message_id: {id} ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: in"));
        node.manager(&format!("type: session_response ~ message_id: {id} ~ source_service_name: A ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_service_instance_id: 9 ~ dest_socket_name: in ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_port: {port} ~ status: 200"));
        node.instance(7, &ACK.replace("1000", &id.to_string()).replace("54009", &port.to_string()));
    }
    node.instance(9, "type: dest_service_session_close_info ~ message_id: 5 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: P ~ source_plug_port: 40000 ~ dest_service_name: A ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_service_instance_id: 9 ~ dest_socket_name: other ~ dest_socket_port: 54010 ~ dest_socket_new_port: 54010 ~ status: 111");
    let effects = told(&node.handle(Event::Exited(InstanceId(9), "signal 9".into(), Vec::new())));
    assert_eq!(broken_ends(&effects), 1, "the other one: {effects:?}");
    let all = effects.iter().filter(|told| matches!(told, Message::DestServiceSessionCloseInfo(_)));
    assert_eq!(all.count(), 1);
}

/// An adapted destination's kernel closes its connections when it is killed, as the program would by its own logic.
#[test]
fn what_an_adapted_destination_closed_is_broken_when_its_process_ends_with_it() {
    let mut report = SessionReport::between(7, 8, "10.0.0.1:54008".parse().expect("an address"));
    report.source = "10.0.0.1:40000".parse().expect("an address");
    let killed = || Event::Exited(InstanceId(8), "signal 9".into(), Vec::new());
    let of_session = |messages: &[Message]| -> Vec<Status> {
        messages
            .iter()
            .filter_map(|message| match message {
                Message::DestServiceSessionCloseInfo(info) => Some(info.status),
                Message::SourceServiceSessionCloseInfo(info) => Some(info.status),
                _ => None,
            })
            .collect()
    };
    for source in ["A", "proxy"] {
        for (dies, status) in [(true, Status::BROKEN), (false, Status::CLOSED)] {
            let mut node = Node::registered();
            node.register_plainly();
            node.execute("redis", 8, "");
            node.handle(Event::Listening(InstanceId(8)));
            let plugs = if source == "A" { "P, in, B" } else { "back, in, B" };
            node.execute(source, 7, plugs);
            let unanswered = node.0.asked.unanswered();
            let id = match unanswered.first() {
                Some(request) => request.message.message_id(),
                None => {
                    node.instance(7, "type: session_request ~ message_id: 1000 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: in");
                    1000.into()
                }
            };
            node.manager(&format!("type: session_response ~ message_id: {id} ~ source_service_name: {source} ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_service_instance_id: 8 ~ dest_socket_name: in ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_port: 54008 ~ status: 200"));
            node.handle(Event::Listening(InstanceId(7)));
            node.handle(Event::Established(report.clone()));
            if source == "A" {
                node.instance(7, &ACK.replace("54009", "54008"));
            }
            let closed = node.handle(Event::Closed(report.clone(), Cause::DestinationFinished));
            assert!(closed.is_empty(), "{closed:?}");
            let ends = if source == "A" { 1 } else { 2 };
            if dies {
                assert_eq!(of_session(&told(&node.handle(killed()))), vec![status; ends], "{source}");
            }
            let overdue = of_session(&told(&node.pass(500)));
            assert_eq!(overdue, if dies { vec![] } else { vec![status; ends] }, "{source}");
        }
    }
}
