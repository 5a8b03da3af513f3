//! Sockets, ports and descriptors that are used again: nothing of one connection is ever read on another.

use std::time::Duration;

use patchbay_agent::datapath::{Datapath, Options, Path, Reason, Scope, SessionEvent, SessionReport};

use crate::peers::script;
use crate::place::Place;

/// Runs a case of a script in a scope where everything is redirected; returns its ended sessions.
pub async fn run(file: &str, case: &str) -> Vec<SessionReport> {
    run_with(true, file, case).await
}

/// The same; not `always`, a session may be taken back to TCP by what it carries.
pub async fn run_with(always: bool, file: &str, case: &str) -> Vec<SessionReport> {
    let place = Place::one_namespace();
    let scope = Some(Scope { always, refusal: None });
    let options = Options { scope, sessions_limit: 4_096, ..Options::new(place.cgroup()) };
    let mut datapath = Datapath::load(&options).expect("the kernel takes the programs");
    let mut peer = script(&place, file, &[case]);
    let (mut ended, mut running) = (Vec::new(), true);
    while running {
        running = peer.is_running();
        let event = tokio::time::timeout(Duration::from_millis(50), datapath.next_event()).await;
        if let Ok(event) = event
            && let SessionEvent::Closed(report, _) = event.expect("the ring can be read")
        {
            ended.push(report);
            running = true;
        }
    }
    peer.succeed();
    ended
}

fn redirected(sessions: &[SessionReport]) -> u64 {
    sessions.iter().map(|session| session.sent.kernel_bytes + session.received.kernel_bytes).sum()
}

macro_rules! cases {
    ($($case:ident)*) => { $(
        #[tokio::test]
        async fn $case() {
            let sessions = run("reuse.py", stringify!($case)).await;
            assert!(redirected(&sessions) > 0, "{sessions:?}");
        }
    )* };
}

cases! {
    ended_both_ways_then_connected_again
    what_came_before_the_end_can_be_read_after_it
    a_connected_socket_becomes_a_listening_one
    copies_of_a_descriptor
    handed_to_another_process
    the_same_ends_again
    a_port_gets_another_program
    disconnected_while_the_other_end_sends
}

/// A socket enters the map once in its life: its later connections stay on TCP, with this reason.
async fn stays_on_tcp_afterwards(case: &str, later: usize) {
    let sessions = run("reuse.py", case).await;
    assert!(redirected(&sessions) > 0, "{sessions:?}");
    let (again, first): (Vec<_>, Vec<_>) =
        sessions.iter().partition(|session| session.path == Path::Tcp(Reason::Reused));
    assert_eq!((first.len(), again.len()), (1, later), "{sessions:?}");
    assert!(again.iter().all(|session| session.sent.kernel_bytes + session.received.kernel_bytes == 0));
    assert!(again.iter().all(|session| session.received.tcp_bytes > 0), "they are counted: {again:?}");
}

#[tokio::test]
async fn disconnected_with_bytes_unread() {
    stays_on_tcp_afterwards("disconnected_with_bytes_unread", 1).await;
}

#[tokio::test]
async fn disconnected_many_times() {
    stays_on_tcp_afterwards("disconnected_many_times", 20).await;
}

#[tokio::test]
async fn an_accepted_socket_connects_elsewhere() {
    stays_on_tcp_afterwards("an_accepted_socket_connects_elsewhere", 1).await;
}
