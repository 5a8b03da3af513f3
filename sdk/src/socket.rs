//! A socket: the server side of abstract connections.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ssmmp::Name;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::registry::{Registry, lock};
use crate::session::{End, Session};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;

/// When the instance ends, how long nobody must have connected until the socket stops listening.
const QUIET: Duration = Duration::from_millis(20);
/// After so long it stops listening in any case.
const STOP_WITHIN: Duration = Duration::from_millis(500);

/// A listening socket of this service. Cheap to clone; several tasks may accept.
#[derive(Clone)]
pub struct Socket {
    registry: Arc<Registry>,
    name: Name,
    address: SocketAddr,
    /// Empty once it has stopped listening.
    listener: Arc<Mutex<Option<Arc<TcpListener>>>>,
    closed: CancellationToken,
}

impl Socket {
    pub(crate) fn listen(registry: Arc<Registry>, name: Name, address: SocketAddr) -> std::io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        Ok(Self {
            registry,
            name,
            address: listener.local_addr()?,
            listener: Arc::new(Mutex::new(Some(Arc::new(listener)))),
            closed: CancellationToken::new(),
        })
    }

    /// The next session. When the instance is asked to end, those who have connected are still accepted;
    /// then the socket stops listening, and this waits for ever.
    ///
    /// # Errors
    /// The connection failed before it was accepted, or the process has no descriptors left.
    pub async fn accept(&self) -> std::io::Result<Session> {
        let Some(listener) = lock(&self.listener).clone() else { return std::future::pending().await };
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = self.registry.shutdown.cancelled() => match self.accept_last(&listener).await {
                Some(accepted) => accepted?,
                None => {
                    drop(listener);
                    return std::future::pending().await;
                }
            },
        };
        let end = match self.registry.managed {
            Some(_) => End::Destination { socket: self.name.clone() },
            None => End::Alone,
        };
        Session::new(stream, self.registry.clone(), end)
    }

    /// One of those who connected before the instance was to end; after the last one, nobody can connect
    /// any more.
    async fn accept_last(&self, listener: &TcpListener) -> Option<std::io::Result<(TcpStream, SocketAddr)>> {
        let until = *lock(&self.registry.stop_listening_at).get_or_insert(Instant::now() + STOP_WITHIN);
        if let Ok(accepted) = timeout_at(until.min(Instant::now() + QUIET), listener.accept()).await {
            return Some(accepted);
        }
        lock(&self.listener).take();
        self.closed.cancel();
        None
    }

    /// Waits until the socket has stopped listening, because the instance is to end and everybody who had
    /// connected was accepted. Give it to a server that can end gracefully.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        self.closed.clone().cancelled_owned()
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}
