//! A short run with the real programs: what it measures, and that nothing is left of it.
//!
//! Needs root and the agent's release build, which `cargo xtask test` makes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Names in the kernel are the machine's: one run at a time.
static ONE: Mutex<()> = Mutex::new(());
/// How long an interrupted run may take to report.
const REPORT_WITHIN: Duration = Duration::from_secs(30);

fn start(out: &Path, arguments: &[&str]) -> Child {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    Command::new(env!("CARGO_BIN_EXE_patchbay-bench"))
        .arg("run")
        .args(arguments)
        .arg("--out")
        .arg(out)
        .arg("--binaries")
        .arg(root.join("target/release"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts")
}

fn results(out: &Path) -> Value {
    let text = std::fs::read_to_string(out.join("results.json")).expect("results are kept");
    serde_json::from_str(&text).expect("they are JSON")
}

fn assert_nothing_is_left() {
    let namespaces = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let ours: Vec<PathBuf> = namespaces
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pbbench-")))
        .collect();
    assert!(ours.is_empty(), "{ours:?}");
    let cgroup = patchbay_agent::datapath::cgroup2_mount().expect("mounted").join("patchbay-bench");
    assert!(!cgroup.exists(), "{}", cgroup.display());
}

#[test]
fn redirected_bytes_are_measured_and_nothing_is_left() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let out = tempfile::tempdir().expect("a folder");
    let status =
        start(out.path(), &["--case", "loopback/request/64B", "--rounds", "1"]).wait().expect("ends");
    assert!(status.success());
    let results = results(out.path());
    let alternatives = results["cases"][0]["alternatives"].as_array().expect("alternatives");
    for name in ["plain TCP", "Patchbay auto", "Patchbay always", "plain recipe (unsafe)", "Unix socket"] {
        let found = alternatives.iter().find(|one| one["name"] == name).expect(name);
        let samples = found["rounds"][0]["samples"].as_array().unwrap_or_else(|| panic!("{name}: {results}"));
        let value =
            |metric: &str| samples.iter().find(|s| s["metric"] == metric).map(|s| s["value"].as_f64());
        assert!(value("p50").flatten() > Some(0.0), "{name}");
        assert!(value("cpu for each request").flatten() > Some(0.0), "{name}");
        // The ends of this case block in their reads, which `auto` leaves on TCP.
        let redirected = match name {
            "Patchbay always" => Some(100.0),
            "Patchbay auto" => Some(0.0),
            _ => continue,
        };
        assert_eq!(value("redirected").flatten(), redirected, "{name}");
    }
    let page = std::fs::read_to_string(out.path().join("index.html")).expect("a page");
    assert!(page.contains("<svg") && page.contains("patchbay-agent node --pods off --redirect always"));
    assert_nothing_is_left();
}

#[test]
fn an_interrupted_run_keeps_what_is_done_and_leaves_nothing() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let out = tempfile::tempdir().expect("a folder");
    let mut run = start(out.path(), &["--case", "matrix/loopback", "--rounds", "1"]);
    let begun = Instant::now();
    while !out.path().join("results.json").exists() && begun.elapsed() < REPORT_WITHIN {
        std::thread::sleep(Duration::from_millis(20));
    }
    kill(Pid::from_raw(run.id().cast_signed()), Signal::SIGINT).expect("it runs");
    assert!(run.wait().expect("ends").success());
    let results = results(out.path());
    assert_eq!(results["interrupted"], true);
    assert!(!results["cases"][0]["alternatives"][0]["rounds"].as_array().expect("rounds").is_empty());
    assert!(out.path().join("index.html").exists());
    assert_nothing_is_left();
}
