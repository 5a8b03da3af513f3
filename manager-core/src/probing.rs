//! A second agent registers with the address of one that is connected (I6): the first one is asked whether
//! it lives. If it does, the second is refused with 409; else it takes over.

use ssmmp::{Address, AgentHealthControlRequest, Envelope, Status};

use crate::admission;
use crate::state::ManagerState;
use crate::state::candidates::Candidate;
use crate::state::node::Connection;
use crate::state::pending_requests::Outstanding;
use crate::state::timers::Timer;
use crate::time::Millis;

/// How long the first agent may take to say that it lives, milliseconds.
const PROBE_WITHIN: Millis = 2_000;

/// Asks the connected agent of a node whether it lives, before another one takes its place.
pub(crate) fn probe(
    core: &mut ManagerState,
    address: Address,
    connection: Connection,
    registration: Envelope,
) {
    let candidate = Candidate { connection, registration };
    if let Some(earlier) = core.candidates.insert(address, candidate) {
        if earlier.connection != connection {
            refuse_candidate(core, address, &earlier);
        }
        return;
    }
    let request = AgentHealthControlRequest { message_id: core.message_id(), agent_network_address: address };
    core.at(core.now + PROBE_WITHIN, Timer::Probe(address));
    core.send_to(address, request, Some(Outstanding::Probe(address)));
}

/// The connected agent lives.
pub(crate) fn probe_answered(core: &mut ManagerState, address: Address) {
    if let Some(candidate) = core.candidates.remove(&address) {
        refuse_candidate(core, address, &candidate);
    }
}

/// The connected agent has not answered in time.
pub(crate) fn probe_overdue(core: &mut ManagerState, address: Address) {
    let connection = core.inventory.node(address).and_then(|node| node.connection);
    if let (true, Some(connection)) = (core.candidates.contains_key(&address), connection) {
        core.cut_off(connection);
    }
}

/// A connection has ended: it takes no place any more.
pub(crate) fn candidate_lost(core: &mut ManagerState, connection: Connection) {
    core.candidates.retain(|_, candidate| candidate.connection != connection);
}

fn refuse_candidate(core: &mut ManagerState, address: Address, candidate: &Candidate) {
    let message_id = candidate.registration.message.message_id();
    let name = core.inventory.node(address).map_or_else(|| address.to_string(), |node| node.name.clone());
    let text = format!("another agent of the node at {address} is connected, and lives");
    admission::refuse_registration(core, candidate.connection, message_id, &name, (Status::CONFLICT, text));
}
