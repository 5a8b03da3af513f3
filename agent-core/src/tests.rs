//! Scenarios of the core, through one helper.

mod any_sequence;
mod ending;
mod peers;
mod plain;
mod plug_addresses;
mod resync;

use patchbay_ebpf_common::habit::could;
use patchbay_ebpf_common::{Habit, Reason};
use ssmmp::extension::Redirection;
use ssmmp::{Address, Envelope, InstanceId, Message, Status};

use super::profiles::{ENOUGH_CALLS, Profiles};
use super::{Core, Effect, Event, Millis, Notice, Redirects};
use crate::repository::parse;
use crate::session_report::SessionReport;

const REPOSITORY: &str = r#"
[service.A]
kind = "native"
program = "/bin/sh"
sockets = ["in"]
plugs = ["P"]
[service.redis]
kind = "adapted"
program = "/bin/sh"
sockets = ["redis"]
[service.proxy]
kind = "adapted"
program = "/bin/sh"
arguments = ["{plug:back}"]
sockets = ["in"]
plugs = ["back"]
"#;

struct Node(Core, Millis);

impl Node {
    fn registered() -> Self {
        let repository = parse("r", REPOSITORY, |_, _| None).expect("good");
        let address = Address("10.0.0.1".parse().expect("an address"));
        let redirects =
            Redirects { redirection: Redirection::Kernel, sees_all: true, observes: true, harmless: 0 };
        let mut node = Self(Core::new(address, "n".into(), redirects, repository, Profiles::default()), 0);
        // The first block of message ids is reserved.
        node.0.message_id();
        node.0.take_effects();
        node.register();
        node
    }

    fn register(&mut self) -> Vec<Effect> {
        let effects = self.handle(Event::ManagerUp);
        let Effect::ToManager(envelope) = &effects[0] else { panic!("it registers") };
        let id = envelope.message.message_id();
        self.manager(&format!(
            "type: initiation_response ~ message_id: {id} ~ status: 200 ~ x_manager: m ~ x_epoch: 1"
        ))
    }

    /// Something happens.
    fn handle(&mut self, event: Event) -> Vec<Effect> {
        self.0.handle(self.1, event)
    }

    /// So many milliseconds pass.
    fn pass(&mut self, milliseconds: Millis) -> Vec<Effect> {
        self.1 += milliseconds;
        self.handle(Event::Tick)
    }

    /// Another Manager, which speaks the 22 types and nothing else.
    fn register_plainly(&mut self) -> Vec<Effect> {
        let effects = self.handle(Event::ManagerUp);
        let Effect::ToManager(envelope) = &effects[0] else { panic!("it registers") };
        let id = envelope.message.message_id();
        self.manager(&format!("type: initiation_response ~ message_id: {id} ~ status: 200"))
    }

    fn manager(&mut self, line: &str) -> Vec<Effect> {
        self.handle(Event::FromManager(Envelope::parse(line).expect(line)))
    }

    fn instance(&mut self, id: u64, line: &str) -> Vec<Effect> {
        self.handle(Event::FromInstance(InstanceId(id), Envelope::parse(line).expect(line)))
    }

    fn execute(&mut self, service: &str, id: u64, plugs: &str) -> Vec<Effect> {
        self.manager(&format!("type: execution_request ~ message_id: {id} ~ agent_network_address: 10.0.0.1 ~ service_name: {service} ~ service_instance_id: {id} ~ socket_configuration: in, {} ~ plug_configuration: {plugs}", 54000 + id))
    }

    fn running(services: &[(&str, u64)]) -> Self {
        let mut node = Self::registered();
        for (service, id) in services {
            node.execute(service, *id, if *service == "A" { "P, in, B" } else { "" });
            node.handle(Event::Listening(InstanceId(*id)));
        }
        node
    }

    fn session(&mut self, dest: u64, address: &str, mode: &str) -> Vec<Effect> {
        self.instance(7, "type: session_request ~ message_id: 1000 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: in");
        self.manager(&format!("type: session_response ~ message_id: 1000 ~ source_service_name: A ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_service_instance_id: {dest} ~ dest_socket_name: in ~ dest_service_instance_network_address: {address} ~ dest_socket_port: 54009 ~ status: 200 ~ x_redirect: {mode}"))
    }
}

