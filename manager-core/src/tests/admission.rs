//! Nobody becomes a node by its address or name without the secret of its agent.

use super::{Cluster, Command, Connection, Event, Ticket};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

/// Registers and returns the status and the reason, if any.
fn register(cluster: &mut Cluster, connection: u64, address: &str, lines: &str) -> (u16, String) {
    cluster.sent.clear();
    cluster.message(connection, &format!(
        "type: initiation_request ~ message_id: 1 ~ agent_network_address: {address} ~ service_repository: (gate, store) ~ x_running:{lines}"
    ));
    let answer = cluster.sent.iter().find_map(|(_, envelope)| match &envelope.message {
        ssmmp::Message::InitiationResponse(response) => {
            Some((response.status.code(), envelope.extension("x_reason").unwrap_or_default().to_owned()))
        }
        _ => None,
    });
    answer.unwrap_or((0, String::new()))
}

fn with_secret(name: &str, secret: &str) -> String {
    format!(" ~ x_node: {name} ~ x_secret: {secret}")
}

/// n0 has registered with its secret, and its agent is away.
fn away() -> Cluster {
    let mut cluster = Cluster::new();
    assert_eq!(register(&mut cluster, 1, "10.0.0.1", &with_secret("n0", SECRET)).0, 200);
    cluster.handle(Event::Lost(Connection(1)));
    cluster
}

#[test]
fn while_its_agent_is_away_only_its_secret_opens_a_node() {
    for (address, lines) in [
        ("10.0.0.1", String::new()),
        ("10.0.0.1", " ~ x_node: other".into()),
        ("10.0.0.1", with_secret("n0", OTHER)),
        ("10.0.0.2", " ~ x_node: n0".into()),
        ("10.0.0.2", with_secret("n0", OTHER)),
    ] {
        let mut cluster = away();
        for _ in 0..2 {
            let (status, reason) = register(&mut cluster, 2, address, &lines);
            assert_eq!(status, 403, "{address}{lines}");
            assert!(reason.contains("n0"), "{reason}");
            assert!(
                cluster.events.iter().any(|(kind, text)| kind == "node-refused" && text.contains(&reason))
            );
            // Nor after the time that its return is waited for, nor at a Manager that was killed meanwhile.
            cluster.pass(60_000);
            cluster.restart();
        }
        assert_eq!(register(&mut cluster, 3, "10.0.0.1", &with_secret("n0", SECRET)).0, 200, "its own agent");
    }
}

#[test]
fn a_name_that_is_none_and_an_address_of_many_are_refused_and_quoted_to_nobody() {
    let mut cluster = Cluster::new();
    for bad in ["../x", "..", "n\u{1b}[2J", "n0\u{200b}", "a b", &"n".repeat(5_000)] {
        let (status, reason) = register(&mut cluster, 1, "10.0.0.1", &format!(" ~ x_node: {bad}"));
        assert!(status == 400 && reason.contains("letters and digits"), "{bad:?}: {status} {reason}");
    }
    for bad in ["224.0.0.1", "ff02::1"] {
        assert_eq!(register(&mut cluster, 1, bad, " ~ x_node: n0").0, 400, "{bad}");
    }
    assert!(cluster.engine.core.nodes().is_empty());
    assert!(cluster.events.iter().all(|(_, text)| !text.contains("../x") && !text.contains('\u{1b}')));
}

#[test]
fn what_an_unregistered_peer_asks_for_is_no_event() {
    let mut cluster = Cluster::new();
    cluster.message(
        1,
        "type: session_request ~ sub_type: agent_to_Manager ~ message_id: 1 ~ source_service_name: ours ~ source_service_instance_id: 7 ~ \
         source_plug_name: p ~ agent_network_address: 10.0.0.1 ~ dest_service_name: theirs ~ dest_socket_name: s",
    );
    let refused = cluster.sent.iter().any(|(_, envelope)| {
        matches!(&envelope.message, ssmmp::Message::SessionResponse(response) if response.status.code() == 403)
    });
    assert!(refused, "{:?}", cluster.sent);
    assert_eq!(cluster.events.len(), 0, "{:?}", cluster.events);
}

#[test]
fn a_frozen_agent_is_not_displaced_by_somebody_else() {
    let mut cluster = Cluster::new();
    register(&mut cluster, 1, "10.0.0.1", &with_secret("n0", SECRET));
    // The first one is not even asked whether it lives.
    assert_eq!(register(&mut cluster, 2, "10.0.0.1", &with_secret("n0", OTHER)).0, 403);
    cluster.pass(2_500);
    assert_eq!(cluster.engine.core.nodes()[0].state, "up");
    // Its own agent, started again, takes over when the first one says nothing.
    assert_eq!(register(&mut cluster, 3, "10.0.0.1", &with_secret("n0", SECRET)).0, 0);
    cluster.pass(2_500);
    let node =
        cluster.engine.core.node(cluster.engine.core.every_node().next().expect("one").address).cloned();
    assert_eq!(node.and_then(|node| node.connection), Some(Connection(3)));
}

#[test]
fn peers_without_extensions_register_as_the_specification_says() {
    let mut cluster = Cluster::new();
    assert_eq!(register(&mut cluster, 1, "10.0.0.1", "").0, 200);
    cluster.handle(Event::Lost(Connection(1)));
    assert_eq!(register(&mut cluster, 2, "10.0.0.1", "").0, 200, "nothing was bound");
    assert_eq!(register(&mut cluster, 2, "10.0.0.1", "").0, 200);
    cluster.handle(Event::Lost(Connection(2)));
    // From now on it has a secret.
    assert_eq!(register(&mut cluster, 3, "10.0.0.1", &with_secret("n0", SECRET)).0, 200);
    cluster.handle(Event::Lost(Connection(3)));
    assert_eq!(register(&mut cluster, 4, "10.0.0.1", "").0, 403);
}

#[test]
fn a_node_keeps_its_name_at_another_address_and_is_one_node_only() {
    let mut cluster = away();
    assert_eq!(register(&mut cluster, 2, "10.0.0.9", &with_secret("n0", SECRET)).0, 200, "it has moved");
    let names: Vec<(String, String)> =
        cluster.engine.core.nodes().into_iter().map(|node| (node.name, node.state)).collect();
    assert_eq!(names, [("10.0.0.1".into(), "lost".into()), ("n0".into(), "up".into())]);
    let (status, reason) = register(&mut cluster, 3, "10.0.0.1", &with_secret("n0", SECRET));
    assert_eq!(status, 409, "{reason}");
    assert_eq!(
        register(&mut cluster, 4, "10.0.0.4", " ~ x_node: 10.0.0.9").0,
        400,
        "another's address as a name"
    );
    assert_eq!(register(&mut cluster, 4, "10.0.0.4", " ~ x_secret: short").0, 400);
}

#[test]
fn people_let_a_node_whose_secret_is_lost_register_again() {
    let mut cluster = away();
    cluster.handle(Event::Command(Ticket(1), Command::Forget("n0".into())));
    assert!(cluster.answers.pop().expect("answered").is_ok());
    assert_eq!(register(&mut cluster, 2, "10.0.0.1", &with_secret("n0", OTHER)).0, 200);
    cluster.handle(Event::Command(Ticket(2), Command::Forget("n0".into())));
    let refused = cluster.answers.pop().expect("answered");
    assert!(refused.is_err(), "it is connected: {refused:?}");
}
