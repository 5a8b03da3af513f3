//! Any bytes from any instances and from the Manager, through framing and codec into the agent's real core,
//! between losses of connections and ends of processes: no panic, no request answered twice, nothing sent
//! to an instance that does not exist, and state that is no larger than what was asked for.
#![no_main]

use std::collections::HashMap;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use patchbay_agent_core::profiles::Profiles;
use patchbay_agent_core::repository::{self, Repository};
use patchbay_agent_core::session_report::{Cause, SessionReport};
use patchbay_agent_core::{Core, Effect, Event, MAX_UNSENT, Redirects};
use patchbay_fuzz::Script;
use ssmmp::extension::Redirection;
use ssmmp::{
    Address, Conversation, Envelope, InstanceId, MAX_MESSAGE_BYTES, Message, MessageId, Name, Speaker, Status,
};

const REPOSITORY: &str = r#"
[service.A]
kind = "native"
program = "/bin/sh"
sockets = ["in"]
plugs = ["P"]
[service.redis]
kind = "adapted"
program = "/bin/sh"
sockets = ["in"]
[service.proxy]
kind = "adapted"
program = "/bin/sh"
arguments = ["{plug:P}"]
sockets = ["in"]
plugs = ["P"]
"#;
/// Instances that may be executed: their ids are 1 to this.
const INSTANCES: u64 = 6;

struct Node {
    core: Core,
    /// Milliseconds that have passed.
    now: u64,
    manager: Conversation,
    instances: Vec<Conversation>,
    /// Requests of the Manager by type and id, less the answers they got.
    requests: HashMap<(&'static str, MessageId), i64>,
    /// Session requests of instances, less the answers they got.
    asked: HashMap<(InstanceId, MessageId), i64>,
    /// The ids of session requests that went to the Manager.
    forwarded: Vec<(InstanceId, MessageId)>,
    registration: Option<MessageId>,
    sent: usize,
}

fn server() -> Conversation {
    Conversation::new(Speaker::Server, MAX_MESSAGE_BYTES)
}

fn instance(id: u64) -> Conversation {
    let name = Name::new(if id.is_multiple_of(2) { "A" } else { "redis" }).expect("good");
    Conversation::new(Speaker::Instance(name, InstanceId(id)), MAX_MESSAGE_BYTES).accepting_semi(id > 3)
}

/// Whether it answers a request whose id could not be read: it has 0, which is no message's.
fn is_of_unread(id: MessageId) -> bool {
    id == MessageId::from(0)
}

/// The response type of a request, by which both are counted.
fn response_type(message: &Message) -> Option<&'static str> {
    match message {
        Message::ExecutionRequest(_) | Message::ExecutionResponse(_) => Some("execution"),
        Message::GracefulShutdownRequest(_) | Message::GracefulShutdownResponse(_) => Some("graceful"),
        Message::HardShutdownRequest(_) | Message::HardShutdownResponse(_) => Some("hard"),
        _ => None,
    }
}

impl Node {
    fn new() -> Self {
        let address: std::net::IpAddr = "10.0.0.1".parse().expect("an address");
        let redirects =
            Redirects { redirection: Redirection::Kernel, sees_all: true, observes: true, harmless: 0 };
        static READ: OnceLock<Repository> = OnceLock::new();
        let repository =
            READ.get_or_init(|| repository::parse("r", REPOSITORY, |_, _| None).expect("good")).clone();
        Self {
            core: Core::new(Address::from(address), "n".into(), redirects, repository, Profiles::default()),
            now: 0,
            manager: server(),
            instances: (0..=INSTANCES).map(instance).collect(),
            requests: HashMap::new(),
            asked: HashMap::new(),
            forwarded: Vec::new(),
            registration: None,
            sent: 0,
        }
    }

    fn handle(&mut self, event: Event) {
        match &event {
            Event::FromManager(envelope) => {
                if let Some(kind) = response_type(&envelope.message) {
                    *self.requests.entry((kind, envelope.message.message_id())).or_default() += 1;
                }
                if let Message::SessionResponse(m) = &envelope.message {
                    *self.asked.entry((m.source_service_instance_id, m.message_id)).or_default() += 1;
                }
            }
            Event::FromInstance(id, Envelope { message: Message::SessionRequest(m), .. }) => {
                *self.asked.entry((*id, m.message_id)).or_default() += 1;
            }
            _ => {}
        }
        for effect in self.core.handle(self.now, event) {
            self.performed(effect);
        }
        assert!(self.core.instance_ids().len() <= INSTANCES as usize + 1);
    }

