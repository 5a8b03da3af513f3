//! Sessions are closed on request.

use super::*;

fn connected(sessions: usize) -> (Cluster, InstanceId, u64) {
    let mut cluster = Cluster::with_nodes(&["gate", "store"]);
    cluster.apply();
    cluster.obey();
    let gate = InstanceId(cluster.of("gate")[0].0);
    cluster.sessions(sessions, gate, "store", "store", "api");
    let store = cluster.of("store")[0].0;
    assert_eq!(cluster.accepted(store), sessions);
    (cluster, gate, store)
}

/// The messages sent since, by their type.
fn types(cluster: &Cluster, from: usize) -> Vec<String> {
    cluster.sent[from..].iter().map(|(_, e)| e.message.message_type().to_string()).collect()
}

#[test]
fn one_session_all_of_a_connection_or_all_of_an_instance_can_be_closed() {
    let (mut cluster, gate, store) = connected(3);
    let id = cluster.engine.core.sessions(None, false, Page::ALL)[0].id;
    assert_eq!(cluster.command(Command::CloseSession(id)).map(|done| done.sessions), Ok(1));
    cluster.obey();
    assert_eq!((cluster.agents.closed, cluster.accepted(store)), (1, 3), "it was asked for again");
    assert!(cluster.has_event("session-closed", "as it was asked to"));
    let closed = cluster.command(Command::CloseConnection("t".into(), "gate.store".into()));
    assert_eq!(closed.map(|done| done.sessions), Ok(3));
    cluster.obey();
    assert_eq!((cluster.agents.closed, cluster.accepted(store)), (4, 3));
    assert_eq!(cluster.command(Command::CloseInstance(gate)).map(|done| done.sessions), Ok(3));
    cluster.obey();
    assert_eq!((cluster.agents.closed, cluster.agents.failed.len()), (7, 0));
}

#[test]
fn what_is_not_there_is_named() {
    let (mut cluster, ..) = connected(1);
    for (command, expected) in [
        (Command::CloseSession(99), "no session 99"),
        (Command::CloseConnection("t".into(), "gate.stor".into()), "it has gate.store"),
        (Command::CloseConnection("u".into(), "gate.store".into()), "no application `u`"),
        (Command::CloseInstance(InstanceId(99)), "no running instance 99"),
        (Command::Drain("n9".into()), "there are: n1, n2"),
        (Command::Scale("t".into(), "shop".into(), None), "no service `shop`"),
    ] {
        match cluster.command(command.clone()) {
            Err(Refusal::Unknown(text)) => assert!(text.contains(expected), "{command:?}: {text}"),
            other => panic!("{command:?}: {other:?}"),
        }
    }
}

#[test]
fn the_destination_is_asked_when_the_sources_agent_is_gone() {
    let (mut cluster, ..) = connected(1);
    cluster.handle(Event::Lost(Connection(1)));
    let from = cluster.sent.len();
    let id = cluster.engine.core.sessions(None, false, Page::ALL)[0].id;
    cluster.command(Command::CloseSession(id)).expect("it is open");
    assert_eq!(types(&cluster, from), ["dest_service_session_close_request"]);
    cluster.obey();
    assert!(cluster.engine.core.sessions(None, false, Page::ALL).is_empty());
}

#[test]
fn a_source_that_never_answers_gives_way_to_the_destination_then_the_session_counts_as_broken() {
    let (mut cluster, _, _) = connected(1);
    cluster.agents.frozen = [1, 2].into();
    let (from, id) = (cluster.sent.len(), cluster.engine.core.sessions(None, false, Page::ALL)[0].id);
    cluster.command(Command::CloseSession(id)).expect("it is open");
    cluster.command(Command::CloseSession(id)).expect("asking again changes nothing");
    let closing = |cluster: &Cluster| -> Vec<String> {
        types(cluster, from).into_iter().filter(|name| name.contains("close")).collect()
    };
    cluster.pass(7_000);
    cluster.pass(7_000);
    assert_eq!(
        closing(&cluster),
        [
            "source_service_session_close_request",
            "dest_service_session_close_request",
            "source_service_session_close_request"
        ]
    );
    assert!(!cluster.engine.core.sessions(None, false, Page::ALL).is_empty());
    cluster.pass(7_000);
    assert!(cluster.engine.core.sessions(None, false, Page::ALL).is_empty());
    assert!(cluster.has_event("session-forced", "no end of it answers"));
}

#[test]
fn the_agents_force_is_told() {
    let (mut cluster, gate, _) = connected(1);
    cluster.agents.deaf.insert(gate);
    let id = cluster.engine.core.sessions(None, false, Page::ALL)[0].id;
    cluster.command(Command::CloseSession(id)).expect("it is open");
    let (_, request) = cluster.sent.last().cloned().expect("it was asked");
    assert_eq!(request.extension("x_within"), Some("5000"));
    let request = request.message.message_id();
    cluster.message(1, &format!("type: source_service_session_close_response ~ message_id: {request} ~ status: 200 ~ x_forced: the kernel did"));
    assert!(cluster.has_event("session-forced", "the kernel did"));
    assert_eq!(
        cluster.engine.core.session(id).and_then(|session| session.status),
        Some(ssmmp::Status::BROKEN)
    );
}

#[test]
fn stopping_closes_the_sockets_sessions_first_then_the_plugs_then_asks() {
    let mut cluster = Cluster::with_nodes(&["gate", "middle, store"]);
    cluster.apply_text(CHAIN);
    cluster.obey();
    let gate = InstanceId(cluster.of("gate")[0].0);
    cluster.sessions(20, gate, "middle", "middle", "api");
    let middle = cluster.of("middle")[0].0;
    cluster.sessions(2, InstanceId(middle), "store", "store", "api");
    let from = cluster.sent.len();
    cluster.command(Command::StopInstance(InstanceId(middle))).expect("it runs");
    assert_eq!(types(&cluster, from).len(), 8, "a few at a time");
    cluster.obey();
    let shown = types(&cluster, from);
    let place = |name: &str| shown.iter().position(|found| found == name).expect(name);
    let to_peers = cluster.sent[from..].iter().filter(|(to, e)| {
        *to == Connection(1) && matches!(e.message, Message::SourceServiceSessionCloseRequest(_))
    });
    assert_eq!(to_peers.count(), 20);
    let own = cluster.sent[from..]
        .iter()
        .position(|(to, e)| {
            *to == Connection(2) && matches!(e.message, Message::SourceServiceSessionCloseRequest(_))
        })
        .expect("its plugs' sessions are closed too");
    assert!(own >= 20 && own < place("graceful_shutdown_request"), "{shown:?}");
    assert_eq!(cluster.agents.failed, Vec::<u16>::new());
    assert_eq!(cluster.of("middle").len(), 1, "the requests that came back made another one run");
}

#[test]
fn sessions_that_end_at_once_are_all_written_as_over_though_fewer_are_remembered() {
    let (mut cluster, gate) = Cluster::running();
    cluster.request(1, gate, 1_000, "store");
    let (store, _) = cluster.execute("store", 200);
    let many = crate::ENDED_KEPT as u64 + 200;
    for id in 1..many {
        cluster.request(1, gate, 1_000 + id, "store");
    }
    assert_eq!(cluster.engine.store().saved().sessions.len() as u64, many);
    cluster.message(1, &format!("type: service_instance_termination_info ~ message_id: 5 ~ service_name: store ~ service_instance_id: {store}"));
    let saved = cluster.engine.store().saved();
    assert_eq!((saved.sessions.len(), saved.last_session), (0, many), "the next Manager believes in none");
}