/// The statuses of what goes to the Manager.
fn statuses(effects: &[Effect]) -> Vec<Status> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::ToManager(envelope) => match &envelope.message {
                Message::ExecutionResponse(m) => Some(m.status),
                Message::HardShutdownResponse(m) => Some(m.status),
                Message::GracefulShutdownResponse(m) => Some(m.status),
                Message::SourceServiceSessionCloseInfo(m) => Some(m.status),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

/// The extension lines of what goes to the Manager.
fn extensions(effect: &Effect) -> Vec<(String, String)> {
    match effect {
        Effect::ToManager(envelope) => envelope.extensions.clone(),
        _ => Vec::new(),
    }
}

fn redirect_of(effects: &[Effect]) -> Result<(), Reason> {
    effects
        .iter()
        .find_map(|effect| match effect {
            Effect::Declare(declare) => Some(declare.redirect),
            _ => None,
        })
        .expect("the session is declared")
}

#[test]
fn an_execution_is_answered_when_its_sockets_listen() {
    let mut node = Node::registered();
    assert_eq!(statuses(&node.execute("nothing", 5, "")), [Status::NOT_FOUND]);
    let effects = node.execute("redis", 5, "");
    assert!(matches!(&effects[..], [Effect::Start(_)]));
    assert!(node.execute("redis", 5, "").is_empty(), "a repeated request starts nothing");
    assert_eq!(statuses(&node.handle(Event::Listening(InstanceId(5)))), [Status::OK]);
    assert_eq!(statuses(&node.execute("redis", 5, "")), [Status::OK]);
    assert_eq!(statuses(&node.execute("A", 5, "")), [Status::CONFLICT]);
}

#[test]
fn an_execution_that_a_shutdown_overtakes_is_answered() {
    // One is starting, the other waits for its plugs' targets.
    for (service, plugs) in [("redis", ""), ("proxy", "back, in, B")] {
        let mut node = Node::registered();
        node.execute(service, 5, plugs);
        let asked = node.manager(&format!(
            "type: hard_shutdown_request ~ message_id: 50 ~ service_name: {service} ~ service_instance_id: 5"
        ));
        assert_eq!(statuses(&asked)[0], Status::UNAVAILABLE, "{service}");
        assert_eq!(extensions(&asked[0])[0].1, "it was shut down before it ran");
        if service == "redis" {
            assert_eq!(statuses(&node.execute(service, 5, plugs)), [Status::CONFLICT], "it is ending");
        }
        let ended = node.handle(Event::Exited(InstanceId(5), "signal 9".into(), Vec::new()));
        let all: Vec<Status> = statuses(&asked).into_iter().chain(statuses(&ended)).collect();
        assert_eq!(all, [Status::UNAVAILABLE, Status::OK], "{service}");
    }
}

#[test]
fn the_kernel_is_told_before_the_instance() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    let effects = node.session(9, "10.0.0.1", "auto");
    assert!(matches!(&effects[..], [Effect::Declare(_), Effect::ToInstance(InstanceId(7), _)]));
}

#[test]
fn who_may_be_redirected() {
    for (dest, address, mode, expected) in [
        (9, "10.0.0.1", "auto", Ok(())),
        (9, "10.0.0.1", "never", Err(Reason::Never)),
        (9, "10.0.0.2", "auto", Err(Reason::OtherNode)),
        (99, "10.0.0.1", "auto", Err(Reason::OtherNode)),
        (8, "10.0.0.1", "auto", Err(Reason::Learning)),
        (8, "10.0.0.1", "always", Ok(())),
    ] {
        let mut node = Node::running(&[("A", 7), ("redis", 8), ("A", 9)]);
        assert_eq!(redirect_of(&node.session(dest, address, mode)), expected, "{dest} {address} {mode}");
    }
}

#[test]
fn an_instance_that_names_another_is_refused() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    let effects = node.instance(7, "type: session_request ~ message_id: 1 ~ source_service_name: A ~ source_service_instance_id: 9 ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: in");
    let [Effect::ToInstance(InstanceId(7), envelope)] = &effects[..] else { panic!("{effects:?}") };
    assert!(matches!(&envelope.message, Message::SessionResponse(r) if r.status == Status::FORBIDDEN));
    assert!(node.instance(7, "type: service_instance_termination_info ~ message_id: 1 ~ service_name: A ~ service_instance_id: 9").is_empty());
}

#[test]
fn a_process_that_dies_is_reported_with_its_sessions() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    node.session(9, "10.0.0.1", "auto");
    node.instance(7, "type: session_ack ~ message_id: 1000 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_port: 40000 ~ status: 200");
    let effects = node.handle(Event::Exited(InstanceId(7), "signal 9".into(), vec!["last | words".into()]));
    assert_eq!(statuses(&effects), [Status::BROKEN]);
    let Some(Effect::ToManager(envelope)) = effects.last() else { panic!("{effects:?}") };
    assert!(matches!(envelope.message, Message::ServiceInstanceTerminationInfo(_)));
    assert_eq!(envelope.extension("x_output"), Some("last / words"));
}

