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

#[cfg(test)]
mod tests;

use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::error::PeerMisbehaved;
use crate::layout::{End, Side};
use crate::region::Region;
use crate::ring::{Available, Consumer, Peeked, Producer, Reserved, Wake};

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

    /// Reads what there is.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> io::Result<Read> {
        if into.is_empty() {
            return Ok(Read::Bytes(0));
        }
        if let Some(instead) = self.before_read()? {
            return Ok(instead);
        }
        let read = self.consumer.read(into);
        let (available, wake) = self.check(read)?;
        self.deliver(wake);
        self.found(available)
    }

    /// What keeps a read from the ring.
    fn before_read(&mut self) -> io::Result<Option<Read>> {
        self.still_good()?;
        if self.incoming == Way::First
            && let Some(start) = self.consumer.start()
        {
            match start.checked_sub(self.received) {
                None => return Err(self.fail(PeerMisbehaved::Start { start, received: self.received })),
                Some(0) => {
                    self.incoming = Way::Ring;
                    let wake = self.consumer.enter();
                    self.deliver(wake);
                }
                Some(left) => return Ok(Some(Read::Tcp(usize::try_from(left).unwrap_or(usize::MAX)))),
            }
        }
        Ok(match self.incoming {
            Way::Ring => None,
            Way::First | Way::Last => Some(Read::Tcp(usize::MAX)),
            Way::Ended => Some(Read::Ended),
        })
    }

    /// What it means for this end. Bytes were read already.
    fn found(&mut self, available: Available) -> io::Result<Read> {
        match available {
            Available::Bytes(bytes) => Ok(Read::Bytes(bytes)),
            Available::Ended(End::Closed) => {
                self.incoming = Way::Ended;
                Ok(Read::Ended)
            }
            Available::Ended(End::Moved) => {
                self.incoming = Way::Last;
                self.move_if_asked();
                Ok(Read::Tcp(usize::MAX))
            }
            // It was gone before the ring was looked at, so nothing more can come.
            Available::Nothing => match self.gone {
                Some(Gone::Closed) => {
                    self.incoming = Way::Ended;
                    Ok(Read::Ended)
                }
                Some(Gone::Failed(error)) => Err(io::Error::from_raw_os_error(error)),
                None => {
                    self.move_if_asked();
                    Ok(Read::Nothing)
                }
            },
        }
    }

    /// So many bytes came over TCP; none at its end. Returns whether that is the end of the stream: if not, look again.
    pub(crate) fn tcp_read(&mut self, bytes: usize) -> bool {
        if self.incoming == Way::First {
            self.received += bytes as u64;
        }
        // A peer that went to the ring and then ended said so before TCP's end was seen.
        let in_ring = self.incoming == Way::First && self.consumer.start() == Some(self.received);
        let ended = bytes == 0 && !in_ring;
        if ended {
            self.incoming = Way::Ended;
        }
        ended
    }

    /// The unread bytes in the ring, at most so many, without taking them: see [`Self::consume`]. What there is
    /// instead, if there are none.
    pub(crate) fn peek(&mut self, most: usize) -> io::Result<Result<Peeked<'_>, Read>> {
        if let Some(instead) = self.before_read()? {
            return Ok(Err(instead));
        }
        let available = self.consumer.available(most);
        match self.check(available)? {
            Available::Bytes(_) => Ok(Ok(self.consumer.unread(most))),
            other => self.found(other).map(Err),
        }
    }

    /// Takes the first of the bytes that were peeked at.
    pub(crate) fn consume(&mut self, bytes: usize) {
        let wake = self.consumer.consume(bytes);
        self.deliver(wake);
    }

    /// How many bytes a read of the ring can find at most.
    pub(crate) fn unread(&mut self) -> usize {
        match self.consumer.available(usize::MAX) {
            Ok(Available::Bytes(bytes)) => bytes,
            // Reading says what it is.
            _ => 1,
        }
    }

    /// Whether the ring may have something new. For those who spin.
    pub(crate) fn is_stirred(&self) -> bool {
        self.consumer.is_stirred()
    }

    /// Writes what there is room for.
    pub(crate) fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<Write> {
        if let Some(instead) = self.before_write()? {
            return Ok(instead);
        }
        if from.iter().all(|slice| slice.is_empty()) {
            return Ok(Write::Bytes(0));
        }
        let written = self.producer.write_vectored(from);
        let (written, wake) = self.check(written)?;
        self.deliver(wake);
        Ok(if written == 0 { Write::Full } else { Write::Bytes(written) })
    }

    /// So many bytes went over TCP.
    pub(crate) fn tcp_written(&mut self, bytes: usize) {
        if self.outgoing == Way::First {
            self.sent += bytes as u64;
        }
    }

    /// Room in the ring for at most so many bytes: see [`Self::commit`]. What to do instead, if there is none.
    pub(crate) fn reserve(&mut self, wanted: usize) -> io::Result<Result<Reserved<'_>, Write>> {
        if let Some(instead) = self.before_write()? {
            return Ok(Err(instead));
        }
        let room = self.producer.room(wanted);
        if self.check(room)? == 0 {
            return Ok(Err(Write::Full));
        }
        match self.producer.reserve(wanted) {
            Ok(reserved) => Ok(Ok(reserved)),
            Err(error) => {
                self.misbehaved = Some(error);
                Err(error.into())
            }
        }
    }

    /// Publishes the first of the bytes that were reserved.
    pub(crate) fn commit(&mut self, bytes: usize) {
        let wake = self.producer.commit(bytes);
        self.deliver(wake);
    }

    /// What keeps a write from the ring.
    fn before_write(&mut self) -> io::Result<Option<Write>> {
        self.still_good()?;
        self.move_if_asked();
        if self.outgoing == Way::First && self.producer.is_reader_ready() {
            self.outgoing = Way::Ring;
            let wake = self.producer.begin(self.sent);
            self.deliver(wake);
        }
        match self.outgoing {
            Way::First | Way::Last => return Ok(Some(Write::Tcp)),
            Way::Ended => return Err(io::ErrorKind::BrokenPipe.into()),
            Way::Ring => {}
        }
        match self.gone {
            Some(Gone::Failed(error)) => Err(io::Error::from_raw_os_error(error)),
            Some(Gone::Closed) => Err(io::ErrorKind::BrokenPipe.into()),
            None if self.producer.is_reader_gone() => Err(io::ErrorKind::BrokenPipe.into()),
            None => Ok(None),
        }
    }

    /// The reader is about to sleep. Whether it should not: there is something.
    pub(crate) fn reader_sleeps(&mut self) -> io::Result<bool> {
        self.still_good()?;
        let ready = match self.incoming {
            Way::First => self.consumer.sleep_before_start(),
            Way::Ring => {
                let ready = self.consumer.sleep();
                self.check(ready)?
            }
            Way::Last | Way::Ended => return Ok(true),
        };
        Ok(ready || self.must_move())
    }

    /// It does not sleep any more.
    pub(crate) fn reader_awake(&mut self) {
        self.consumer.awake();
    }

    /// The writer is about to sleep. Whether it should not: there is room, or no need for it.
    pub(crate) fn writer_sleeps(&mut self) -> io::Result<bool> {
        if self.outgoing != Way::Ring {
            return Ok(true);
        }
        let ready = self.producer.sleep();
        Ok(self.check(ready)? || self.must_move())
    }

    /// It does not sleep any more.
    pub(crate) fn writer_awake(&mut self) {
        self.producer.awake();
    }

    /// Whether the peer still believes that the reader, or the writer, sleeps.
    pub(crate) fn is_asleep(&self, reader: bool) -> bool {
        if reader { self.consumer.is_asleep() } else { self.producer.is_asleep() }
    }

    /// Nothing follows. Returns whether TCP has to be told.
    pub(crate) fn end(&mut self) -> bool {
        let way = std::mem::replace(&mut self.outgoing, Way::Ended);
        if way == Way::Ring {
            let wake = self.producer.end(End::Closed);
            self.deliver(wake);
        }
        matches!(way, Way::First | Way::Last)
    }

    /// This end writes to TCP as soon as it may, and asks the peer to do the same.
    pub(crate) fn move_to_tcp(&mut self) {
        self.moving = true;
        // In this order: a peer that sees the mark does not look at the ring again.
        let wake = self.consumer.want_tcp();
        self.deliver(wake);
        self.move_if_asked();
    }

    /// Whether this end should move, and may.
    fn must_move(&self) -> bool {
        match self.outgoing {
            Way::First => self.moving || self.producer.is_tcp_wanted(),
            Way::Ring => (self.moving || self.producer.is_tcp_wanted()) && self.producer.is_reader_in_ring(),
            Way::Last | Way::Ended => false,
        }
    }

    fn move_if_asked(&mut self) {
        if self.must_move() {
            let before = std::mem::replace(&mut self.outgoing, Way::Last);
            if before == Way::Ring {
                let wake = self.producer.end(End::Moved);
                self.deliver(wake);
            }
        }
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

    /// TCP has bytes while the ring is in use: its mark must have been there before.
    pub(crate) fn tcp_has_bytes(&mut self) -> io::Result<()> {
        if self.incoming != Way::Ring {
            return Ok(());
        }
        let available = self.consumer.available(usize::MAX);
        match self.check(available)? {
            Available::Nothing => Err(self.fail(PeerMisbehaved::EarlyTcp)),
            // Of bytes the last may have come just before the mark; who has read them looks again.
            Available::Bytes(_) | Available::Ended(_) => Ok(()),
        }
    }

    /// Gives free pages of the outgoing ring back to the system.
    pub(crate) fn give_back(&mut self) -> io::Result<()> {
        let given = self.producer.give_back();
        self.check(given)
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
