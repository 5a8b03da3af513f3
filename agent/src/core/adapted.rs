//! The agent speaks SSMMP for programs that do not: it acknowledges and reports the connections that it sees in
//! the kernel.

use ssmmp::{Envelope, Hop, InstanceId, Port, Status};

use super::{Core, Live, acknowledgement, resync};
use crate::datapath::{Cause, SessionReport};

impl Core {
    /// The kernel saw a declared connection: for an adapted source it is acknowledged.
    pub(super) fn established(&mut self, report: &SessionReport) {
        let id = InstanceId(report.source_instance);
        match self.is_adapted(id) {
            true => self.plug_connected(id, report),
            false => self.connected(id, report),
        }
    }

    /// A session of an adapted source lives; the Manager is told all of it.
    pub(super) fn lives(&mut self, id: InstanceId, port: Port, live: Live) {
        let ack = Envelope::new(acknowledgement(id, port, &live), Hop::AgentToManager);
        self.send_to_manager(ack.with("x_live", &resync::item(id, port, &live)));
        self.keep_live(id, port, live);
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
        self.accepted_ended(id, report.source.ip().into(), Port(report.source.port()));
        let Some(instance) = self.instances.get(&id) else { return };
        let port = report.destination.port();
        let socket = instance.start.sockets.0.iter().find(|s| s.port.0 == port).map(|s| s.socket.clone());
        if let Some(socket) = socket {
            self.tell_socket_closed(id, socket, (report.source, report.destination), status);
        }
    }
}
