//! Any bytes from any agents, through framing and codec into the Manager's real core, between losses of
//! connections, people's wishes and time: no panic, no request answered twice, no port given twice,
//! timers that come to rest, and state that is no larger than what was sent.
#![no_main]

use std::collections::HashMap;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use patchbay_fuzz::Script;
use patchbay_manager_core::graph::Graph;
use patchbay_manager_core::{Apply, Command, Config, Connection, Core, Effect, Event, Millis, Ticket};
use ssmmp::{Conversation, Envelope, InstanceId, MAX_MESSAGE_BYTES, Message, MessageId, Speaker};

const GRAPH: &str = include_str!("../../manager-core/src/tests/gate-store.toml");
/// Agents at once.
const AGENTS: u64 = 3;
/// Ticks that one step of time may need.
const MAX_TICKS: usize = 20_000;

struct Cluster {
    core: Core,
    now: Millis,
    agents: Vec<(Connection, Conversation)>,
    next: u64,
    /// Session requests by who asked, and the answers they got.
    asked: HashMap<(InstanceId, MessageId), i64>,
    registrations: HashMap<Connection, i64>,
    /// Sessions that may exist for what was said: one for each request or acknowledgement, and those
    /// that agents told of.
    sessions: usize,
    requests: usize,
    /// The latest message to each agent, so that it can be answered.
    latest: Vec<Vec<Envelope>>,
}

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self {
            core: Core::new(Config::default(), 1, 0),
            now: 0,
            agents: Vec::new(),
            next: 1,
            asked: HashMap::new(),
            registrations: HashMap::new(),
            sessions: 0,
            requests: 0,
            latest: vec![Vec::new(); AGENTS as usize],
        };
        for _ in 0..AGENTS {
            let agent = cluster.connection();
            cluster.agents.push(agent);
        }
        cluster.apply();
        cluster
    }

    fn connection(&mut self) -> (Connection, Conversation) {
        self.next += 1;
        let conversation =
            Conversation::new(Speaker::Agent, MAX_MESSAGE_BYTES).accepting_semi(self.next.is_multiple_of(2));
        (Connection(self.next), conversation)
    }

    fn apply(&mut self) {
        static READ: OnceLock<Graph> = OnceLock::new();
        let graph = READ.get_or_init(|| Graph::read(GRAPH).expect("good").0);
        let apply = Apply { graph: graph.clone(), text: GRAPH.into(), warnings: Vec::new(), seen: None };
        self.handle(Event::Apply(Ticket(0), apply.into()));
    }

    fn handle(&mut self, event: Event) {
        match &event {
            Event::Message(_, Envelope { message: Message::SessionRequest(request), .. }) => {
                self.requests += 1;
                self.sessions += 1;
                *self.asked.entry((request.source_service_instance_id, request.message_id)).or_default() += 1;
            }
            Event::Message(connection, Envelope { message: Message::InitiationRequest(_), .. }) => {
                *self.registrations.entry(*connection).or_default() += 1;
            }
            Event::Message(_, Envelope { message: Message::SessionAck(_), .. }) => self.sessions += 1,
            Event::Message(_, envelope) => {
                self.sessions += envelope.extension("x_live").map_or(0, |live| live.split('&').count());
            }
            _ => {}
        }
        for effect in self.core.handle(self.now, event) {
            if let Effect::Send(connection, envelope) = effect {
                self.sent(connection, envelope);
            }
        }
        self.check();
    }

    fn sent(&mut self, connection: Connection, envelope: Envelope) {
        match &envelope.message {
            Message::SessionResponse(response) => {
                let key = (response.source_service_instance_id, response.message_id);
                let left = self.asked.get_mut(&key).expect("only what was asked is answered");
                *left -= 1;
                assert!(*left >= 0, "a request is answered twice: {envelope:?}");
            }
            Message::InitiationResponse(_) => {
                let left = self.registrations.get_mut(&connection).expect("it registered");
                *left -= 1;
                assert!(*left >= 0, "a registration is answered twice");
            }
            _ => {}
        }
        if let Some(at) = self.agents.iter().position(|(known, _)| *known == connection) {
            let mut text = String::new();
            let answer = self.agents[at].1.encode(&envelope, &mut text);
            assert!(answer.is_some() != text.ends_with('\n'));
            self.latest[at].push(envelope);
            if self.latest[at].len() > 16 {
                self.latest[at].remove(0);
            }
        }
    }

    fn check(&self) {
        let living = self.core.every_instance().filter(|instance| instance.state.is_alive());
        let mut ports: Vec<_> =
            living.flat_map(|i| i.sockets.iter().map(|(_, port)| (i.address, *port))).collect();
        let all = ports.len();
        ports.sort();
        ports.dedup();
        assert_eq!(ports.len(), all, "a port is given twice");
        assert!(self.core.every_session().count() <= self.sessions, "more sessions than were told of");
        assert!(self.core.waiting_requests() <= self.requests);
    }

    /// Bytes from an agent.
    fn said(&mut self, agent: usize, bytes: &[u8]) {
        self.agents[agent].1.push(bytes);
        while let Some(read) = self.agents[agent].1.next_message() {
            let connection = self.agents[agent].0;
            match read {
                Ok(envelope) => self.handle(Event::Message(connection, envelope)),
                Err(problem) => drop(problem.refusal.map(|refusal| refusal.encode())),
            }
        }
    }

    fn pass(&mut self, time: Millis) {
        let end = self.now + time;
        for _ in 0..MAX_TICKS {
            let Some(at) = self.core.next_deadline().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            self.handle(Event::Tick);
        }
        panic!("timers do not come to rest");
    }

    /// A message as an agent would send it, with numbers of the fuzzer's choice.
    fn plausible(&mut self, agent: usize, script: &mut Script<'_>) {
        let (kind, a, b) = (script.below(9), script.below(8), script.below(8));
        let address = format!("10.0.0.{}", agent + 1);
        let status = ["200", "404", "102", "500", "300"][a as usize % 5];
        let line = match kind {
            0 => format!(
                "type: initiation_request ~ message_id: {} ~ agent_network_address: {address} ~ service_repository: (gate, store) ~ x_running: gate, {a}, http=8080 & store, {b}, api=54000",
                a + 1
            ),
            1 | 2 => {
                let Some(request) = self.latest[agent].iter().rev().nth(b as usize) else { return };
                let id = request.message.message_id();
                match &request.message {
                    Message::ExecutionRequest(_) => {
                        format!("type: execution_response ~ message_id: {id} ~ status: {status}")
                    }
                    Message::GracefulShutdownRequest(_) => {
                        format!("type: graceful_shutdown_response ~ message_id: {id} ~ status: {status}")
                    }
                    Message::HardShutdownRequest(m) => format!(
                        "type: hard_shutdown_response ~ message_id: {id} ~ service_instance_id: {} ~ status: {status}",
                        m.service_instance_id
                    ),
                    Message::ServiceInstanceHealthRequest(m) => format!(
                        "type: service_instance_health_response ~ message_id: {id} ~ service_instance_id: {} ~ status: 200",
                        m.service_instance_id
                    ),
                    Message::SourceServiceSessionCloseRequest(_) => format!(
                        "type: source_service_session_close_response ~ message_id: {id} ~ status: {status}"
                    ),
                    _ => format!("type: agent_health_control_response ~ message_id: {id} ~ status: 200"),
                }
            }
            3 | 4 => format!(
                "type: session_request ~ message_id: {} ~ source_service_name: gate ~ source_service_instance_id: {b} ~ source_plug_name: store ~ dest_service_name: store ~ dest_socket_name: api",
                1000 + a
            ),
            5 => format!(
                "type: session_ack ~ message_id: {} ~ source_service_instance_id: {b} ~ source_plug_port: {} ~ status: {status}",
                1000 + a,
                40000 + a
            ),
            6 => format!(
                "type: source_service_session_close_info ~ message_id: 7 ~ source_service_name: gate ~ source_service_instance_id: {b} ~ source_service_instance_network_address: {address} ~ source_plug_name: store ~ source_plug_port: {} ~ dest_service_name: store ~ dest_service_instance_network_address: {address} ~ dest_socket_name: api ~ dest_socket_port: 54000 ~ status: 111",
                40000 + a
            ),
            7 => format!(
                "type: service_instance_termination_info ~ message_id: 8 ~ service_name: gate ~ service_instance_id: {b}"
            ),
            _ => format!(
                "type: agent_health_control_response ~ message_id: 9 ~ status: 200 ~ x_sessions: {address}, {}, {address}, 54000, kernel, -, 1, 1, 1, 1, 1, 1, 1, 1, closed",
                40000 + a
            ),
        };
        self.said(agent, format!("{line}\n").as_bytes());
    }
}

