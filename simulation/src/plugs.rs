//! Plugs of adapted programs: where the kernel leads their connections, and those that wait at the agent or are
//! carried by it.

use std::net::SocketAddr;

use patchbay_agent_core::{Event, Lead, Waiting};
use ssmmp::{InstanceId, Name, Status};

use crate::network::{Attempt, Connection, End};
use crate::schedule::Millis;
use crate::world::World;

/// How long a plug leads to another node's instance.
const ELSEWHERE_WITHIN: Millis = 10_000;

/// Where the kernel leads a plug's connections, and until when.
pub type Led = (Lead, Millis);

/// A destination that an agent tries for a connection that waits.
#[derive(Debug, Clone, Copy)]
pub struct Handed {
    /// The connection's number.
    pub waiting: Waiting,
    /// Destinations that were tried before.
    pub tries: u8,
}

impl World {
    /// An adapted program connects to its plug's own address.
    pub fn connects_plug(&mut self, number: u64, plug: &Name) {
        let Some(process) = self.processes.get(&number) else { return };
        let (node, id) = (process.node, process.start.id);
        let led =
            self.nodes[node].led.get(&(id, plug.clone())).filter(|(_, until)| *until > self.schedule.now);
        if let Some((lead, _)) = led {
            let at = lead.at;
            self.connect(Attempt { process: number, at, plug: plug.clone(), request: None, handed: None });
            return;
        }
        // Without an agent it waits in the kernel, here for ever.
        if self.nodes[node].agent.is_some() {
            self.waited += 1;
            let waits = Event::PlugWaits(id, plug.clone(), Waiting(self.waited));
            self.kernel_event(node, waits);
        }
    }

    /// The kernel is told where a plug's connections lead.
    pub fn leads(&mut self, index: usize, id: InstanceId, plug: Name, lead: Option<Lead>) {
        let now = self.schedule.now;
        let led = &mut self.nodes[index].led;
        match lead {
            Some(lead) => {
                let until = if lead.here { Millis::MAX } else { now + ELSEWHERE_WITHIN };
                led.insert((id, plug), (lead, until));
            }
            None => drop(led.remove(&(id, plug))),
        }
    }

    /// An agent connects for a connection that waits.
    pub fn hands(&mut self, index: usize, id: InstanceId, plug: Name, at: SocketAddr, handed: Handed) {
        let source = self.processes.values().find(|p| p.node == index && p.start.id == id).map(|p| p.number);
        if let Some(process) = source {
            self.connect(Attempt { process, at, plug, request: None, handed: Some(handed) });
        }
    }

    /// Nobody listens where an agent connected.
    pub fn hand_failed(&mut self, attempt: &Attempt, handed: Handed) {
        let Some(process) = self.processes.get(&attempt.process) else { return };
        let (node, id) = (process.node, process.start.id);
        let failed = Event::PlugFailed(id, attempt.plug.clone(), handed.waiting, attempt.at, handed.tries);
        self.kernel_event(node, failed);
    }

    /// A connection that an agent carried has ended: it says so to its core.
    pub fn carried_ended(&mut self, connection: &Connection, broken: bool) {
        let status = if broken { Status::BROKEN } else { Status::CLOSED };
        self.kernel_event(connection.nodes.0, Event::PlugLeft(connection.report(), status));
    }

    /// What an agent carried ends with it.
    pub fn carried_lost(&mut self, node: usize) {
        let carried = |connection: &Connection| connection.carried && connection.nodes.0 == node;
        let lost: Vec<u64> = self.connections.iter().filter(|(_, c)| carried(c)).map(|(n, _)| *n).collect();
        for number in lost {
            for end in [End::Source, End::Destination] {
                self.close_end(number, end, true);
            }
        }
    }
}
