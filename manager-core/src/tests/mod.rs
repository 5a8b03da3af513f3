//! Scenarios of the core, through one helper: a Manager whose agents are written out as messages.

mod admission;
mod agents;
mod ahead;
mod any_commands;
mod any_sequence;
mod bounds;
mod closing;
mod duties;
mod ending;
mod leaving;
mod life;
mod outputs;
mod ownership;
mod peers;
mod plain;
mod reconfiguration;
mod resync;
mod scaling;

use ssmmp::{Address, Envelope, InstanceId, Message};

use super::engine::{Engine, Input, Outside};
use super::memory::Memory;
use super::{
    Apply, Command, Config, Connection, Core, Effect, Event, Instance, InstanceState, Millis, Page, Refusal,
    Ticket,
};
use crate::graph::Graph;

pub(super) const GRAPH: &str = include_str!("gate-store.toml");

/// A gateway, a stateless service, a store.
const CHAIN: &str = r#"app = "t"
[service.gate]
kind = "gateway"
sockets.http = { protocol = "http", port = 8080 }
plugs.middle = { protocol = "p" }
[service.middle]
kind = "regular"
sockets.api = { protocol = "p" }
plugs.store = { protocol = "p" }
[service.store]
kind = "baas"
sockets.api = { protocol = "p" }
[[connection]]
from = "gate.middle"
to = "middle.api"
[[connection]]
from = "middle.store"
to = "store.api"
"#;

struct Cluster {
    engine: Engine<Memory, ()>,
    now: Millis,
    /// What waits to be handled.
    inbox: Option<Event>,
    sent: Vec<(Connection, Envelope)>,
    events: Vec<(String, String)>,
    answers: Vec<Result<patchbay_api::Done, Refusal>>,
    agents: agents::Agents,
    starts: u64,
}

/// Stands in the engine's place while that one runs.
fn idle() -> Engine<Memory, ()> {
    Engine::new(Core::new(Config::default(), 1, 0), Memory::default())
}

impl Outside for Cluster {
    type Question = ();

    fn now(&self) -> Millis {
        self.now
    }

    fn next(&mut self) -> Option<Input<()>> {
        self.inbox.take().map(Input::Event)
    }

    fn speak(&mut self, _: &Core, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(connection, envelope) => self.sent.push((connection, envelope)),
                Effect::Publish(event) => self.events.push((event.kind, event.text)),
                Effect::Answer(_, answer) => self.answers.push(answer),
                _ => {}
            }
        }
    }

    fn answer(&mut self, (): (), _: &Core) {}
}

impl Cluster {
    fn new() -> Self {
        Self {
            engine: idle(),
            now: 0,
            inbox: None,
            sent: Vec::new(),
            events: Vec::new(),
            answers: Vec::new(),
            agents: agents::Agents::default(),
            starts: 1,
        }
    }

    fn handle(&mut self, event: Event) {
        self.inbox = Some(event);
        let mut engine = std::mem::replace(&mut self.engine, idle());
        let Ok(_) = engine.batch(self);
        self.engine = engine;
    }

    /// The Manager is killed and starts again; the agents have not come back yet.
    fn restart(&mut self) {
        self.starts += 1;
        let (_, store) = std::mem::replace(&mut self.engine, idle()).into_parts();
        let mut core = Core::new(Config::default(), self.starts, self.now);
        core.restore(store.saved());
        self.engine = Engine::new(core, store);
        self.agents.forget_unseen(self.sent.len());
    }

    fn message(&mut self, connection: u64, line: &str) {
        let envelope = Envelope::parse(line).expect(line);
        self.handle(Event::Message(Connection(connection), envelope));
    }

    fn register(&mut self, connection: u64, address: &str, services: &str) {
        self.message(connection, &format!(
            "type: initiation_request ~ message_id: 1 ~ agent_network_address: {address} ~ service_repository: ({services}) ~ x_node: n{connection}"
        ));
    }

    fn apply(&mut self) {
        self.apply_text(GRAPH);
    }

    fn apply_text(&mut self, text: &str) {
        let apply = Apply::of_text(text).unwrap_or_else(|problems| panic!("{problems:?}"));
        self.handle(Event::Apply(Ticket(0), apply.into()));
    }

    /// Answers the latest execution_request of a service and returns the instance and its node.
    fn execute(&mut self, service: &str, status: u16) -> (InstanceId, Connection) {
        let (connection, request) = self
            .sent
            .iter()
            .rev()
            .find_map(|(connection, envelope)| match &envelope.message {
                Message::ExecutionRequest(request) if request.service_name.as_str() == service => {
                    Some((*connection, request.clone()))
                }
                _ => None,
            })
            .expect("an execution was requested");
        self.message(
            connection.0,
            &format!("type: execution_response ~ message_id: {} ~ status: {status}", request.message_id),
        );
        (request.service_instance_id, connection)
    }

    fn request(&mut self, connection: u64, source: InstanceId, id: u64, dest: &str) {
        let of = self.engine.core.instance(source.0).map_or_else(|| "gate".into(), |i| i.service.to_string());
        self.message(connection, &format!(
            "type: session_request ~ message_id: {id} ~ sub_type: agent_to_Manager ~ source_service_name: {of} ~ source_service_instance_id: {source} ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: store ~ dest_service_name: {dest} ~ dest_socket_name: api"
        ));
    }

    /// Statuses of the session_responses sent so far.
    fn responses(&self) -> Vec<u16> {
        self.sent
            .iter()
            .filter_map(|(_, envelope)| match &envelope.message {
                Message::SessionResponse(response) => Some(response.status.code()),
                _ => None,
            })
            .collect()
    }

    fn executions(&self) -> usize {
        self.sent.iter().filter(|(_, e)| matches!(e.message, Message::ExecutionRequest(_))).count()
    }

    fn pass(&mut self, time: Millis) {
        let end = self.now + time;
        while let Some(at) = self.engine.core.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.handle(Event::Tick);
        }
        self.now = end;
    }

    fn running() -> (Self, InstanceId) {
        let mut cluster = Self::new();
        cluster.register(1, "10.0.0.1", "gate, store");
        cluster.apply();
        let (gate, _) = cluster.execute("gate", 200);
        (cluster, gate)
    }
}
