//! Sessions between instances of this node, by the end that accepted them: when its process is gone without a word,
//! this agent says for it that they broke (section 4, 14). Sessions from other nodes are not known here: their
//! sources' side reports them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ssmmp::{Address, InstanceId, Port, Status};

use super::{Core, Live};

/// Sources of sessions that live, by who accepted them and the source's port. Each stands for a session in `live`.
pub(super) type Accepted = BTreeMap<(InstanceId, Port), InstanceId>;

impl Core {
    /// A session of a source here lives.
    pub(super) fn keep_live(&mut self, source: InstanceId, port: Port, live: Live) {
        self.forget_live(source, port);
        if let Some(destination) = self.accepts(&live) {
            self.accepted.insert((destination, port), source);
        }
        self.live.insert((source, port), live);
    }

    /// A session of a source here is over, and somebody has said so.
    pub(super) fn forget_live(&mut self, source: InstanceId, port: Port) -> Option<Live> {
        let live = self.live.remove(&(source, port))?;
        if let Some(destination) = self.accepts(&live)
            && self.accepted.get(&(destination, port)) == Some(&source)
        {
            self.accepted.remove(&(destination, port));
        }
        Some(live)
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
    pub(super) fn accepted_ended(&mut self, destination: InstanceId, address: Address, port: Port) {
        if address == self.address {
            self.accepted.remove(&(destination, port));
        }
    }

    /// An instance is gone: the sessions that it accepted and never said to be over are broken.
    pub(super) fn tell_accepted_broken(&mut self, destination: InstanceId) {
        let range = (destination, Port(0))..=(destination, Port(u16::MAX));
        let ended: Vec<_> = self.accepted.range(range).map(|((_, port), source)| (*source, *port)).collect();
        for (source, port) in ended {
            self.accepted.remove(&(destination, port));
            let Some(at) = self.live.get(&(source, port)).map(|live| live.at) else { continue };
            let sockets = self.instances.get(&destination).map(|instance| &instance.start.sockets.0);
            let socket = sockets.into_iter().flatten().find(|socket| socket.port.0 == at.port());
            if let Some(socket) = socket.map(|socket| socket.socket.clone()) {
                let from = SocketAddr::new(self.address.0, port.0);
                self.tell_socket_closed(destination, socket, (from, at), Status::BROKEN);
            }
        }
    }
}
