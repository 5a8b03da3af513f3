//! Agents register, are lost and return (section 4, 1 and 2).

use std::collections::HashMap;

use ssmmp::{Address, Envelope, Hop, InitiationResponse, InstanceId, Message, Status};

use super::{Connection, Core, Effect, Identity, Node, Timer};

/// Nodes that are known at once; for a new one a lost one without instances is forgotten, else it is
/// refused with 503.
pub const MAX_NODES: usize = 10_000;
/// What one agent may tell of its instances in parts before it registers, bytes; more is refused with 400.
const MAX_PARTS: usize = 512 * 1024;
/// What all agents may have told so, bytes; more is refused with 503, and comes again.
const MAX_PARTS_OF_ALL: usize = 128 * 1024 * 1024;
/// Longest name or reason of a node that is kept, in characters.
const LONGEST_TEXT: usize = 200;

/// What agents that are about to register have told of their instances so far (docs/protocol.md).
#[derive(Debug, Default)]
pub(crate) struct Parts {
    of: HashMap<Connection, String>,
    bytes: usize,
}

impl Parts {
    fn keep(&mut self, connection: Connection, items: &str) -> Result<(), Status> {
        let told = self.of.get(&connection).map_or(0, String::len);
        if told + items.len() > MAX_PARTS {
            return Err(Status::BAD_REQUEST);
        }
        if self.bytes + items.len() > MAX_PARTS_OF_ALL {
            return Err(Status::UNAVAILABLE);
        }
        let kept = self.of.entry(connection).or_default();
        kept.push_str(items);
        kept.push('&');
        self.bytes += items.len() + 1;
        Ok(())
    }

    fn take(&mut self, connection: Connection) -> String {
        let told = self.of.remove(&connection).unwrap_or_default();
        self.bytes -= told.len();
        told
    }
}

impl Core {
    /// Whether an agent may speak for an instance: it must be on its node, and not over.
    pub(super) fn speaks_for(&self, connection: Connection, id: InstanceId) -> bool {
        let node = self.inventory.node_of(connection);
        self.inventory.instance(id).is_some_and(|i| Some(i.address) == node && i.state.is_alive())
    }

    /// A node whose instances were read back from disk is expected to return.
    pub(super) fn expect_node(&mut self, address: Address) {
        if self.inventory.node(address).is_none() {
            self.inventory.put_node(Node::lost(address, self.now));
            self.at(self.now + self.config.agent_grace, Timer::NodeGrace(address));
        }
    }

    /// An agent registers, for the first time or again; an earlier connection is probed first.
    pub(super) fn register(&mut self, connection: Connection, envelope: &Envelope) {
        let Message::InitiationRequest(request) = &envelope.message else { return };
        let address = request.agent_network_address;
        let name = envelope.extension("x_node").map_or_else(|| address.to_string(), short);
        if let Some(owner) = self.ownership.of_node(&name, address) {
            let answer = owner.answer_to(request.message_id, &name);
            self.effect(Effect::Send(connection, answer));
            self.effect(Effect::Close(connection));
            return;
        }
        let identity = self.identity.clone();
        let answer = |status| {
            let response = InitiationResponse { message_id: request.message_id, status };
            let envelope = Envelope::new(response, Hop::ManagerToAgent);
            Effect::Send(connection, Identity::add(identity.as_ref(), envelope))
        };
        if !address.is_known() {
            self.effect(answer(Status::BAD_REQUEST));
            return;
        }
        let running = envelope.extension("x_running").unwrap_or_default();
        if envelope.extension("x_running_more").is_some() {
            match self.parts.keep(connection, running) {
                Ok(()) => self.effect(answer(Status::CONTINUE)),
                Err(status) => {
                    self.effect(answer(status));
                    self.effect(Effect::Close(connection));
                }
            }
            return;
        }
        if self.inventory.node(address).is_none() && !self.inventory.make_room(MAX_NODES) {
            self.effect(answer(Status::UNAVAILABLE));
            return;
        }
        let earlier = self.inventory.node(address).and_then(|node| node.connection);
        if earlier.is_some_and(|earlier| earlier != connection) {
            self.probe(address, connection, envelope.clone());
            return;
        }
        let mut node = Node::lost(address, self.now);
        node.name.clone_from(&name);
        node.connection = Some(connection);
        node.polls.healthy = self.now;
        node.repository = request.service_repository.0.iter().cloned().collect();
        node.redirection = short(envelope.extension("x_redirection").unwrap_or("unknown"));
        let services = node.repository.len();
        self.inventory.put_node(node);
        self.plan_node_polls(address);
        self.effect(answer(Status::OK));
        self.publish(
            "node-up",
            format!("node {name}"),
            format!("registered from {address} with {services} services"),
        );
        self.expect_sessions(connection);
        let running = self.parts.take(connection) + running;
        self.reconcile(address, &running);
        self.settle_all();
        self.retry_all_waiting();
    }

    /// An agent's connection ended; its instances go on, for now.
    pub(super) fn connection_lost(&mut self, connection: Connection) {
        self.candidate_lost(connection);
        self.parts.take(connection);
        let Some(address) = self.inventory.node_of(connection) else { return };
        let now = self.now;
        self.told.remove(&connection);
        self.inventory.disconnect(address, now);
        let name = self.inventory.node(address).map(|node| node.name.clone()).unwrap_or_default();
        self.publish("node-lost", format!("node {name}"), "its connection ended; its instances go on".into());
        self.at(now + self.config.agent_grace, Timer::NodeGrace(address));
        self.take_over(address);
    }

    /// A lost agent has not come back in time: its instances count as lost.
    pub(super) fn grace_ended(&mut self, address: Address) {
        let Some(node) = self.inventory.node(address) else { return };
        if node.connection.is_some() || self.now < node.since + self.config.agent_grace {
            return;
        }
        let lost = self.living_on(address);
        for id in &lost {
            self.close_surviving_ends(*id);
        }
        self.lost_with_node(lost, "its node was lost");
    }
}

/// An agent's text, no longer than is kept.
fn short(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}
