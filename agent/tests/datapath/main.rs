//! The kernel programs with real sockets, in cgroups and network namespaces that each test makes.
//!
//! Needs root and a kernel with BPF; without these the tests fail, they are not skipped.

mod counters;
mod entering;
mod identity;
mod network;
mod outrun;
mod peers;
mod place;
mod plugs;
mod reuse;
mod stress;
mod tables;
mod upgrade;

use std::net::SocketAddr;
use std::time::Duration;

use patchbay_agent::datapath::{
    Cause, Datapath, Declaration, Habit, Options, Path, Reason, SessionEvent, SessionReport,
};
use peers::{Peer, Work};
use place::Place;

/// Both ends declared, on this node.
const ALLOWED: Result<(), Reason> = Ok(());

struct Outcome {
    report: SessionReport,
    cause: Cause,
}

/// Runs a source and a destination, each in its own cgroup (and namespace, when the place has two), and
/// returns the kernel's final word on their session.
async fn run(place: &Place, address: &str, work: Work, redirect: Result<(), Reason>) -> Outcome {
    run_in(load(place), place, address, work, redirect).await
}

async fn run_in(
    mut datapath: Datapath,
    place: &Place,
    address: &str,
    work: Work,
    redirect: Result<(), Reason>,
) -> Outcome {
    let mut destination = Peer::serve(place, address, work);
    let at: SocketAddr = destination.address(address);
    declare(&mut datapath, place, at, redirect);
    let source = Peer::connect(place, at, work);
    source.succeed();
    destination.succeed();
    loop {
        if let SessionEvent::Closed(report, cause) = event(&mut datapath).await {
            assert_eq!(report.destination, at);
            assert_eq!((report.source_instance, report.destination_instance), (7, 9));
            return Outcome { report, cause };
        }
    }
}

fn options(place: &Place) -> Options {
    Options { sessions_limit: 64, ..Options::new(place.cgroup()) }
}

fn load(place: &Place) -> Datapath {
    Datapath::load(&options(place)).expect("the kernel takes the programs")
}

fn declare(datapath: &mut Datapath, place: &Place, at: SocketAddr, redirect: Result<(), Reason>) {
    datapath
        .declare(&Declaration {
            source_cgroup: place.source_cgroup(),
            destination_cgroup: place.destination_cgroup(),
            destination: at,
            source_instance: 7,
            destination_instance: 9,
            redirect,
            about: Habit::NONE,
            always: false,
        })
        .expect("there is room");
}

async fn event(datapath: &mut Datapath) -> SessionEvent {
    tokio::time::timeout(Duration::from_secs(20), datapath.next_event())
        .await
        .expect("the kernel tells in time")
        .expect("the ring can be read")
}

/// All bytes both ways went through the kernel, none over TCP.
fn assert_all_redirected(outcome: &Outcome, sent: u64, received: u64) {
    let report = &outcome.report;
    assert_eq!(report.path, Path::Kernel, "{report:?}");
    assert_eq!((report.sent.kernel_bytes, report.received.kernel_bytes), (sent, received), "{report:?}");
    assert_eq!((report.sent.tcp_bytes, report.received.tcp_bytes), (0, 0), "{report:?}");
}

#[tokio::test]
async fn echoed_bytes_are_redirected_from_the_first_on_loopback() {
    for address in ["127.0.0.1", "::1"] {
        let place = Place::one_namespace();
        let outcome = run(&place, address, Work::Echo, ALLOWED).await;
        assert_all_redirected(&outcome, peers::ECHO_BYTES, peers::ECHO_BYTES);
        assert_eq!(outcome.cause, Cause::SourceFinished);
    }
}

#[tokio::test]
async fn kernels_whose_structures_are_no_memory_redirect_too() {
    let place = Place::one_namespace();
    let options = Options { reads_like_memory: false, ..options(&place) };
    for work in [Work::Echo, Work::SlowReader] {
        let datapath = Datapath::load(&options).expect("the kernel takes the programs");
        let outcome = run_in(datapath, &place, "127.0.0.1", work, ALLOWED).await;
        assert!(outcome.report.sent.kernel_bytes > 0, "{:?}", outcome.report);
    }
}

