//! A session's end for programs without a runtime: reads and writes wait, or say that they would.

#[cfg(test)]
mod tests;

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

use crate::endpoint::{self, Endpoint, Gone, Wakes, Way};
use crate::error::Unusable;
use crate::memory;
use crate::offer::Offer;
use crate::signal::{self, Signalled};
use crate::spin::Spin;

/// Times that a wait looks again between two looks at the clock.
const LOOKS: u32 = 32;

/// One end of a session, for one thread at a time. Dropping it closes the session.
#[derive(Debug)]
pub struct BlockingStream {
    endpoint: Endpoint<Bell>,
    tcp: TcpStream,
    spin: Spin,
    timeout: Option<Duration>,
}

#[derive(Debug)]
struct Bell(OwnedFd);

impl Wakes for Bell {
    fn wake(&self) {
        signal::send(&self.0);
    }
}

/// What an end waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum For {
    /// Bytes, or the end.
    Reading,
    /// Room.
    Writing,
}

impl BlockingStream {
    /// Takes memory for the session of a TCP connection, as [`crate::MemoryStream::new`] does. The connection must not
    /// be used elsewhere; it is put into non-blocking mode.
    ///
    /// # Errors
    /// The memory can't be used: the connection comes back, and the session stays on it.
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
        if tcp.set_nonblocking(true).is_err() {
            return Err((tcp, Unusable::kernel("O_NONBLOCK")(nix::Error::last())));
        }
        let endpoint = Endpoint::new(Arc::new(region), offer.side, counts, Bell(offer.signal));
        Ok(Self { endpoint, tcp, spin: Spin::new(spin), timeout: None })
    }

    /// How long a read or a write waits; for ever, if `None`. After it they say [`io::ErrorKind::TimedOut`]; after no time
    /// at all [`io::ErrorKind::WouldBlock`].
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// Which way goes what this end writes, and what it reads.
    pub fn ways(&self) -> (Way, Way) {
        (self.endpoint.outgoing(), self.endpoint.incoming())
    }

    /// Bytes that this end wrote to memory, and read from it.
    pub fn through_memory(&self) -> (u64, u64) {
        self.endpoint.through_memory()
    }

    /// Moves the session to TCP without losing a byte, as [`crate::MemoryStream::move_to_tcp`] does.
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

    /// Says that nothing follows; the peer reads what was written, then the end.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn end(&mut self) -> io::Result<()> {
        if self.endpoint.end() { self.tcp.shutdown(Shutdown::Write) } else { Ok(()) }
    }

    /// The two descriptors that a program's own loop waits for, both for being readable (and the connection for being
    /// writable, where [`For::Writing`] and [`Self::ways`] say TCP), after [`Self::sleep`] has said that it may.
    pub fn descriptors(&mut self) -> [BorrowedFd<'_>; 2] {
        let Self { endpoint, tcp, .. } = self;
        [OwnedFd::as_fd(&endpoint.wakes().0), TcpStream::as_fd(tcp)]
    }

    /// Before a program's own loop waits: tells the peer to signal. Whether it should try again instead.
    ///
    /// # Errors
    /// The peer misbehaved.
    pub fn sleep(&mut self, what: For) -> io::Result<bool> {
        match what {
            For::Reading => self.endpoint.reader_sleeps(),
            For::Writing => self.endpoint.writer_sleeps(),
        }
    }

    /// After a program's own loop has waited: takes signals, and looks whether the peer is still there.
    ///
    /// # Errors
    /// The peer misbehaved.
    pub fn awake(&mut self) -> io::Result<()> {
        self.endpoint.reader_awake();
        self.endpoint.writer_awake();
        if !self.endpoint.is_gone() {
            match signal::take(&self.endpoint.wakes().0) {
                Ok(Signalled::Gone) => self.endpoint.signal_is_closed(),
                Ok(Signalled::Yes | Signalled::No) => {}
                Err(error) => return Err(self.endpoint.fail(error)),
            }
        }
        if self.endpoint.incoming() != Way::Ring {
            return Ok(());
        }
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(std::os::fd::AsRawFd::as_raw_fd(&self.tcp), &mut [0], flags) {
            Ok(0) => self.endpoint.peer_is_gone(Gone::Closed),
            Ok(_) => self.endpoint.tcp_has_bytes()?,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            Err(error) => self.endpoint.peer_is_gone(Gone::Failed(error as i32)),
        }
        Ok(())
    }

    /// Tries until it succeeds or the time is over: at once, spinning, or after sleeping.
    fn until<T>(
        &mut self,
        what: For,
        mut attempt: impl FnMut(&mut Self) -> io::Result<Option<T>>,
    ) -> io::Result<T> {
        let until = self.timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Some(found) = attempt(self)? {
                self.spin.answered();
                return Ok(found);
            }
            if self.timeout == Some(Duration::ZERO) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if self.spin.again() {
                for _ in 0..LOOKS {
                    std::hint::spin_loop();
                    if what == For::Reading && self.endpoint.is_stirred() {
                        break;
                    }
                }
                continue;
            }
            if !self.sleep(what)? || self.is_on_tcp(what) {
                self.wait(what, until)?;
            }
            self.awake()?;
        }
    }

    /// Whether TCP says when to go on.
    fn is_on_tcp(&self, what: For) -> bool {
        let way = if what == For::Reading { self.endpoint.incoming() } else { self.endpoint.outgoing() };
        matches!(way, Way::Last) || (way == Way::First && what == For::Writing)
    }

    fn wait(&mut self, what: For, until: Option<Instant>) -> io::Result<()> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A bit more, so that the time is over when it wakes.
        let left = left.map(|left| left + Duration::from_millis(1));
        let left =
            left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        let (on_tcp, gone) = (self.is_on_tcp(what), self.endpoint.is_gone());
        // A writer that waits for the ring does not look for bytes on TCP, which may be there for long; that
        // the connection failed is said unasked.
        let events = match what {
            For::Reading => PollFlags::POLLIN,
            For::Writing if on_tcp => PollFlags::POLLOUT,
            For::Writing => PollFlags::empty(),
        };
        let [signal, tcp] = self.descriptors();
        // A closed signal is always ready.
        let signalled = if gone { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut waits = [PollFd::new(tcp, events), PollFd::new(signal, signalled)];
        let waits = if gone { &mut waits[..1] } else { &mut waits[..] };
        match poll(waits, left) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// `None` where TCP would wait.
fn unless_waiting<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Read for BlockingStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        self.until(For::Reading, |this| match this.endpoint.read(into)? {
            endpoint::Read::Bytes(bytes) => Ok(Some(bytes)),
            endpoint::Read::Ended => Ok(Some(0)),
            endpoint::Read::Nothing => Ok(None),
            endpoint::Read::Tcp(most) => {
                let most = most.min(into.len());
                let Some(bytes) = unless_waiting(this.tcp.read(&mut into[..most]))? else { return Ok(None) };
                let ended = this.endpoint.tcp_read(bytes);
                Ok((bytes > 0 || ended).then_some(bytes))
            }
        })
    }
}

impl Write for BlockingStream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(from)])
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        self.until(For::Writing, |this| match this.endpoint.write(from)? {
            endpoint::Write::Bytes(bytes) => Ok(Some(bytes)),
            endpoint::Write::Full => Ok(None),
            endpoint::Write::Tcp => {
                let written = unless_waiting(this.tcp.write_vectored(from))?;
                this.endpoint.tcp_written(written.unwrap_or(0));
                Ok(written)
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        // What was written is in the ring, or with the kernel.
        Ok(())
    }
}
