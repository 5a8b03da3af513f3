//! What goes to the peer.

use std::io::{self, IoSlice};

use super::{Endpoint, Gone, Wakes, Way, Write};
use crate::layout::End;
use crate::ring::Reserved;

impl<W: Wakes> Endpoint<W> {
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
    pub(super) fn must_move(&self) -> bool {
        match self.outgoing {
            Way::First => self.moving || self.producer.is_tcp_wanted(),
            Way::Ring => (self.moving || self.producer.is_tcp_wanted()) && self.producer.is_reader_in_ring(),
            Way::Last | Way::Ended => false,
        }
    }

    pub(super) fn move_if_asked(&mut self) {
        if self.must_move() {
            let before = std::mem::replace(&mut self.outgoing, Way::Last);
            if before == Way::Ring {
                let wake = self.producer.end(End::Moved);
                self.deliver(wake);
            }
        }
    }

    /// Gives free pages of the outgoing ring back to the system.
    pub(crate) fn give_back(&mut self) -> io::Result<()> {
        let given = self.producer.give_back();
        self.check(given)
    }
}
