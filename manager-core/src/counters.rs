//! Agents tell what their sessions carried.

use patchbay_api::Traffic;
use ssmmp::extension::{self, Latest, Live, LiveComplete, Redirection, SessionCounters, Sessions};
use ssmmp::{Address, AgentHealthControlRequest, Envelope, Status};

use super::row::Key;
use super::session::Details;
use super::{Connection, Core, Effect, Millis, Outstanding, Ticket, Timer};

/// How long fresh counters are waited for, milliseconds.
const REFRESH_WAIT: Millis = 1_000;
/// Longest text of a path or a reason that is kept, in characters.
const LONGEST_TEXT: usize = 200;

impl Core {
    /// An agent's answer, or its counters sent unasked.
    pub(super) fn agent_health(&mut self, connection: Connection, envelope: &Envelope) {
        let Some(address) = self.inventory.node_of(connection) else { return };
        let now = self.now;
        if let Some(polls) = self.inventory.node_polls(address) {
            polls.misses = 0;
            polls.healthy = now;
        }
        self.hear_ending(address, envelope);
        if let Some(ahead) = self.clock_ahead(envelope) {
            self.inventory.set_clock(address, ahead);
        }
        if let Some(redirection) = envelope.line::<Redirection>() {
            self.inventory.set_redirection(address, text(redirection.text()));
        }
        if let Some(Sessions(sessions)) = envelope.line() {
            for counters in &sessions {
                self.session_counters(address, counters);
            }
        }
        if let Some(Live(sessions)) = envelope.line() {
            self.sessions_live(connection, &sessions);
        }
        if envelope.line::<LiveComplete>().is_some() {
            self.all_sessions_told(connection);
        }
        let waits = self.answers.take(envelope.message.message_id(), address);
        if let Some(Outstanding::Probe(address)) = waits {
            self.probe_answered(address);
        }
        if let Some(Outstanding::Output(ticket)) = waits {
            self.output_told(ticket, envelope);
        }
        if let Some(Outstanding::Counters(ticket)) = waits
            && let Some(left) = self.refreshing.get_mut(&ticket)
        {
            *left -= 1;
            if *left == 0 {
                self.refreshed(ticket);
            }
        }
    }

    /// Asks all agents for fresh counters.
    pub(super) fn refresh(&mut self, ticket: Ticket) {
        let nodes: Vec<Address> =
            self.inventory.nodes().filter(|n| n.connection.is_some()).map(|n| n.address).collect();
        self.refreshing.insert(ticket, nodes.len());
        self.at(self.now + REFRESH_WAIT, Timer::Refresh(ticket));
        if nodes.is_empty() {
            self.refreshed(ticket);
        }
        for address in nodes {
            let request =
                AgentHealthControlRequest { message_id: self.message_id(), agent_network_address: address };
            self.send_to(address, request, Some(Outstanding::Counters(ticket)));
        }
    }

    pub(super) fn refreshed(&mut self, ticket: Ticket) {
        if self.refreshing.remove(&ticket).is_some() {
            self.effect(Effect::Refreshed(ticket));
        }
    }

    /// What an agent tells of a session.
    fn session_counters(&mut self, node: Address, counters: &SessionCounters<'_>) {
        let (source, destination) = (counters.source, counters.destination);
        let key = (source.0, source.1, destination.0, destination.1);
        let Some(id) = self.sessions.by_key(key).filter(|id| self.has_end_on(node, *id)) else { return };
        let now = self.now;
        self.sessions.counters(id, |session, interned| {
            session.path = interned.text(counters.path.word());
            session.reason = counters.reason.as_deref().map(|reason| interned.text(text(reason)));
            session.sent = traffic(counters.sent);
            session.received = traffic(counters.received);
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
        self.save(Key::Session(id));
        if !counters.is_open {
            self.session_closed(id, Status::CLOSED);
        }
    }
}

fn traffic(of: extension::Traffic) -> Traffic {
    let extension::Traffic { kernel_bytes, tcp_bytes, kernel_messages, tcp_messages } = of;
    Traffic { kernel_bytes, tcp_bytes, kernel_messages, tcp_messages }
}

/// A peer's text, no longer than is kept.
fn text(text: &str) -> &str {
    text.char_indices().nth(LONGEST_TEXT).map_or(text, |(at, _)| &text[..at])
}