    fn performed(&mut self, effect: Effect) {
        match effect {
            Effect::ToManager(envelope) | Effect::ReportThen(envelope) => {
                self.sent += 1;
                let id = envelope.message.message_id();
                if is_of_unread(id) {
                    return;
                }
                let wire = envelope.encode();
                Envelope::parse(wire.trim_end_matches('\n')).expect("what is emitted is understood");
                match &envelope.message {
                    Message::InitiationRequest(_) => self.registration = Some(id),
                    Message::SessionRequest(m) => {
                        self.forwarded.push((m.source_service_instance_id, id));
                        self.forwarded.drain(..self.forwarded.len().saturating_sub(8));
                    }
                    answer => {
                        if let Some(kind) = response_type(answer) {
                            // A request that was repeated while it was carried out is answered once.
                            let left =
                                self.requests.get_mut(&(kind, id)).expect("only what was asked is answered");
                            *left -= 1;
                            assert!(*left >= 0, "a request of the Manager is answered twice: {wire}");
                        }
                    }
                }
            }
            Effect::ToInstance(id, envelope) => {
                assert!(id.is_known());
                if let Message::SessionResponse(m) = &envelope.message
                    && !is_of_unread(m.message_id)
                {
                    let left =
                        self.asked.get_mut(&(id, m.message_id)).expect("only what was asked is answered");
                    *left -= 1;
                    assert!(*left >= 0, "a request of an instance is answered twice");
                }
                if let Some(instance) = self.instances.get_mut(id.0 as usize) {
                    instance.encode(&envelope, &mut String::new());
                }
            }
            _ => {}
        }
    }

    fn manager_said(&mut self, bytes: &[u8]) {
        self.manager.push(bytes);
        while let Some(read) = self.manager.next_message() {
            match read {
                // Whoever is the Manager may execute as many as it likes; here it is these.
                Ok(Envelope { message: Message::ExecutionRequest(m), .. })
                    if m.service_instance_id.0 > INSTANCES => {}
                Ok(envelope) => self.handle(Event::FromManager(envelope)),
                Err(problem) => {
                    if let Some(refusal) = problem.refusal {
                        if let Some(kind) = response_type(&refusal.message) {
                            *self.requests.entry((kind, refusal.message.message_id())).or_default() += 1;
                        }
                        self.handle(Event::Refusal(*refusal));
                    }
                }
            }
        }
    }

    fn instance_said(&mut self, id: u64, bytes: &[u8]) {
        self.instances[id as usize].push(bytes);
        while let Some(read) = self.instances[id as usize].next_message() {
            if let Ok(envelope) = read {
                self.handle(Event::FromInstance(InstanceId(id), envelope));
            }
        }
    }

    /// A message of the Manager with numbers of the fuzzer's choice.
    fn manager_plausible(&mut self, script: &mut Script<'_>) {
        let (kind, id, b) = (script.below(9), script.below(INSTANCES + 1), script.below(8));
        let service = ["A", "redis", "proxy", "nothing"][b as usize % 4];
        let at = format!(
            "dest_service_instance_network_address: 10.0.0.{} ~ dest_socket_name: in ~ dest_socket_port: {}",
            1 + b % 2,
            54000 + b
        );
        let line = match kind {
            0 => match self.registration {
                Some(registration) => {
                    // A Manager of ours, or one without extensions.
                    let extended = if b % 2 == 0 { " ~ x_manager: m" } else { "" };
                    format!("type: initiation_response ~ message_id: {registration} ~ status: 200{extended}")
                }
                None => return,
            },
            1 | 2 => format!(
                "type: execution_request ~ message_id: {} ~ agent_network_address: 10.0.0.1 ~ service_name: {service} ~ service_instance_id: {id} ~ socket_configuration: in, {} ~ plug_configuration: P, in, B",
                100 + b,
                54000 + id
            ),
            3 | 4 => {
                let Some((source, message)) = self.forwarded.iter().rev().nth(b as usize % 4).copied() else {
                    return;
                };
                let status = ["200", "200", "102", "503"][b as usize % 4];
                format!(
                    "type: session_response ~ message_id: {message} ~ source_service_name: A ~ source_service_instance_id: {source} ~ dest_service_name: B ~ dest_service_instance_id: {id} ~ {at} ~ status: {status} ~ x_redirect: auto"
                )
            }
            5 => format!(
                "type: source_service_session_close_request ~ message_id: {} ~ source_service_name: A ~ source_service_instance_id: {id} ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: P ~ source_plug_port: {} ~ dest_service_name: B ~ {at}",
                200 + b,
                40000 + b
            ),
            6 => format!(
                "type: graceful_shutdown_request ~ message_id: {} ~ service_name: A ~ service_instance_id: {id}",
                300 + b
            ),
            7 => format!(
                "type: hard_shutdown_request ~ message_id: {} ~ service_name: A ~ service_instance_id: {id}",
                400 + b
            ),
            _ => format!(
                "type: service_instance_health_request ~ message_id: {} ~ service_instance_id: {id}",
                500 + b
            ),
        };
        self.manager_said(format!("{line}\n").as_bytes());
    }

