//! What the Manager may have missed is told again when this agent has registered (section 4, 2; F6, F8):
//! first what waited, then every living session, then requests without an answer.

use ssmmp::{AgentHealthControlResponse, Envelope, Hop, InstanceId, Port, Status};

use super::{Core, Effect, Live, Stage, acknowledgement};

/// Sessions in one message (docs/protocol.md).
const SESSIONS_IN_A_MESSAGE: usize = 200;
/// What one message of a registration tells of instances at most, bytes: with the names of the repository a
/// message stays below SSMMP's bound.
const RUNNING_BYTES: usize = ssmmp::MAX_MESSAGE_BYTES / 2;

impl Core {
    /// The instances that exist here, for the registration: `service, id, socket=port;…, stage`, in as many
    /// parts as are needed.
    pub(super) fn running(&self) -> Vec<String> {
        let mut parts = Vec::new();
        let mut part = String::new();
        for (id, instance) in &self.instances {
            let sockets = &instance.start.sockets.0;
            let sockets: Vec<String> = sockets.iter().map(|s| format!("{}={}", s.socket, s.port)).collect();
            let stage = match instance.stage {
                Stage::Plugs | Stage::Starting => "starting",
                Stage::Running => "running",
                Stage::Ending => "ending",
            };
            let item = format!("{}, {id}, {}, {stage}", instance.start.service, sockets.join(";"));
            if !part.is_empty() && part.len() + item.len() > RUNNING_BYTES {
                parts.push(std::mem::take(&mut part));
            }
            part += if part.is_empty() { "" } else { " & " };
            part += &item;
        }
        parts.push(part);
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
        let items: Vec<String> = living.map(|((source, port, _), live)| item(*source, *port, live)).collect();
        for items in items.chunks(SESSIONS_IN_A_MESSAGE) {
            self.tell_sessions("x_live", &items.join(" & "));
        }
        if self.knows_all_sessions {
            self.tell_sessions("x_live_complete", "yes");
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

    fn tell_sessions(&mut self, line: &str, text: &str) {
        let response = AgentHealthControlResponse {
            message_id: self.message_id(),
            agent_network_address: self.address,
            status: Status::OK,
        };
        self.effect(Effect::ToManager(Envelope::new(response, Hop::AgentToManager).with(line, text)));
    }
}

/// One item of `x_live` (docs/protocol.md), the whole of a session as its source's agent knows it.
pub(super) fn item(source: InstanceId, port: Port, live: &Live) -> String {
    format!(
        "{source}, {port}, {}, {}, {}, {}, {}",
        live.destination,
        live.at.ip(),
        live.at.port(),
        live.message_id,
        live.plug
    )
}
