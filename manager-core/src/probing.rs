//! A second agent registers with the address of one that is connected (I6): the first one is asked whether
//! it lives. If it does, the second is refused with 409; else it takes over.

use ssmmp::{Address, AgentHealthControlRequest, Envelope, Status};

use super::{Connection, Core, Effect, Millis, Outstanding, Timer};

/// How long the first agent may take to say that it lives, milliseconds.
const PROBE_WITHIN: Millis = 2_000;

/// An agent that waits for the answer of the one before it.
#[derive(Debug)]
pub(crate) struct Candidate {
    connection: Connection,
    registration: Envelope,
}

impl Core {
    /// Asks the connected agent of a node whether it lives, before another one takes its place.
    pub(super) fn probe(&mut self, address: Address, connection: Connection, registration: Envelope) {
        let candidate = Candidate { connection, registration };
        if let Some(earlier) = self.candidates.insert(address, candidate) {
            if earlier.connection != connection {
                self.refuse_candidate(address, &earlier);
            }
            return;
        }
        let request =
            AgentHealthControlRequest { message_id: self.message_id(), agent_network_address: address };
        self.at(self.now + PROBE_WITHIN, Timer::Probe(address));
        self.send_to(address, request, Some(Outstanding::Probe(address)));
    }

    /// The connected agent lives.
    pub(super) fn probe_answered(&mut self, address: Address) {
        if let Some(candidate) = self.candidates.remove(&address) {
            self.refuse_candidate(address, &candidate);
        }
    }

    /// The connected agent has not answered in time.
    pub(super) fn probe_overdue(&mut self, address: Address) {
        let connection = self.inventory.node(address).and_then(|node| node.connection);
        if let (true, Some(connection)) = (self.candidates.contains_key(&address), connection) {
            self.effect(Effect::Close(connection));
            self.connection_lost(connection);
        }
    }

    /// The node's agent is gone: who waited takes its place.
    pub(super) fn take_over(&mut self, address: Address) {
        if let Some(candidate) = self.candidates.remove(&address) {
            self.register(candidate.connection, &candidate.registration);
        }
    }

    /// A connection has ended: it takes no place any more.
    pub(super) fn candidate_lost(&mut self, connection: Connection) {
        self.candidates.retain(|_, candidate| candidate.connection != connection);
    }

    fn refuse_candidate(&mut self, address: Address, candidate: &Candidate) {
        let message_id = candidate.registration.message.message_id();
        let name = self.inventory.node(address).map_or_else(|| address.to_string(), |node| node.name.clone());
        let text = format!("another agent of the node at {address} is connected, and lives");
        self.refuse_registration(candidate.connection, message_id, &name, (Status::CONFLICT, text));
    }
}
