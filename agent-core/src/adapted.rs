//! The agent speaks SSMMP for programs that do not: it acknowledges and reports the connections that it sees in
//! the kernel.

use std::collections::BTreeMap;
use std::time::Duration;

use ssmmp::extension::{self, Live as LiveLine};
use ssmmp::{Envelope, Hop, InstanceId, Port, Status};

use super::timers::Timer;
use super::{Core, Live, acknowledgement, resync};
use crate::session_report::{Cause, SessionReport};

/// How long the end of a session that its destination closed waits to be told: the destination's process may be ending
/// with it, and then the session is broken (section 4, 14).
const FINISH_WITHIN: Duration = Duration::from_millis(500);
/// Ends that may wait so; further ones are told at once.
const MAX_FINISHING: usize = 10_000;

/// A session that its destination closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FinishId(u64);

/// Sessions that their destinations closed, numbered.
#[derive(Debug, Default)]
pub(super) struct Finishing {
    reports: BTreeMap<FinishId, SessionReport>,
    last: u64,
}

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
        self.send_to_manager(ack.with(LiveLine(vec![resync::told(id, port, &live)])));
        self.keep_live(id, port, live);
    }

    /// The kernel saw a declared connection end: adapted ends are reported for.
    pub(super) fn closed(&mut self, report: &SessionReport, cause: Cause) {
        let (source, port) = (InstanceId(report.source_instance), Port(report.source.port()));
        self.forget_unacknowledged((source, port, report.destination));
        if let Some(live) = self.live.get_mut(&(source, port, report.destination)) {
            // A native source says so itself; it may have said so to an earlier agent.
            live.over = true;
        }
        let destination = InstanceId(report.destination_instance);
        let is_here = report.destination.ip() == self.address.0;
        match cause {
            Cause::DestinationFinished if is_here && self.instances.contains_key(&destination) => {
                self.finish(report);
            }
            // Its process is gone already.
            Cause::DestinationFinished if is_here && destination.is_known() => {
                self.tell_ends(report, Status::BROKEN);
            }
            Cause::Broken => self.tell_ends(report, Status::BROKEN),
            Cause::DestinationFinished | Cause::SourceFinished => self.tell_ends(report, Status::CLOSED),
        }
    }

    /// A destination here has closed first.
    fn finish(&mut self, report: &SessionReport) {
        let is_spoken_for = [report.source_instance, report.destination_instance].map(InstanceId);
        if !is_spoken_for.into_iter().any(|id| self.is_adapted(id)) {
            return;
        }
        if self.finishing.reports.len() >= MAX_FINISHING {
            self.tell_ends(report, Status::CLOSED);
            return;
        }
        self.finishing.last += 1;
        let number = FinishId(self.finishing.last);
        self.finishing.reports.insert(number, report.clone());
        self.after(FINISH_WITHIN, Timer::Finish(number));
    }

    /// The destination lives still.
    pub(super) fn finish_overdue(&mut self, number: FinishId) {
        if let Some(report) = self.finishing.reports.remove(&number) {
            self.tell_ends(&report, Status::CLOSED);
        }
    }

    /// An instance is gone: what it closed just before ended with it.
    pub(super) fn finishing_broke(&mut self, id: InstanceId) {
        let of_it = |report: &SessionReport| report.destination_instance == id.0;
        let broken: Vec<_> = self.finishing.reports.extract_if(.., |_, report| of_it(report)).collect();
        for (number, report) in broken {
            self.timers.stop(Timer::Finish(number));
            self.tell_ends(&report, Status::BROKEN);
        }
    }

    /// Says for adapted ends that a session is over.
    fn tell_ends(&mut self, report: &SessionReport, status: Status) {
        let (source, port) = (InstanceId(report.source_instance), Port(report.source.port()));
        if self.is_adapted(source) {
            self.tell_source_closed(source, port, report.destination, status);
        }
        let destination = InstanceId(report.destination_instance);
        if self.is_adapted(destination) {
            self.tell_destination_closed(destination, report, status);
        }
    }

    fn tell_destination_closed(&mut self, id: InstanceId, report: &SessionReport, status: Status) {
        self.accepted_ended(id, extension::end(report.source), Port(report.destination.port()));
        let Some(instance) = self.instances.get(&id) else { return };
        let port = report.destination.port();
        let socket = instance.start.sockets.0.iter().find(|s| s.port.0 == port).map(|s| s.socket.clone());
        if let Some(socket) = socket {
            self.tell_socket_closed(id, socket, (report.source, report.destination), status);
        }
    }
}
