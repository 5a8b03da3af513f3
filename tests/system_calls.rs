//! System calls with redirection off and on: equal results, except for what is listed here, which `auto`
//! keeps programs from.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use patchbay_agent::datapath::{Habit, RECEIVING_CALLS, SENDING_CALLS, habit};
use patchbay_agent_core::habit_names::name;
use serde_json::Value;

/// The agent.
const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/patchbay-agent");
/// One at a time: the stuck receivers take much of the machine's TCP memory.
static TURN: Mutex<()> = Mutex::new(());

/// What differs on a redirected socket, and the habit that keeps programs with it from being redirected.
const KNOWN_DIFFERENCES: [(&str, &str); 17] = [
    ("half_close_waits_in_read", "blocking reads"),
    ("signal_in_read", "blocking reads"),
    ("reset_in_read", "blocking reads"),
    ("concurrent_reader_and_writer", "blocking reads"),
    ("wait_all", "recv with MSG_WAITALL"),
    ("minimum", "setsockopt SO_RCVLOWAT"),
    ("zero_copy", "send with MSG_ZEROCOPY"),
    ("queue_size", "setsockopt TCP_INQ"),
    ("more", "none: MSG_MORE asks for later, the bytes come at once"),
    ("cork", "none: TCP_CORK asks for later, the bytes come at once"),
    ("tcp_info_bytes", "none: counters for monitoring; a session's own are in `patchbay sessions`"),
    ("urgent", "send with MSG_OOB"),
    ("splice", "splice"),
    ("thrown_away", "recv with MSG_TRUNC"),
    ("receive_nothing", "recv of 0 bytes"),
    ("error_told_by_send", "none: the next receive tells the error once more, then the end"),
    ("send_nothing_after_the_end", "send of 0 bytes after the end"),
];

/// What a program under `exec` has left.
struct Outcome {
    printed: String,
    report: Value,
    profiles: String,
    /// Its and the agent's messages.
    told: String,
}

impl Outcome {
    /// A sum over all ports.
    fn sum(&self, what: &str) -> u64 {
        let ports = self.report["ports"].as_object().expect("ports").values();
        ports.filter_map(|port| port[what].as_u64()).sum()
    }
}

/// Runs a script under `exec` in a network namespace of its own.
fn run_script(interpreter: &str, script: &[&str], mode: &str) -> Outcome {
    run_allowing(&[], interpreter, script, mode)
}

/// The same, with more flags of `exec`.
fn run_allowing(flags: &[&str], interpreter: &str, script: &[&str], mode: &str) -> Outcome {
    let name = script.join("-");
    let folder = std::env::temp_dir().join(format!("patchbay-{name}-{mode}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let report = folder.join("report.json");
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\"", AGENT])
        .args(["exec", "--quiet", "--mode", mode, "--state-dir"])
        .arg(&folder)
        .arg("--report")
        .arg(&report)
        .args(flags)
        .args(["--", "timeout", "100", interpreter])
        .args(script)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .output()
        .expect("unshare is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let outcome = Outcome {
        printed: String::from_utf8(output.stdout).expect("text"),
        report: serde_json::from_str(&std::fs::read_to_string(&report).expect("a report")).expect("JSON"),
        told: String::from_utf8_lossy(&output.stderr).into_owned(),
        profiles: std::fs::read_to_string(folder.join("profiles.toml")).unwrap_or_default(),
    };
    std::fs::remove_dir_all(&folder).expect("ours");
    outcome
}

/// Runs a Python program; returns what it printed and how many bytes were redirected.
fn run(script: &str, mode: &str) -> (Value, u64) {
    let outcome = run_script("python3", &[script], mode);
    (serde_json::from_str(&outcome.printed).expect("JSON"), outcome.sum("kernel_bytes"))
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
fn what_a_program_does_late_is_answered_as_by_tcp_and_remembered() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for (late, habit) in [
        ("none", None),
        ("half_close", None),
        ("unread", Some("ioctl FIONREAD")),
        ("peek", Some("setsockopt SO_PEEK_OFF")),
    ] {
        let off = run_script("perl", &["late.pl", late], "off");
        let auto = run_script("perl", &["late.pl", late], "auto");
        assert_eq!(auto.printed, off.printed, "{late}");
        assert!(auto.sum("redirected") > 0, "{late} was redirected before: {}", auto.report);
        match habit {
            Some(habit) => {
                assert!(auto.profiles.contains(habit), "{late}: {}", auto.profiles);
                let reasons = auto.report["ports"].to_string();
                assert!(reasons.contains(&format!("program uses {habit}")), "{late}: {reasons}");
            }
            None => {
                let mut kept = auto.profiles.lines().filter(|line| !line.starts_with('#'));
                assert!(!kept.any(|line| line.contains("habits")), "{late}: {}", auto.profiles);
            }
        }
    }
}

