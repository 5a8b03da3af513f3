//! Sessions that enter the map in mid-life.

use std::time::Duration;

use patchbay_agent::datapath::{Datapath, Options, Path, Reason, Scope, SessionEvent, SessionReport, Watch};

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

/// How often it is tried to let a session in.
const TRIES: u32 = 25;

/// Runs the one session, lets it in while it lives, and returns its end.
async fn run(how: &str, observe: bool) -> (SessionReport, usize) {
    let place = Place::one_namespace();
    let scope = Some(Scope { always: false, refusal: Some(Reason::Learning) });
    let mut datapath = Datapath::load(&Options { scope, ..Options::new(place.cgroup()) }).expect("loads");
    datapath
        .observe(if observe { Watch::Everything } else { Watch::Nothing })
        .expect("the kernel has the tracepoints");
    let mut peer = script(&place, "entering.py", &[how]);
    let (mut entered, mut ended, mut tries) = (0, None, 0);
    while ended.is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        while let Some(event) = datapath.waiting_event() {
            if let SessionEvent::Closed(report, _) = event {
                ended = Some(report);
            }
        }
        let sessions = datapath.sessions().expect("readable");
        // Its ends may not yet be what they will be: they block at first.
        if entered == 0 && tries < TRIES && sessions.iter().any(|session| session.sent.path.is_none()) {
            entered = datapath.enter(&sessions).expect("the kernel can");
            tries += 1;
        }
        datapath.let_in().expect("the kernel can");
        if (entered > 0 || tries == TRIES) && !datapath.is_entering() {
            peer.release();
        }
        assert!(ended.is_some() || peer.is_running(), "no end was told");
    }
    peer.succeed();
    (ended.expect("as above"), entered)
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

/// A reading call that began before its socket was in the map ends as TCP's own, whatever has come since.
#[tokio::test]
async fn sessions_that_end_soon_after_they_entered_lose_nothing() {
    let place = Place::one_namespace();
    let scope = Some(Scope { always: false, refusal: Some(Reason::Learning) });
    let mut datapath = Datapath::load(&Options { scope, ..Options::new(place.cgroup()) }).expect("loads");
    datapath.observe(Watch::Everything).expect("the kernel has the tracepoints");
    let mut peer = script(&place, "entering_ends.py", &[]);
    let mut redirected = false;
    while peer.is_running() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        while datapath.waiting_event().is_some() {}
        let sessions = datapath.sessions().expect("readable");
        let (waiting, inside): (Vec<_>, Vec<_>) = sessions.into_iter().partition(|session| session.outside);
        datapath.enter(&waiting).expect("the kernel can");
        datapath.let_in().expect("the kernel can");
        if inside.iter().any(|session| session.sent.kernel_bytes > 0) {
            redirected = true;
            peer.release();
        }
    }
    peer.succeed();
    assert!(redirected, "nothing was redirected");
}
