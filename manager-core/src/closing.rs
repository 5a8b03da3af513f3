//! Sessions are closed on request (section 4, 11; C4, C9): asked for at the source, or at the destination
//! when the source's side is gone; every request has a deadline, and there are few tries.

use std::collections::{HashMap, VecDeque};

use ssmmp::extension::Within;
use ssmmp::{
    Address, DestServiceSessionCloseRequest, Envelope, Hop, InstanceId, Message, Name,
    SourceServiceSessionCloseRequest, Status,
};

use super::{Core, LONGEST_TEXT, Millis, Outstanding, Session, SessionState, Timer, first};

/// Requests for the end of one session, at one end or the other, before it counts as broken.
const TRIES: u32 = 3;
/// Surviving ends of lost instances that are asked to close at once; the others follow.
pub const MAX_ENDS_AT_ONCE: usize = 64;
/// The pause between so many and the next, milliseconds.
const ENDS_PAUSE: Millis = 100;
/// How much longer than the instance may take its agent's answer is waited for, milliseconds.
const SLACK: Millis = 2_000;

/// The end of a session that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

/// Sessions that somebody was asked to close.
#[derive(Debug, Default)]
pub(crate) struct Closings {
    asked: HashMap<u64, Closing>,
    /// Surviving ends of lost instances that wait for their turn.
    surviving: VecDeque<CloseRequest>,
    /// When the next of them are asked at the earliest.
    surviving_at: Millis,
}

/// A close request and the node of who is asked.
#[derive(Debug)]
struct CloseRequest {
    node: Address,
    envelope: Envelope,
}

#[derive(Debug)]
struct Closing {
    tries: u32,
    /// This one is not asked: it does not answer.
    avoid: Option<InstanceId>,
    latest: Option<Side>,
}

impl Closings {
    /// Whether a session was asked to close.
    pub(crate) fn contains(&self, session: u64) -> bool {
        self.asked.contains_key(&session)
    }

    /// A session is over. Whether that was asked for.
    pub(crate) fn remove(&mut self, session: u64) -> bool {
        self.asked.remove(&session).is_some()
    }
}

impl Core {
    /// Has an open session closed; one of its ends may be left out. Asking again changes nothing.
    pub(super) fn ask_to_close(&mut self, id: u64, avoid: Option<InstanceId>) {
        let is_open = self.sessions.get(id).is_some_and(|session| session.state == SessionState::Open);
        if is_open && !self.closings.contains(id) {
            self.closings.asked.insert(id, Closing { tries: 0, avoid, latest: None });
            self.ask_an_end(id);
        }
    }

    /// Asks the end that can be reached; after a try without an answer the other one.
    fn ask_an_end(&mut self, id: u64) {
        let (Some(closing), Some(session)) = (self.closings.asked.get(&id), self.sessions.get(id)) else {
            return;
        };
        if closing.tries >= TRIES {
            self.publish(
                "session-forced",
                format!("session {id}"),
                "no end of it answers; it counts as broken".into(),
            );
            self.session_closed(id, Status::BROKEN);
            return;
        }
        let mut sides = [Side::Source, Side::Destination];
        if closing.latest == Some(Side::Source) || closing.avoid == Some(session.source) {
            sides.reverse();
        }
        let reachable = sides.into_iter().filter(|side| self.is_reachable(session, *side));
        let other_than_avoided =
            |side: &Side| closing.avoid.is_none_or(|avoid| end(session, *side).0 != avoid);
        let side = reachable.clone().find(other_than_avoided).or_else(|| reachable.clone().next());
        let asked = end(session, side.unwrap_or(Side::Source)).1.clone();
        let within = self.policy(session.edge.app.as_str(), asked.as_str()).close_within;
        if let Some(side) = side {
            self.send_close(id, side, within);
        }
        // With both agents away nobody is asked: what their return or the end of their grace says counts.
        if let Some(closing) = self.closings.asked.get_mut(&id).filter(|_| side.is_some()) {
            closing.tries += 1;
            closing.latest = side;
        }
        self.at(self.now + within + SLACK, Timer::Close(id));
    }

    fn is_reachable(&self, session: &Session, side: Side) -> bool {
        let instance = self.inventory.instance(end(session, side).0).filter(|i| i.state.is_alive());
        let node = instance.and_then(|instance| self.inventory.node(instance.address));
        node.is_some_and(|node| node.connection.is_some())
    }