/// Something that people may ask for.
fn command(script: &mut Script<'_>) -> Command {
    let (kind, number) = (script.below(9), script.below(8));
    let (id, node) = (InstanceId(number), format!("10.0.0.{}", 1 + number % AGENTS));
    match kind {
        0 => Command::StopApp("t".into()),
        1 => Command::StopInstance(id),
        2 => Command::CloseSession(number),
        3 => Command::CloseConnection("t".into(), "gate.store".into()),
        4 => Command::CloseInstance(id),
        5 => Command::Move(id, node),
        6 => Command::Drain(node),
        7 => Command::Undrain(node),
        _ => Command::Scale("t".into(), "gate".into(), (number > 0).then_some(number as u32 % 4)),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut cluster = Cluster::new();
    let mut script = Script(bytes);
    while let Some(step) = script.byte() {
        let agent = script.below(AGENTS) as usize;
        match step % 12 {
            0 | 1 => {
                let length = script.byte().unwrap_or(0);
                let taken = script.bytes(usize::from(length));
                cluster.said(agent, taken);
            }
            2 => {
                let lost = cluster.agents[agent].0;
                cluster.latest[agent].clear();
                cluster.agents[agent] = cluster.connection();
                cluster.handle(Event::Lost(lost));
            }
            3 => {
                let time = script.below(256) * 100;
                cluster.pass(time);
            }
            4 => cluster.apply(),
            5 | 6 => {
                let command = command(&mut script);
                cluster.handle(Event::Command(Ticket(1), command));
            }
            _ => cluster.plausible(agent, &mut script),
        }
    }
    // Left alone, it comes to rest.
    cluster.pass(120_000);
});
