//! A Manager and an agent that prove themselves to each other with what `patchbay certs` makes: the real programs, from
//! the first certificate to the revoked one.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use patchbay_tests::{Ended, GREET, HELLO, Node, REPOSITORY};

/// How long anything may take to come true.
const WITHIN: Duration = Duration::from_secs(30);
/// `patchbay certs` in a folder; whether it was successful, and what it said.
fn certs(node: &Node, folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(node.program("patchbay"));
    command.arg("certs").arg("--folder").arg(folder).args(arguments);
    let output = command.env_remove("PATCHBAY_MANAGER").output().expect("it runs");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Starts an agent of this node with other flags and waits until it says something, or ends having said it.
fn agent_says(node: &Node, flags: &[&str], expected: &str) {
    let file = node.folder().join("stranger.log");
    let log = File::create(&file).expect("a log");
    let arguments = node.agent_arguments();
    let is_replaced = |argument: &str| {
        let name = argument.split('=').next().unwrap_or_default();
        name == "--certificates" || flags.iter().any(|flag| flag.split('=').next() == Some(name))
    };
    let own = arguments.iter().filter(|argument| !argument.starts_with("--") || !is_replaced(argument));
    let mut agent = node.command(&node.program("patchbay-agent"));
    agent.args(own).args(["--redirection=off"]).args(flags).stdout(Stdio::null()).stderr(log);
    let _agent = Ended(agent.spawn().expect("started"));
    let begun = Instant::now();
    loop {
        let said = fs::read_to_string(&file).expect("a log");
        if said.contains(expected) {
            return;
        }
        assert!(begun.elapsed() < WITHIN, "expected `{expected}` of {flags:?}\n{said}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_agent_lives_with_certificates_from_the_first_to_the_revoked_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let ours = folder.path().join("ours");
    let part = |name: &str| format!("--certificates={}", ours.join(name).display());
    let mut node = Node::prepare(REPOSITORY, &[&part("nodes/test")], &[&part("manager")]);
    for arguments in [&["init", "--host=localhost"][..], &["node", "test"], &["node", "other"]] {
        let (done, said) = certs(&node, &ours, arguments);
        assert!(done, "{said}");
    }
    let (done, said) = certs(&node, &ours, &["node", "test"]);
    assert!(!done && said.contains("nothing is replaced"), "{said}");
    let (done, said) = certs(&node, &ours, &["show"]);
    assert!(done && said.contains("test") && said.contains("valid"), "{said}");
    assert!(!certs(&node, &ours, &["show", "--within=100days"]).0, "something is due then");
    let theirs = folder.path().join("theirs");
    assert!(certs(&node, &theirs, &["init"]).0 && certs(&node, &theirs, &["node", "test"]).0);

    node.start_manager();
    // Nobody else is this node: no certificate, another node's, another CA's.
    agent_says(&node, &[], "the Manager speaks TLS, and this end was started without --certificates");
    agent_says(
        &node,
        &[&part("nodes/other")],
        "it is the certificate of node other, and node test's is needed",
    );
    agent_says(&node, &[&part("nodes/other"), "--node=other"], "registered");
    let stranger = format!("--certificates={}", theirs.join("nodes/test").display());
    agent_says(&node, &[&stranger], "another CA than the one in ca.pem has signed it");
    assert!(!node.list("nodes").contains(r#""name": "test""#), "{}", node.list("nodes"));

    node.start_agent();
    let output = node.apply(HELLO);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let gateway = node.running("gateway");
    assert_eq!(node.python(GREET), "hello, world");

    // Renewed while it runs: the connection is the same, and the session too.
    assert!(certs(&node, &ours, &["renew", "test", "--valid=30days"]).0);
    assert!(certs(&node, &ours, &["renew", "manager"]).0);
    node.signal_agent("-HUP");
    let manager = node.manager_process().to_string();
    let again = || assert!(Command::new("kill").args(["-HUP", &manager]).status().is_ok_and(|s| s.success()));
    again();
    for program in ["patchbay-agent", "patchbay-manager"] {
        node.wait("read again", |node| node.log(program).contains("the certificates were read again"));
    }
    assert_eq!(node.python(GREET), "hello, world");
    assert!(!node.log("patchbay-agent").contains("the Manager's connection ended"));

    let (done, said) = certs(&node, &ours, &["revoke", "test"]);
    assert!(done && said.contains("2 certificate(s) of node test revoked"), "{said}");
    again();
    node.wait("it is out", |node| {
        node.log("patchbay-manager").contains("the certificate of node test was revoked")
    });
    let refused = "the Manager refuses the certificate of this side: it was revoked";
    node.wait("it is told why", |node| node.log("patchbay-agent").contains(refused));
    assert!(node.list("nodes").contains("\"lost\""), "{}", node.list("nodes"));
    assert_eq!(
        node.instances().iter().find(|i| i.id == gateway.id).map(|i| i.state.as_str()),
        Some("running")
    );
}