#[test]
fn what_happens_while_the_manager_is_away_is_told_when_it_is_back() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    node.session(9, "10.0.0.1", "auto");
    node.instance(7, "type: session_ack ~ message_id: 1000 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_port: 40000 ~ status: 200");
    node.handle(Event::ManagerLost);
    let effects = node.handle(Event::Exited(InstanceId(9), "exit status 1".into(), Vec::new()));
    assert_eq!(effects, [Effect::Withdraw(InstanceId(9))]);
    let told = node.register();
    assert!(matches!(told[0], Effect::Registered));
    let waited: Vec<&Message> = told[1..3]
        .iter()
        .filter_map(|effect| match effect {
            Effect::ToManager(envelope) => Some(&envelope.message),
            _ => None,
        })
        .collect();
    let [Message::DestServiceSessionCloseInfo(broken), Message::ServiceInstanceTerminationInfo(_)] =
        waited[..]
    else {
        panic!("what waited comes first: {told:?}")
    };
    assert_eq!(broken.status, Status::BROKEN);
    let lines: Vec<_> = told[3..].iter().flat_map(extensions).collect();
    assert_eq!(
        lines,
        [
            ("x_live".to_owned(), "7, 40000, 9, 10.0.0.1, 54009, 1000, P".to_owned()),
            ("x_live_complete".to_owned(), "yes".to_owned()),
        ]
    );
}

#[test]
fn shutdowns_are_answered_when_the_process_is_gone() {
    let mut node = Node::running(&[("A", 7), ("redis", 8)]);
    let effects = node.manager(
        "type: graceful_shutdown_request ~ message_id: 50 ~ service_name: A ~ service_instance_id: 7",
    );
    assert!(matches!(&effects[..], [Effect::ToInstance(..)]));
    let effects = node.manager(
        "type: hard_shutdown_request ~ message_id: 51 ~ service_name: redis ~ service_instance_id: 8",
    );
    assert_eq!(effects, [Effect::End(InstanceId(8))]);
    assert_eq!(
        statuses(&node.handle(Event::Exited(InstanceId(7), "exit status 0".into(), Vec::new()))),
        [Status::OK]
    );
    assert_eq!(
        statuses(&node.handle(Event::Exited(InstanceId(8), "signal 15".into(), Vec::new()))),
        [Status::OK]
    );
    assert_eq!(
        statuses(&node.manager(
            "type: hard_shutdown_request ~ message_id: 52 ~ service_name: A ~ service_instance_id: 7"
        )),
        [Status::NOT_FOUND]
    );
}

const CLOSE: &str = "type: source_service_session_close_request ~ message_id: 60 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: P ~ source_plug_port: 40000 ~ dest_service_name: B ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_name: in ~ dest_socket_port: 54009 ~ dest_socket_new_port: 54009 ~ x_within: 250";

fn open_session() -> Node {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    node.session(9, "10.0.0.1", "auto");
    node.instance(7, "type: session_ack ~ message_id: 1000 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_port: 40000 ~ status: 200");
    node
}

#[test]
fn a_session_that_an_instance_does_not_close_is_closed_in_the_kernel() {
    let mut node = open_session();
    let effects = node.manager(CLOSE);
    assert!(matches!(&effects[..], [Effect::ToInstance(InstanceId(7), _)]), "{effects:?}");
    assert!(node.pass(249).is_empty(), "it may take 250 ms");
    assert!(
        matches!(&node.manager(CLOSE)[..], [Effect::ToInstance(..)]),
        "a repeated request has one deadline"
    );
    let effects = node.pass(1);
    let [Effect::Destroy(local, remote), Effect::ToManager(info), Effect::ToManager(answer)] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!((local.to_string(), remote.port()), ("10.0.0.1:40000".into(), 54009));
    assert!(matches!(&info.message, Message::SourceServiceSessionCloseInfo(i) if i.status == Status::BROKEN));
    assert!(answer.extension("x_forced").is_some());
    assert!(node.pass(250).is_empty());
    let late = "type: source_service_session_close_response ~ message_id: 60 ~ status: 200";
    assert!(node.instance(7, late).is_empty(), "the Manager has its answer");
}

