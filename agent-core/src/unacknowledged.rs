//! A native program that connects and does not acknowledge its session (section 4, 8): the Manager would
//! never know the connection. It is told that there is none, and the kernel ends it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ssmmp::extension::Reason;
use ssmmp::{Envelope, Hop, InstanceId, Port, SessionAck, Status};

use super::accepted::SessionEnds;
use super::timers::Timer;
use super::{Core, Effect, Notice};
use crate::session_report::SessionReport;

/// How long a program may take is twice this: an agent that was itself stopped for the first time finds what
/// the program said meanwhile within the second.
pub const ACKNOWLEDGE_LOOK: Duration = Duration::from_secs(5);
/// Connections that are watched at once; further ones are left alone.
const MAX_WATCHED: usize = 10_000;

/// Connections of native programs that stand and are not acknowledged, by their ends.
pub(super) type Unacknowledged = BTreeMap<SessionEnds, Connected>;

/// A connection that stands.
#[derive(Debug)]
pub(super) struct Connected {
    source: SocketAddr,
    /// It was found so once already.
    looked_at: bool,
}

impl Core {
    /// The kernel saw a declared connection of a native program, whose acknowledgement may be there already.
    pub(super) fn connected(&mut self, id: InstanceId, report: &SessionReport) {
        let key = (id, Port(report.source.port()), report.destination);
        let is_known = self.live.get(&key).is_some_and(|live| !live.over);
        if is_known
            || self.unacknowledged.len() >= MAX_WATCHED
            || self.answered(id, report.destination).is_none()
        {
            return;
        }
        let connected = Connected { source: report.source, looked_at: false };
        self.unacknowledged.insert(key, connected);
        self.after(ACKNOWLEDGE_LOOK, Timer::Acknowledge(key));
    }

    /// An instance has acknowledged a connection, to where its request led; where that is not known, any from the port.
    pub(super) fn acknowledged(&mut self, id: InstanceId, port: Port, at: Option<SocketAddr>) {
        match at {
            Some(at) => self.forget_unacknowledged((id, port, at)),
            None => self.forget_unacknowledged_if(id, |ends| ends.1 == port),
        }
    }

    /// An instance is gone.
    pub(super) fn unacknowledged_gone(&mut self, id: InstanceId) {
        self.forget_unacknowledged_if(id, |_| true);
    }

    fn forget_unacknowledged_if(&mut self, id: InstanceId, is_it: impl Fn(&SessionEnds) -> bool) {
        let of_it: Vec<_> =
            self.unacknowledged.keys().filter(|ends| ends.0 == id && is_it(ends)).copied().collect();
        for ends in of_it {
            self.forget_unacknowledged(ends);
        }
    }

    /// A connection is acknowledged or gone.
    pub(super) fn forget_unacknowledged(&mut self, ends: SessionEnds) {
        self.unacknowledged.remove(&ends);
        self.timers.stop(Timer::Acknowledge(ends));
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

    /// A connection that stands was looked for once, or twice.
    pub(super) fn acknowledge_overdue(&mut self, ends: SessionEnds) {
        let Some(connected) = self.unacknowledged.get_mut(&ends) else { return };
        if !std::mem::replace(&mut connected.looked_at, true) {
            self.after(ACKNOWLEDGE_LOOK, Timer::Acknowledge(ends));
            return;
        }
        let Some(Connected { source, .. }) = self.unacknowledged.remove(&ends) else { return };
        let (id, port, at) = ends;
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
        self.send_to_manager(Envelope::new(ack, Hop::AgentToManager).with(Reason(reason)));
    }
}