    fn instance_plausible(&mut self, id: u64, script: &mut Script<'_>) {
        let (kind, a) = (script.below(6), script.below(8));
        let line = match kind {
            0 | 1 => format!(
                "type: session_request ~ message_id: {} ~ source_service_name: A ~ source_service_instance_id: {id} ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: in",
                1000 + a
            ),
            2 => format!(
                "type: session_ack ~ message_id: {} ~ source_plug_port: {} ~ status: 200",
                1000 + a,
                40000 + a
            ),
            3 => format!(
                "type: source_service_session_close_info ~ message_id: 7 ~ source_service_name: A ~ source_service_instance_id: {id} ~ source_plug_name: P ~ source_plug_port: {} ~ dest_service_name: B ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_name: in ~ dest_socket_port: 54001 ~ status: 111",
                40000 + a
            ),
            4 => format!("type: graceful_shutdown_response ~ message_id: {} ~ status: 200", 300 + a),
            _ => {
                format!("type: source_service_session_close_response ~ message_id: {} ~ status: 200", 200 + a)
            }
        };
        self.instance_said(id, format!("{line}\n").as_bytes());
    }

    /// Something happens to a process, or the kernel saw a session.
    fn happened(&mut self, script: &mut Script<'_>) {
        let (kind, id, b) = (script.below(6), script.below(INSTANCES + 1), script.below(8));
        let at = format!("10.0.0.1:{}", 54000 + b).parse().expect("an address");
        let mut report = SessionReport::between(id, b, at);
        report.source = format!("10.0.0.1:{}", 40000 + b).parse().expect("an address");
        let id = InstanceId(id);
        match kind {
            0 | 1 => self.handle(Event::Listening(id)),
            2 => self.handle(Event::Exited(id, "signal 9".into(), vec!["a | b".into()])),
            3 => self.handle(Event::StartFailed(id, Status::INTERNAL, "no".into(), Vec::new())),
            4 => self.handle(Event::Established(report)),
            _ => self.handle(Event::Closed(report, Cause::Broken)),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut node = Node::new();
    let mut script = Script(bytes);
    while let Some(step) = script.byte() {
        match step % 10 {
            0 => {
                let length = script.byte().unwrap_or(0);
                let taken = script.bytes(usize::from(length));
                node.manager_said(taken);
            }
            1 => {
                let (id, length) = (script.below(INSTANCES + 1), script.byte().unwrap_or(0));
                let taken = script.bytes(usize::from(length));
                node.instance_said(id, taken);
            }
            2 => {
                node.manager = server();
                node.handle(Event::ManagerUp);
            }
            3 if script.below(2) == 0 => node.handle(Event::ManagerLost),
            3 => {
                node.now += 100 * script.below(128);
                node.handle(Event::Tick);
            }
            4 | 5 => node.happened(&mut script),
            6 | 7 => node.manager_plausible(&mut script),
            _ => {
                let id = script.below(INSTANCES + 1);
                node.instance_plausible(id, &mut script);
            }
        }
    }
    // What was kept for an absent Manager is bounded.
    let before = node.sent;
    node.handle(Event::ManagerUp);
    if let Some(registration) = node.registration {
        node.manager_said(
            format!("type: initiation_response ~ message_id: {registration} ~ status: 200\n").as_bytes(),
        );
    }
    assert!(node.sent - before <= 1 + MAX_UNSENT + bytes.len());
});
