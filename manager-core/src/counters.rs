//! Agents tell what their sessions carried.

use patchbay_api::Traffic;
use ssmmp::extension::{
    self, Latest, Live, LiveComplete, Redirection, SessionCounters, Sessions, ThroughMemory,
};
use ssmmp::{Address, AgentHealthControlRequest, Envelope, Status};

use crate::events::{Effect, Ticket};
use crate::row::Key;
use crate::state::ManagerState;
use crate::state::node::Connection;
use crate::state::pending_requests::Outstanding;
use crate::state::session::Details;
use crate::state::timers::Timer;
use crate::time::Millis;
use crate::{ending, outputs, probing, registration, resync, sessions};

/// How long fresh counters are waited for, milliseconds.
const REFRESH_WAIT: Millis = 1_000;
/// Longest text of a path or a reason that is kept, in characters.
const LONGEST_TEXT: usize = 200;

/// An agent's answer, or its counters sent unasked.
pub(crate) fn agent_health(core: &mut ManagerState, connection: Connection, envelope: &Envelope) {
    let Some(address) = core.inventory.node_of(connection) else { return };
    let now = core.now;
    if let Some(polls) = core.inventory.node_polls(address) {
        polls.misses = 0;
        polls.healthy = now;
    }
    ending::hear_ending(core, address, envelope);
    if let Some(ahead) = registration::clock_ahead(core, envelope) {
        core.inventory.set_clock(address, ahead);
    }
    if let Some(redirection) = envelope.line::<Redirection>() {
        core.inventory.set_redirection(address, text(redirection.text()));
    }
    if let Some(Sessions(sessions)) = envelope.line() {
        for counters in &sessions {
            session_counters(core, address, counters);
        }
    }
    if let Some(Live(sessions)) = envelope.line() {
        resync::sessions_live(core, connection, &sessions);
    }
    if envelope.line::<LiveComplete>().is_some() {
        resync::all_sessions_told(core, connection);
    }
    let waits = core.answers.take(envelope.message.message_id(), address);
    if let Some(Outstanding::Probe(address)) = waits {
        probing::probe_answered(core, address);
    }
    if let Some(Outstanding::Output(ticket)) = waits {
        outputs::output_told(core, ticket, envelope);
    }
    if let Some(Outstanding::Counters(ticket)) = waits
        && let Some(left) = core.refreshing.get_mut(&ticket)
    {
        *left -= 1;
        if *left == 0 {
            refreshed(core, ticket);
        }
    }
}

/// Asks all agents for fresh counters.
pub(crate) fn refresh(core: &mut ManagerState, ticket: Ticket) {
    let nodes: Vec<Address> =
        core.inventory.nodes().filter(|n| n.connection.is_some()).map(|n| n.address).collect();
    core.refreshing.insert(ticket, nodes.len());
    core.at(core.now + REFRESH_WAIT, Timer::Refresh(ticket));
    if nodes.is_empty() {
        refreshed(core, ticket);
    }
    for address in nodes {
        let request =
            AgentHealthControlRequest { message_id: core.message_id(), agent_network_address: address };
        core.send_to(address, request, Some(Outstanding::Counters(ticket)));
    }
}

pub(crate) fn refreshed(core: &mut ManagerState, ticket: Ticket) {
    if core.refreshing.remove(&ticket).is_some() {
        core.effect(Effect::Refreshed(ticket));
    }
}

/// What an agent tells of a session.
fn session_counters(core: &mut ManagerState, node: Address, counters: &SessionCounters<'_>) {
    let (source, destination) = (counters.source, counters.destination);
    let key = (source.0, source.1, destination.0, destination.1);
    let Some(id) = core.sessions.by_key(key).filter(|id| sessions::has_end_on(core, node, *id)) else {
        return;
    };
    let now = core.now;
    core.sessions.counters(id, |session, interned| {
        session.path = interned.text(counters.path.word());
        session.reason = counters.reason.as_deref().map(|reason| interned.text(text(reason)));
        let [sent, received] = counters.details.as_ref().map_or_else(Default::default, |told| told.memory);
        session.sent = traffic(counters.sent, sent);
        session.received = traffic(counters.received, received);
        if let Some(details) = &counters.details {
            let latest = |latest: &Option<Latest<'_>>| {
                interned.text(latest.as_ref().map_or("-", |latest| text(latest.text())))
            };
            session.details = Some(Box::new(Details {
                paths: details.latest.each_ref().map(latest),
                switches: details.switches,
                in_flight: details.in_flight,
                last_activity: details.idle.map(|idle| now.saturating_sub(idle)),
            }));
        }
    });
    core.save(Key::Session(id));
    if !counters.is_open {
        sessions::session_closed(core, id, Status::CLOSED);
    }
}

fn traffic(of: extension::Traffic, memory: ThroughMemory) -> Traffic {
    let extension::Traffic { kernel_bytes, tcp_bytes, kernel_messages, tcp_messages } = of;
    let ThroughMemory { bytes: memory_bytes, messages: memory_messages } = memory;
    Traffic { kernel_bytes, tcp_bytes, kernel_messages, tcp_messages, memory_bytes, memory_messages }
}

/// A peer's text, no longer than is kept.
fn text(text: &str) -> &str {
    text.char_indices().nth(LONGEST_TEXT).map_or(text, |(at, _)| &text[..at])
}
