//! A session: a connection that tells the agent when it ends.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use patchbay_shared_memory::Side;
use ssmmp::extension::WholeSession;
use ssmmp::{
    DestServiceSessionCloseInfo, Envelope, Hop, Name, Port, SessionAck, SessionResponse,
    SourceServiceSessionCloseInfo, Status,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::memory::{Carrier, Use};
use crate::registry::{Open, Registry};

/// Which end of the session this is, with what its close info needs.
pub(crate) enum End {
    Source {
        plug: Name,
        response: Box<SessionResponse>,
    },
    Destination {
        socket: Name,
    },
    /// A service that runs alone.
    Alone,
}

/// A session: reads and writes like a TCP stream. Dropping it closes it and tells the agent.
pub struct Session {
    // First, so that the agent is told before the connection ends.
    about: About,
    carrier: Carrier,
}

/// A session as the agent knows it. Dropping it tells the agent that the session has ended.
pub(crate) struct About {
    registry: Arc<Registry>,
    id: u64,
    end: End,
    /// Source and destination.
    ends: (SocketAddr, SocketAddr),
    pub(crate) close_requested: CancellationToken,
    broken: bool,
    in_use: Use,
}

impl Session {
    pub(crate) fn new(stream: TcpStream, registry: Arc<Registry>, end: End) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
        let is_source = !matches!(end, End::Destination { .. });
        let ends = if is_source { (local, remote) } else { (remote, local) };
        let stream = stream.into_std()?;
        let connection = stream.try_clone()?;
        let close_requested = CancellationToken::new();
        let acknowledgement = match &end {
            End::Source { plug, response } => Some(acknowledgement(plug, response, ends.0.port())),
            _ => None,
        };
        let open = Open {
            ends,
            is_source,
            close_requested: close_requested.clone(),
            acknowledgement,
            connection,
            asked: Vec::new(),
        };
        let id = registry.add(open);
        let mut carrier = Carrier::new(TcpStream::from_std(stream)?);
        let in_use = Use::new();
        if let Some(memory) = registry.memory.get() {
            let side = if is_source { Side::Source } else { Side::Destination };
            carrier.ask(memory, id, side, ends, &in_use);
        }
        let about = About { registry, id, end, ends, close_requested, broken: false, in_use };
        Ok(Self { about, carrier })
    }

    /// Source's and destination's address.
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        self.about.ends
    }

    /// Its parts, for a caller without a runtime.
    pub(crate) fn into_parts(self) -> (Carrier, About) {
        (self.carrier, self.about)
    }

    /// Waits until the Manager asks to close this session, or this instance ends. Finish the message at
    /// hand and drop the session; one that goes on is cut after 3 seconds. For the same work, connect the
    /// plug again. The future does not borrow the session, so that it can be read meanwhile.
    pub fn close_requested(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        self.about.close_requested.clone().cancelled_owned()
    }

    /// Whether the Manager has asked to close this session, or this instance ends.
    pub fn is_close_requested(&self) -> bool {
        self.about.close_requested.is_cancelled()
    }

    /// Waits until no byte has gone either way for so long. A service that holds sessions it may not need
    /// closes them then by itself (C8). The future does not borrow the session.
    pub fn idle(&self, limit: Duration) -> impl Future<Output = ()> + Send + 'static + use<> {
        let Use { begun, last } = self.about.in_use.clone();
        async move {
            loop {
                let until = begun + Duration::from_millis(last.load(Ordering::Relaxed)) + limit;
                if Instant::now() >= until {
                    return;
                }
                tokio::time::sleep_until(until).await;
            }
        }
    }

    /// Bytes written so far.
    pub(crate) fn written(&self) -> u64 {
        self.carrier.written()
    }

    /// Whether an idle session can be used again: its peer has neither closed it nor said anything.
    pub(crate) fn is_fresh(&mut self) -> bool {
        !self.is_close_requested() && self.carrier.is_quiet()
    }

    fn note<T>(&mut self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(result) = &result {
            self.about.note(result);
        }
        result
    }
}