#[test]
fn a_close_request_is_answered_once_by_whoever_it_was_for() {
    let mut node = open_session();
    node.manager(CLOSE);
    let answer = "type: source_service_session_close_response ~ message_id: 60 ~ status: 200";
    assert!(node.instance(9, answer).is_empty(), "another instance was asked");
    assert!(matches!(&node.instance(7, answer)[..], [Effect::ToManager(_)]));
    assert!(node.pass(250).is_empty());
    assert_eq!(node.0.next_timeout(), None);
}

#[test]
fn an_instance_that_ends_has_closed_what_it_was_asked_to() {
    let mut node = open_session();
    node.manager(CLOSE);
    let effects = node.handle(Event::Exited(InstanceId(7), "exit status 0".into(), Vec::new()));
    let answered = effects.iter().any(|effect| {
        matches!(effect, Effect::ToManager(e) if matches!(e.message, Message::SourceServiceSessionCloseResponse(_)))
    });
    assert!(answered, "{effects:?}");
}

#[test]
fn a_session_that_an_earlier_agent_saw_begin_is_told_again_and_reported_when_it_breaks() {
    let mut node = Node::running(&[("A", 7)]);
    let ack = "type: session_ack ~ message_id: 1000 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_port: 40001 ~ dest_socket_new_port: 54009 ~ status: 200";
    assert_eq!(node.instance(7, &format!("{ack} ~ x_session: P, B, 9, in, 10.0.0.2")).len(), 1);
    let broken = |node: &mut Node| {
        let effects = node.handle(Event::Exited(InstanceId(7), "signal 9".into(), Vec::new()));
        statuses(&effects)
    };
    assert_eq!(broken(&mut node), [], "what is not whole is not known");
    let mut node = Node::running(&[("A", 7)]);
    for _ in 0..2 {
        node.instance(7, &format!("{ack} ~ x_session: P, B, 9, in, 10.0.0.2, 54009"));
    }
    assert_eq!(broken(&mut node), [Status::BROKEN]);
}

#[test]
fn a_program_that_is_not_asked_itself_is_well_only_while_it_is_not_stopped() {
    let mut node = Node::running(&[("redis", 8)]);
    let effects = node.manager("type: service_instance_health_request ~ message_id: 5 ~ service_instance_id: 8 ~ service_instance_network_address: 10.0.0.1");
    let [Effect::ToManagerIfAwake(InstanceId(8), awake, stopped)] = &effects[..] else {
        panic!("{effects:?}")
    };
    let status = |envelope: &Envelope| envelope.message.status();
    assert_eq!((status(awake), status(stopped)), (Some(Status::OK), Some(Status::NO_ANSWER)));
}

#[test]
fn a_program_is_redirected_once_its_habits_are_known() {
    let mut node = Node::running(&[("A", 7), ("redis", 8)]);
    let effects = node.session(8, "10.0.0.1", "auto");
    assert_eq!(redirect_of(&effects), Err(Reason::Learning));
    let mut report = SessionReport::between(7, 8, "10.0.0.1:54009".parse().expect("an address"));
    report.calls = [0, ENOUGH_CALLS];
    report.examined = [true, true];
    let effects = node.handle(Event::Observed(vec![report.clone()]));
    assert!(matches!(&effects[..], [Effect::Keep, Effect::Declare(d)] if d.redirect.is_ok()), "{effects:?}");
    assert!(node.handle(Event::Observed(vec![report.clone()])).is_empty(), "nothing new");
    report.habits[1].push(Habit::call(275));
    let effects = node.handle(Event::Habit(report));
    let [Effect::Notice(Notice::StaysOnTcp { disproved: None, .. }), Effect::Keep, Effect::Declare(d)] =
        &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(d.redirect, Err(Reason::Habit));
    assert_eq!(redirect_of(&node.session(8, "10.0.0.1", "auto")), Err(Reason::Habit));
    assert_eq!(redirect_of(&node.session(8, "10.0.0.1", "always")), Ok(()));
}

