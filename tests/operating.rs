//! What operators do to an agent: stop, restart, upgrade, shut the machine down, read the repository again, and
//! start two by mistake.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::Signal;
use patchbay_testbed::Party;
use patchbay_tests::social::{A, Social};
use patchbay_tests::talker::Talker;
use patchbay_tests::{GREET, HELLO, Node, REPOSITORY};

/// Everything below a node's cgroup, pins and its ports: what must not be left.
fn left(node: &Node) -> Vec<String> {
    let cgroup = node.cgroup().join("node");
    let pins = node.folder().join("pins");
    let mut left: Vec<String> =
        [cgroup, pins].iter().filter(|path| path.exists()).map(|path| path.display().to_string()).collect();
    let listening = node.command("ss").args(["-Htln"]).output().expect("iproute2 is installed");
    let lines = String::from_utf8_lossy(&listening.stdout).into_owned();
    // The Manager's own ports stay.
    left.extend(
        lines.lines().filter(|line| !line.contains(":55555") && !line.contains(":55580")).map(str::to_owned),
    );
    left
}

fn events(node: &Node) -> String {
    String::from_utf8_lossy(&node.patchbay(&["events"]).stdout).into_owned()
}

#[test]
fn a_stopped_agent_leaves_nothing_and_its_services_start_at_once_with_the_next() {
    for signal in ["-TERM", "-PWR"] {
        let mut node = Node::start(REPOSITORY);
        assert!(node.apply(HELLO).status.success());
        let gateway = node.running("gateway");
        assert_eq!(node.python("import socket; s = socket.create_connection(('127.0.0.1', 9000)); s.sendall(b'x\\n'); print(s.recv(99))"), "b'hello, x\\n'");
        for _ in 0..3 {
            node.signal_agent(signal);
            let (success, took) = node.agent_ends();
            assert!(success && took < Duration::from_secs(17), "{took:?}\n{}", node.log("patchbay-agent"));
            assert_eq!(left(&node), Vec::<String>::new(), "{}", node.log("patchbay-agent"));
            node.wait("the Manager knows", |node| {
                node.instances().iter().all(|instance| instance.state == "ended")
            });
            node.start_agent();
            let next = node.running("gateway");
            assert!(next.id > gateway.id);
        }
        let events = events(&node);
        assert!(events.contains("node-ending") && events.contains("node-ended"), "{events}");
        for bad in ["service-failing", "instance-failed", "node-lost"] {
            assert!(!events.contains(bad), "{bad}:\n{events}");
        }
    }
}

/// A wrong `--database`, or none where there was one: what that Manager does not know it would end.
#[test]
fn a_manager_with_an_empty_database_ends_nothing_until_a_person_says_so() {
    let mut node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    // The greeter is started by the first request.
    assert_eq!(node.python(GREET), "hello, world");
    let (greeter, processes) = (node.running("greeter"), node.processes(&gateway));
    for restarts in [false, true] {
        if restarts {
            node.kill_agent();
        }
        node.kill_manager();
        node.start_manager_on("empty.db");
        if restarts {
            node.start_agent_alone();
        }
        let said = |node: &Node| node.log("patchbay-agent").matches("--new-manager").count();
        let before = if restarts { 0 } else { said(&node) };
        // It has been there twice, and was told what to do.
        node.wait("the agent says who answers", |node| said(node) >= before + 2);
        assert_eq!(node.processes(&gateway), processes, "{}", node.log("patchbay-agent"));
        node.kill_manager();
        node.start_manager();
        node.wait("the agent is back", |node| node.list("nodes").contains("\"up\""));
        assert_eq!(node.running("gateway").id, gateway.id);
        assert_eq!(node.processes(&gateway), processes);
        assert!(!node.processes(&greeter).is_empty());
    }
    node.kill_agent();
    node.kill_manager();
    node.start_manager_on("empty.db");
    node.add_agent_flag("--new-manager");
    node.start_agent_untested();
    node.wait("the new one has its way", |node| node.processes(&gateway).is_empty());
}

#[test]
fn users_do_not_notice_that_an_agent_is_stopped() {
    let mut social = Social::start(&[]);
    let load = social.load();
    load.wait_for(30);
    for _ in 0..2 {
        social.cluster.signal(&Party::Agent(A), Signal::SIGTERM).expect("signalled");
        social.cluster.ended(A, Duration::from_secs(20)).expect("it ends by itself");
        load.wait_for(30);
        assert!(social.cluster.real_instances().iter().all(|instance| instance.node != "a"));
        let instances = social.cluster.instances().expect("known");
        assert!(instances.iter().all(|i| i.node != "a" || i.state == "ended"), "{instances:?}");
        social.cluster.start_agent(A).expect("started");
        social.wait("it is back", |cluster| {
            cluster.nodes().is_ok_and(|nodes| nodes.iter().all(|node| node.state == "up"))
        });
        load.wait_for(30);
    }
    let (_, failures) = load.end();
    assert_eq!(failures, Vec::<String>::new());
    social.assert_consistent();
}

