//! Peers that leave things out, and peers that send too much.

use ssmmp::{Envelope, InstanceId, Message, Status};

use super::{Effect, Event, Node};
use crate::MAX_ASKED;

fn to_manager(effects: &[Effect]) -> &Message {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::ToManager(envelope) => Some(&envelope.message),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("something is sent to the Manager: {effects:?}"))
}

fn refused(effects: &[Effect]) -> Option<Status> {
    effects.iter().find_map(|effect| match effect {
        Effect::ToInstance(_, Envelope { message: Message::SessionResponse(response), .. }) => {
            Some(response.status)
        }
        _ => None,
    })
}

#[test]
fn who_leaves_out_who_it_is_is_known_by_its_connection() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    node.session(9, "10.0.0.1", "auto");
    let told =
        node.instance(7, "type: session_ack ~ message_id: 1000 ~ source_plug_port: 40000 ~ status: 200");
    let Message::SessionAck(ack) = to_manager(&told) else { panic!("{told:?}") };
    assert_eq!((ack.source_service_instance_id, ack.source_service_name.as_str()), (InstanceId(7), "A"));
    let told = node.instance(9, "type: dest_service_session_close_info ~ message_id: 5 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: - ~ source_plug_port: 40000 ~ dest_service_name: A ~ dest_socket_name: in ~ dest_socket_port: 54009 ~ status: 111");
    let Message::DestServiceSessionCloseInfo(info) = to_manager(&told) else { panic!("{told:?}") };
    assert_eq!(info.dest_service_instance_id, InstanceId(9));
    // A request without its address is asked from this node.
    let told = node.instance(7, "type: session_request ~ message_id: 1001 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: in");
    let Message::SessionRequest(request) = to_manager(&told) else { panic!("{told:?}") };
    assert_eq!(request.source_service_instance_network_address.to_string(), "10.0.0.1");
}

#[test]
fn a_close_request_without_the_destinations_id_finds_it_by_its_socket() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    let effects = node.manager("type: dest_service_session_close_request ~ message_id: 30 ~ dest_service_name: A ~ dest_service_instance_network_address: 10.0.0.1 ~ source_service_instance_network_address: 10.0.0.2 ~ source_plug_name: P ~ source_plug_port: 40000 ~ dest_socket_name: in ~ dest_socket_port: 54009");
    assert!(effects.iter().any(|e| matches!(e, Effect::ToInstance(InstanceId(9), _))), "{effects:?}");
}

#[test]
fn an_answer_that_only_informs_is_not_the_last_one() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    node.instance(7, "type: session_request ~ message_id: 5 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: in");
    let answer = |status| {
        format!(
            "type: session_response ~ message_id: 5 ~ source_service_name: A ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_service_instance_id: 9 ~ dest_socket_name: in ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_port: 54009 ~ status: {status}"
        )
    };
    let effects = node.manager(&answer(102));
    assert!(matches!(&effects[..], [Effect::ToInstance(..)]), "{effects:?}");
    let effects = node.manager(&answer(200));
    assert!(matches!(&effects[..], [Effect::Declare(_), Effect::ToInstance(..)]), "{effects:?}");
}

#[test]
fn a_flood_of_requests_is_bounded_and_hinders_no_other_instance() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    let request = |of: u64, id: usize| {
        format!(
            "type: session_request ~ message_id: {id} ~ source_service_name: A ~ source_service_instance_id: {of} ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: in"
        )
    };
    for id in 1..=MAX_ASKED {
        assert_eq!(refused(&node.instance(7, &request(7, id))), None);
    }
    for id in MAX_ASKED + 1..MAX_ASKED + 100 {
        assert_eq!(refused(&node.instance(7, &request(7, id))), Some(Status::TOO_MANY));
    }
    assert_eq!(refused(&node.instance(7, &request(7, 1))), None, "a repeated request is none more");
    assert_eq!(refused(&node.instance(9, &request(9, 1))), None);
    assert_eq!(node.0.asked.count(InstanceId(7)), MAX_ASKED);
    // What was answered and never acknowledged makes room.
    node.manager("type: session_response ~ message_id: 2 ~ source_service_name: A ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_service_instance_id: 9 ~ dest_socket_name: in ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_port: 54009 ~ status: 200");
    assert_eq!(refused(&node.instance(7, &request(7, MAX_ASKED + 1))), None);
    assert_eq!(node.0.asked.count(InstanceId(7)), MAX_ASKED);
    node.handle(Event::Exited(InstanceId(7), "exit status 0".into(), Vec::new()));
    assert_eq!(node.0.asked.count(InstanceId(7)), 0);
    assert_eq!(node.0.live_of(InstanceId(7)).count(), 0);
}

#[test]
fn an_execution_without_an_id_is_refused() {
    let mut node = Node::registered();
    let effects = node.manager("type: execution_request ~ message_id: 5 ~ agent_network_address: 10.0.0.1 ~ service_name: A ~ service_instance_id: 0 ~ socket_configuration: in, 54000 ~ plug_configuration: P, in, B");
    assert_eq!(super::statuses(&effects), [Status::BAD_REQUEST]);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Start(_))));
}

#[test]
fn an_execution_is_answered_once_whatever_happens_to_its_process() {
    let mut node = Node::running(&[("A", 7)]);
    let effects =
        node.handle(Event::StartFailed(InstanceId(7), Status::NO_ANSWER, "late".into(), Vec::new()));
    let Message::ServiceInstanceTerminationInfo(info) = to_manager(&effects) else { panic!("{effects:?}") };
    assert_eq!(info.service_instance_id, InstanceId(7));
    assert!(super::statuses(&effects).is_empty(), "{effects:?}");
}