#[tokio::test]
async fn bytes_between_network_namespaces_are_redirected() {
    for address in ["10.99.0.2", "fd99::2"] {
        let place = Place::two_namespaces();
        let outcome = run(&place, address, Work::Echo, ALLOWED).await;
        let report = &outcome.report;
        assert_eq!(report.sent.kernel_bytes + report.sent.tcp_bytes, peers::ECHO_BYTES);
        // The first message may be sent before the accepting end is known, and then goes over TCP.
        assert!(report.sent.kernel_bytes > peers::ECHO_BYTES / 2, "{report:?}");
        // Buffers between namespaces are small: a large message passes the receiver's budget.
        assert_eq!(report.received.kernel_bytes + report.received.tcp_bytes, peers::ECHO_BYTES);
        assert!(report.received.kernel_bytes > peers::ECHO_BYTES / 2, "{report:?}");
    }
}

#[tokio::test]
async fn both_directions_at_once_keep_every_byte_in_its_place() {
    let place = Place::one_namespace();
    let outcome = run(&place, "127.0.0.1", Work::Duplex, ALLOWED).await;
    let report = &outcome.report;
    assert_eq!(report.sent.kernel_bytes + report.sent.tcp_bytes, peers::DUPLEX_BYTES);
    assert_eq!(report.received.kernel_bytes + report.received.tcp_bytes, peers::DUPLEX_BYTES);
    assert!(report.sent.kernel_bytes > 0 && report.received.kernel_bytes > 0, "{report:?}");
}

#[tokio::test]
async fn half_closing_delivers_all_that_was_sent_before() {
    let place = Place::one_namespace();
    let outcome = run(&place, "127.0.0.1", Work::HalfClose, ALLOWED).await;
    assert_all_redirected(&outcome, peers::HALF_CLOSE_BYTES, peers::HALF_CLOSE_BYTES);
}

#[tokio::test]
async fn a_receiver_that_does_not_read_stops_its_sender_and_loses_nothing() {
    let place = Place::one_namespace();
    let outcome = run(&place, "127.0.0.1", Work::SlowReader, ALLOWED).await;
    let report = &outcome.report;
    // The peer itself asserts that its sends stopped, and that all bytes came in their order.
    assert!(report.sent.kernel_bytes > 0 && report.sent.tcp_bytes > 0, "{report:?}");
    assert!(report.sent.switches > 0);
}

#[tokio::test]
async fn a_refused_session_stays_on_tcp_with_its_reason_and_is_counted() {
    let place = Place::one_namespace();
    let outcome = run(&place, "127.0.0.1", Work::Echo, Err(Reason::Never)).await;
    let report = &outcome.report;
    assert_eq!(report.path, Path::Tcp(Reason::Never));
    assert_eq!((report.sent.tcp_bytes, report.received.tcp_bytes), (peers::ECHO_BYTES, peers::ECHO_BYTES));
    assert_eq!((report.sent.kernel_bytes, report.received.kernel_bytes), (0, 0));
}

#[tokio::test]
async fn multipath_tcp_stays_outside() {
    let place = Place::one_namespace();
    let outcome = run(&place, "127.0.0.1", Work::Multipath, ALLOWED).await;
    assert_eq!(outcome.report.path, Path::Tcp(Reason::Multipath), "{:?}", outcome.report);
    assert_eq!((outcome.report.sent.kernel_bytes, outcome.report.received.kernel_bytes), (0, 0));
}

