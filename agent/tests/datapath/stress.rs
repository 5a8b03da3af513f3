//! Sessions of every kind while the data path is switched, replaced, filled and emptied; the stress
//! program checks every byte by its position.
//!
//! `cargo xtask stress` makes a longer or another run, by these variables: `PATCHBAY_STRESS_SECONDS`,
//! `PATCHBAY_STRESS_GIGABYTES`, `PATCHBAY_STRESS_SEED`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::place::Place;
use patchbay_agent::datapath::{Datapath, Options, Reason, Scope, SessionReport, Watch};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

/// Longest pause between two disturbances.
const PAUSE: Duration = Duration::from_millis(60);

/// Runs of the stress program until a session that enters is redirected.
const RUNS: usize = 10;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn start(place: &Place, arguments: &[&str]) -> Child {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/patchbay-stress");
    assert!(program.exists(), "{} is not built: run `cargo xtask test`", program.display());
    Command::new("sh")
        .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
        .arg(place.cgroup().join("s/cgroup.procs"))
        .arg("nsenter")
        .arg(format!("--net=/run/netns/{}", place.namespace("s")))
        .arg(program)
        .args(["--seed", &setting("PATCHBAY_STRESS_SEED", 1).to_string()])
        .args(["--seconds", &setting("PATCHBAY_STRESS_SECONDS", 8).to_string()])
        .args(["--gigabytes", &setting("PATCHBAY_STRESS_GIGABYTES", 1_000_000).to_string()])
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts")
}

/// The stress program found nothing wrong. Returns how many of the bytes that it checked went through the kernel, with those
/// that are known already.
async fn assert_right(child: Child, datapath: &mut Datapath, mut kernel_bytes: u64) -> u64 {
    let output =
        tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("no panic").expect("ends");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["problems"], Value::Array(Vec::new()));
    assert!(report["sessions"].as_u64() > Some(20), "{report}");
    kernel_bytes += drained(datapath);
    println!("{kernel_bytes} bytes of established and ended sessions went through the kernel; {report}");
    kernel_bytes
}

/// Kernel bytes of the sessions that have ended since the last look.
fn drained(datapath: &mut Datapath) -> u64 {
    let mut bytes = 0;
    while let Some(event) = datapath.waiting_event() {
        let report = event.report();
        bytes += report.sent.kernel_bytes + report.received.kernel_bytes;
    }
    bytes
}

#[tokio::test]
async fn paths_are_switched_sessions_leave_and_agents_are_replaced() {
    let place = Place::one_namespace();
    let scope = Some(Scope { always: true, refusal: None });
    let options = Options { pins: Some(place.pins()), scope, ..Options::new(place.cgroup()) };
    let mut datapath = Datapath::load(&options).expect("the kernel takes the programs");
    let mut child = start(&place, &["--safe"]);
    let mut random = StdRng::seed_from_u64(setting("PATCHBAY_STRESS_SEED", 1));
    let (mut kernel_bytes, mut left) = (0, 0);
    while child.try_wait().expect("it is ours").is_none() {
        tokio::time::sleep(PAUSE.mul_f64(random.random())).await;
        kernel_bytes += drained(&mut datapath);
        match random.random_range(0..8) {
            0 => {
                // As after `kill -9`: the next agent finds what is pinned.
                drop(datapath);
                datapath = Datapath::load(&options).expect("the pinned maps are taken over");
            }
            1..=3 => {
                let sessions = datapath.sessions().expect("readable");
                for session in sessions.iter().filter(|session| !session.outside) {
                    if random.random_bool(0.3) {
                        left += 1;
                        datapath.leave(session, Reason::SwitchedOff).expect("asked");
                    }
                }
            }
            4 => datapath.set_redirection(false).expect("the kernel takes it"),
            _ => datapath.set_redirection(true).expect("the kernel takes it"),
        }
        datapath.let_out().expect("the kernel takes it");
    }
    assert!(left > 0, "sessions were asked to leave");
    assert!(assert_right(child, &mut datapath, kernel_bytes).await > 0, "nothing was redirected");
    drop(datapath);
    Datapath::detach(&place.pins()).expect("no trace is left");
}

#[tokio::test]
async fn full_tables_leave_sessions_on_tcp() {
    let place = Place::one_namespace();
    let scope = Some(Scope { always: true, refusal: None });
    let options = Options { scope, sessions_limit: 3, ..Options::new(place.cgroup()) };
    let mut datapath = Datapath::load(&options).expect("the kernel takes the programs");
    let child = start(&place, &["--safe", "--parallel", "16"]);
    assert!(assert_right(child, &mut datapath, 0).await > 0, "nothing was redirected");
}

/// Readers that never block may be in the middle of anything when their session enters.
#[tokio::test]
async fn sessions_enter_while_their_bytes_flow() {
    let place = Place::one_namespace();
    let scope = Some(Scope { always: false, refusal: Some(Reason::Learning) });
    let mut datapath = Datapath::load(&Options { scope, ..Options::new(place.cgroup()) }).expect("loads");
    datapath.observe(Watch::Everything).expect("the kernel has the tracepoints");
    let mut random = StdRng::seed_from_u64(setting("PATCHBAY_STRESS_SEED", 1));
    let (mut kernel_bytes, mut entered) = (0, 0);
    // On a machine so busy that readers never catch up, none of a run's sessions may be redirected.
    for _ in 0..RUNS {
        if kernel_bytes == 0 {
            kernel_bytes = let_in_and_out(&place, &mut datapath, &mut random, &mut entered).await;
        }
    }
    assert!(entered > 20, "{entered} sessions entered");
    assert!(kernel_bytes > 0, "nothing was redirected");
}

/// Lets sessions into the map, and out again once they are redirected, for a run of the stress program; returns the bytes
/// that went through the kernel.
async fn let_in_and_out(
    place: &Place,
    datapath: &mut Datapath,
    random: &mut StdRng,
    entered: &mut usize,
) -> u64 {
    let mut child = start(place, &["--kinds", "duplex,edge,frames", "--longest", "256"]);
    let mut kernel_bytes = 0;
    while child.try_wait().expect("it is ours").is_none() {
        tokio::time::sleep(PAUSE.mul_f64(random.random())).await;
        kernel_bytes += drained(datapath);
        let sessions = datapath.sessions().expect("readable");
        let (waiting, inside): (Vec<_>, Vec<_>) = sessions.into_iter().partition(|session| session.outside);
        *entered += datapath.enter(&waiting).expect("the kernel can");
        let redirected =
            |session: &&SessionReport| session.sent.kernel_bytes + session.received.kernel_bytes > 0;
        for session in inside.iter().filter(redirected).filter(|_| random.random_bool(0.1)) {
            datapath.leave(session, Reason::SwitchedOff).expect("asked");
        }
        datapath.let_in().expect("the kernel takes it");
        datapath.let_out().expect("the kernel takes it");
    }
    assert_right(child, datapath, kernel_bytes).await
}
