//! Plugs of adapted programs: ready before the program starts, led elsewhere when the Manager decides so, and never to
//! where nobody is any more.

use ssmmp::{InstanceId, Message, Name};

use super::{Node, SessionReport};
use crate::{Effect, Event, Lead, MAX_WAITING, Waiting};

/// A proxy, instance 7, whose plug `back` leads to redis, instance 8, on this node.
fn running() -> Node {
    let mut node = Node::running(&[("redis", 8)]);
    let effects = node.execute("proxy", 7, "back, in, B");
    let [Effect::Prepare(_), request] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(asked(request), Some(false), "the first answer is a session's");
    let effects = node.answer(8, "10.0.0.1", 54008);
    assert_eq!(leads(&effects), [Some((8, true))]);
    assert!(matches!(effects.last(), Some(Effect::Start(_))), "it starts when its plug is ready");
    node.handle(Event::Listening(InstanceId(7)));
    node
}

impl Node {
    /// The Manager answers the oldest request of instance 7.
    fn answer(&mut self, destination: u64, address: &str, port: u16) -> Vec<Effect> {
        self.respond(destination, address, &port.to_string(), 200)
    }

    fn respond(&mut self, destination: u64, address: &str, port: &str, status: u16) -> Vec<Effect> {
        let id = self.0.asked.unanswered()[0].message.message_id();
        self.manager(&format!("type: session_response ~ message_id: {id} ~ source_service_name: proxy ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_service_instance_id: {destination} ~ dest_socket_name: in ~ dest_service_instance_network_address: {address} ~ dest_socket_port: {port} ~ status: {status}"))
    }

    fn refuse_answer(&mut self) -> Vec<Effect> {
        self.respond(0, "-", "-", 503)
    }

    fn connects(&mut self, from: u16, destination: u64, at: &str) -> Vec<Effect> {
        let mut report = SessionReport::between(7, destination, at.parse().expect("an address"));
        report.source = format!("10.0.0.1:{from}").parse().expect("an address");
        self.handle(Event::Established(report))
    }

    fn waits(&mut self, waiting: u64) -> Vec<Effect> {
        self.handle(Event::PlugWaits(InstanceId(7), back(), Waiting(waiting)))
    }

    fn close_request(&mut self, id: u64, from: u16) -> Vec<Effect> {
        self.manager(&format!("type: source_service_session_close_request ~ message_id: {id} ~ sub_type: Manager_to_agent ~ source_service_name: proxy ~ source_service_instance_id: 7 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: back ~ source_plug_port: {from} ~ dest_service_name: B ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_name: in ~ dest_socket_port: 54008 ~ dest_socket_new_port: 54008"))
    }
}

fn back() -> Name {
    Name::new("back").expect("a name")
}

/// Whether an effect asks for a session, and ahead.
fn asked(effect: &Effect) -> Option<bool> {
    let Effect::ToManager(envelope) = effect else { return None };
    matches!(envelope.message, Message::SessionRequest(_)).then(|| envelope.extension("x_ahead").is_some())
}

fn asks(effects: &[Effect]) -> Vec<bool> {
    effects.iter().filter_map(asked).collect()
}

/// Where effects lead the plug: destination, and whether it is here.
fn leads(effects: &[Effect]) -> Vec<Option<(u64, bool)>> {
    let lead = |effect: &Effect| match effect {
        Effect::Lead(_, _, lead) => Some(lead.map(|lead| (lead.destination.0, lead.here))),
        _ => None,
    };
    effects.iter().filter_map(lead).collect()
}

fn handed(effects: &[Effect]) -> Vec<(u64, String)> {
    let hand = |effect: &Effect| match effect {
        Effect::HandPlug { waiting: Waiting(waiting), at, .. } => Some((*waiting, at.to_string())),
        _ => None,
    };
    effects.iter().filter_map(hand).collect()
}

