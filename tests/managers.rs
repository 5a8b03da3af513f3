//! Several Managers: each owns its applications and nodes, and sends others' to their owner.

use std::process::Stdio;

use patchbay_tests::{Ended, GREET, HELLO, Node, REPOSITORY};

const MANAGERS: &str = r#"
[manager.east]
agents = "127.0.0.1:55555"
http = "http://127.0.0.1:55581"
[manager.west]
agents = "127.0.0.1:55655"
http = "http://127.0.0.1:55580"
apps = ["hello"]
nodes = ["test"]
"#;

#[test]
fn an_agent_follows_to_its_owner_and_an_application_is_applied_at_its_own() {
    let file = std::env::temp_dir().join(format!("patchbay-managers-{}.toml", std::process::id()));
    std::fs::write(&file, MANAGERS).expect("written");
    let managers = format!("--managers={}", file.display());
    let mut west =
        Node::prepare(REPOSITORY, &[], &[&managers, "--name=west", "--listen-agents=127.0.0.1:55655"]);
    west.start_manager();
    let _east = Ended(
        west.command(&west.program("patchbay-manager"))
            .args([&managers, "--name=east", "--socket"])
            .arg(west.folder().join("east.sock"))
            .arg("--database")
            .arg(west.folder().join("east.db"))
            .stderr(Stdio::null())
            .spawn()
            .expect("started"),
    );
    let socket = format!("unix:{}", west.folder().join("east.sock").display());
    let east = ["--manager", &socket];
    let ask_east = |node: &Node, arguments: &[&str]| node.patchbay(&[&east, arguments].concat());
    west.wait("the other Manager answers", |node| ask_east(node, &["status"]).status.success());
    // The agent knows east only.
    west.start_agent();
    assert!(String::from_utf8_lossy(&ask_east(&west, &["nodes"]).stdout).contains("(none)"));

    let graph = west.folder().join("hello.toml");
    std::fs::write(&graph, HELLO).expect("written");
    let refused = ask_east(&west, &["apply", &graph.display().to_string()]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(said.contains("belongs to the Manager west: ask it at http://127.0.0.1:55580"), "{said}");
    assert!(west.apply(HELLO).status.success());
    let _ = west.running("gateway");
    assert_eq!(west.python(GREET), "hello, world");
    let _ = std::fs::remove_file(&file);
}
