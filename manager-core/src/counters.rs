//! Agents tell what their sessions carried.

use patchbay_api::Traffic;
use ssmmp::{Address, AgentHealthControlRequest, Envelope, Port, Status};

use super::session::Details;
use super::{Connection, Core, Effect, Millis, Outstanding, SessionKey, Timer};

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
        if let Some(text) = envelope.extension("x_redirection") {
            self.inventory.set_redirection(address, self::text(text));
        }
        for item in envelope.extension("x_sessions").unwrap_or_default().split('&') {
            self.session_counters(address, item);
        }
        if let Some(items) = envelope.extension("x_live") {
            self.sessions_live(connection, items);
        }
        if envelope.extension("x_live_complete").is_some() {
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
    pub(super) fn refresh(&mut self, ticket: u64) {
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

    pub(super) fn refreshed(&mut self, ticket: u64) {
        if self.refreshing.remove(&ticket).is_some() {
            self.effect(Effect::Refreshed(ticket));
        }
    }

    /// One item of `x_sessions` (docs/protocol.md).
    pub(super) fn session_counters(&mut self, node: Address, item: &str) {
        let mut parts = item.split(',').map(str::trim);
        let Some(counters) = Counters::read(&mut parts) else { return };
        let Some(id) = self.sessions.by_key(counters.key).filter(|id| self.has_end_on(node, *id)) else {
            return;
        };
        let now = self.now;
        self.sessions.counters(id, |session, interned| {
            session.path = interned.text(counters.path);
            session.reason = (counters.reason != "-").then(|| interned.text(counters.reason));
            session.sent = counters.sent;
            session.received = counters.received;
            if let Some(details) = &counters.details {
                session.details = Some(Box::new(Details {
                    paths: details.paths.map(|path| interned.text(path)),
                    switches: details.switches,
                    in_flight: details.in_flight,
                    last_activity: details.idle.map(|idle| now.saturating_sub(idle)),
                }));
            }
        });
        self.effect(Effect::SaveSession(id));
        if counters.closed {
            self.session_closed(id, Status::CLOSED);
        }
    }
}

/// What an agent tells of a session.
struct Counters<'a> {
    key: SessionKey,
    path: &'a str,
    reason: &'a str,
    sent: Traffic,
    received: Traffic,
    closed: bool,
    details: Option<Told<'a>>,
}

/// What it tells of the directions.
struct Told<'a> {
    paths: [&'a str; 2],
    switches: [u32; 2],
    in_flight: [u32; 2],
    idle: Option<Millis>,
}

impl<'a> Told<'a> {
    fn read(parts: &mut impl Iterator<Item = &'a str>) -> Option<Self> {
        let paths = [text(parts.next()?), text(parts.next()?)];
        let mut number = || parts.next()?.parse().ok();
        let (switches, in_flight) = ([number()?, number()?], [number()?, number()?]);
        Some(Self { paths, switches, in_flight, idle: parts.next()?.parse().ok() })
    }
}

impl<'a> Counters<'a> {
    fn read(parts: &mut impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut end = || {
            let address: std::net::IpAddr = parts.next()?.parse().ok()?;
            Some((Address::from(address), Port(parts.next()?.parse().ok()?)))
        };
        let ((source, m), (destination, k)) = (end()?, end()?);
        let (path, reason) = (text(parts.next()?), text(parts.next()?));
        let mut numbers = [0; 8];
        for number in &mut numbers {
            *number = parts.next()?.parse().ok()?;
        }
        let [sk, st, rk, rt, smk, smt, rmk, rmt] = numbers;
        let traffic = |kernel_bytes, tcp_bytes, kernel_messages, tcp_messages| Traffic {
            kernel_bytes,
            tcp_bytes,
            kernel_messages,
            tcp_messages,
        };
        Some(Self {
            key: (source, m, destination, k),
            path,
            reason,
            sent: traffic(sk, st, smk, smt),
            received: traffic(rk, rt, rmk, rmt),
            closed: parts.next()? == "closed",
            details: Told::read(parts),
        })
    }
}

/// A peer's text, no longer than is kept.
fn text(text: &str) -> &str {
    text.char_indices().nth(LONGEST_TEXT).map_or(text, |(at, _)| &text[..at])
}
