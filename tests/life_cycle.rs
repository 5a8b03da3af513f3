//! The life of the data path: agents killed, replaced and detached under traffic, messages looked at.

use std::process::Command;
use std::time::Duration;

use patchbay_tests::talker::Talker;
use patchbay_tests::{HELLO, Node, REPOSITORY};
use serde_json::Value;

#[test]
fn instances_and_sessions_survive_a_killed_agent_and_the_next_one_takes_over() {
    let mut node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    let talker = Talker::start(&node);
    node.wait("they talk", |node| node.sessions().iter().any(|s| s.sent.kernel_bytes > 0));
    let greeter = node.running("greeter");
    for _ in 0..3 {
        node.kill_agent();
        std::thread::sleep(Duration::from_millis(100));
        node.start_agent();
    }
    let session = || node.sessions().into_iter().next().expect("the session");
    let before = session().sent.kernel_bytes;
    node.wait("its bytes are counted again", |node| {
        node.sessions().first().is_some_and(|s| s.sent.kernel_bytes > before)
    });
    assert_eq!((node.running("gateway").id, node.running("greeter").id), (gateway.id, greeter.id));
    let later = Talker::start(&node);
    node.wait("new sessions are made too", |node| node.sessions().len() == 2);
    assert!(talker.end() > 100);
    later.end();
    node.wait("both sessions have ended", |node| node.sessions().iter().all(|s| s.state == "closed"));
    for session in node.sessions() {
        assert_eq!((session.path.as_str(), session.sent.tcp_bytes), ("kernel", 0), "{session:?}");
    }
    // An instance that ends is noticed by the agent that did not start it.
    for process in node.processes(&greeter) {
        assert!(node.command("kill").args(["-9", &process]).status().expect("it runs").success());
    }
    node.wait("its end is seen", |node| {
        node.instances().iter().any(|i| i.id == greeter.id && i.state == "ended")
    });
}

#[test]
fn a_session_can_be_looked_at() {
    let node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let _ = node.running("gateway");
    let talker = Talker::start(&node);
    node.wait("they talk", |node| node.sessions().iter().any(|s| s.sent.kernel_bytes > 0));
    let id = node.sessions()[0].id.to_string();
    let pins = node.folder().join("pins").display().to_string();
    let output = node.patchbay(&["trace", &id, "--bytes", "16", "--messages", "4", "--pins", &pins]);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("name-") && shown.contains("hello, name-") && shown.contains("kernel"), "{shown}");
    let unknown = node.patchbay(&["trace", "99", "--pins", &pins]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no session 99 is open"));
    talker.end();
}

#[test]
fn redirection_is_switched_off_and_on_without_interrupting_anything() {
    let node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let _ = node.running("gateway");
    let talker = Talker::start(&node);
    node.wait("they talk", |node| node.sessions().iter().any(|s| s.sent.kernel_bytes > 0));
    let id = node.sessions()[0].id.to_string();
    let name = node.sessions()[0].source.node.clone();
    let choices: [&[&str]; 3] =
        [&["--session", &id], &["--connection", "hello", "gateway.greeter"], &["--node", &name]];
    for choice in choices {
        for (way, grows) in [("off", "tcp"), ("on", "kernel")] {
            let arguments: Vec<&str> = ["redirect", way].into_iter().chain(choice.iter().copied()).collect();
            let output = node.patchbay(&arguments);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let bytes = |node: &Node| {
                let session = &node.sessions()[0];
                [session.sent.kernel_bytes, session.sent.tcp_bytes]
            };
            node.wait(&format!("{arguments:?}: the other path stands still"), |node| {
                let [kernel, tcp] = bytes(node);
                std::thread::sleep(Duration::from_millis(50));
                let [kernel_later, tcp_later] = bytes(node);
                match grows {
                    "tcp" => kernel == kernel_later && tcp < tcp_later,
                    _ => kernel < kernel_later && tcp == tcp_later,
                }
            });
        }
    }
    assert!(talker.end() > 0);
    for (arguments, why) in [
        (["redirect", "off", "--session", "99"], "no session 99 is open"),
        (["redirect", "off", "--node", "nowhere"], "there is no node `nowhere`"),
    ] {
        let output = node.patchbay(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{said}");
    }
}

#[test]
fn detaching_takes_live_sessions_back_to_tcp_and_leaves_nothing() {
    let mut node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let _ = node.running("gateway");
    let talker = Talker::start(&node);
    node.wait("they talk", |node| node.sessions().iter().any(|s| s.sent.kernel_bytes > 0));
    node.kill_agent();
    let pins = node.folder().join("pins").display().to_string();
    let agent = node.program("patchbay-agent");
    let detach = |more: &[&str]| {
        let cgroup = node.cgroup().join("node").display().to_string();
        let mut command = node.command(&agent);
        command.args(["detach", "--pins", &pins, "--cgroup", &cgroup]).args(more).output().expect("it runs")
    };
    let output = detach(&[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!node.folder().join("pins").exists());
    std::thread::sleep(Duration::from_millis(200));
    assert!(talker.end() > 100);
    let again = detach(&[]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("nothing is pinned at"));
}

#[test]
fn the_self_test_knows_this_kernel() {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/patchbay-agent");
    let output = Command::new(program).args(["probe", "--json"]).output().expect("it is built");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let matrix: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&matrix["redirects"], &matrix["observes"]), (&Value::Bool(true), &Value::Bool(true)));
    let present = |fault: &str| {
        let faults = matrix["faults"].as_array().expect("a list");
        faults.iter().find(|found| found["fault"] == fault).and_then(|found| found["present"].as_bool())
    };
    // Not a fault of some kernels only, but how the socket map works (kernel source 6.1 to 6.18).
    assert_eq!(present("delete"), Some(true));
    assert_eq!(present("wait-all"), Some(true));
    assert_eq!(present("unread-size"), Some(false));
    assert!(matrix["faults"].as_array().expect("a list").iter().all(|found| !found["present"].is_null()));
}
