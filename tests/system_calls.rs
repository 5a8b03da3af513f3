//! System calls with redirection off and on: equal results, except for what is listed here, which `auto`
//! keeps programs from.

use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// One at a time: the stuck receivers take much of the machine's TCP memory.
static TURN: Mutex<()> = Mutex::new(());

/// What differs on a redirected socket, and the habit by which `auto` knows programs that do it.
const KNOWN_DIFFERENCES: [(&str, &str); 12] = [
    ("half_close_waits_in_read", "blocking reads with half-close"),
    ("reset_in_read", "none: EAGAIN comes once before ECONNRESET, nothing is lost"),
    ("wait_all", "MSG_WAITALL"),
    ("minimum", "SO_RCVLOWAT"),
    ("zero_copy", "MSG_ZEROCOPY"),
    ("queue_size", "TCP_INQ"),
    ("more", "none: MSG_MORE asks for later, the bytes come at once"),
    ("cork", "none: TCP_CORK asks for later, the bytes come at once"),
    ("tcp_info_bytes", "none: counters for monitoring; a session's own are in `patchbay sessions`"),
    ("urgent", "urgent data"),
    ("splice", "splice"),
    ("concurrent_reader_and_writer", "blocking reader with concurrent writer"),
];

/// Runs a Python program under `exec` in a network namespace of its own; returns what it printed and how
/// many bytes were redirected.
fn run(script: &str, mode: &str) -> (Value, u64) {
    let folder = std::env::temp_dir().join(format!("patchbay-{script}-{mode}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let report = folder.join("report.json");
    let agent = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/patchbay-agent");
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\"", agent])
        .args(["exec", "--quiet", "--mode", mode, "--state-dir"])
        .arg(&folder)
        .arg("--report")
        .arg(&report)
        .args(["--", "timeout", "100", "python3"])
        .arg(format!("{}/{script}", env!("CARGO_MANIFEST_DIR")))
        .stdin(Stdio::null())
        .output()
        .expect("unshare is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = serde_json::from_slice(&output.stdout).expect("JSON");
    let report: Value =
        serde_json::from_str(&std::fs::read_to_string(&report).expect("a report")).expect("JSON");
    std::fs::remove_dir_all(&folder).expect("ours");
    let ports = report["ports"].as_object().expect("ports").values();
    (printed, ports.filter_map(|port| port["kernel_bytes"].as_u64()).sum())
}

#[test]
fn results_are_equal_except_for_what_is_known() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (off, none) = run("system_calls.py", "off");
    let (on, redirected) = run("system_calls.py", "always");
    assert_eq!(none, 0);
    assert!(redirected > 1 << 20, "{redirected} bytes were redirected");
    let mut unexplained = Vec::new();
    for (row, expected) in off.as_object().expect("rows") {
        let known = KNOWN_DIFFERENCES.iter().any(|(name, _)| name == row);
        if on[row] != *expected && !known {
            unexplained.push(format!("{row}: {expected} became {}", on[row]));
        }
    }
    assert_eq!(unexplained, Vec::<String>::new());
    // In `auto`, programs that are not known yet are on TCP: everything is equal.
    let (auto, _) = run("system_calls.py", "auto");
    assert_eq!(auto, off);
}

#[test]
fn receivers_that_never_read_stop_their_senders_under_a_bound() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    const RECEIVERS: u64 = 1_000;
    /// The budget, which is a receive buffer and half a send buffer at most, and what TCP's own buffers
    /// take besides, in bytes.
    const MOST_FOR_EACH: u64 = 2 << 20;
    let (off, _) = run("stuck.py", "off");
    let (on, redirected) = run("stuck.py", "always");
    assert!(redirected > 0);
    for report in [&off, &on] {
        assert_eq!(report["right"], Value::Bool(true));
        assert!(report["most"].as_u64() < Some(MOST_FOR_EACH), "{report}");
    }
    // Redirection adds its budget to what TCP holds, no more.
    let given = |report: &Value| report["given"].as_u64().expect("a number");
    assert!(given(&on) < given(&off) + RECEIVERS * (1 << 20), "{off} {on}");
}
