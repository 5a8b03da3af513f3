//! Sessions through shared memory: real services, which know nothing of it, and the real agent that hands it out.

use patchbay_api as api;
use patchbay_tests::user::User;
use patchbay_tests::{HELLO, Node, REPOSITORY};

/// Whether an instance has a session's memory.
fn has_memory(node: &Node, instance: &api::Instance) -> bool {
    node.processes(instance).iter().any(|process| {
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
        maps.contains("memfd:patchbay-session")
    })
}

/// Bytes that the session went through kernel and TCP.
fn elsewhere(node: &Node) -> u64 {
    let count = |traffic: &api::Traffic| traffic.kernel_bytes + traffic.tcp_bytes;
    node.sessions().iter().map(|session| count(&session.sent) + count(&session.received)).sum()
}

fn start(repository: &str, flags: &[&str]) -> Node {
    let node = Node::start_with(repository, &[&["--memory=on"], flags].concat());
    assert!(node.apply(HELLO).status.success());
    let _ = node.running("gateway");
    node
}

#[test]
fn services_of_different_users_exchange_through_memory_whatever_happens_to_the_agent() {
    let repository = REPOSITORY.replace("sockets = [\"names\"]", "sockets = [\"names\"]\nuser = \"nobody\"");
    let mut node = start(&repository, &[]);
    let mut user = User::begin(&node);
    let _ = user.goes_on(1);
    let (gateway, greeter) = (node.running("gateway"), node.running("greeter"));
    node.wait("both have memory", |node| has_memory(node, &gateway) && has_memory(node, &greeter));
    let _ = user.goes_on(1 << 20);
    node.wait("it is seen and counted", |node| {
        let sessions = node.sessions();
        sessions
            .iter()
            .any(|s| s.path == "memory" && s.sent.memory_bytes > 1 << 19 && s.sent.memory_messages > 0)
    });
    let before = (user.goes_on(1), elsewhere(&node));
    node.replace_agent();
    let _ = user.goes_on(1 << 20);
    node.kill_agent();
    let _ = user.goes_on(1 << 20);
    node.start_agent();
    let after = user.goes_on(1 << 20);
    let in_memory = |node: &Node| {
        let sessions = node.sessions();
        sessions
            .iter()
            .find(|s| s.path == "memory")
            .map_or(0, |s| s.sent.memory_bytes + s.received.memory_bytes)
    };
    node.wait("the session is counted again", |node| in_memory(node) > after - (1 << 20));
    let more = elsewhere(&node).saturating_sub(before.1);
    assert!(more < (after - before.0) / 10, "{more} bytes of {} went elsewhere", after - before.0);
    // A new session gets memory of the new agent.
    let mut other = User::begin(&node);
    let _ = other.goes_on(1 << 20);
    // People can have it on the other ways at any time.
    assert!(node.patchbay(&["redirect", "off", "--node", "test"]).status.success());
    let (went, counted) = (user.goes_on(1), elsewhere(&node));
    let went_on = user.goes_on(4 << 20) - went;
    node.wait("it goes over TCP now", |node| elsewhere(node) - counted > went_on / 2);
    node.wait("it is seen to", |node| node.sessions().iter().all(|s| s.path != "memory"));
    let _ = (user.goes_on(1), other.goes_on(1));
}

#[test]
fn who_is_killed_ends_its_session_and_nothing_else() {
    let node = start(REPOSITORY, &[]);
    let mut user = User::begin(&node);
    let _ = user.goes_on(1 << 20);
    let greeter = node.running("greeter");
    assert!(has_memory(&node, &greeter));
    node.kill_instance("greeter", greeter.id);
    let begun = std::time::Instant::now();
    while user.says() != "ended" {
        assert!(begun.elapsed().as_secs() < 20, "the user's session does not end: {}", user.says());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let mut user = User::begin(&node);
    let _ = user.goes_on(1 << 20);
    assert_ne!(node.running("greeter").id, greeter.id);
}

#[test]
fn without_permission_room_or_socket_sessions_stay_where_they_are() {
    let has_none = |node: &Node| {
        let mut user = User::begin(node);
        let _ = user.goes_on(1 << 20);
        let both = [node.running("gateway"), node.running("greeter")];
        assert!(both.iter().all(|instance| !has_memory(node, instance)));
        assert!(elsewhere(node) > 0);
    };
    let never = HELLO.replace("to = \"greeter.names\"", "to = \"greeter.names\"\nredirect = \"never\"");
    let without = HELLO.replace("to = \"greeter.names\"", "to = \"greeter.names\"\nmemory = false");
    assert!(never != HELLO && without != HELLO);
    // The greeter may make no socket of Unix (EPERM), as under a seccomp profile.
    let confined = REPOSITORY.replace(
        "program = \"{bin}/hello-greeter\"",
        "program = \"/usr/bin/python3\"\narguments = [\"{tests}/confined.py\", \"{bin}/hello-greeter\"]",
    );
    for (repository, graph, flags) in [
        (REPOSITORY, never.as_str(), &[][..]),
        (REPOSITORY, without.as_str(), &[]),
        (REPOSITORY, HELLO, &["--memory-bytes=1000"]),
        (&confined, HELLO, &[]),
    ] {
        let node = Node::start_with(repository, &[&["--memory=on"], flags].concat());
        assert!(node.apply(graph).status.success());
        let _ = node.running("gateway");
        has_none(&node);
    }
    // The socket is gone, as in a container where it was not mounted.
    let node = Node::start_with(REPOSITORY, &["--memory=on"]);
    std::fs::remove_file(node.folder().join("state/memory")).expect("it is there");
    assert!(node.apply(HELLO).status.success());
    let _ = node.running("gateway");
    has_none(&node);
}