fn refused(effects: &[Effect]) -> Vec<u64> {
    let refuse = |effect: &Effect| match effect {
        Effect::RefusePlug(Waiting(waiting), _) => Some(*waiting),
        _ => None,
    };
    effects.iter().filter_map(refuse).collect()
}

#[test]
fn each_connection_is_a_session_and_asks_ahead_for_the_next() {
    let mut node = running();
    let effects = node.connects(40_001, 8, "10.0.0.1:54008");
    assert!(matches!(&effects[0], Effect::ToManager(e) if matches!(e.message, Message::SessionAck(_))));
    assert_eq!(asks(&effects), [true]);
    let effects = node.answer(9, "10.0.0.2", 54009);
    assert_eq!(leads(&effects), [Some((9, false))], "what the Manager prefers now");
    // One that was on its way to the first is known all the same.
    let effects = node.connects(40_002, 8, "10.0.0.1:54008");
    let Effect::ToManager(ack) = &effects[0] else { panic!("{effects:?}") };
    assert!(
        ack.extension("x_live")
            .is_some_and(|line| line.starts_with("7, 40002, 8, ") && line.ends_with("back"))
    );
}

#[test]
fn nothing_is_led_to_an_instance_that_ends() {
    // Without sessions nobody is expected; with one its program is likely to connect again.
    for sessions in [0, 1] {
        let mut node = running();
        if sessions == 1 {
            node.connects(40_001, 8, "10.0.0.1:54008");
            node.answer(8, "10.0.0.1", 54008);
        }
        let shutdown =
            "type: hard_shutdown_request ~ message_id: 50 ~ service_name: redis ~ service_instance_id: 8";
        let effects = node.manager(shutdown);
        assert_eq!(leads(&effects), [None]);
        assert_eq!(asks(&effects).len(), sessions);
        let mut node = running();
        let effects = node.handle(Event::Exited(InstanceId(8), "signal 9".into(), Vec::new()));
        assert_eq!(leads(&effects), [None], "nor to one that died");
    }
}

#[test]
fn a_connection_without_a_destination_waits_and_one_is_started() {
    let mut node = running();
    node.handle(Event::Exited(InstanceId(8), "signal 15".into(), Vec::new()));
    let effects = node.waits(1);
    assert_eq!(asks(&effects), [false], "in earnest: an instance is started for it");
    assert_eq!(asks(&node.waits(2)), [false; 0], "one request for all who wait");
    let effects = node.answer(9, "10.0.0.2", 54009);
    let at = "10.0.0.2:54009".to_owned();
    assert_eq!(handed(&effects), [(1, at.clone()), (2, at.clone())]);
    let ends = ("10.0.0.1:40001".parse().expect("an address"), at.parse().expect("an address"));
    let effects = node.handle(Event::PlugJoined(InstanceId(7), ends.0, ends.1));
    let Effect::ToManager(ack) = &effects[0] else { panic!("{effects:?}") };
    assert!(ack.extension("x_live").is_some_and(|line| line.starts_with("7, 40001, 9, 10.0.0.2, 54009, ")));
}

#[test]
fn a_destination_that_does_not_answer_gives_way_to_another_a_few_times() {
    let mut node = running();
    node.handle(Event::Exited(InstanceId(8), "signal 15".into(), Vec::new()));
    node.waits(1);
    for tries in 0..7 {
        let effects = node.answer(9, "10.0.0.2", 54009);
        assert_eq!(handed(&effects).len(), 1);
        let at = "10.0.0.2:54009".parse().expect("an address");
        let effects = node.handle(Event::PlugFailed(InstanceId(7), back(), Waiting(1), at, tries));
        assert_eq!(leads(&effects), [None]);
        assert!(
            effects.iter().any(|e| matches!(e, Effect::ToManager(e) if matches!(&e.message, Message::SessionAck(a) if a.status == ssmmp::Status::CONNECT_FAILED))),
            "the Manager is told: {effects:?}"
        );
        assert_eq!((asks(&effects).len(), refused(&effects).len()), if tries < 6 { (1, 0) } else { (0, 1) });
    }
}