impl About {
    /// Bytes went, or the session broke.
    pub(crate) fn note<T>(&mut self, result: &io::Result<T>) {
        match result {
            Ok(_) => self.in_use.note(),
            Err(_) => self.broken = true,
        }
    }

    fn tell_closed(&self) {
        let Some(managed) = &self.registry.managed else { return };
        let status = if self.broken { Status::BROKEN } else { Status::CLOSED };
        let (source, destination) = self.ends;
        match &self.end {
            End::Source { plug, response } => self.registry.tell(SourceServiceSessionCloseInfo {
                message_id: self.registry.message_id(),
                source_service_name: managed.service.clone(),
                source_service_instance_id: managed.id,
                source_service_instance_network_address: managed.address,
                source_plug_name: plug.clone(),
                source_plug_port: Port(source.port()),
                dest_service_name: response.dest_service_name.clone(),
                dest_service_instance_id: response.dest_service_instance_id,
                dest_service_instance_network_address: response.dest_service_instance_network_address,
                dest_socket_name: response.dest_socket_name.clone(),
                dest_socket_port: response.dest_socket_port,
                dest_socket_new_port: response.dest_socket_port,
                status,
            }),
            End::Destination { socket } => {
                let Ok(unknown) = Name::new("-") else { return };
                self.registry.tell(DestServiceSessionCloseInfo {
                    message_id: self.registry.message_id(),
                    source_service_instance_network_address: source.ip().into(),
                    source_plug_name: unknown,
                    source_plug_port: Port(source.port()),
                    dest_service_name: managed.service.clone(),
                    dest_service_instance_network_address: managed.address,
                    dest_service_instance_id: managed.id,
                    dest_socket_name: socket.clone(),
                    dest_socket_port: Port(destination.port()),
                    dest_socket_new_port: Port(destination.port()),
                    status,
                });
            }
            End::Alone => {}
        }
    }
}

/// The acknowledgement of a session, with [`WholeSession`] for an agent that did not see it begin.
fn acknowledgement(plug: &Name, response: &SessionResponse, port: u16) -> Envelope {
    let ack = SessionAck {
        message_id: response.message_id,
        source_service_name: response.source_service_name.clone(),
        source_service_instance_id: response.source_service_instance_id,
        source_plug_port: Port(port),
        dest_socket_new_port: response.dest_socket_port,
        status: Status::OK,
    };
    let session = WholeSession {
        plug: plug.clone(),
        service: response.dest_service_name.clone(),
        destination: response.dest_service_instance_id,
        socket: response.dest_socket_name.clone(),
        at: (response.dest_service_instance_network_address, response.dest_socket_port),
    };
    Envelope::new(ack, Hop::InstanceToAgent).with(session)
}

impl Drop for About {
    fn drop(&mut self) {
        self.tell_closed();
        self.registry.remove(self.id);
    }
}

impl AsyncRead for Session {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.carrier).poll_read(cx, buf);
        self.note(result)
    }
}

impl AsyncWrite for Session {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.carrier).poll_write(cx, buf);
        self.note(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.carrier).poll_write_vectored(cx, bufs);
        self.note(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.carrier.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.carrier).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.carrier).poll_shutdown(cx);
        self.note(result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn an_unused_session_is_idle_and_one_that_is_used_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
        let (mut peer, _) = listener.accept().await.expect("connected");
        let registry = Registry::new(None, mpsc::channel(1).0);
        let mut session = Session::new(stream, registry, End::Alone).expect("a session");
        let limit = Duration::from_millis(200);
        let mut idle = Box::pin(session.idle(limit));
        for _ in 0..5 {
            assert!(timeout(limit / 2, &mut idle).await.is_err(), "it was used a moment ago");
            session.write_all(b"x").await.expect("connected");
            peer.read_exact(&mut [0]).await.expect("connected");
        }
        timeout(10 * limit, idle).await.expect("nobody uses it any more");
    }
}
