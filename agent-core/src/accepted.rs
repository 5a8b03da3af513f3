//! Sessions between instances of this node, by the end that accepted them: when its process is gone without a word,
//! this agent says for it that they broke (section 4, 14). Sessions from other nodes are not known here: their
//! sources' side reports them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ssmmp::extension::End;
use ssmmp::{InstanceId, Port, Status};

use super::{Core, Live};

/// The source of a session, its port, and where the session leads: the kernel gives a port to connections of one source
/// to several destinations.
pub type SessionEnds = (InstanceId, Port, SocketAddr);

/// Sources of sessions that live, by who accepted them, the source's port and the socket's. Each stands for a session in
/// `live`.
pub(super) type Accepted = BTreeMap<(InstanceId, Port, Port), InstanceId>;

impl Core {
    /// A session of a source here lives.
    pub(super) fn keep_live(&mut self, source: InstanceId, port: Port, live: Live) {
        self.forget_live(source, port, live.at);
        if let Some(destination) = self.accepts(&live) {
            self.accepted.insert((destination, port, Port(live.at.port())), source);
        }
        self.live.insert((source, port, live.at), live);
    }

    /// A session of a source here is over, and somebody has said so.
    pub(super) fn forget_live(&mut self, source: InstanceId, port: Port, at: SocketAddr) -> Option<Live> {
        let live = self.live.remove(&(source, port, at))?;
        if let Some(destination) = self.accepts(&live)
            && let Entry::Occupied(accepted) = self.accepted.entry((destination, port, Port(at.port())))
            && *accepted.get() == source
        {
            accepted.remove();
        }
        Some(live)
    }

    /// The living sessions of a source.
    pub(super) fn live_of(&self, source: InstanceId) -> impl Iterator<Item = (&SessionEnds, &Live)> {
        const FIRST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        self.live.range((source, Port(0), FIRST)..).take_while(move |(ends, _)| ends.0 == source)
    }

    /// The living session that a message means: by its destination, or the only one of its port where the message tells
    /// another.
    pub(super) fn meant(
        &self,
        source: InstanceId,
        port: Port,
        at: Option<SocketAddr>,
    ) -> Option<SessionEnds> {
        let mut of_port = self.live_of(source).map(|(ends, _)| *ends).filter(|ends| ends.1 == port);
        let exact = at.map(|at| (source, port, at)).filter(|ends| self.live.contains_key(ends));
        exact.or_else(|| of_port.next().filter(|_| of_port.next().is_none()))
    }

    /// Who accepts a session, when it is an instance of this node.
    fn accepts(&self, live: &Live) -> Option<InstanceId> {
        if live.at.ip() != self.address.0 {
            return None;
        }
        let port = Port(live.at.port());
        let destination = self.destination(live.destination, port);
        let sockets = &self.instances.get(&destination)?.start.sockets.0;
        sockets.iter().any(|socket| socket.port == port).then_some(destination)
    }

    /// The accepting end of a session has said that it is over, or was spoken for.
    pub(super) fn accepted_ended(&mut self, destination: InstanceId, source: End, socket: Port) {
        if source.0 == self.address {
            self.accepted.remove(&(destination, source.1, socket));
        }
    }

    /// An instance is gone: the sessions that it accepted and never said to be over are broken.
    pub(super) fn tell_accepted_broken(&mut self, destination: InstanceId) {
        let range = (destination, Port(0), Port(0))..=(destination, Port(u16::MAX), Port(u16::MAX));
        let ended: Vec<_> = self.accepted.range(range).map(|(ends, _)| *ends).collect();
        for ends in ended {
            self.accepted.remove(&ends);
            let [from, at] = [ends.1, ends.2].map(|port| SocketAddr::new(self.address.0, port.0));
            let sockets = self.instances.get(&destination).map(|instance| &instance.start.sockets.0);
            let socket = sockets.into_iter().flatten().find(|socket| socket.port.0 == at.port());
            if let Some(socket) = socket.map(|socket| socket.socket.clone()) {
                self.tell_socket_closed(destination, socket, (from, at), Status::BROKEN);
            }
        }
    }
}