    fn send_close(&mut self, id: u64, side: Side, within: Millis) {
        if let Some(request) = self.close_request(id, side, within) {
            self.send_with(request.node, request.envelope, Some(Outstanding::CloseSession(id)));
        }
    }

    fn close_request(&mut self, id: u64, side: Side, within: Millis) -> Option<CloseRequest> {
        let message_id = self.message_id();
        let session = self.sessions.get(id)?;
        let edge = &session.edge;
        let (node, message): (_, Message) = match side {
            Side::Source => (
                session.source_address,
                SourceServiceSessionCloseRequest {
                    message_id,
                    source_service_name: edge.source.clone(),
                    source_service_instance_id: session.source,
                    source_service_instance_network_address: session.source_address,
                    source_plug_name: edge.plug.clone(),
                    source_plug_port: session.source_port,
                    dest_service_name: edge.destination.clone(),
                    dest_service_instance_network_address: session.destination_address,
                    dest_socket_name: edge.socket.clone(),
                    dest_socket_port: session.destination_port,
                    dest_socket_new_port: session.new_port,
                }
                .into(),
            ),
            Side::Destination => (
                session.destination_address,
                DestServiceSessionCloseRequest {
                    message_id,
                    dest_service_name: edge.destination.clone(),
                    dest_service_instance_id: session.destination,
                    dest_service_instance_network_address: session.destination_address,
                    source_service_instance_network_address: session.source_address,
                    source_plug_name: edge.plug.clone(),
                    source_plug_port: session.source_port,
                    dest_socket_name: edge.socket.clone(),
                    dest_socket_port: session.destination_port,
                    dest_socket_new_port: session.new_port,
                }
                .into(),
            ),
        };
        let envelope = Envelope::new(message, Hop::ManagerToAgent).with(Within(within));
        Some(CloseRequest { node, envelope })
    }

    /// An instance is gone without its connections having ended: the ends that live are asked to close
    /// (F2, F3), a few at a time. What they answer changes nothing.
    pub(super) fn close_surviving_ends(&mut self, id: InstanceId) {
        let sessions = self.inventory.instance(id).map(|instance| instance.sessions.clone());
        for session in sessions.into_iter().flatten() {
            let Some(known) = self.sessions.get(session).filter(|s| s.state == SessionState::Open) else {
                continue;
            };
            let side = if known.source == id { Side::Destination } else { Side::Source };
            let (other, service) = end(known, side);
            if other != id && self.is_reachable(known, side) {
                let within = self.policy(known.edge.app.as_str(), service.as_str()).close_within;
                let request = self.close_request(session, side, within);
                self.closings.surviving.extend(request);
            }
        }
        if self.closings.surviving_at <= self.now {
            self.close_next_ends();
        }
    }

    /// Asks the next of the surviving ends to close.
    pub(super) fn close_next_ends(&mut self) {
        if self.closings.surviving.is_empty() {
            return;
        }
        let count = self.closings.surviving.len().min(MAX_ENDS_AT_ONCE);
        let next: Vec<CloseRequest> = self.closings.surviving.drain(..count).collect();
        for request in next {
            self.send_with(request.node, request.envelope, None);
        }
        self.closings.surviving_at = self.now + ENDS_PAUSE;
        self.at(self.closings.surviving_at, Timer::SurvivingEnds);
    }

    /// An end has answered a close request, or its agent for it.
    pub(super) fn close_answered(&mut self, id: u64, status: Status, forced: Option<&str>) {
        if let Some(why) = forced {
            self.publish("session-forced", format!("session {id}"), first(why, LONGEST_TEXT));
        }
        // Whoever knows no such session has none open.
        if status.is_success() || status == Status::NOT_FOUND {
            let status = if forced.is_some() { Status::BROKEN } else { Status::CLOSED };
            self.session_closed(id, status);
        }
    }

    /// Nobody has answered a close request in time.
    pub(super) fn close_overdue(&mut self, id: u64) {
        if self.closings.contains(id) {
            self.ask_an_end(id);
        }
    }
}

fn end(session: &Session, side: Side) -> (InstanceId, &Name) {
    match side {
        Side::Source => (session.source, &session.edge.source),
        Side::Destination => (session.destination, &session.edge.destination),
    }
}
