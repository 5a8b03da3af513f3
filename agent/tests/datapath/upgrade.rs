//! An agent of another version, with another layout of the maps: old sessions keep the old programs until
//! they end, new ones get the new programs.

use std::net::SocketAddr;
use std::time::Duration;

use patchbay_agent::datapath::{Cause, Datapath, Options, Path, SessionEvent, SessionReport};

use crate::peers::{Peer, Work};
use crate::place::Place;
use crate::{ALLOWED, declare, event, options};

/// A session that echoes until it is released.
struct Echo {
    at: SocketAddr,
    source: Peer,
    destination: Peer,
}

impl Echo {
    async fn start(place: &Place, datapath: &mut Datapath) -> Self {
        let mut destination = Peer::serve(place, "127.0.0.1", Work::Stay);
        let at = destination.address("127.0.0.1");
        declare(datapath, place, at, ALLOWED);
        let source = Peer::connect(place, at, Work::Stay);
        assert!(matches!(event(datapath).await, SessionEvent::Established(_)));
        Self { at, source, destination }
    }

    fn end(mut self) {
        self.source.release();
        self.source.succeed();
        self.destination.succeed();
    }
}

fn find(datapath: &Datapath, at: SocketAddr) -> SessionReport {
    let sessions = datapath.sessions().expect("readable");
    sessions.into_iter().find(|session| session.destination == at).expect("it is known")
}

async fn closed(datapath: &mut Datapath) -> (SessionReport, Cause) {
    loop {
        datapath.follow_earlier().expect("readable");
        match tokio::time::timeout(Duration::from_millis(20), datapath.next_event()).await {
            Ok(Ok(SessionEvent::Closed(report, cause))) => return (report, cause),
            Ok(event) => drop(event.expect("the ring can be read")),
            Err(_) => {}
        }
    }
}

/// The present layout, and one that a later version would have.
fn versions(place: &Place) -> (Options, Options) {
    let options = Options { pins: Some(place.pins()), ..options(place) };
    let later = Options { layout: options.layout + 1, ..options.clone() };
    (options, later)
}

#[tokio::test]
async fn old_sessions_keep_the_old_programs_and_new_ones_get_the_new() {
    let place = Place::one_namespace();
    let (now, later) = versions(&place);
    let mut first = Datapath::load(&now).expect("the kernel takes the programs");
    let old = Echo::start(&place, &mut first).await;
    drop(first);
    let mut second = Datapath::load(&later).expect("both layouts live side by side");
    let new = Echo::start(&place, &mut second).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(find(&second, old.at).uncounted && !find(&second, new.at).uncounted);
    assert_eq!((find(&second, old.at).path, find(&second, new.at).path), (Path::Kernel, Path::Kernel));
    assert_eq!(find(&second, old.at).source_instance, 7);
    let (old_at, new_at) = (old.at, new.at);
    old.end();
    assert_eq!(closed(&mut second).await.0.destination, old_at);
    second.follow_earlier().expect("readable");
    let pinned = |options: &Options| place.pins().join(format!("layout-{}", options.layout)).exists();
    assert_eq!((pinned(&now), pinned(&later)), (false, true), "the old layout goes with its last session");
    new.end();
    let (report, _) = closed(&mut second).await;
    assert_eq!((report.destination, report.sent.tcp_bytes), (new_at, 0));
    assert!(report.sent.kernel_bytes > 0);
    drop(second);
    Datapath::detach(&place.pins()).expect("no trace is left");
}

#[tokio::test]
async fn sessions_of_every_version_go_back_to_tcp() {
    let place = Place::one_namespace();
    let (now, later) = versions(&place);
    let mut first = Datapath::load(&now).expect("the kernel takes the programs");
    let old = Echo::start(&place, &mut first).await;
    drop(first);
    let mut second = Datapath::load(&later).expect("both layouts live side by side");
    let new = Echo::start(&place, &mut second).await;
    second.leave_all().expect("asked");
    let begun = std::time::Instant::now();
    while !second.sessions().expect("readable").iter().all(|session| session.outside) {
        assert!(begun.elapsed() < Duration::from_secs(20), "they do not leave");
        tokio::time::sleep(Duration::from_millis(50)).await;
        second.let_out().expect("the kernel takes it");
        second.follow_earlier().expect("readable");
    }
    drop(second);
    Datapath::detach(&place.pins()).expect("no trace is left");
    tokio::time::sleep(Duration::from_millis(50)).await;
    old.end();
    new.end();
}
