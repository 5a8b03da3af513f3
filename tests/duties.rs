//! What the agent owes its node: instances run as who they should, end with all they started, and find their
//! data again.

use std::process::Command;
use std::time::{Duration, Instant};

use patchbay_tests::Node;

/// A gateway that holds its data, so that nothing else is needed to reach it.
const GRAPH: &str = r#"
app = "alone"
[service.redis]
kind = "gateway"
sockets.redis = { protocol = "resp", port = 9200 }
"#;

/// Says something to Redis and prints the answer.
fn redis(node: &Node, words: &str) -> String {
    node.python(&format!(
        "import socket; s = socket.create_connection(('127.0.0.1', 9200), 20); s.settimeout(20); \
         s.sendall(b'{words}\\r\\n'); print(s.recv(100))"
    ))
}

#[test]
fn an_instance_runs_as_its_user_and_the_next_one_finds_its_data() {
    let entry = r#"
kind = "adapted"
program = "/usr/bin/redis-server"
arguments = ["--bind", "{addr}", "--port", "{port:redis}", "--dir", "{data}", "--save", "",
    "--appendonly", "yes", "--appendfsync", "always"]
sockets = ["redis"]
data = true
user = "nobody"
"#;
    let node = Node::start(&format!("[service.redis]{entry}[service.redis-2]{entry}"));
    let output = node.apply(GRAPH);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let first = node.running("redis");
    assert_eq!(redis(&node, "SET kept yes"), "b'+OK\\r\\n'");
    let [process] = &node.processes(&first)[..] else { panic!("one process") };
    let owner = Command::new("stat").args(["-c", "%U", &format!("/proc/{process}")]).output().expect("stat");
    assert_eq!(String::from_utf8_lossy(&owner.stdout).trim(), "nobody");
    assert!(Command::new("kill").args(["-9", process]).status().is_ok_and(|status| status.success()));
    node.wait("its end is known", |node| {
        node.instances().iter().any(|i| i.id == first.id && i.state == "ended")
    });
    let next = node.running("redis");
    assert_ne!(next.id, first.id);
    assert_eq!(redis(&node, "GET kept"), "b'$3\\r\\nyes\\r\\n'");
    // So does one that is executed from another entry.
    let output = node.apply(&GRAPH.replace("kind", "program = \"redis-2\"\nkind"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    node.wait("the other version runs", |node| {
        node.instances().iter().any(|i| i.id != next.id && i.state == "running")
    });
    assert_eq!(redis(&node, "GET kept"), "b'$3\\r\\nyes\\r\\n'");
}

#[test]
fn what_does_not_end_when_asked_is_ended_with_all_that_it_started() {
    let node = Node::start(
        r#"
[service.redis]
kind = "adapted"
program = "/usr/bin/python3"
arguments = ["-c", "import signal, socket, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); subprocess.Popen(['setsid', 'sleep', '600']); s = socket.create_server((sys.argv[1], int(sys.argv[2]))); time.sleep(600)", "{addr}", "{port:redis}"]
sockets = ["redis"]
"#,
    );
    assert!(node.apply(GRAPH).status.success());
    let stubborn = node.running("redis");
    node.wait("it has a child", |node| node.processes(&stubborn).len() == 2);
    let begun = Instant::now();
    assert!(node.patchbay(&["stop", "alone", "--yes"]).status.success());
    node.wait("it has ended", |node| node.instances().iter().all(|i| i.state == "ended"));
    assert!(begun.elapsed() < Duration::from_secs(10), "the stop takes its time-out, not more");
    assert!(node.processes(&stubborn).is_empty());
}
