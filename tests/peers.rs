//! Instances that are hostile, and instances of an older dialect, with the real programs.

use std::time::{Duration, Instant};

use patchbay_tests::{HELLO, Node, REPOSITORY};

/// Asks a gateway so many times, one user after another, and prints the longest time in milliseconds.
const ASK: &str = "import socket, sys, time
longest = 0
for n in range(int(sys.argv[2])):
    begun = time.monotonic()
    with socket.create_connection(('127.0.0.1', int(sys.argv[1])), 20) as s:
        s.settimeout(20)
        s.sendall(b'n%d\\n' % n)
        answer = s.makefile('rb').readline()
    assert answer == b'hello, n%d\\n' % n, answer
    longest = max(longest, time.monotonic() - begun)
print(int(longest * 1000))";

fn ask(node: &Node, port: u16, times: u32) -> Duration {
    let mut command = node.command("python3");
    let output = command.args(["-c", ASK, &port.to_string(), &times.to_string()]).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Duration::from_millis(text.parse().expect("a number"))
}

fn with(service: &str, script: &str) -> String {
    format!(
        "{REPOSITORY}
[service.{service}]
kind = \"native\"
program = \"/usr/bin/python3\"
arguments = [\"{{tests}}/{script}\"]
sockets = [\"users\"]
plugs = [\"greeter\"]
"
    )
}

#[test]
fn an_instance_of_the_semi_dialect_is_served_in_its_dialect() {
    let node = Node::start_with(&with("old", "old_service.py"), &["--accept-dialect=semi"]);
    let graph =
        HELLO.replace("service.gateway]", "service.old]").replace("\"gateway.greeter\"", "\"old.greeter\"");
    assert!(node.apply(&graph).status.success());
    let old = node.running("old");
    ask(&node, 9000, 3);
    node.wait("its sessions are known and have ended", |node| {
        let sessions = node.sessions();
        sessions.len() == 3 && sessions.iter().all(|s| s.state == "closed" && s.status == Some(111))
    });
    for session in node.sessions() {
        // It says that it is another service's instance 100: the kernel knows better.
        assert_eq!((session.source.service.as_str(), session.source.instance), ("old", old.id));
        assert_eq!(session.destination.service, "greeter");
    }
}

#[test]
fn a_hostile_instance_hinders_no_other_instance_and_costs_the_agent_little() {
    let node = Node::start(&with("attacker", "attacker.py"));
    assert!(node.apply(HELLO).status.success());
    let _ = node.running("gateway");
    ask(&node, 9000, 1);
    let alone = node.resident_bytes("patchbay-agent");
    let graph = "app = \"bad\"\n[service.attacker]\nkind = \"gateway\"\nsockets.users = { protocol = \"p\", port = 9300 }\n";
    let output = node.apply(graph);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let attacker = node.running("attacker");
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(4) {
        longest = longest.max(ask(&node, 9000, 20));
    }
    assert!(longest < Duration::from_secs(5), "a user waited {longest:?}");
    let log = std::fs::read_to_string(node.folder().join("patchbay-agent.log")).expect("a log");
    assert!(log.contains("refused: the message"), "its garbage was noticed");
    for program in ["patchbay-agent", "patchbay-manager"] {
        let log = std::fs::metadata(node.folder().join(format!("{program}.log"))).expect("a log").len();
        assert!(log < 4 << 20, "{program} wrote {} KiB of log", log >> 10);
    }
    let grown = node.resident_bytes("patchbay-agent").saturating_sub(alone);
    assert!(grown < 200 << 20, "the agent grew by {} MiB", grown >> 20);
    assert!(
        node.instances().iter().any(|i| i.id == attacker.id && i.state == "running"),
        "it lives and attacks"
    );
}

#[test]
fn who_is_no_instance_takes_no_place_from_instances() {
    let node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let _ = node.running("gateway");
    let script = "import socket, time
until, held, closed = time.monotonic() + 2, [], 0
while time.monotonic() < until:
    s = socket.create_connection(('127.0.0.1', 55556), 5)
    held.append(s)
    if len(held) == 200:
        for s in held:
            s.settimeout(5)
            try:
                closed += s.recv(1) == b''
            except ConnectionError:
                closed += 1
        held.clear()
print(closed)";
    let mut strangers = node
        .command("python3")
        .args(["-c", script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    let longest = ask(&node, 9000, 50);
    assert!(longest < Duration::from_secs(5), "a user waited {longest:?}");
    assert!(strangers.wait().expect("it ends").success(), "each was closed at once");
}