#[tokio::test]
async fn a_socket_connected_to_itself_stays_outside() {
    let place = Place::one_namespace();
    let mut datapath = load(&place);
    let mut peer = Peer::serve(&place, "127.0.0.1", Work::WithItself);
    let at = peer.address("127.0.0.1");
    for source_cgroup in [place.source_cgroup(), place.destination_cgroup()] {
        let declaration = Declaration {
            source_cgroup,
            destination_cgroup: place.destination_cgroup(),
            destination: at,
            source_instance: 7,
            destination_instance: 7,
            redirect: ALLOWED,
            about: Habit::NONE,
            always: false,
        };
        datapath.declare(&declaration).expect("there is room");
    }
    peer.release();
    // The peer asserts that its bytes came back. Such a socket is told as accepted, and nobody connected.
    peer.succeed();
    assert_eq!(datapath.sessions().expect("readable"), []);
}

#[tokio::test]
async fn a_destination_in_another_cgroup_leaves_both_sockets_outside() {
    let place = Place::one_namespace();
    let mut datapath = load(&place);
    let mut destination = Peer::serve(&place, "127.0.0.1", Work::Echo);
    let at = destination.address("127.0.0.1");
    datapath
        .declare(&Declaration {
            source_cgroup: place.source_cgroup(),
            destination_cgroup: place.source_cgroup(),
            destination: at,
            source_instance: 7,
            destination_instance: 9,
            redirect: ALLOWED,
            about: Habit::NONE,
            always: false,
        })
        .expect("there is room");
    Peer::connect(&place, at, Work::Echo).succeed();
    destination.succeed();
    loop {
        if let SessionEvent::Closed(report, _) = event(&mut datapath).await {
            assert_eq!(report.path, Path::Tcp(Reason::OtherInstance));
            assert_eq!(report.sent.kernel_bytes, 0);
            break;
        }
    }
}

#[tokio::test]
async fn a_connection_nobody_declared_is_not_touched() {
    let place = Place::one_namespace();
    let mut datapath = load(&place);
    let mut destination = Peer::serve(&place, "127.0.0.1", Work::Echo);
    let at = destination.address("127.0.0.1");
    Peer::connect(&place, at, Work::Echo).succeed();
    destination.succeed();
    assert_eq!(datapath.sessions().expect("readable"), []);
    let nothing = tokio::time::timeout(Duration::from_millis(200), datapath.next_event()).await;
    assert!(nothing.is_err(), "nothing is told of connections that are not ours");
}

#[tokio::test]
async fn switching_off_and_on_while_bytes_flow_keeps_them_in_order() {
    let place = Place::one_namespace();
    let mut datapath = load(&place);
    let mut destination = Peer::serve(&place, "127.0.0.1", Work::Duplex);
    let at = destination.address("127.0.0.1");
    declare(&mut datapath, &place, at, ALLOWED);
    let mut source = Peer::connect(&place, at, Work::Duplex);
    let mut on = true;
    while source.is_running() {
        on = !on;
        datapath.set_redirection(on).expect("the kernel takes it");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    source.succeed();
    destination.succeed();
    loop {
        if let SessionEvent::Closed(report, _) = event(&mut datapath).await {
            assert!(report.sent.kernel_bytes > 0 && report.sent.tcp_bytes > 0, "{report:?}");
            break;
        }
    }
}

#[tokio::test]
async fn pinned_programs_outlive_the_agent_and_the_next_one_takes_over() {
    let place = Place::one_namespace();
    let options = Options { pins: Some(place.pins()), ..options(&place) };
    let mut first = Datapath::load(&options).expect("the kernel takes the programs");
    let mut destination = Peer::serve(&place, "127.0.0.1", Work::Duplex);
    let at = destination.address("127.0.0.1");
    declare(&mut first, &place, at, ALLOWED);
    let source = Peer::connect(&place, at, Work::Duplex);
    assert!(matches!(event(&mut first).await, SessionEvent::Established(_)));
    drop(first);
    let mut second = Datapath::load(&options).expect("the pinned maps are taken over");
    source.succeed();
    destination.succeed();
    loop {
        if let SessionEvent::Closed(report, _) = event(&mut second).await {
            assert!(report.sent.kernel_bytes > 0, "{report:?}");
            break;
        }
    }
    drop(second);
    Datapath::detach(&place.pins()).expect("no trace is left");
    assert!(!place.pins().exists());
}
