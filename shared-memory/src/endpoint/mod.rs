//! One end of a session: which way its bytes go, without any I/O.
//!
//! ```text
//!            peer ready      moved            ended
//! outgoing   First ───▶ Ring ───▶ Last ───▶ Ended          each of them also ends by itself
//!            start            mark             mark, FIN
//! incoming   First ───▶ Ring ───▶ Last ───▶ Ended          Ring ends also when the peer is gone and the ring empty
//! ```
//!
//! First and Last are TCP. Each direction changes by itself. Its writer says in shared memory after how many bytes over
//! TCP the ring begins, and later with which byte the ring ends; its reader reads TCP up to the one, the ring up to the
//! other, then TCP. So nobody waits for an agreement, and nothing has to be put in order. A writer goes back to TCP only
//! once its reader has come to the ring: else a read of TCP could take bytes of First and Last together.

mod incoming;
mod outgoing;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use crate::error::PeerMisbehaved;
use crate::layout::Side;
use crate::region::Region;
use crate::ring::{Consumer, Producer, Wake};

/// Wakes the peer.
pub(crate) trait Wakes {
    fn wake(&self);
}

/// Which way a direction's bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Over TCP, until both ends have the memory.
    First,
    /// Through shared memory.
    Ring,
    /// Over TCP, for good.
    Last,
    /// Nothing follows.
    Ended,
}

/// What reading found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Read {
    /// So many bytes.
    Bytes(usize),
    /// The end.
    Ended,
    /// Read at most so many bytes from TCP instead, and say how many: [`Endpoint::tcp_read`].
    Tcp(usize),
    /// Nothing yet.
    Nothing,
}

/// What writing found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Write {
    /// So many bytes.
    Bytes(usize),
    /// Write to TCP instead, and say how many: [`Endpoint::tcp_written`].
    Tcp,
    /// There is no room yet.
    Full,
}

/// How it was seen that the peer is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gone {
    /// It closed everything, or its process ended.
    Closed,
    /// The connection failed with this error number.
    Failed(i32),
}

/// One end of a session.
#[derive(Debug)]
pub(crate) struct Endpoint<W: Wakes> {
    producer: Producer,
    consumer: Consumer,
    outgoing: Way,
    incoming: Way,
    /// Bytes sent and received over TCP before the rings.
    sent: u64,
    received: u64,
    /// This end was asked to move to TCP.
    moving: bool,
    gone: Option<Gone>,
    misbehaved: Option<PeerMisbehaved>,
    wakes: W,
}

impl<W: Wakes> Endpoint<W> {
    /// The only end of this side, after so many bytes were sent and received over TCP.
    pub(crate) fn new(region: Arc<Region>, side: Side, (sent, received): (u64, u64), wakes: W) -> Self {
        let mut consumer = Consumer::new(region.clone(), side.peer().writes());
        let wake = consumer.ready();
        let this = Self {
            producer: Producer::new(region, side.writes()),
            consumer,
            outgoing: Way::First,
            incoming: Way::First,
            sent,
            received,
            moving: false,
            gone: None,
            misbehaved: None,
            wakes,
        };
        this.deliver(wake);
        this
    }

    pub(crate) fn outgoing(&self) -> Way {
        self.outgoing
    }

    pub(crate) fn incoming(&self) -> Way {
        self.incoming
    }

    /// Bytes written to the ring, and read from it.
    pub(crate) fn through_memory(&self) -> (u64, u64) {
        (self.producer.written(), self.consumer.read_so_far())
    }

    pub(crate) fn wakes(&mut self) -> &mut W {
        &mut self.wakes
    }

    fn deliver(&self, wake: Wake) {
        if wake == Wake::Needed {
            self.wakes.wake();
        }
    }

    /// A peer that has misbehaved once is not listened to again.
    fn check<T>(&mut self, result: Result<T, PeerMisbehaved>) -> io::Result<T> {
        self.still_good()?;
        result.map_err(|error| self.fail(error))
    }

    /// Ends the session for what the peer did.
    pub(crate) fn fail(&mut self, error: PeerMisbehaved) -> io::Error {
        self.misbehaved = Some(error);
        error.into()
    }

    fn still_good(&self) -> io::Result<()> {
        self.misbehaved.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Whether the peer still believes that the reader, or the writer, sleeps.
    pub(crate) fn is_asleep(&self, reader: bool) -> bool {
        if reader { self.consumer.is_asleep() } else { self.producer.is_asleep() }
    }

    /// TCP has ended or failed while bytes came through the ring: the peer is gone. What it wrote before is read first.
    pub(crate) fn peer_is_gone(&mut self, gone: Gone) {
        self.gone = self.gone.or(Some(gone));
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.is_some()
    }

    /// The peer's end of the signal is closed: it will not begin to use the memory, or it is gone.
    pub(crate) fn signal_is_closed(&mut self) {
        if self.outgoing == Way::First {
            self.outgoing = Way::Last;
        }
        if self.incoming == Way::First && self.consumer.start().is_none() {
            self.incoming = Way::Last;
        }
        self.peer_is_gone(Gone::Closed);
    }
}

impl<W: Wakes> Drop for Endpoint<W> {
    /// The peer reads what was written, then an end; what it writes now nobody reads.
    fn drop(&mut self) {
        self.end();
        let wake = self.consumer.leave();
        self.deliver(wake);
    }
}
