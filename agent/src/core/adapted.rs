//! The agent speaks SSMMP for programs that do not: it asks for their plugs' targets before they start,
//! and acknowledges and reports the connections that it sees in the kernel.

use ssmmp::{Envelope, Hop, InstanceId, MessageId, Name, PlugTarget, Port, SessionRequest, Status};

use super::{Core, Effect, Live, Stage, Start, acknowledgement, resync};
use crate::datapath::{Cause, SessionReport};
use crate::repository::Kind;

impl Core {
    /// Asks where each plug of a new adapted instance connects.
    pub(super) fn ask_for_plugs(&mut self, id: InstanceId) {
        let plugs = self.instances.get(&id).map(|i| i.start.plugs.0.clone()).unwrap_or_default();
        for plug in plugs {
            self.ask_for(id, &plug);
        }
    }

    fn ask_for(&mut self, id: InstanceId, plug: &PlugTarget) {
        let Some(instance) = self.instances.get(&id) else { return };
        let Some(socket) = plug.socket.clone() else { return };
        let service = instance.start.service.clone();
        let message_id = self.message_id();
        let request = SessionRequest {
            message_id,
            source_service_name: service,
            source_service_instance_id: id,
            source_service_instance_network_address: self.address,
            source_plug_name: plug.plug.clone(),
            dest_service_name: plug.service.clone(),
            dest_socket_name: socket,
        };
        self.ask(id, Envelope::new(request, Hop::AgentToManager));
    }

    /// A plug's target is known, or can't be had.
    pub(super) fn plug_answered(
        &mut self,
        id: InstanceId,
        message_id: MessageId,
        status: Status,
        reason: &str,
    ) {
        let stage = self.instances.get(&id).map(|instance| instance.stage);
        if !status.is_success() {
            if stage == Some(Stage::Plugs) {
                let reason = format!("a plug's target could not be had ({status}): {reason}");
                self.start_failed(id, Status::UNAVAILABLE, &reason, &[]);
            }
            return;
        }
        let Some(asked) = self.asked.get(id, message_id) else { return };
        let Some(live) = asked.answer.clone() else { return };
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.start.targets.insert(live.plug.to_string(), live.at);
        if stage == Some(Stage::Plugs) && instance.start.targets.len() == instance.start.plugs.0.len() {
            instance.stage = Stage::Starting;
            let start = instance.start.clone();
            self.effect(Effect::Start(start));
        }
    }

    /// The kernel saw a declared connection: for an adapted source it is acknowledged.
    pub(super) fn established(&mut self, report: &SessionReport) {
        let id = InstanceId(report.source_instance);
        if !self.is_adapted(id) {
            self.connected(id, report);
            return;
        }
        let port = Port(report.source.port());
        let waiting = self
            .asked
            .of(id)
            .find(|(_, asked)| asked.answer.as_ref().is_some_and(|live| live.at == report.destination))
            .map(|(message_id, _)| message_id);
        if let Some(message_id) = waiting
            && let Some(live) = self.asked.remove(id, message_id).and_then(|asked| asked.answer)
        {
            self.lives(id, port, live);
            return;
        }
        // A further connection of the same plug is a further session. It exists, with the instance that it
        // leads to: the Manager can't choose another one any more, so it is told, not asked.
        let Some(start) = self.instances.get(&id).map(|instance| instance.start.clone()) else { return };
        if let Some(live) = self.seen(&start, report) {
            self.lives(id, port, live);
        }
    }

    /// What is known of a session that the kernel shows. An adapted source's plug is the one that leads
    /// there; a native one's the Manager knows.
    pub(super) fn seen(&mut self, start: &Start, session: &SessionReport) -> Option<Live> {
        let target = start.targets.iter().find(|(_, at)| **at == session.destination);
        let target = target.and_then(|(plug, _)| start.plugs.target(plug).cloned());
        let unknown = Name::new("-").ok()?;
        let (plug, dest_service, socket) = match target {
            Some(target) => (target.plug, target.service, target.socket.unwrap_or_else(|| unknown.clone())),
            None => (unknown.clone(), unknown.clone(), unknown),
        };
        Some(Live {
            message_id: self.message_id(),
            service: start.service.clone(),
            plug,
            dest_service,
            destination: InstanceId(session.destination_instance),
            socket,
            at: session.destination,
            over: false,
        })
    }

    /// A session of an adapted source lives; the Manager is told all of it.
    fn lives(&mut self, id: InstanceId, port: Port, live: Live) {
        let ack = Envelope::new(acknowledgement(id, port, &live), Hop::AgentToManager);
        self.send_to_manager(ack.with("x_live", &resync::item(id, port, &live)));
        self.live.insert((id, port), live);
    }

    /// The kernel saw a declared connection end: adapted ends are reported for.
    pub(super) fn closed(&mut self, report: &SessionReport, cause: Cause) {
        let status = if cause == Cause::Broken { Status::BROKEN } else { Status::CLOSED };
        let (source, port) = (InstanceId(report.source_instance), Port(report.source.port()));
        if self.is_adapted(source) {
            self.tell_source_closed(source, port, status);
        }
        self.unacknowledged.remove(&(source, port));
        if let Some(live) = self.live.get_mut(&(source, port)).filter(|live| live.at == report.destination) {
            // It says so itself; it may have said so to an earlier agent.
            live.over = true;
        }
        let destination = InstanceId(report.destination_instance);
        if self.is_adapted(destination) {
            self.tell_destination_closed(destination, report, status);
        }
    }

    fn tell_destination_closed(&mut self, id: InstanceId, report: &SessionReport, status: Status) {
        let Some(instance) = self.instances.get(&id) else { return };
        let port = report.destination.port();
        let socket = instance.start.sockets.0.iter().find(|s| s.port.0 == port).map(|s| s.socket.clone());
        if let Some(socket) = socket {
            self.tell_socket_closed(id, socket, (report.source, report.destination), status);
        }
    }

    fn is_adapted(&self, id: InstanceId) -> bool {
        self.instances.get(&id).is_some_and(|instance| instance.kind == Kind::Adapted)
    }
}
