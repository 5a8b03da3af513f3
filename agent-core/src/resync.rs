//! What the Manager may have missed is told again when this agent has registered (section 4, 2; F6, F8):
//! first what waited, then every living session, then requests without an answer.

use ssmmp::extension::{
    self, Extension, Live as LiveLine, LiveComplete, LiveSession, Running, RunningInstance,
};
use ssmmp::{AgentHealthControlResponse, Envelope, Hop, InstanceId, Port, Status};

use super::{Core, Effect, Live, Stage, acknowledgement};

/// Sessions in one message (docs/protocol.md).
const SESSIONS_IN_A_MESSAGE: usize = 200;
/// What one message of a registration tells of instances at most, bytes: with the names of the repository a
/// message stays below SSMMP's bound.
const RUNNING_BYTES: usize = ssmmp::MAX_MESSAGE_BYTES / 2;

impl Core {
    /// The instances that exist here, for the registration, in as many parts as are needed.
    pub(super) fn running(&self) -> Vec<Running> {
        let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (id, instance) in &self.instances {
            let told = RunningInstance {
                service: instance.start.service.clone(),
                id: *id,
                sockets: instance.start.sockets.0.clone(),
                stage: match instance.stage() {
                    Stage::Plugs | Stage::Starting => extension::Stage::Starting,
                    Stage::Running => extension::Stage::Running,
                    Stage::Ending => extension::Stage::Ending,
                },
            };
            let more = told.bytes();
            if bytes + more > RUNNING_BYTES && !part.is_empty() {
                parts.push(Running(std::mem::take(&mut part)));
                bytes = 0;
            }
            bytes += more;
            part.push(told);
        }
        parts.push(Running(part));
        parts
    }

    /// Tells again what may have been missed. Nothing that happens later overtakes it.
    pub(super) fn tell_again(&mut self) {
        self.effects.extend(self.unsent.take().map(Effect::ToManager));
        match self.extended {
            true => self.tell_all_sessions(),
            false => self.acknowledge_again(),
        }
        for request in self.asked.unanswered() {
            self.effect(Effect::ToManager(request));
        }
    }

    fn tell_all_sessions(&mut self) {
        let living = self.live.iter().filter(|(_, live)| !live.over);
        let items: Vec<LiveSession> =
            living.map(|((source, port, _), live)| told(*source, *port, live)).collect();
        for items in items.chunks(SESSIONS_IN_A_MESSAGE) {
            self.tell_sessions(LiveLine(items.to_vec()));
        }
        if self.knows_all_sessions {
            self.tell_sessions(LiveComplete);
        }
    }

    /// For a Manager without extensions the acknowledgement of each living session is said again (5.36).
    fn acknowledge_again(&mut self) {
        let living = self.live.iter().filter(|(_, live)| !live.over);
        let again: Vec<_> =
            living.map(|((source, port, _), live)| acknowledgement(*source, *port, live)).collect();
        for ack in again {
            self.effect(Effect::ToManager(Envelope::new(ack, Hop::AgentToManager)));
        }
    }

    fn tell_sessions<'a>(&mut self, line: impl Extension<'a>) {
        let response = AgentHealthControlResponse {
            message_id: self.message_id(),
            agent_network_address: self.address,
            status: Status::OK,
        };
        self.effect(Effect::ToManager(Envelope::new(response, Hop::AgentToManager).with(line)));
    }
}

/// The whole of a session as its source's agent knows it.
pub(super) fn told(source: InstanceId, port: Port, live: &Live) -> LiveSession {
    LiveSession {
        source,
        port,
        destination: live.destination,
        at: extension::end(live.at),
        message_id: Some(live.message_id),
        plug: Some(live.plug.clone()),
    }
}
