//! `exec` and `node`: beside each other, in every kind of cgroup, killed, and started again.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use patchbay_agent::datapath::{cgroup2_mount, existing_bpf_folders};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tempfile::TempDir;

const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/patchbay-agent");
/// The two ends of the benchmarks: they ask for nothing but what sockets are for.
const ENDS_PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/patchbay-bench");
const SESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scopes.py");
/// Long enough for everything on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A cgroup and a folder of a test's own.
struct Lab {
    cgroup: PathBuf,
    folder: TempDir,
}

impl Lab {
    fn new() -> Self {
        let name = format!("pbs{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let cgroup = cgroup2_mount().expect("cgroup v2 is mounted").join(name);
        fs::create_dir(&cgroup).expect("root makes cgroups");
        Self { cgroup, folder: tempfile::tempdir().expect("a folder") }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command in a cgroup, in a network namespace of its own.
    fn command(&self, cgroup: &Path, program: &str) -> Command {
        let mut command = Command::new("unshare");
        let script = "echo 0 > \"$0/cgroup.procs\" && ip link set lo up && exec \"$@\"";
        command.args(["--net", "sh", "-c", script]).arg(cgroup).arg(program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `exec` there, with a report of its own.
    fn exec(&self, mode: &str, report: &str) -> Command {
        let mut command = self.command(&self.cgroup, AGENT);
        command.args(["exec", "--mode", mode, "--state-dir"]).arg(self.file("state"));
        command.arg("--report").arg(self.file(report)).arg("--");
        command
    }

    /// Sessions, and those that were redirected, as a report counts them.
    fn counted(&self, report: &str) -> (u64, u64) {
        let report = fs::read_to_string(self.file(report)).expect("a report");
        let report: Value = serde_json::from_str(&report).expect("JSON");
        let ports = report["ports"].as_object().expect("ports").values();
        ports.fold((0, 0), |(sessions, redirected), port| {
            let count = |name: &str| port[name].as_u64().expect("a number");
            (sessions + count("sessions"), redirected + count("redirected"))
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let begun = Instant::now();
        while self.cgroup.exists() && begun.elapsed() < Duration::from_secs(5) {
            remove(&self.cgroup);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn remove(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < WITHIN, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A command that `exec`s all the way through `unshare` and `sh` has its process id.
fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).expect("it runs");
}

fn end(child: Child) -> Output {
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}: {}", output.status, errors(&output));
    output
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Cgroups and pins whose names have a process's id.
fn left_of(lab: &Lab, process: u32) -> Vec<PathBuf> {
    let pins = existing_bpf_folders("patchbay-scopes").into_iter().map(|it| it.join(process.to_string()));
    pins.chain([lab.cgroup.join(format!("patchbay-exec-{process}"))]).filter(|it| it.exists()).collect()
}

#[test]
fn scopes_beside_each_other_live_and_end_in_any_order() {
    const RUNS: usize = 8;
    let seed = std::env::var("PATCHBAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    println!("PATCHBAY_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let lab = Lab::new();
    // Some before, some after: who came first may not be missed when it goes.
    let mut runs = Vec::new();
    for number in 0..RUNS {
        let sessions = random.random_range(20..80);
        let killed = number % 4 == 3;
        let mut command = lab.exec("always", &format!("{number}.json"));
        let began = lab.file(&format!("{number}.began"));
        command.args(["python3", SESSIONS, &sessions.to_string(), "0", "0.02"]).arg(&began);
        let child = command.spawn().expect("unshare is installed");
        runs.push((number, sessions, killed, began, child));
        std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
    }
    let mut dead = Vec::new();
    while !runs.is_empty() {
        let (number, sessions, killed, began, mut child) =
            runs.swap_remove(random.random_range(0..runs.len()));
        if killed {
            wait_for("its first session", || began.exists());
            send(&child, Signal::SIGKILL);
            child.wait().expect("ours");
            dead.push(child.id());
            continue;
        }
        end(child);
        assert_eq!(lab.counted(&format!("{number}.json")), (sessions, sessions), "run {number}");
    }
    // What the killed ones ran may go on for a while: it is only removed once it has ended.
    wait_for("what killed ones left is removed", || {
        end(lab.exec("always", "last.json").arg("true").spawn().expect("it starts"));
        dead.iter().all(|process| left_of(&lab, *process).is_empty())
    });
}

#[test]
fn a_program_stays_in_the_reach_of_whoever_started_exec() {
    let lab = Lab::new();
    let service = lab.cgroup.join("service");
    fs::create_dir(&service).expect("made");
    let place = lab.file("place");
    let mut command = lab.command(&service, AGENT);
    command.args(["exec", "--always", "--state-dir"]).arg(lab.file("state"));
    command.args([
        "sh",
        "-c",
        "grep ^0 /proc/self/cgroup > \"$0.next\"; mv \"$0.next\" \"$0\"; exec sleep 600",
    ]);
    let mut child = command.arg(&place).spawn().expect("it starts");
    wait_for("the program", || place.exists());
    let place = fs::read_to_string(place).expect("written");
    assert!(place.contains("/service/patchbay-exec-"), "{place}");
    fs::write(service.join("cgroup.kill"), "1").expect("Linux 5.14");
    child.wait().expect("ours");
    let events = |cgroup: &Path| fs::read_to_string(cgroup.join("cgroup.events")).expect("there");
    wait_for("the program's end", || events(&service).contains("populated 0"));
}

#[test]
fn a_killed_exec_harms_neither_its_program_nor_the_next_one() {
    let lab = Lab::new();
    let began = lab.file("began");
    let mut command = lab.exec("always", "killed.json");
    command.args(["python3", SESSIONS, "60", "0", "0.05"]).arg(&began);
    command.stdout(fs::File::create(lab.file("said")).expect("a file"));
    let mut child = command.spawn().expect("it starts");
    wait_for("its first session", || began.exists());
    send(&child, Signal::SIGKILL);
    child.wait().expect("ours");
    let left = left_of(&lab, child.id());
    assert_eq!(left.len(), 2, "its program goes on with what it has: {left:?}");
    // The next one takes sessions back to TCP, and leaves the program alone.
    end(lab.exec("always", "next.json").arg("true").spawn().expect("it starts"));
    wait_for("the program's end", || fs::read_to_string(lab.file("said")).is_ok_and(|said| said == "well\n"));
    wait_for("nothing is left", || {
        end(lab.exec("always", "next.json").arg("true").spawn().expect("it starts"));
        left_of(&lab, child.id()).is_empty()
    });
}

#[test]
fn reused_process_ids_of_pid_namespaces_collide_with_nothing() {
    let lab = Lab::new();
    let run = |program: &[&str]| {
        let mut command = lab.command(&lab.cgroup, "unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", AGENT]);
        command.args(["exec", "--always", "--state-dir"]).arg(lab.file("state")).args(program);
        command.spawn().expect("unshare is installed")
    };
    // All of them are process 1 of their namespace.
    let mut killed = run(&["sleep", "600"]);
    let cgroup = |name: &str| lab.cgroup.join(name);
    wait_for("the first", || cgroup("patchbay-exec-1").join("cgroup.procs").exists());
    end(run(&["true"]));
    assert!(cgroup("patchbay-exec-1").exists(), "the first still runs");
    send(&killed, Signal::SIGKILL);
    killed.wait().expect("ours");
    wait_for("the first's end", || {
        fs::read_to_string(cgroup("patchbay-exec-1/cgroup.events")).is_ok_and(|it| it.contains("populated 0"))
    });
    end(run(&["true"]));
    wait_for("nothing is left", || !cgroup("patchbay-exec-1").exists());
}

/// `node` on a cgroup, once it is ready.
fn node(lab: &Lab, cgroup: &Path) -> Child {
    let log = lab.file("node.log");
    let mut command = Command::new(AGENT);
    command.args(["node", "--pods", "off", "--redirect", "always", "--cgroup"]).arg(cgroup);
    command.arg("--state-dir").arg(lab.file("state")).arg("--report").arg(lab.file("node.json"));
    command.stdout(Stdio::piped()).stderr(fs::File::create(&log).expect("a file"));
    // SAFETY: none of this process's memory is touched: one system call.
    #[expect(unsafe_code, reason = "it ends with the test, however that ends")]
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    let child = command.spawn().expect("built");
    wait_for("node", || said(lab, "ready"));
    child
}

fn said(lab: &Lab, what: &str) -> bool {
    fs::read_to_string(lab.file("node.log")).is_ok_and(|log| log.contains(what))
}

#[test]
fn threaded_cgroups_are_watched() {
    let lab = Lab::new();
    let threaded = lab.cgroup.join("threaded");
    fs::create_dir(&threaded).expect("made");
    fs::write(threaded.join("cgroup.type"), "threaded").expect("it can be");
    let scope = node(&lab, &lab.cgroup);
    let mut inside = lab.command(&threaded, "python3");
    end(inside.args([SESSIONS, "5"]).spawn().expect("it starts"));
    // A cgroup made in a threaded one is threaded too, else nothing can be in it.
    let mut inner = lab.command(&threaded, AGENT);
    inner.args(["exec", "--off", "--state-dir"]).arg(lab.file("state"));
    end(inner.args(["python3", SESSIONS, "5"]).spawn().expect("it starts"));
    send(&scope, Signal::SIGTERM);
    end(scope);
    assert_eq!(lab.counted("node.json"), (10, 10));
}

#[test]
fn a_cgroup_that_is_made_again_is_watched_again() {
    let lab = Lab::new();
    let container = lab.cgroup.join("container");
    fs::create_dir(&container).expect("made");
    let scope = node(&lab, &container);
    let run = || end(lab.command(&container, "python3").args([SESSIONS, "5"]).spawn().expect("it starts"));
    run();
    fs::remove_dir(&container).expect("empty");
    wait_for("it says so", || said(&lab, "the cgroup was removed"));
    fs::create_dir(&container).expect("made");
    wait_for("it says so", || said(&lab, "there again"));
    run();
    send(&scope, Signal::SIGTERM);
    end(scope);
    assert_eq!(lab.counted("node.json"), (10, 10));
}

/// Observing counts sessions and calls; a service with one connection that lives must not stay on TCP for ever.
#[test]
fn the_only_connection_of_two_programs_is_redirected_while_it_lives() {
    const ENDS: &str = "(sleep 8 | \"$0\" end serve --at tcp:127.0.0.1:7000 $1) & sleep 0.5
        \"$0\" end drive --to tcp:127.0.0.1:7000 --measure 6000 $1; wait";
    let lab = Lab::new();
    let mut command = lab.exec("auto", "report.json");
    command.args(["sh", "-c", ENDS, ENDS_PROGRAM, "--kind request --size 512 --style epoll"]);
    end(command.spawn().expect("it starts"));
    assert_eq!(lab.counted("report.json"), (1, 1), "one session, redirected");
}

/// What was learned in a lab's runs: the ends of sessions by name.
fn learned(lab: &Lab) -> Vec<String> {
    let output =
        Command::new(AGENT).args(["profiles", "--json", "--state-dir"]).arg(lab.file("state")).output();
    let output = output.expect("built");
    assert!(output.status.success(), "{}", errors(&output));
    let by_folder: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let [profiles] = &by_folder.as_object().expect("folders").values().collect::<Vec<_>>()[..] else {
        panic!()
    };
    profiles["endpoints"].as_object().expect("ends").keys().cloned().collect()
}

#[test]
fn programs_whose_ports_are_the_systems_choice_are_one() {
    let many = "import socket, sys, time\n\
                for i in range(300):\n    \
                    with socket.create_server(('127.0.0.1', 0)) as listener:\n        \
                        with socket.create_connection(listener.getsockname()) as c:\n            \
                            s, _ = listener.accept()\n            \
                            with s: c.sendall(b'x'); assert s.recv(1) == b'x'; time.sleep(0.002)\n";
    let lab = Lab::new();
    let script = lab.file("many.py");
    fs::write(&script, many).expect("written");
    for run in 0..3 {
        end(lab.exec("auto", "many.json").arg("python3").arg(&script).spawn().expect("it starts"));
        assert_eq!(lab.counted("many.json").0, 300, "run {run}");
        let ends = learned(&lab);
        assert_eq!(ends.len(), 2, "{ends:?}");
        assert!(ends.iter().all(|end| end.contains(":many.py#") && end.ends_with(" any")), "{ends:?}");
    }
    let report = fs::read_to_string(lab.file("many.json")).expect("a report");
    assert!(!report.contains("program being observed"), "it is known by now: {}", &report[..2_000]);
    let file = fs::metadata(lab.file("state/profiles.toml")).expect("written");
    assert!(file.len() < 4_000, "{} bytes", file.len());
}

#[test]
fn two_scripts_of_an_interpreter_are_two_programs_and_a_changed_one_is_a_third() {
    let lab = Lab::new();
    let script = |name: &str| lab.file(name);
    for name in ["one.py", "other.py"] {
        fs::copy(SESSIONS, script(name)).expect("copied");
    }
    let run = |name: &str| {
        let mut command = lab.exec("auto", "scripts.json");
        command.args(["sh", "-c", "python3 \"$0\" 10 23980 0.02"]).arg(script(name));
        end(command.spawn().expect("it starts"));
    };
    let of =
        |ends: &[String], name: &str| ends.iter().filter(|end| end.contains(&format!(":{name}#"))).count();
    run("one.py");
    run("other.py");
    let ends = learned(&lab);
    assert_eq!((of(&ends, "one.py"), of(&ends, "other.py"), ends.len()), (2, 2, 4), "{ends:?}");
    assert!(ends.iter().all(|end| end.ends_with(" to 23980") || end.ends_with(" at 23980")), "{ends:?}");
    run("one.py");
    assert_eq!(learned(&lab), ends, "nothing has changed");
    let text = fs::read_to_string(SESSIONS).expect("ours");
    fs::write(script("one.py"), text + "# changed\n").expect("written");
    run("one.py");
    let ends = learned(&lab);
    assert_eq!((of(&ends, "one.py"), of(&ends, "other.py")), (4, 2), "{ends:?}");
}

#[test]
fn a_profile_file_that_is_no_good_is_said_and_keeps_nothing_from_starting() {
    let lab = Lab::new();
    fs::create_dir(lab.file("state")).expect("made");
    fs::write(lab.file("state/profiles.toml"), "version = 1\n[endpoints]\n\"a\" = 7").expect("written");
    let output =
        end(lab.exec("auto", "any.json").args(["python3", SESSIONS, "3"]).spawn().expect("it starts"));
    assert!(errors(&output).contains("of version 1"), "{}", errors(&output));
    assert_eq!(lab.counted("any.json").0, 3);
}

#[test]
fn what_was_learned_decides_the_first_session_of_the_next_run() {
    let lab = Lab::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scopes.pl");
    let run = |port: &str| {
        let mut command = lab.exec("auto", "perl.json");
        end(command.args(["perl", script, "60", port]).spawn().expect("perl is installed"));
        lab.counted("perl.json")
    };
    for port in ["0", "23981"] {
        assert_eq!(run(port).0, 60);
        assert_eq!(run(port), (60, 60), "{:?}", learned(&lab));
    }
    // Another server there is not known, whatever is known of the port.
    let other = lab.file("other.pl");
    fs::copy(script, &other).expect("copied");
    let mut command = lab.exec("auto", "other.json");
    end(command.arg("perl").arg(&other).args(["10", "23981"]).spawn().expect("perl is installed"));
    assert_eq!(lab.counted("other.json"), (10, 0));
}
