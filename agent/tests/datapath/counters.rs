//! What is counted is what programs sent, to the byte, whatever the path and however it changed.

use std::time::Duration;

use patchbay_agent::datapath::{Datapath, Options, Reason, Scope, SessionEvent};

use crate::peers::script;
use crate::place::Place;

/// Runs senders of every kind while something is done to the data path; compares. Returns the redirected bytes.
async fn counted(rounds: u32, refusal: Option<Reason>, mut disturb: impl FnMut(&mut Datapath, usize)) -> u64 {
    let place = Place::one_namespace();
    let scope = Some(Scope { always: true, refusal });
    let options = Options { scope, ..Options::new(place.cgroup()) };
    let mut datapath = Datapath::load(&options).expect("the kernel takes the programs");
    let mut peer = script(&place, "counters.py", &[&rounds.to_string()]).within(100);
    let (mut sent, mut received, mut redirected, mut step) = (0, 0, 0, 0);
    loop {
        let running = peer.is_running();
        if !running {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        while let Some(event) = datapath.waiting_event() {
            if let SessionEvent::Closed(report, _) = event {
                sent += report.sent.kernel_bytes + report.sent.tcp_bytes;
                received += report.received.kernel_bytes + report.received.tcp_bytes;
                redirected += report.sent.kernel_bytes + report.received.kernel_bytes;
            }
        }
        if !running {
            break;
        }
        step += 1;
        disturb(&mut datapath, step);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        peer.output().trim(),
        format!("{sent} {received}"),
        "what programs sent, and what was counted"
    );
    redirected
}

#[tokio::test]
async fn redirected_bytes_and_those_over_tcp_are_all_that_was_sent() {
    assert!(counted(40, None, |_, _| {}).await > 0);
}

#[tokio::test]
async fn over_tcp_alone_they_are_counted_too() {
    assert_eq!(counted(20, Some(Reason::Never), |_, _| {}).await, 0);
}

#[tokio::test]
async fn switching_and_leaving_lose_no_count() {
    let disturb = |datapath: &mut Datapath, step: usize| {
        for _ in 0..200 {
            datapath.set_redirection(false).expect("the kernel takes it");
            datapath.set_redirection(true).expect("the kernel takes it");
        }
        datapath.set_redirection(!step.is_multiple_of(5)).expect("the kernel takes it");
        if step.is_multiple_of(30) {
            for session in datapath.sessions().expect("readable") {
                datapath.leave(&session, Reason::SwitchedOff).expect("asked");
            }
        }
        datapath.let_out().expect("the kernel takes it");
    };
    assert!(counted(40, None, disturb).await > 0);
}
