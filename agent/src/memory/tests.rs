use patchbay_shared_memory::{MIN_RING_BYTES, Side};

use super::broker::{Decision, MAX_SESSIONS, MAX_WAITING_OF_ONE};
use super::*;

const SOURCE: InstanceId = InstanceId(1);
const DESTINATION: InstanceId = InstanceId(2);
const RING: usize = MIN_RING_BYTES;

fn ends(port: u16) -> Ends {
    let ip = [10, 0, 0, 1];
    ((ip, port).into(), (ip, 54_000).into())
}

fn asked(instance: InstanceId, number: u64) -> Asked {
    Asked { link: 10 * instance.0, number, instance }
}

/// A broker with room for two sessions of one application and three of all.
fn broker() -> Broker {
    let mut broker = Broker::new(Bounds { node: 6 * RING, app: 4 * RING }, RING);
    for (id, app) in [(SOURCE, "one"), (DESTINATION, "one"), (InstanceId(3), "two")] {
        broker.add(id, Some(Name::new(app).expect("a name")));
    }
    broker.declare(SOURCE, ends(0).1, DESTINATION, None);
    broker.declare(InstanceId(3), ends(0).1, DESTINATION, None);
    broker
}

/// Both ends of a connection ask, in this order of sides.
fn both(broker: &mut Broker, source: InstanceId, port: u16, first: Side) -> Decision {
    let ask = |broker: &mut Broker, side| {
        let instance = if side == Side::Source { source } else { DESTINATION };
        broker.ask(asked(instance, port.into()), side, ends(port))
    };
    assert_eq!(ask(broker, first), Decision::Wait);
    ask(broker, first.peer())
}

fn refusal(decision: Decision) -> String {
    let Decision::Refuse(_, why) = decision else { panic!("{decision:?}") };
    why
}

#[test]
fn both_ends_of_a_declared_session_get_memory_in_whatever_order_they_ask() {
    let mut broker = broker();
    for (port, first) in [(1, Side::Source), (2, Side::Destination)] {
        let pair = [asked(SOURCE, port.into()), asked(DESTINATION, port.into())];
        assert_eq!(both(&mut broker, SOURCE, port, first), Decision::Pair(pair));
    }
    assert_eq!(broker.used(), (2, 4 * RING));
}

#[test]
fn bounds_hold_for_an_application_and_for_the_node_and_what_ends_makes_room() {
    let mut broker = broker();
    for port in [1, 2] {
        assert!(matches!(both(&mut broker, SOURCE, port, Side::Source), Decision::Pair(_)));
    }
    let why = refusal(both(&mut broker, SOURCE, 3, Side::Source));
    assert!(why.starts_with("the application's"), "{why}");
    assert!(matches!(both(&mut broker, InstanceId(3), 4, Side::Source), Decision::Pair(_)));
    let why = refusal(both(&mut broker, InstanceId(3), 5, Side::Source));
    assert!(why.starts_with("the node's"), "{why}");
    // One end is not enough.
    broker.gone(10, 1);
    assert_eq!(broker.used().0, 3);
    broker.gone(20, 1);
    assert_eq!(broker.used(), (2, 4 * RING));
    assert!(matches!(both(&mut broker, SOURCE, 6, Side::Source), Decision::Pair(_)));
    broker.release(&ends(6));
    broker.link_gone(20);
    broker.link_gone(10);
    broker.link_gone(30);
    assert_eq!(broker.used(), (0, 0));
}

#[test]
fn who_is_not_declared_gets_none() {
    let mut broker = broker();
    let stranger = InstanceId(9);
    assert!(refusal(both(&mut broker, stranger, 1, Side::Source)).contains("not declared"));
    // The destination that asks is not the one that was declared.
    assert_eq!(broker.ask(asked(SOURCE, 1), Side::Source, ends(1)), Decision::Wait);
    assert!(refusal(broker.ask(asked(stranger, 1), Side::Destination, ends(1))).contains("not declared"));
    // Nobody is both ends by asking twice.
    assert_eq!(broker.ask(asked(SOURCE, 1), Side::Source, ends(1)), Decision::Wait);
    assert!(refusal(broker.ask(asked(SOURCE, 2), Side::Source, ends(1))).contains("already"));
}

#[test]
fn what_the_graph_forbids_gets_none_and_what_has_some_moves() {
    let mut broker = broker();
    assert!(matches!(both(&mut broker, SOURCE, 1, Side::Source), Decision::Pair(_)));
    assert!(matches!(both(&mut broker, InstanceId(3), 2, Side::Source), Decision::Pair(_)));
    let moved = broker.declare(SOURCE, ends(0).1, DESTINATION, Some("never by graph"));
    assert_eq!(moved, [asked(SOURCE, 1), asked(DESTINATION, 1)]);
    assert_eq!(refusal(both(&mut broker, SOURCE, 3, Side::Source)), "never by graph");
    assert_eq!(broker.ends_of(InstanceId(3), 2).len(), 2);
    assert_eq!(broker.pause(Some("switched off")).len(), 4);
    assert_eq!(refusal(broker.ask(asked(InstanceId(3), 4), Side::Source, ends(4))), "switched off");
    assert!(broker.pause(None).is_empty());
}

#[test]
fn who_waits_in_vain_is_told_once() {
    let mut broker = broker();
    assert_eq!(broker.ask(asked(SOURCE, 1), Side::Source, ends(1)), Decision::Wait);
    let turn = broker.turn(&ends(1)).expect("it waits");
    assert_eq!(broker.expire(&ends(1), turn), Some(asked(SOURCE, 1)));
    assert_eq!(broker.expire(&ends(1), turn), None);
    // Another ask of the same connection has its own time.
    assert_eq!(broker.ask(asked(SOURCE, 2), Side::Source, ends(1)), Decision::Wait);
    assert_eq!(broker.expire(&ends(1), turn), None);
}

#[test]
fn asks_that_wait_are_bounded() {
    let mut broker = broker();
    for number in 0..MAX_WAITING_OF_ONE as u16 {
        assert_eq!(broker.ask(asked(SOURCE, number.into()), Side::Source, ends(number)), Decision::Wait);
    }
    assert!(refusal(broker.ask(asked(SOURCE, 0), Side::Source, ends(9_999))).contains("too many"));
    // Other instances ask on, until the node is full.
    let mut refused = 0;
    for instance in 100..100 + MAX_SESSIONS as u64 {
        let source = (([10, 0, 0, 2], (instance % 60_000) as u16).into(), ends(0).1);
        refused +=
            usize::from(broker.ask(asked(InstanceId(instance), 1), Side::Source, source) != Decision::Wait);
    }
    assert_eq!(refused, MAX_WAITING_OF_ONE);
    broker.link_gone(10);
    assert_eq!(broker.ask(asked(SOURCE, 1), Side::Source, ends(1)), Decision::Wait);
}
