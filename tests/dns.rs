//! The Manager's DNS, asked by `dig`.

use patchbay_tests::{HELLO, Node, REPOSITORY};

const DNS: &[&str] = &["--listen-dns=127.0.0.1:5300", "--dns-ttl=2"];

/// What `dig` prints.
fn dig(node: &Node, arguments: &[&str]) -> String {
    let mut dig = node.command("dig");
    dig.args(["@127.0.0.1", "-p", "5300", "+timeout=2", "+tries=2"]).args(arguments);
    let output = dig.output().expect("dig is installed");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The records of the answer.
fn records(node: &Node, arguments: &[&str]) -> Vec<String> {
    let output = dig(node, &[arguments, &["+noall", "+answer"]].concat());
    output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_gateway_is_found_by_its_name_over_udp_and_tcp_as_long_as_it_runs() {
    let node = Node::start_with_both(REPOSITORY, &[], DNS);
    let name = "gateway.hello.patchbay.internal";
    assert!(dig(&node, &[name]).contains("NXDOMAIN"), "nothing runs yet");
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    let canonical = format!("{}.{name}.", gateway.id);
    let alias = format!("{name}. 2 IN CNAME {canonical}");
    let address = format!("{canonical} 2 IN A 127.0.0.1");
    for transport in ["+notcp", "+tcp"] {
        assert_eq!(records(&node, &[transport, name, "A"]), [alias.clone(), address.clone()]);
        assert_eq!(records(&node, &[transport, &canonical, "A"]), std::slice::from_ref(&address));
        assert_eq!(records(&node, &[transport, name, "AAAA"]), std::slice::from_ref(&alias));
        let none = dig(&node, &[transport, &canonical, "AAAA"]);
        assert!(none.contains("NOERROR") && none.contains("ANSWER: 0") && none.contains("SOA"), "{none}");
        let absent = dig(&node, &[transport, "other.hello.patchbay.internal"]);
        assert!(absent.contains("NXDOMAIN") && absent.contains("SOA"), "{absent}");
        assert!(dig(&node, &[transport, "example.com"]).contains("REFUSED"));
    }
    // Resolved as a user's program resolves it, then asked.
    let lookup = records(&node, &["+short", name, "A"]);
    let greeting = node.python(&format!(
        "import socket; s = socket.create_connection(('{}', 9000), 20); s.sendall(b'world\\n'); print(s.recv(100).decode())",
        lookup.last().expect("an address")
    ));
    assert_eq!(greeting, "hello, world");

    assert!(node.patchbay(&["stop", "hello", "--yes"]).status.success());
    node.wait("its name is gone", |node| dig(node, &[name]).contains("NXDOMAIN"));
    assert!(dig(&node, &[&canonical]).contains("NXDOMAIN"));
}

#[test]
fn names_are_there_again_as_soon_as_the_manager_is() {
    let mut node = Node::start_with_both(REPOSITORY, &[], DNS);
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    node.kill_agent();
    node.kill_manager();
    node.start_manager();
    let found = records(&node, &["gateway.hello.patchbay.internal", "A"]);
    assert!(
        found.iter().any(|record| record.contains(&format!("CNAME {}.gateway.", gateway.id))),
        "{found:?}"
    );
}
