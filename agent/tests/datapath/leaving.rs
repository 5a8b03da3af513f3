//! Sessions that leave the map.

use std::time::Duration;

use patchbay_agent::datapath::{Datapath, Options, Reason, Scope};

use crate::peers::script;
use crate::place::Place;

/// Deleting a socket from the map throws its unread redirected bytes away, so a session whose reader pauses waits.
#[tokio::test]
async fn a_session_waits_for_its_reader_before_it_leaves() {
    let place = Place::one_namespace();
    let scope = Some(Scope { always: true, refusal: None });
    let mut datapath = Datapath::load(&Options { scope, ..Options::new(place.cgroup()) }).expect("loads");
    let peer = script(&place, "leaving.py", &[]);
    let peer = tokio::task::spawn_blocking(move || peer.succeed());
    let mut unread = 0;
    while !peer.is_finished() {
        tokio::time::sleep(Duration::from_millis(30)).await;
        for session in datapath.sessions().expect("readable") {
            if session.sent.kernel_bytes > 0 && session.leaving.is_none() && !session.outside {
                unread = datapath.unread(&session).expect("known")[1];
                datapath.leave(&session, Reason::SwitchedOff).expect("asked");
            }
        }
        datapath.let_out().expect("the kernel takes it");
    }
    assert!(unread > 0, "something was unread when the session was asked to leave");
    peer.await.expect("every byte came");
}
