//! Connections between instances as the kernels of their nodes see them.

use std::net::SocketAddr;

use patchbay_agent_core::Event as AgentEvent;
use patchbay_agent_core::session_report::{Cause, SessionReport};
use ssmmp::{InstanceId, Message, MessageId, Name};

use crate::plan::FaultKind;
use crate::plugs::Handed;
use crate::schedule::{Happening, Millis};
use crate::world::World;

/// Which end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The plug's.
    Source,
    /// The socket's.
    Destination,
}

impl End {
    /// The other one.
    pub fn other(self) -> Self {
        if self == Self::Source { Self::Destination } else { Self::Source }
    }
}

/// A connection attempt on its way.
pub struct Attempt {
    /// Who connects.
    pub process: u64,
    /// Where.
    pub at: SocketAddr,
    /// The plug.
    pub plug: Name,
    /// The request that the answer came for; `None` for an adapted program.
    pub request: Option<(MessageId, Box<Message>)>,
    /// The connection at an agent that it is for.
    pub handed: Option<Handed>,
}

/// A connection.
pub struct Connection {
    /// The source's process.
    pub source: u64,
    /// The destination's process.
    pub destination: u64,
    /// The instances by their processes.
    pub instances: (InstanceId, InstanceId),
    /// Source address and m.
    pub from: SocketAddr,
    /// Destination address and k.
    pub at: SocketAddr,
    /// Nodes of both ends.
    pub nodes: (usize, usize),
    /// The plug.
    pub plug: Name,
    /// What the source was answered, for its close info.
    pub response: Option<Box<Message>>,
    /// Whether the source's kernel was told of it before: then its agent sees it.
    pub declared: Option<InstanceId>,
    /// Whether an agent carries it.
    pub carried: bool,
    /// Whether the source has told its agent of it, or its agent does.
    pub acknowledged: bool,
    /// When it was made.
    pub made: Millis,
    /// Which ends are open.
    pub open: [bool; 2],
}

impl Connection {
    /// What the kernel's map says of it.
    pub fn report(&self) -> SessionReport {
        let destination = self.declared.unwrap_or(self.instances.1);
        SessionReport {
            source: self.from,
            // No real clock: a seed's run is always the same.
            read_at: self.made,
            ..SessionReport::between(self.instances.0.0, destination.0, self.at)
        }
    }
}

impl World {
    /// A process connects; what becomes of it is known when the attempt arrives.
    pub fn connect(&mut self, attempt: Attempt) {
        let delay = self.random(1, 6);
        self.after(delay, Happening::Arrives(attempt));
    }

    /// The attempt arrives: somebody listens there, or nobody.
    pub fn arrives(&mut self, attempt: Attempt) {
        let Some(source) = self.processes.get(&attempt.process) else { return };
        let (source_node, source_id, adapted) = (source.node, source.start.id, source.is_adapted());
        let listener = self
            .processes
            .values()
            .find(|process| process.listens_at(attempt.at) && self.nodes[process.node].up)
            .map(|process| (process.number, process.node, process.start.id));
        let Some((destination, destination_node, destination_id)) = listener else {
            self.refused(&attempt);
            return;
        };
        let from = self.next_port(source_node);
        let carried = attempt.handed.is_some();
        let declared = self.nodes[source_node].declared.get(&(source_id, attempt.at)).copied();
        let declared = declared.filter(|_| !carried);
        self.connections_made += 1;
        let number = self.connections_made;
        let (request, response) = attempt.request.unzip();
        let connection = Connection {
            source: attempt.process,
            destination,
            instances: (source_id, destination_id),
            from,
            at: attempt.at,
            nodes: (source_node, destination_node),
            plug: attempt.plug,
            response,
            declared,
            carried,
            acknowledged: adapted && (declared.is_some() || carried),
            made: self.schedule.now,
            open: [true; 2],
        };
        if declared.is_some() {
            self.kernel_event(source_node, AgentEvent::Established(connection.report()));
        }
        if carried {
            self.kernel_event(source_node, AgentEvent::PlugJoined(source_id, from, attempt.at));
        }
        self.connections.insert(number, connection);
        for end in [attempt.process, destination] {
            if let Some(process) = self.processes.get_mut(&end) {
                process.connections.insert(number);
            }
        }
        if let Some(request) = request {
            self.connected(attempt.process, number, &request);
        }
    }

    /// An end closes; the other end and the kernels learn of it.
    pub fn close_end(&mut self, number: u64, end: End, broken: bool) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if !std::mem::take(&mut connection.open[end as usize]) {
            return;
        }
        let other = end.other();
        let (source, destination) = (connection.source, connection.destination);
        let process = if end == End::Source { source } else { destination };
        let other_open = connection.open[other as usize];
        if let Some(process) = self.processes.get_mut(&process) {
            process.connections.remove(&number);
        }
        if other_open {
            let delay = self.random(0, 8);
            self.after(delay, Happening::PeerGone(number, other, broken));
            return;
        }
        let Some(connection) = self.connections.remove(&number) else { return };
        if connection.carried {
            self.carried_ended(&connection, broken);
        }
        if connection.declared.is_some() {
            let cause = match (broken, end) {
                (true, _) => Cause::Broken,
                (_, End::Source) => Cause::DestinationFinished,
                (_, End::Destination) => Cause::SourceFinished,
            };
            let event = AgentEvent::Closed(connection.report(), cause);
            self.kernel_event(connection.nodes.0, event);
        }
    }

    /// The kernel tells a node's agent, if there is one to be told.
    pub fn kernel_event(&mut self, node: usize, event: AgentEvent) {
        let Some(life) = self.nodes[node].agent.as_ref().map(|agent| agent.life) else { return };
        let delay = self.random(0, 4);
        let at = self.schedule.now + delay;
        let at = at.max(self.nodes[node].kernel_told);
        self.nodes[node].kernel_told = at;
        self.schedule.at(at, Happening::AgentEvent(node, life, Box::new(event)));
    }

    /// The ends of a process that is gone close.
    pub fn close_all_of(&mut self, process: u64, connections: &[u64]) {
        for number in connections {
            for end in self.ends_of(*number, process) {
                self.close_end(*number, end, true);
            }
        }
    }

    /// The ends of a process whose node is gone: nobody tells the other ends at once.
    pub fn lose_all_of(&mut self, process: u64, connections: &[u64]) {
        for number in connections {
            for end in self.ends_of(*number, process) {
                let Some(connection) = self.connections.get_mut(number) else { continue };
                connection.open[end as usize] = false;
                if connection.open[end.other() as usize] {
                    let late = self.random(200, 15_000);
                    self.after(late, Happening::PeerGone(*number, end.other(), true));
                } else {
                    self.connections.remove(number);
                }
            }
        }
    }

    fn ends_of(&self, number: u64, process: u64) -> Vec<End> {
        let Some(connection) = self.connections.get(&number) else { return Vec::new() };
        [(End::Source, connection.source), (End::Destination, connection.destination)]
            .into_iter()
            .filter(|(_, of)| *of == process)
            .map(|(end, _)| end)
            .collect()
    }

    /// A message's time on its way within a node.
    pub fn short_delay(&mut self) -> u64 {
        let slow = self.plan.has(FaultKind::Delays) && self.chance(0.01);
        if slow { self.random(100, 3_000) } else { self.random(0, 3) }
    }
}
