//! The Manager's core: a gateway and a store that run, and sessions between them that come and go.

use std::convert::Infallible;
use std::hint::black_box;

use patchbay_manager_core::engine::{Engine, Input, Outside, Store};
use patchbay_manager_core::{Apply, Config, Connection, Core, Effect, Event, Ticket};
use ssmmp::{Envelope, Message};

const GRAPH: &str = include_str!("../../../manager-core/src/tests/gate-store.toml");

/// The engine with a store that keeps nothing.
struct Manager {
    engine: Engine<Nothing, ()>,
    around: Around,
}

struct Nothing;

impl Store for Nothing {
    type Error = Infallible;

    fn commit(&mut self, _: &mut [Effect]) -> Result<(), Infallible> {
        Ok(())
    }
}

#[derive(Default)]
struct Around {
    now: u64,
    input: Option<Event>,
    said: Vec<Message>,
}

impl Outside for Around {
    type Question = ();

    fn now(&self) -> u64 {
        self.now
    }

    fn next(&mut self) -> Option<Input<()>> {
        self.input.take().map(Input::Event)
    }

    fn speak(&mut self, _: &Core, effects: Vec<Effect>) {
        self.said.extend(effects.into_iter().filter_map(|effect| match effect {
            Effect::Send(_, envelope) => Some(envelope.message),
            _ => None,
        }));
    }

    fn answer(&mut self, (): (), _: &Core) {}
}

impl Manager {
    /// Takes an event; returns the messages that follow from it.
    fn handle(&mut self, event: Event) -> Vec<Message> {
        self.around.now += 1;
        self.around.input = Some(event);
        let Ok(_) = self.engine.batch(&mut self.around);
        std::mem::take(&mut self.around.said)
    }

    fn told(&mut self, line: &str) -> Vec<Message> {
        let envelope = Envelope::parse(line).expect("a message of the protocol");
        self.handle(Event::Message(Connection(1), envelope))
    }

    /// Answers the executions among some messages and returns the instances.
    fn execute(&mut self, messages: &[Message]) -> Vec<u64> {
        let mut executed = Vec::new();
        for message in messages {
            if let Message::ExecutionRequest(request) = message {
                let id = request.message_id;
                self.told(&format!("type: execution_response ~ message_id: {id} ~ status: 200"));
                executed.push(request.service_instance_id.0);
            }
        }
        executed
    }
}

fn asked(gate: u64, id: u64) -> String {
    format!(
        "type: session_request ~ message_id: {id} ~ sub_type: agent_to_Manager ~ source_service_name: gate ~ \
         source_service_instance_id: {gate} ~ source_service_instance_network_address: 10.0.0.1 ~ \
         source_plug_name: store ~ dest_service_name: store ~ dest_socket_name: api"
    )
}

/// A session is asked for, acknowledged and closed.
pub fn session(times: u32) {
    let mut manager = Manager {
        engine: Engine::new(Core::new(Config::default(), 1, 0), Nothing),
        around: Around::default(),
    };
    manager.told(
        "type: initiation_request ~ message_id: 1 ~ agent_network_address: 10.0.0.1 ~ service_repository: (gate, store)",
    );
    let apply = Apply::of_text(GRAPH).expect("a good graph");
    let messages = manager.handle(Event::Apply(Ticket(0), apply.into()));
    let gate = *manager.execute(&messages).first().expect("the gateway is executed");
    let messages = manager.told(&asked(gate, 999));
    let store = *manager.execute(&messages).first().expect("the store is executed on demand");
    let mut answered = 0;
    for number in 0..u64::from(times) {
        let (id, port) = (1_000 + 2 * number, 10_000 + number % 40_000);
        let answers = black_box(manager.told(black_box(&asked(gate, id))));
        let Some(Message::SessionResponse(response)) = answers.first() else { continue };
        answered += u32::from(response.status.code() == 200);
        let to = response.dest_socket_port.0;
        manager.told(&format!(
            "type: session_ack ~ message_id: {id} ~ sub_type: agent_to_Manager ~ source_service_name: gate ~ \
             source_service_instance_id: {gate} ~ source_plug_port: {port} ~ dest_socket_new_port: {to} ~ status: 200"
        ));
        manager.told(&format!(
            "type: source_service_session_close_info ~ message_id: {} ~ sub_type: agent_to_Manager ~ \
             source_service_name: gate ~ source_service_instance_id: {gate} ~ \
             source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: store ~ source_plug_port: {port} ~ \
             dest_service_name: store ~ dest_service_instance_id: {store} ~ \
             dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_name: api ~ dest_socket_port: {to} ~ \
             dest_socket_new_port: {to} ~ status: 111",
            id + 1
        ));
    }
    assert_eq!(answered, times, "every request is answered with 200");
}
