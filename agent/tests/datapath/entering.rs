//! Sessions that enter the map in mid-life.

use std::time::Duration;

use patchbay_agent::datapath::{Datapath, Options, Path, Reason, Scope, SessionEvent, SessionReport};

use crate::peers::script;
use crate::place::Place;

/// Bytes of each direction in `entering.py`.
const BYTES: u64 = {
    let (mut sum, mut i) = (0, 0);
    while i < 4_000 {
        sum += 1 + i % 900;
        i += 1;
    }
    sum
};

/// Runs the one session, lets it in while it lives, and returns its end.
async fn run(how: &str, observe: bool) -> (SessionReport, usize) {
    let place = Place::one_namespace();
    let scope = Some(Scope { always: false, refusal: Some(Reason::Learning) });
    let mut datapath = Datapath::load(&Options { scope, ..Options::new(place.cgroup()) }).expect("loads");
    datapath.observe(observe).expect("the kernel has the tracepoints");
    let peer = script(&place, "entering.py", &[how]);
    let peer = tokio::task::spawn_blocking(move || peer.succeed());
    let mut entered = 0;
    let ended = loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        while let Some(event) = datapath.waiting_event() {
            if let SessionEvent::Closed(report, _) = event {
                peer.await.expect("every byte was right");
                return (report, entered);
            }
        }
        let sessions = datapath.sessions().expect("readable");
        if sessions.iter().any(|session| session.sent.path.is_none() && entered == 0) {
            entered += datapath.enter(&sessions).expect("the kernel can");
        }
        if peer.is_finished() {
            break datapath.next_event().await;
        }
    };
    panic!("no end was told: {ended:?}");
}

#[tokio::test]
async fn a_session_that_lives_enters_the_map_between_two_messages() {
    let (session, entered) = run("never", true).await;
    assert_eq!(entered, 1);
    for direction in [session.sent, session.received] {
        assert!(direction.kernel_bytes > 0 && direction.tcp_bytes > 0, "{session:?}");
        assert_eq!(direction.kernel_bytes + direction.tcp_bytes, BYTES, "{session:?}");
    }
}

#[tokio::test]
async fn who_blocks_in_reading_stays_on_tcp() {
    let (session, entered) = run("blocking", true).await;
    assert_eq!((entered, session.path), (0, Path::Tcp(Reason::Learning)), "{session:?}");
    assert_eq!((session.sent.tcp_bytes, session.received.tcp_bytes), (BYTES, BYTES));
}

#[tokio::test]
async fn what_was_not_observed_from_its_beginning_stays_on_tcp() {
    let (session, entered) = run("never", false).await;
    assert_eq!((entered, session.sent.kernel_bytes), (0, 0), "{session:?}");
}