#[test]
fn what_the_graph_allows_is_decided_by_what_is_seen() {
    let mut node = Node::running(&[("A", 7), ("redis", 8)]);
    let mut report = SessionReport::between(7, 8, "10.0.0.1:54009".parse().expect("an address"));
    report.calls = [0, ENOUGH_CALLS];
    report.examined = [true, true];
    report.habits[1].push(Habit::could(could::SPLICE));
    node.session(8, "10.0.0.1", "auto ~ x_allow: splice");
    let effects = node.handle(Event::Observed(vec![report.clone()]));
    assert!(matches!(&effects[..], [Effect::Keep, Effect::Declare(d)] if d.redirect.is_ok()), "{effects:?}");
    assert_eq!(redirect_of(&node.session(8, "10.0.0.1", "auto")), Err(Reason::Habit));
    assert_eq!(redirect_of(&node.session(8, "10.0.0.1", "auto ~ x_allow: teleport")), Err(Reason::Habit));
    assert_eq!(redirect_of(&node.session(8, "10.0.0.1", "auto ~ x_allow: splice")), Ok(()));
    report.habits[1].push(Habit::call(libc::SYS_splice as u32));
    node.handle(Event::Habit(report));
    assert_eq!(redirect_of(&node.session(8, "10.0.0.1", "auto ~ x_allow: splice")), Err(Reason::Habit));
}

#[test]
fn a_connection_of_small_writes_is_remembered() {
    let mut node = Node::running(&[("A", 7), ("A", 9)]);
    assert_eq!(redirect_of(&node.session(9, "10.0.0.1", "auto")), Ok(()));
    let mut report = SessionReport::between(7, 9, "10.0.0.1:54009".parse().expect("an address"));
    report.leaving = Some(Reason::SmallWrites);
    node.handle(Event::Leaving(report));
    assert_eq!(redirect_of(&node.session(9, "10.0.0.1", "auto")), Err(Reason::SmallWrites));
}

#[test]
fn what_the_self_test_found_decides_declared_sessions_and_is_told() {
    let mut node = Node::running(&[("A", 7), ("redis", 9)]);
    let effects = node.session(9, "10.0.0.1", "auto");
    assert_eq!(redirect_of(&effects), Err(Reason::Learning));
    let told = |harmless, why: &str| {
        Event::Tested(Redirects {
            redirection: Redirection::Off(why.into()),
            sees_all: true,
            observes: false,
            harmless,
        })
    };
    let effects = node.handle(told(0, "off: no BTF"));
    assert_eq!(redirect_of(&effects), Err(Reason::NoProfile), "it can't be observed, as is known now");
    assert!(
        effects.iter().any(|it| extensions(it).contains(&("x_redirection".into(), "off: no BTF".into())))
    );
    node.handle(Event::ManagerLost);
    let effects = node.handle(told(0, "off: it failed"));
    assert!(effects.is_empty(), "the registration will say it: {effects:?}");
    let effects = node.handle(Event::ManagerUp);
    assert!(
        effects.iter().any(|it| extensions(it).contains(&("x_redirection".into(), "off: it failed".into())))
    );
}

#[test]
fn a_self_test_that_ends_while_the_manager_answers_a_registration_is_told_afterwards() {
    let mut node = Node::registered();
    node.handle(Event::ManagerLost);
    node.handle(Event::ManagerUp);
    let tested = Redirects {
        redirection: Redirection::Off("off: it failed".into()),
        sees_all: true,
        observes: true,
        harmless: u32::MAX,
    };
    assert!(node.handle(Event::Tested(tested)).is_empty(), "nothing is said before the answer");
    let id = node.0.registration;
    let answer = format!("type: initiation_response ~ message_id: {id} ~ status: 200 ~ x_manager: m");
    let effects = node.manager(&answer);
    assert!(
        effects.iter().any(|it| extensions(it).contains(&("x_redirection".into(), "off: it failed".into())))
    );
    let effects = node.manager(&answer);
    assert!(effects.iter().all(|it| extensions(it).is_empty()), "once: {effects:?}");
}

#[test]
fn limits_that_are_not_applied_are_told_with_the_instance_and_again_with_each_registration() {
    let mut node = Node::registered();
    node.execute("A", 7, "P, in, B");
    let sentence = "limit not applied: this machine has no memory controller";
    node.0.note_unlimited(InstanceId(7), sentence.into());
    let told = node.handle(Event::Listening(InstanceId(7)));
    assert_eq!(extensions(&told[0]), [("x_unlimited".to_owned(), sentence.to_owned())]);
    node.handle(Event::ManagerLost);
    let again = node.handle(Event::ManagerUp);
    let expected = ("x_unlimited".to_owned(), format!("7, {sentence}"));
    assert!(extensions(&again[0]).contains(&expected), "{again:?}");
    node.0.note_unlimited(InstanceId(7), String::new());
    let again = node.handle(Event::ManagerUp);
    assert!(extensions(&again[0]).iter().all(|(name, _)| name != "x_unlimited"), "{again:?}");
}
