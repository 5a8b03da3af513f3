//! What the network sees of a redirected session: its middle boxes know it, and its end is what TCP's would be.

use std::time::Duration;

use patchbay_agent::datapath::{self, Datapath, Options, Reason, Scope, SessionEvent, Switch};
use serde_json::Value;

use crate::peers::{Peer, Work, script};
use crate::place::Place;

fn load(place: &Place, refusal: Option<Reason>) -> Datapath {
    let scope = Some(Scope { always: true, refusal });
    let options = Options { scope, ..Options::new(place.cgroup()) };
    Datapath::load(&options).expect("the kernel takes the programs")
}

/// Works as an agent does until the peer has ended; returns how many bytes were redirected.
async fn follow(datapath: &mut Datapath, peer: &mut Peer) -> u64 {
    let mut redirected = 0;
    let mut running = true;
    while running {
        running = peer.is_running();
        let event = tokio::time::timeout(Duration::from_millis(50), datapath.next_event()).await;
        if let Ok(event) = event
            && let SessionEvent::Closed(report, _) = event.expect("the ring can be read")
        {
            redirected += report.sent.kernel_bytes + report.received.kernel_bytes;
            running = true;
        }
        datapath.tell_middle_boxes().expect("the kernel takes it");
        datapath.let_out().expect("the kernel takes it");
    }
    redirected
}

#[tokio::test]
async fn connection_tracking_knows_a_session_that_goes_back_to_tcp() {
    let place = Place::one_namespace();
    let mut datapath = load(&place, None);
    let mut peer = script(&place, "conntrack.py", &[]).within(60);
    assert!(follow(&mut datapath, &mut peer).await > 0);
    peer.succeed();
}

#[tokio::test]
async fn an_end_that_goes_with_bytes_unread_resets_the_connection_as_tcp_does() {
    let mut seen = Vec::new();
    for refusal in [Some(Reason::Never), None] {
        let place = Place::one_namespace();
        let mut datapath = load(&place, refusal);
        let mut peer = script(&place, "unread.py", &["goes"]);
        let redirected = follow(&mut datapath, &mut peer).await;
        assert_eq!(redirected > 0, refusal.is_none());
        let printed: Value = serde_json::from_str(&peer.output()).expect("JSON");
        seen.push(printed);
    }
    let [tcp, redirected] = &seen[..] else { panic!() };
    assert_eq!(redirected, tcp, "redirected, and over TCP");
}

#[tokio::test]
async fn a_session_leaves_the_map_only_once_everything_is_read() {
    let place = Place::one_namespace();
    let mut datapath = load(&place, None);
    let mut peer = script(&place, "unread.py", &["leaves"]);
    let established = tokio::time::timeout(Duration::from_secs(10), datapath.next_event()).await;
    let SessionEvent::Established(session) = established.expect("in time").expect("readable") else {
        panic!()
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    let unread = datapath.unread(&session).expect("the kernel answers");
    assert_eq!(unread, [25_600; 2], "both ends have something unread");
    datapath.leave(&session, Reason::SwitchedOff).expect("asked");
    assert!(follow(&mut datapath, &mut peer).await > 0);
    peer.succeed();
    assert!(!datapath.is_leaving());
}

#[tokio::test]
async fn a_session_and_a_node_are_taken_to_tcp_and_return() {
    let place = Place::one_namespace();
    let scope = Some(Scope { always: true, refusal: None });
    let options = Options { scope, pins: Some(place.pins()), ..Options::new(place.cgroup()) };
    let mut datapath = Datapath::load(&options).expect("the kernel takes the programs");
    let mut switch = Switch::open(&place.pins()).expect("pinned");
    // Its peers check every byte by its position.
    let mut destination = Peer::serve(&place, "127.0.0.1", Work::Duplex);
    let at = destination.address("127.0.0.1");
    let mut source = Peer::connect(&place, at, Work::Duplex);
    let mut step = 0;
    while source.is_running() {
        let sessions = datapath::pinned_sessions(&place.pins()).expect("readable");
        match (&sessions[..], step % 4) {
            ([session], at @ 0..2) => drop(switch.session(session, at == 1).expect("the kernel takes it")),
            (_, at @ 2..4) => switch.node(at == 3).expect("the kernel takes it"),
            _ => {}
        }
        step += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    source.succeed();
    destination.succeed();
    let closed = loop {
        let event = tokio::time::timeout(Duration::from_secs(10), datapath.next_event()).await;
        if let SessionEvent::Closed(report, _) = event.expect("in time").expect("readable") {
            break report;
        }
    };
    assert!(closed.sent.switches > 2, "{closed:?}");
    assert!(closed.sent.kernel_bytes > 0 && closed.sent.tcp_bytes > 0, "{closed:?}");
}
