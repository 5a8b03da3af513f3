//! A socket: the server side of abstract connections.

use std::net::SocketAddr;
use std::sync::Arc;

use ssmmp::Name;
use tokio::net::{TcpListener, TcpSocket};

use crate::registry::Registry;
use crate::session::{End, Session};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;

/// A listening socket of this service. Cheap to clone; several tasks may accept.
#[derive(Clone)]
pub struct Socket {
    registry: Arc<Registry>,
    name: Name,
    listener: Arc<TcpListener>,
}

impl Socket {
    pub(crate) fn listen(registry: Arc<Registry>, name: Name, address: SocketAddr) -> std::io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self { registry, name, listener: Arc::new(socket.listen(BACKLOG)?) })
    }

    /// The next session.
    ///
    /// # Errors
    /// The connection failed before it was accepted, or the process has no descriptors left.
    pub async fn accept(&self) -> std::io::Result<Session> {
        let (stream, _) = self.listener.accept().await?;
        let end = match self.registry.managed {
            Some(_) => End::Destination { socket: self.name.clone() },
            None => End::Alone,
        };
        Session::new(stream, self.registry.clone(), end)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