#[test]
fn a_first_splice_with_bytes_unread_gets_no_wrong_ones_and_later_ones_are_answered_by_tcp() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    const RIGHT: &str = "0123456789\n";
    assert_eq!(run_script("perl", &["late.pl", "splice"], "off").printed, RIGHT.repeat(4));
    let auto = run_script("perl", &["late.pl", "splice"], "auto");
    assert!(auto.sum("redirected") > 0, "{}", auto.report);
    assert_eq!(auto.printed, format!("Connection reset by peer\n{}", RIGHT.repeat(3)));
    assert!(auto.profiles.contains("\"splice\""), "{}", auto.profiles);
}

#[test]
fn a_program_that_is_vouched_for_is_redirected_until_it_breaks_the_word() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    const RIGHT: &str = "unread\n";
    const ALLOW: [&str; 2] = ["--allow", "splice"];
    let alone = run_script("python3", &["vouched.py", "none"], "auto");
    assert_eq!((&*alone.printed, alone.sum("redirected")), (&*RIGHT.repeat(4), 0), "its file calls splice");
    let kept = run_allowing(&ALLOW, "python3", &["vouched.py", "none"], "auto");
    assert_eq!(kept.printed, RIGHT.repeat(4));
    assert!(kept.sum("redirected") >= 4, "{}", kept.report);
    let broken = run_allowing(&ALLOW, "python3", &["vouched.py", "splice"], "auto");
    assert_eq!(broken.printed, format!("ECONNRESET\n{}", RIGHT.repeat(3)), "{}", broken.report);
    assert!(broken.profiles.contains("\"splice\""), "{}", broken.profiles);
    assert!(broken.told.contains("it was said not to splice out of its sockets"), "{}", broken.told);
}

#[test]
fn every_entry_of_the_list_of_harmless_habits_has_a_row() {
    let script = Command::new("python3")
        .args(["-c", "import json, habit_rows; print(json.dumps(sorted(habit_rows.ROWS)))"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("python3 is installed");
    let rows: BTreeSet<String> = serde_json::from_slice(&script.stdout).expect("JSON");
    let call = |number: &i64| {
        let name = name(Habit::call(u32::try_from(*number).expect("a number of a call")));
        name.split(' ').next().unwrap_or_default().to_owned()
    };
    let settable = habit::SET_LISTED.iter();
    let entries: BTreeSet<String> = settable
        .clone()
        .map(|(level, option)| format!("set {level} {option}"))
        .chain(
            settable
                .chain(&habit::GET_LISTED)
                .filter(|entry| **entry != habit::NOT_GOT)
                .map(|(level, option)| format!("get {level} {option}")),
        )
        .chain(habit::IOCTL_LISTED.iter().map(|request| format!("ioctl {request:#x}")))
        .chain(habit::receive_flag::LISTED.iter().map(|flag| format!("receive {flag:#x}")))
        .chain(habit::send_flag::LISTED.iter().map(|flag| format!("send {flag:#x}")))
        .chain(RECEIVING_CALLS.iter().map(|number| format!("receives by {}", call(number))))
        .chain(SENDING_CALLS.iter().map(|number| format!("sends by {}", call(number))))
        .collect();
    assert_eq!(entries, rows);
}

#[test]
fn programs_made_by_seed_see_the_same_with_redirection() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    /// Programs for each mode.
    const PROGRAMS: &str = "400";
    for mode in ["always", "auto"] {
        let seed = std::env::var("PATCHBAY_SEED").unwrap_or_else(|_| "1".into());
        let output = Command::new("python3")
            .args(["call_fuzz.py", "compare", AGENT, &seed, PROGRAMS, mode])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("python3 is installed");
        let (told, failed) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{told}{failed}");
    }
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
