//! A session's bytes: over TCP, and through memory once there is some.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use patchbay_shared_memory::handing::Named;
use patchbay_shared_memory::{MemoryStream, Side};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tracing::debug;

use super::{Memory, Slot, Use, keep};

pub const READER: usize = 0;
pub const WRITER: usize = 1;

/// What carries a session.
pub struct Carrier {
    stream: Stream,
    /// Bytes written and read so far.
    counts: (u64, u64),
    claim: Option<Claim>,
}

/// A session's ask. Dropping it tells the agent that the session is over.
pub struct Claim {
    memory: Arc<Memory>,
    pub slot: Arc<Slot>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.memory.forget(self.slot.named.number);
    }
}

enum Stream {
    Tcp(TcpStream),
    Memory(Box<MemoryStream>),
    /// While the one becomes the other.
    Between,
}

impl Carrier {
    /// A session over TCP.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream: Stream::Tcp(stream), counts: (0, 0), claim: None }
    }

    /// Asks for memory, by this number of the session.
    pub fn ask(
        &mut self,
        memory: &Arc<Memory>,
        number: u64,
        side: Side,
        (source, destination): (SocketAddr, SocketAddr),
        in_use: &Use,
    ) {
        let named = Named { number, side, source, destination };
        self.claim = Some(Claim { memory: memory.clone(), slot: memory.ask(named, in_use.clone()) });
    }

    /// The connection and the ask, before anything was written or read.
    pub fn into_parts(self) -> io::Result<(std::net::TcpStream, Option<Claim>)> {
        match self.stream {
            Stream::Tcp(stream) if self.counts == (0, 0) => Ok((stream.into_std()?, self.claim)),
            _ => Err(io::Error::other("the session is in use already")),
        }
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.counts.0
    }

    /// Whether nothing is there to be read, and the peer is still there.
    pub fn is_quiet(&mut self) -> bool {
        let unread = match &mut self.stream {
            Stream::Tcp(stream) => stream.try_read(&mut [0]),
            Stream::Memory(stream) => stream.try_read(&mut [0]),
            Stream::Between => return false,
        };
        unread.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Does what the agent wants of this session.
    fn look(&mut self, task: usize, cx: &Context<'_>) -> io::Result<()> {
        let Some(Claim { slot, .. }) = &self.claim else { return Ok(()) };
        let news = slot.news(task, cx.waker());
        if let Some(offer) = news.offer {
            let memory = keep(&offer);
            let Stream::Tcp(stream) = std::mem::replace(&mut self.stream, Stream::Between) else {
                return Ok(());
            };
            self.stream = match MemoryStream::new(stream, self.counts, *offer, slot.spin) {
                Ok(stream) => {
                    slot.taken(memory, stream.waker());
                    Stream::Memory(Box::new(stream))
                }
                Err((stream, error)) => {
                    debug!("memory can't be used, the session stays on TCP: {error}");
                    Stream::Tcp(stream)
                }
            };
        }
        if let Stream::Memory(stream) = &mut self.stream {
            if news.move_to_tcp {
                stream.move_to_tcp();
            }
            if news.give_back {
                stream.give_back()?;
            }
        }
        Ok(())
    }

    fn count_written(&mut self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.counts.0 += *bytes as u64;
        }
    }
}

fn between() -> io::Error {
    io::Error::other("the session is between TCP and memory")
}

impl AsyncRead for Carrier {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.look(READER, cx)?;
        let before = buf.filled().len();
        let read = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Memory(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
            Stream::Between => Poll::Ready(Err(between())),
        };
        self.counts.1 += (buf.filled().len() - before) as u64;
        read
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.look(WRITER, cx)?;
        let written = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Memory(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
            Stream::Between => Poll::Ready(Err(between())),
        };
        self.count_written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.look(WRITER, cx)?;
        let written = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Memory(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
            Stream::Between => Poll::Ready(Err(between())),
        };
        self.count_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Memory(stream) => Pin::new(&mut **stream).poll_flush(cx),
            Stream::Between => Poll::Ready(Err(between())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Memory(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Stream::Between => Poll::Ready(Err(between())),
        }
    }
}
