//! Foreign programs at the agent's hooks: theirs and ours keep working, in both orders of start and stop.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use patchbay_tests::{GREET, HELLO, Node, REPOSITORY};
use serde_json::Value;

/// Somebody else's programs at sock_ops, connect4 and connect6 of the node's cgroup and at loopback's
/// ingress; in a socket map of its own too, with `insert`.
struct Neighbour {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Neighbour {
    fn start(node: &Node, more: &[&str]) -> Self {
        let cgroup = node.cgroup().join("node");
        std::fs::create_dir_all(&cgroup).expect("root makes cgroups");
        let mut child = node
            .command("python3")
            .arg(format!("{}/neighbour.py", env!("CARGO_MANIFEST_DIR")))
            .arg(cgroup)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut neighbour = Self { child, input, output: BufReader::new(output) };
        assert_eq!(neighbour.line(), "ready\n");
        neighbour
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("readable");
        line
    }

    fn count(&mut self, what: &str) -> u64 {
        writeln!(self.input, "counts").expect("it lives");
        let counts: Value = serde_json::from_str(&self.line()).expect("JSON");
        counts[what].as_u64().expect("a count")
    }

    fn end(mut self) {
        drop(self.input);
        assert!(self.child.wait().expect("it is ours").success());
    }
}

/// Asks once, through a new session, and returns that session.
fn greet(node: &Node) -> patchbay_api::Session {
    let before = node.sessions().len();
    assert_eq!(node.python(GREET), "hello, world");
    node.wait("the session has ended", |node| {
        let sessions = node.sessions();
        sessions.len() == before + 1 && sessions.iter().all(|session| session.state == "closed")
    });
    node.sessions().into_iter().max_by_key(|session| session.id).expect("a session")
}

fn assert_redirected(node: &Node) {
    let session = greet(node);
    assert_eq!((session.path.as_str(), session.sent.kernel_bytes), ("kernel", 6), "{session:?}");
}

#[test]
fn foreign_programs_that_were_there_first_keep_working_and_outlive_the_agent() {
    let mut node = Node::start_without_agent(REPOSITORY);
    let mut neighbour = Neighbour::start(&node, &[]);
    node.start_agent();
    assert!(node.apply(HELLO).status.success());
    let _ = node.running("gateway");
    assert_redirected(&node);
    let (established, connected) = (neighbour.count("established"), neighbour.count("connect4"));
    assert!(established >= 2 && connected >= 1, "{established} {connected}");
    assert!(neighbour.count("packets") > 0, "handshakes pass loopback");
    node.kill_agent();
    node.start_agent();
    let _ = node.running("gateway");
    assert_redirected(&node);
    assert!(neighbour.count("established") > established);
    neighbour.end();
    assert_redirected(&node);
}

#[test]
fn foreign_programs_that_come_later_see_what_they_would_see_alone_and_leave_ours_when_they_go() {
    let node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let _ = node.running("gateway");
    assert_redirected(&node);
    let mut neighbour = Neighbour::start(&node, &[]);
    assert_redirected(&node);
    assert!(neighbour.count("established") >= 2 && neighbour.count("connect4") >= 1);
    neighbour.end();
    assert_redirected(&node);
}

#[test]
fn a_socket_in_somebody_elses_map_is_left_to_them() {
    let mut node = Node::start_without_agent(REPOSITORY);
    let mut neighbour = Neighbour::start(&node, &["insert"]);
    node.start_agent();
    assert!(node.apply(HELLO).status.success());
    let _ = node.running("gateway");
    let session = greet(&node);
    assert_eq!(session.path, "tcp", "{session:?}");
    assert_eq!(session.reason.as_deref(), Some("map full or socket in another map"), "{session:?}");
    assert!(neighbour.count("messages") > 0, "their program still sees its sockets' messages");
    neighbour.end();
    assert_redirected(&node);
}

#[test]
fn who_inserts_after_us_gets_no_socket_of_ours_and_nothing_breaks() {
    let node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let _ = node.running("gateway");
    let mut neighbour = Neighbour::start(&node, &["insert"]);
    assert_redirected(&node);
    assert!(neighbour.count("established") >= 2);
    neighbour.end();
    assert_redirected(&node);
}
