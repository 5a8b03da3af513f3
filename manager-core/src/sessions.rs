//! Sessions are acknowledged and closed (section 4, 8 to 11).

use ssmmp::extension::Live;
use ssmmp::{Address, Message, Port, SessionAck, Status};

use super::row::Key;
use super::{Connection, Core, Session, SessionState};

impl Core {
    /// A session that is new: both its instances have it from now on.
    pub(super) fn add_session(&mut self, session: Session) {
        self.inventory.change(session.source, |instance| instance.sessions.insert(session.id));
        self.inventory.change(session.destination, |instance| {
            instance.sessions.insert(session.id);
            instance.accepted += 1;
        });
        self.sessions.add(session);
    }

    /// The source has connected, or could not.
    pub(super) fn session_acknowledged(
        &mut self,
        connection: Connection,
        ack: SessionAck,
        live: Option<Live>,
    ) {
        let source = ack.source_service_instance_id;
        if !self.speaks_for(connection, source) {
            return;
        }
        let Some(id) = self.sessions.pending(source, ack.message_id) else {
            // Given up meanwhile, or by an earlier Manager (S9).
            match live {
                _ if !ack.status.is_success() => {}
                Some(Live(told)) => self.late_session_lives(connection, &told),
                None => self.acknowledged_late(connection, &ack),
            }
            return;
        };
        if !ack.status.is_success() {
            self.session_closed(id, ack.status);
            return;
        }
        self.open_session(id, ack.source_plug_port, ack.dest_socket_new_port);
    }

    /// A session stands, from a source's port m to a destination's l.
    pub(super) fn open_session(&mut self, id: u64, port: Port, new_port: Port) {
        // Another one with these ends is over, or was taken for this one while its request was unknown.
        let key = self
            .sessions
            .get(id)
            .map(|s| (s.source_address, port, s.destination_address, s.destination_port));
        let other = key.filter(|_| port.is_known()).and_then(|key| self.sessions.by_key(key));
        let source = self.sessions.get(id).map(|s| s.source);
        let is_its = |other: &u64| *other != id && self.sessions.get(*other).map(|s| s.source) == source;
        if let Some(other) = other.filter(is_its) {
            self.session_closed(other, Status::CLOSED);
        }
        let acknowledged = self.sessions.acknowledge(id, self.now, port, new_port);
        let Some(session) = acknowledged else { return };
        let edge = &session.edge;
        let text = format!(
            "{}/{}.{} → {}/{}.{}",
            edge.source, session.source, edge.plug, edge.destination, session.destination, edge.socket
        );
        let ends = [session.source, session.destination];
        self.save(Key::Session(id));
        self.publish("session-opened", format!("session {id}"), text);
        // It was promised before its end was decided.
        for end in ends {
            self.continue_stop(end);
        }
    }

    /// Either end tells that a session ended; the second report of one finds nothing.
    pub(super) fn session_close_told(&mut self, connection: Connection, message: &Message) {
        let (key, source, status) = match message {
            Message::SourceServiceSessionCloseInfo(info) => (
                (
                    info.source_service_instance_network_address,
                    info.source_plug_port,
                    info.dest_service_instance_network_address,
                    info.dest_socket_port,
                ),
                Some(info.source_service_instance_id),
                info.status,
            ),
            Message::DestServiceSessionCloseInfo(info) => (
                (
                    info.source_service_instance_network_address,
                    info.source_plug_port,
                    info.dest_service_instance_network_address,
                    info.dest_socket_port,
                ),
                None,
                info.status,
            ),
            _ => return,
        };
        // Loopback or translated addresses hide the key: then the source and its port m decide, when
        // only one session has them. Nobody ends what has no end on its node.
        let found = self.sessions.by_key(key).or_else(|| self.sessions.by_source(source?, key.1));
        let node = self.inventory.node_of(connection);
        if let Some(id) = found.filter(|id| node.is_some_and(|node| self.has_end_on(node, *id))) {
            self.session_closed(id, status);
        }
    }

    /// Whether one of a session's ends is on a node.
    pub(super) fn has_end_on(&self, node: Address, id: u64) -> bool {
        let session = self.sessions.get(id);
        session.is_some_and(|s| s.source_address == node || s.destination_address == node)
    }

    /// A session is over. Closing it again changes nothing.
    pub(super) fn session_closed(&mut self, id: u64, status: Status) {
        let now = self.now;
        let Some(before) = self.sessions.close(id, now, status) else { return };
        let was_asked_for = self.closings.remove(id);
        let Some(ends) = self.sessions.get(id).map(|session| [session.source, session.destination]) else {
            return;
        };
        for (end, accepted) in [(ends[0], 0), (ends[1], 1)] {
            self.inventory.change(end, |instance| {
                instance.sessions.remove(&id);
                instance.stopping.asked.remove(&id);
                instance.accepted = instance.accepted.saturating_sub(accepted);
                if instance.sessions.is_empty() {
                    instance.idle_since = now;
                }
            });
        }
        self.save(Key::Session(id));
        if before == SessionState::Open {
            // Broken is what an end sees of a close that was asked for: no failure (C9).
            let why = if was_asked_for { ", as it was asked to" } else { "" };
            self.publish("session-closed", format!("session {id}"), format!("status {status}{why}"));
        }
        for end in ends {
            self.continue_stop(end);
        }
    }
}