#[test]
fn who_waits_is_refused_with_the_managers_reason_only_when_it_was_asked_in_earnest() {
    let mut node = running();
    node.connects(40_001, 8, "10.0.0.1:54008");
    // The question ahead is on its way when the instance ends.
    node.handle(Event::Exited(InstanceId(8), "signal 15".into(), Vec::new()));
    node.waits(1);
    let effects = node.refuse_answer();
    assert_eq!((asks(&effects), refused(&effects)), (vec![false], vec![]));
    assert_eq!(refused(&node.refuse_answer()), [1]);
}

#[test]
fn a_session_that_is_to_leave_is_closed_when_its_plug_leads_elsewhere() {
    let mut node = running();
    node.connects(40_001, 8, "10.0.0.1:54008");
    node.answer(8, "10.0.0.1", 54008);
    let effects = node.close_request(70, 40_001);
    assert_eq!(asks(&effects), [true], "where it shall lead is asked first");
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Destroy(..))), "{effects:?}");
    let effects = node.answer(9, "10.0.0.2", 54009);
    let at = |wanted: fn(&Effect) -> bool| effects.iter().position(wanted).expect("there is one");
    assert!(at(|e| matches!(e, Effect::Lead(..))) < at(|e| matches!(e, Effect::Destroy(..))));
    // Or when nothing is heard for long enough.
    let mut node = running();
    node.connects(40_001, 8, "10.0.0.1:54008");
    node.close_request(70, 40_001);
    let effects = node.pass(1_000);
    assert!(matches!(&effects[..], [Effect::Destroy(..), Effect::ToManager(_)]), "{effects:?}");
}

#[test]
fn a_start_waits_for_plugs_that_lead_somewhere() {
    let mut node = Node::running(&[("redis", 8)]);
    node.execute("proxy", 7, "back, in, B & other, in, C");
    node.answer(8, "10.0.0.1", 54008);
    let effects = node.handle(Event::Exited(InstanceId(8), "signal 9".into(), Vec::new()));
    assert_eq!(asks(&effects), [false], "it is asked for again");
    for _ in 0..2 {
        let effects = node.answer(9, "10.0.0.2", 54009);
        assert_eq!(leads(&effects).len(), 1);
    }
    assert!(node.0.asked.unanswered().is_empty());
}

#[test]
fn those_who_wait_are_bounded_and_forgotten() {
    let mut node = running();
    node.handle(Event::Exited(InstanceId(8), "signal 15".into(), Vec::new()));
    for waiting in 0..MAX_WAITING as u64 {
        assert!(refused(&node.waits(waiting)).is_empty());
    }
    assert_eq!(refused(&node.waits(9_999)), [9_999]);
    node.handle(Event::PlugGaveUp(InstanceId(7), back(), Waiting(0)));
    assert!(refused(&node.waits(9_999)).is_empty());
    assert_eq!(handed(&node.answer(9, "10.0.0.2", 54009)).len(), MAX_WAITING);
}

#[test]
fn a_successor_goes_on_where_the_plugs_lead() {
    let mut node = Node::running(&[("redis", 8)]);
    let at = "10.0.0.1:54008".parse().expect("an address");
    let mut start = crate::Start::of(Name::new("proxy").expect("a name"), InstanceId(7));
    start.plugs = ssmmp::PlugConfiguration::parse("back, in, B").expect("good");
    let lead = Lead { destination: InstanceId(8), at, here: false };
    node.handle(Event::Adopted(start, true, Vec::new(), vec![(back(), lead)]));
    let effects = node.connects(40_001, 8, "10.0.0.1:54008");
    let Effect::ToManager(ack) = &effects[0] else { panic!("{effects:?}") };
    assert!(ack.extension("x_live").is_some_and(|line| line.ends_with("back")));
    let effects = node.handle(Event::Exited(InstanceId(8), "signal 9".into(), Vec::new()));
    assert_eq!(leads(&effects), [None]);
}
