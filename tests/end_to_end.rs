//! The real programs together: Manager, agent, kernel programs, services.

use patchbay_tests::{GREET, HELLO, Node, REPOSITORY};

/// Asks the hello gateway once and leaves.
#[test]
fn a_session_between_two_services_is_redirected_and_kept_in_history() {
    let node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    assert!(node.instances().iter().all(|i| i.service != "greeter"), "it is started on demand");
    assert_eq!(node.python(GREET), "hello, world");
    node.wait("the session has ended", |node| node.sessions().iter().any(|s| s.state == "closed"));
    let sessions = node.sessions();
    let [session] = &sessions[..] else { panic!("one session: {sessions:?}") };
    assert_eq!((session.path.as_str(), session.source.instance), ("kernel", gateway.id));
    assert_eq!((session.sent.kernel_bytes, session.received.kernel_bytes), (6, 13));
    assert_eq!((session.sent.tcp_bytes, session.received.tcp_bytes), (0, 0));
    assert_eq!(session.status, Some(111));
    let rows = node.sql("SELECT source_service, destination_service, status, path FROM sessions");
    assert_eq!(rows, serde_json::json!([["gateway", "greeter", 111, "kernel"]]));
}

#[test]
fn a_broken_graph_points_at_its_line_and_changes_nothing() {
    let node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let before = node.running("gateway");
    let output = node.apply(&HELLO.replace("greeter.names", "greeter.nam"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("the service `greeter` has no socket `nam`") && said.contains("graph.toml:14:6"),
        "{said}"
    );
    assert_eq!(node.running("gateway").id, before.id);
}

#[test]
fn a_service_that_exits_at_once_is_seen_with_its_last_output_and_tried_again() {
    let broken = REPOSITORY.replace("{bin}/hello-gateway", "/bin/sh").replacen(
        "sockets = [\"users\"]",
        "arguments = [\"-c\", \"echo no configuration; exit 3\"]\nsockets = [\"users\"]",
        1,
    );
    let node = Node::start(&broken);
    assert!(node.apply(HELLO).status.success());
    node.wait("two starts failed", |node| {
        node.instances().iter().filter(|i| i.state == "failed").count() >= 2
    });
    let failed = &node.instances()[0];
    assert!(failed.reason.as_deref().is_some_and(|reason| reason.contains("exit status 3")), "{failed:?}");
    assert_eq!(failed.output, ["no configuration"]);
    let apps = String::from_utf8_lossy(&node.patchbay(&["apps"]).stdout).into_owned();
    assert!(apps.contains("degraded") && apps.contains("exit status 3"), "{apps}");
}

#[test]
fn an_instance_that_is_killed_is_started_again_and_what_it_left_is_ended() {
    let node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let first = node.running("gateway");
    let processes = node.processes(&first);
    assert_eq!(processes.len(), 1);
    assert!(
        std::process::Command::new("kill").args(["-9", &processes[0]]).status().is_ok_and(|s| s.success())
    );
    node.wait("its end is known", |node| {
        node.instances().iter().any(|i| i.id == first.id && i.state == "ended")
    });
    assert_ne!(node.running("gateway").id, first.id);
    assert!(node.processes(&first).is_empty());
    assert_eq!(node.python(GREET), "hello, world");
}

#[test]
fn who_is_no_instance_may_not_speak() {
    let node = Node::start(REPOSITORY);
    let script = "
import socket
s = socket.create_connection(('127.0.0.1', 55556), 5)
s.settimeout(5)
try:
    s.sendall(b'type: session_request ~ message_id: 1 ~ sub_type: service_to_agent\\n')
    print(s.recv(100))
except ConnectionError:
    print(b'')";
    assert_eq!(node.python(script), "b''");
}

#[test]
fn the_manager_comes_back_and_knows_what_it_knew() {
    let mut node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    assert_eq!(node.python(GREET), "hello, world");
    let greeter = node.running("greeter");
    node.kill_manager();
    node.start_manager();
    assert_eq!(node.running("gateway").id, gateway.id);
    assert_eq!(node.running("greeter").id, greeter.id);
    node.wait("the agent is back", |node| {
        String::from_utf8_lossy(&node.patchbay(&["nodes"]).stdout).contains("up ")
    });
    assert_eq!(node.python(GREET), "hello, world");
    let next = node.sql("SELECT count(*) FROM instances");
    assert_eq!(next, serde_json::json!([[2]]), "nothing was started twice");
}

#[test]
fn stopping_interrupts_only_what_people_confirm() {
    let node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let _ = node.running("gateway");
    assert!(node.patchbay(&["stop", "hello", "--yes"]).status.success());
    node.wait("all instances have ended", |node| node.instances().iter().all(|i| i.state == "ended"));
    let unknown = node.patchbay(&["stop", "nothing", "--yes"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no application `nothing`"));
}

#[test]
fn an_adapted_program_with_a_plug_is_spoken_for() {
    let node = Node::start(
        r#"
[service.front]
kind = "adapted"
program = "/usr/bin/python3"
arguments = ["{tests}/forward.py", "{addr}", "{port:http}", "{plug_addr:back}", "{plug_port:back}"]
sockets = ["http"]
plugs = ["back"]
[service.redis]
kind = "adapted"
program = "/usr/bin/redis-server"
arguments = ["--bind", "{addr}", "--port", "{port:redis}", "--save", ""]
sockets = ["redis"]
"#,
    );
    let graph = r#"
app = "adapted"
[service.front]
kind = "gateway"
sockets.http = { protocol = "resp", port = 9100 }
plugs.back = { protocol = "resp" }
[service.redis]
kind = "baas"
sockets.redis = { protocol = "resp" }
[[connection]]
from = "front.back"
to = "redis.redis"
redirect = "always"
"#;
    let output = node.apply(graph);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let _ = node.running("front");
    let ping = "import socket; s = socket.create_connection(('127.0.0.1', 9100), 20); s.settimeout(20); \
                s.sendall(b'PING\\r\\n'); print(s.recv(100))";
    for _ in 0..2 {
        assert_eq!(node.python(ping), "b'+PONG\\r\\n'");
    }
    node.wait("both sessions are known and have ended", |node| {
        node.sessions().iter().filter(|s| s.state == "closed" && s.path == "kernel").count() == 2
    });
    for session in node.sessions() {
        assert_eq!((session.sent.kernel_bytes, session.received.kernel_bytes), (6, 7));
    }
}

#[test]
fn without_redirection_everything_works_over_tcp_and_says_so() {
    let node = Node::start_with(REPOSITORY, &["--redirection=off"]);
    assert!(node.apply(HELLO).status.success());
    let _ = node.running("gateway");
    let nodes = String::from_utf8_lossy(&node.patchbay(&["nodes"]).stdout).into_owned();
    assert!(nodes.contains("off: switched off by --redirection"), "{nodes}");
    let slow = "import socket, time; s = socket.create_connection(('127.0.0.1', 9000), 20); s.sendall(b'world\\n'); \
                print(s.recv(100).decode()); time.sleep(1.5)";
    assert_eq!(node.python(slow), "hello, world");
    let carried =
        |node: &Node| node.sessions().iter().any(|s| (s.sent.tcp_bytes, s.received.tcp_bytes) == (6, 13));
    node.wait("the session is counted", carried);
    let session = &node.sessions()[0];
    assert_eq!((session.path.as_str(), session.reason.as_deref()), ("tcp", Some("switched off")));
}

#[test]
fn a_missing_program_and_a_port_in_use_are_seen() {
    let program = std::env::temp_dir().join(format!("patchbay-greeter-{}", std::process::id()));
    std::fs::copy("/bin/true", &program).expect("copied");
    let node = Node::start(&REPOSITORY.replace("{bin}/hello-greeter", &program.display().to_string()));
    std::fs::remove_file(&program).expect("removed while the agent runs");
    let mut occupant = node
        .command("python3")
        .args(["-c", "import socket, time; s = socket.create_server(('127.0.0.1', 9000)); time.sleep(60)"])
        .spawn()
        .expect("python3 is installed");
    node.wait("the port is taken", |node| {
        node.command("python3")
            .args(["-c", "import socket; socket.create_connection(('127.0.0.1', 9000))"])
            .output()
            .is_ok_and(|output| output.status.success())
    });
    assert!(node.apply(HELLO).status.success());
    let failed = |node: &Node, service: &str| {
        node.instances().into_iter().find(|i| i.service == service && i.state == "failed")
    };
    node.wait("the gateway can't listen", |node| failed(node, "gateway").is_some());
    let gateway = failed(&node, "gateway").expect("seen");
    assert!(gateway.output.iter().any(|line| line.contains("Address already in use")), "{gateway:?}");
    occupant.kill().expect("it runs");
    occupant.wait().expect("it ends");
    let _ = node.running("gateway");
    let ask =
        "import socket; s = socket.create_connection(('127.0.0.1', 9000), 20); s.sendall(b'x\\n'); s.recv(9)";
    // Whether the user sees a reset or an end is the gateway's own matter.
    let _ = node.command("python3").args(["-c", ask]).output();
    node.wait("the greeter can't start", |node| failed(node, "greeter").is_some());
    let greeter = failed(&node, "greeter").expect("seen");
    assert!(
        greeter.reason.as_deref().is_some_and(|r| r.contains(&program.display().to_string())),
        "{greeter:?}"
    );
}
