//! A session's end as a tokio stream: through shared memory as long as that goes, over its TCP connection otherwise.

#[cfg(test)]
mod tests;
mod waiting;
mod wakers;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::bytes::Byte;
use crate::endpoint::{Endpoint, Read, Wakes, Way, Write};
use crate::error::Unusable;
use crate::memory;
use crate::offer::Offer;
use crate::signal;
use crate::spin::Spin;
use wakers::{Task, Wakers};

/// Times that a read which does not wait looks again after a signal.
const TRIES: u32 = 8;

/// One end of a session. Reads and writes like the TCP stream that it was made from, and can be used in two tasks by
/// `tokio::io::split`.
///
/// Dropping it closes the session: the peer reads what was written before, then the end.
#[derive(Debug)]
pub struct MemoryStream {
    endpoint: Endpoint<Bell>,
    tcp: TcpStream,
    wakers: Arc<Wakers>,
    /// Wakes both tasks: a descriptor keeps one waker.
    both: Waker,
    reader_spin: Spin,
    writer_spin: Spin,
}

/// The signal.
#[derive(Debug)]
struct Bell(UnixStream);

impl Wakes for Bell {
    fn wake(&self) {
        signal::send(&self.0);
    }
}

impl MemoryStream {
    /// Takes memory for the session of a TCP connection over which so many bytes were written and read before. Bytes go
    /// through memory as soon as both ends have it; until then, and if one never does, over TCP. Waits at most `spin`
    /// without sleeping, see [`crate::DEFAULT_SPIN`]; zero is never.
    ///
    /// # Errors
    /// The memory can't be used: the connection comes back, and the session stays on it.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub fn new(
        tcp: TcpStream,
        counts: (u64, u64),
        offer: Offer,
        spin: Duration,
    ) -> Result<Self, (TcpStream, Unusable)> {
        let region = match memory::open(&offer.memory, true) {
            Ok(region) => region,
            Err(error) => return Err((tcp, error)),
        };
        let signal = std::os::unix::net::UnixStream::from(offer.signal);
        let signal = match signal.set_nonblocking(true).and_then(|()| UnixStream::from_std(signal)) {
            Ok(signal) => signal,
            Err(_) => return Err((tcp, Unusable::kernel("epoll_ctl")(nix::Error::last()))),
        };
        let wakers = Arc::new(Wakers::default());
        Ok(Self {
            endpoint: Endpoint::new(Arc::new(region), offer.side, counts, Bell(signal)),
            tcp,
            both: Waker::from(wakers.clone()),
            wakers,
            reader_spin: Spin::new(spin),
            writer_spin: Spin::new(spin),
        })
    }

    /// The session's TCP connection. Bytes that are read from it or written to it are lost to the session.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Which way goes what this end writes, and what it reads.
    pub fn ways(&self) -> (Way, Way) {
        (self.endpoint.outgoing(), self.endpoint.incoming())
    }

    /// Bytes that this end wrote to memory, and read from it.
    pub fn through_memory(&self) -> (u64, u64) {
        self.endpoint.through_memory()
    }

    /// Moves the session to TCP without losing a byte: this end's bytes from the next write on, the peer's from when it
    /// next reads or writes.
    pub fn move_to_tcp(&mut self) {
        self.endpoint.move_to_tcp();
    }

    /// Gives the free pages of the ring that this end writes back to the system, for a session that idles.
    ///
    /// # Errors
    /// The peer misbehaved.
    pub fn give_back(&mut self) -> io::Result<()> {
        self.endpoint.give_back()
    }

    /// Wakes both tasks that wait for this stream, so that they look again: after a word with [`Self::move_to_tcp`], for
    /// example, that came from elsewhere.
    pub fn waker(&self) -> Waker {
        self.both.clone()
    }

    /// Reads what is there, without waiting: [`io::ErrorKind::WouldBlock`] when nothing is, and the peer is still there.
    /// Not while a task waits for reading.
    ///
    /// # Errors
    /// As reading.
    pub fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        for _ in 0..TRIES {
            match self.endpoint.read(into)? {
                Read::Bytes(bytes) => return Ok(bytes),
                Read::Ended => return Ok(0),
                Read::Tcp(most) => {
                    let most = most.min(into.len());
                    let bytes = self.tcp.try_read(&mut into[..most])?;
                    if self.endpoint.tcp_read(bytes) || bytes > 0 {
                        return Ok(bytes);
                    }
                }
                Read::Nothing if self.poll_peer(Task::Reader)?.is_ready() => {}
                Read::Nothing => break,
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Waits for bytes and hands out those in memory where they lie, at most so many; then takes as many as `take` says.
    /// `None` at the end of what comes through memory: use [`AsyncRead`] then. The peer can change the bytes
    /// while they are looked at. Cancel safe.
    ///
    /// # Errors
    /// As reading.
    ///
    /// # Panics
    /// When more is taken than was there.
    pub async fn peek<T>(
        &mut self,
        most: usize,
        mut take: impl FnMut([&[Byte]; 2]) -> (usize, T),
    ) -> io::Result<Option<T>> {
        std::future::poll_fn(|cx| {
            let found =
                ready!(self.poll_until(cx, Task::Reader, |this, _| match this.endpoint.peek(most)? {
                    Ok(peeked) => Ok(Some(Some(take(peeked.parts())))),
                    Err(Read::Nothing) => Ok(None),
                    Err(_) => Ok(Some(None)),
                }))?;
            Poll::Ready(Ok(found.map(|(taken, result)| {
                self.endpoint.consume(taken);
                result
            })))
        })
        .await
    }

    /// Waits for room and hands it out to be filled in place, at most so many bytes; then sends as many as `fill` says.
    /// `None` where this end writes to TCP: use [`AsyncWrite`] then. Cancel safe.
    ///
    /// # Errors
    /// As writing.
    ///
    /// # Panics
    /// When more is sent than there was room for.
    pub async fn reserve<T>(
        &mut self,
        most: usize,
        mut fill: impl FnMut([&[Byte]; 2]) -> (usize, T),
    ) -> io::Result<Option<T>> {
        std::future::poll_fn(|cx| {
            let found =
                ready!(self.poll_until(cx, Task::Writer, |this, _| match this.endpoint.reserve(most)? {
                    Ok(room) => Ok(Some(Some(fill(room.parts())))),
                    Err(Write::Full) => Ok(None),
                    Err(_) => Ok(Some(None)),
                }))?;
            Poll::Ready(Ok(found.map(|(filled, result)| {
                self.endpoint.commit(filled);
                result
            })))
        })
        .await
    }

    /// Reads TCP before the ring has begun, at most so many bytes. `None` when there are none yet, or the ring has begun.
    fn read_first(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        most: usize,
    ) -> io::Result<Option<Read>> {
        let most = buf.remaining().min(most);
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        let Poll::Ready(read) = Pin::new(&mut self.tcp).poll_read(cx, &mut part) else { return Ok(None) };
        read?;
        let bytes = part.filled().len();
        let ended = self.endpoint.tcp_read(bytes);
        Ok(match bytes {
            0 if ended => Some(Read::Ended),
            0 => None,
            _ => Some(Read::Bytes(bytes)),
        })
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let read = ready!(this.poll_until(cx, Task::Reader, |this, cx| {
            // Only as many bytes are made valid as will be written.
            let most = buf.remaining().min(this.endpoint.unread());
            Ok(match this.endpoint.read(buf.initialize_unfilled_to(most))? {
                Read::Nothing => None,
                Read::Tcp(most) if this.endpoint.incoming() == Way::First => {
                    this.read_first(cx, buf, most)?
                }
                other => Some(other),
            })
        }))?;
        match read {
            Read::Bytes(bytes) => buf.advance(bytes),
            Read::Tcp(_) => return Pin::new(&mut this.tcp).poll_read(cx, buf),
            Read::Ended | Read::Nothing => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(this.poll_until(cx, Task::Writer, |this, _| {
            Ok(match this.endpoint.write(bufs)? {
                Write::Full => None,
                other => Some(other),
            })
        }))?;
        match written {
            Write::Bytes(bytes) => Poll::Ready(Ok(bytes)),
            _ => {
                let written = ready!(Pin::new(&mut this.tcp).poll_write_vectored(cx, bufs))?;
                this.endpoint.tcp_written(written);
                Poll::Ready(Ok(written))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was written is in the ring, or with the kernel.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.endpoint.end() { Pin::new(&mut this.tcp).poll_shutdown(cx) } else { Poll::Ready(Ok(())) }
    }
}
