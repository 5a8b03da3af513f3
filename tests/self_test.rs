//! The agent's self-test: nothing is redirected before it has passed, nor after it has failed for whatever
//! reason, and nothing else waits for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use patchbay_tests::{HELLO, Node, REPOSITORY};

/// Long enough for everything on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);

/// Does something to the cgroup of the next self-test below a cgroup, once `ready` holds of it.
fn meddle(
    below: &Path,
    ready: impl Fn(&Path) -> bool + Send + 'static,
    meddle: impl FnOnce(&Path) + Send + 'static,
) -> JoinHandle<()> {
    let below = below.to_owned();
    std::thread::spawn(move || {
        let begun = Instant::now();
        while begun.elapsed() < WITHIN {
            if let Some(cgroup) = cgroups_in(&below).into_iter().find(|cgroup| ready(cgroup)) {
                meddle(&cgroup);
                return;
            }
            std::thread::yield_now();
        }
        panic!("no self-test began");
    })
}

fn cgroups_in(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    let of_tests = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("patchbay-probe-"));
    of_tests.map(|entry| entry.path()).collect()
}

fn members(cgroup: &Path) -> Vec<String> {
    let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    members.lines().map(str::to_owned).collect()
}

/// A node whose agent registers while something is done to its self-test.
fn node_with(
    ready: impl Fn(&Path) -> bool + Send + 'static,
    what: impl FnOnce(&Path) + Send + 'static,
) -> Node {
    let mut node = Node::start_without_agent(REPOSITORY);
    let meddling = meddle(&node.cgroup().join("control"), ready, what);
    node.start_agent_untested();
    meddling.join().expect("it is done");
    node
}

/// A user talks through a session between two services, which goes over TCP for this reason.
fn works_over_tcp(node: &Node, reason: &str) {
    assert!(node.apply(HELLO).status.success());
    let _ = node.running("gateway");
    let script = "import socket; s = socket.create_connection(('127.0.0.1', 9000)); s.sendall(b'world\\n'); print(s.recv(99))";
    node.wait("the gateway answers", |node| {
        let output = node.command("python3").args(["-c", script]).output().expect("python3 is installed");
        String::from_utf8_lossy(&output.stdout).contains("hello, world")
    });
    node.wait("its session is counted", |node| node.sessions().iter().any(|it| it.sent.tcp_bytes > 0));
    for session in node.sessions() {
        assert_eq!((session.path.as_str(), session.sent.kernel_bytes), ("tcp", 0), "{session:?}");
        assert_eq!(session.reason.as_deref(), Some(reason), "{session:?}");
    }
}

#[test]
fn a_hanging_self_test_delays_no_instance_and_nothing_is_redirected() {
    // Whoever enters a frozen cgroup stops before it runs anything: whoever starts it waits without end.
    let freeze = |cgroup: &Path| fs::write(cgroup.join("cgroup.freeze"), "1").expect("it can be frozen");
    let node = node_with(|_| true, freeze);
    works_over_tcp(&node, "self-test not done yet");
    assert!(node.list("nodes").contains("self-test has not ended"), "{}", node.list("nodes"));
}

#[test]
fn a_self_test_whose_other_end_stops_means_no_redirection() {
    let stop = |cgroup: &Path| {
        for process in members(cgroup) {
            assert!(Command::new("kill").args(["-STOP", &process]).status().expect("it runs").success());
        }
    };
    let node = node_with(|cgroup| !members(cgroup).is_empty(), stop);
    node.wait("it is given up", |node| node.list("nodes").contains("self-test failed"));
    works_over_tcp(&node, "node cannot redirect");
    assert!(cgroups_in(&node.cgroup().join("control")).is_empty(), "nothing of it stays");
}

#[test]
fn a_self_test_that_cannot_begin_means_no_redirection() {
    let mut node = Node::start_without_agent(REPOSITORY);
    fs::write(node.cgroup().join("control/cgroup.max.descendants"), "0").expect("a limit");
    node.start_agent();
    assert!(node.list("nodes").contains("self-test failed"), "{}", node.list("nodes"));
    works_over_tcp(&node, "node cannot redirect");
}

#[test]
fn a_left_cgroup_with_its_name_harms_no_self_test_in_whatever_pid_namespace() {
    let node = Node::prepare(REPOSITORY, &[], &[]);
    let control = node.cgroup().join("control");
    let agent = node.program("patchbay-agent");
    let script = "echo 0 > \"$0/cgroup.procs\" && exec unshare --pid --fork --kill-child --mount-proc \"$@\"";
    for _ in 0..2 {
        // In its namespace each is process 1.
        fs::create_dir(control.join("patchbay-probe-1")).expect("made");
        let output =
            Command::new("sh").args(["-c", script]).arg(&control).args([&agent, "probe", "--json"]).output();
        let output = output.expect("unshare is installed");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("\"redirects\": true"), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(cgroups_in(&control).is_empty(), "what was left is removed too");
    }
}

#[test]
fn an_instance_that_can_not_begin_delays_nothing_else() {
    let node = Node::start(REPOSITORY);
    let freeze = |on: &str| {
        let file = node.cgroup().join("node/instances/cgroup.freeze");
        fs::write(file, on).expect("it can be frozen");
    };
    freeze("1");
    assert!(node.apply(HELLO).status.success());
    let log = node.folder().join("patchbay-agent.log");
    let said = |what: &str| fs::read_to_string(&log).is_ok_and(|log| log.contains(what));
    let begun = || cgroups_of_instances(&node).iter().any(|cgroup| cgroup.join("cgroup.procs").exists());
    node.wait("an instance is to begin", |_| begun());
    std::thread::sleep(Duration::from_millis(300));
    node.signal_agent("-USR1");
    node.wait("the agent hears", |_| said("redirection switched"));
    freeze("0");
    let _ = node.running("gateway");
}

fn cgroups_of_instances(node: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.cgroup().join("node/instances")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.path()).collect()
}
