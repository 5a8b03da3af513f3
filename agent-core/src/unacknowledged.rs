//! A native program that connects and does not acknowledge its session (section 4, 8): the Manager would
//! never know the connection. It is told that there is none, and the kernel ends it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ssmmp::{Envelope, Hop, InstanceId, Port, SessionAck, Status};

use super::{Core, Effect, Notice};
use crate::session_report::SessionReport;

/// How long a program may take is twice this: an agent that was itself stopped for the first time finds what
/// the program said meanwhile within the second.
pub const ACKNOWLEDGE_LOOK: Duration = Duration::from_secs(5);
/// Connections that are watched at once; further ones are left alone.
const MAX_WATCHED: usize = 10_000;

/// Connections of native programs that stand and are not acknowledged, by instance and plug's port.
pub(super) type Unacknowledged = BTreeMap<(InstanceId, Port), Connected>;

/// A connection that stands.
#[derive(Debug)]
pub(super) struct Connected {
    source: SocketAddr,
    at: SocketAddr,
    /// It was found so once already.
    looked_at: bool,
}

impl Core {
    /// The kernel saw a declared connection of a native program, whose acknowledgement may be there already.
    pub(super) fn connected(&mut self, id: InstanceId, report: &SessionReport) {
        let key = (id, Port(report.source.port()));
        let is_known = self.live.get(&(key.0, key.1, report.destination)).is_some_and(|live| !live.over);
        if is_known
            || self.unacknowledged.len() >= MAX_WATCHED
            || self.answered(id, report.destination).is_none()
        {
            return;
        }
        let connected = Connected { source: report.source, at: report.destination, looked_at: false };
        self.unacknowledged.insert(key, connected);
        self.effect(Effect::AcknowledgeWithin(id, key.1, ACKNOWLEDGE_LOOK));
    }

    /// The oldest request of an instance that was answered with a place and not acknowledged.
    fn answered(&self, id: InstanceId, at: SocketAddr) -> Option<ssmmp::MessageId> {
        let leads_there =
            |asked: &super::asked::Asked| asked.answer.as_ref().is_some_and(|live| live.at == at);
        self.asked
            .of(id)
            .find(|(_, asked)| leads_there(asked) && asked.ended.is_none())
            .map(|(message_id, _)| message_id)
    }

    /// The time of [`Effect::AcknowledgeWithin`] is over.
    pub(super) fn acknowledge_overdue(&mut self, id: InstanceId, port: Port) {
        let Some(connected) = self.unacknowledged.get_mut(&(id, port)) else { return };
        if !std::mem::replace(&mut connected.looked_at, true) {
            self.effect(Effect::AcknowledgeWithin(id, port, ACKNOWLEDGE_LOOK));
            return;
        }
        let Some(Connected { source, at, .. }) = self.unacknowledged.remove(&(id, port)) else { return };
        // Without a request it could belong to, it may be acknowledged under another port.
        let Some(message_id) = self.answered(id, at) else { return };
        let Some(asked) = self.asked.get_mut(id, message_id) else { return };
        // An acknowledgement that comes later is told of, and that its connection is gone.
        asked.ended = Some(port);
        let Some(live) = asked.answer.clone() else { return };
        let reason = "it connected and did not acknowledge; the connection was ended";
        self.notice(Notice::NotAcknowledged { instance: id, source, destination: at });
        self.effect(Effect::Destroy(source, at));
        let ack = SessionAck {
            message_id,
            source_service_name: live.service,
            source_service_instance_id: id,
            source_plug_port: port,
            dest_socket_new_port: Port(at.port()),
            status: Status::NO_ANSWER,
        };
        self.send_to_manager(Envelope::new(ack, Hop::AgentToManager).with("x_reason", reason));
    }
}