#[test]
fn restart_and_upgrade_change_nothing_for_instances_and_their_sessions() {
    let mut node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    let talker = Talker::start(&node);
    node.wait("they talk", |node| node.sessions().iter().any(|s| s.sent.kernel_bytes > 0));
    for _ in 0..2 {
        node.signal_agent("-QUIT");
        let (success, took) = node.agent_ends();
        assert!(success && took < Duration::from_secs(2), "{took:?}");
        node.start_agent();
        node.replace_agent();
    }
    assert_eq!(node.running("gateway").id, gateway.id);
    talker.end();
    let session = node.sessions().into_iter().next().expect("the session");
    assert_eq!(session.sent.tcp_bytes, 0, "{session:?}");
}

#[test]
fn the_repository_is_read_again() {
    let node = Node::start(&REPOSITORY.replace("[service.greeter]", "[service.other]"));
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    let file = node.folder().join("repository.toml");
    let text = fs::read_to_string(&file).expect("there");
    fs::write(&file, "nonsense").expect("written");
    node.signal_agent("-HUP");
    node.wait("the problem is said", |node| node.log("patchbay-agent").contains("stays as it was"));
    fs::write(&file, text.replace("[service.other]", "[service.greeter]")).expect("written");
    node.signal_agent("-HUP");
    assert_eq!(node.python("import socket; s = socket.create_connection(('127.0.0.1', 9000)); s.settimeout(20); s.sendall(b'x\\n'); print(s.recv(99))"), "b'hello, x\\n'");
    assert_eq!(node.running("gateway").id, gateway.id);
    assert!(!events(&node).contains("node-lost"));
}

/// Runs a second agent with some arguments changed; it must end by itself.
fn second(node: &Node, changes: &[(&str, &str)]) -> Output {
    let mut arguments = node.agent_arguments();
    for (flag, value) in changes {
        let at = arguments.iter().position(|argument| argument == flag).expect("a flag");
        arguments[at + 1] = (*value).to_owned();
    }
    for argument in &mut arguments {
        if changes.iter().any(|(flag, _)| *flag == "--cgroup") && argument.starts_with("--node=") {
            *argument = "--node=another".into();
        }
    }
    arguments.extend(["--listen".into(), "127.0.0.1:45556".into()]);
    let mut command = node.command("timeout");
    command.arg("20").arg(node.program("patchbay-agent")).args(arguments).output().expect("it runs")
}

#[test]
fn a_second_agent_is_refused_whatever_it_shares_and_touches_nothing() {
    let mut node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    let cgroup = |name: &str| {
        let above = node.cgroup().file_name().expect("a name").to_string_lossy().into_owned();
        format!("{above}/{name}")
    };
    let folder = |name: &str| node.folder().join(name).display().to_string();
    let (other_cgroup, other_state, other_pins) = (cgroup("other"), folder("other"), folder("other-pins"));
    let own_cgroup = cgroup("node");
    // With another name, only what is named here is shared with the first one.
    let shared: [(&str, Vec<(&str, &str)>); 4] = [
        ("the node test", vec![("--state-dir", &other_state), ("--pins", &other_pins)]),
        ("the state folder", vec![("--cgroup", &other_cgroup), ("--pins", &other_pins)]),
        (
            "the cgroup",
            vec![("--cgroup", &own_cgroup), ("--state-dir", &other_state), ("--pins", &other_pins)],
        ),
        ("the pins", vec![("--cgroup", &other_cgroup), ("--state-dir", &other_state)]),
    ];
    for (thing, changes) in &shared {
        let output = second(&node, changes);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{thing}: {said}");
        let process = format!("process {}:", node.agent_process());
        assert!(said.contains(thing) && said.contains(&process), "{thing}: {said}");
    }
    let pins = Path::new(&other_pins);
    let _ = node.command("umount").args(["--lazy", "--quiet"]).arg(pins).output();
    assert_eq!(node.running("gateway").id, gateway.id);
    assert_eq!(node.python("import socket; s = socket.create_connection(('127.0.0.1', 9000)); s.settimeout(20); s.sendall(b'x\\n'); print(s.recv(99))"), "b'hello, x\\n'");
    let detach = node
        .command(&node.program("patchbay-agent"))
        .args(["detach", "--pins", &folder("pins"), "--cgroup", &own_cgroup])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&detach.stderr).into_owned();
    assert!(!detach.status.success() && said.contains("belongs to a running agent"), "{said}");
    // A kill gives everything back.
    node.kill_agent();
    node.start_agent();
    assert_eq!(node.running("gateway").id, gateway.id);
}
