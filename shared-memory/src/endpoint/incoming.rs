//! What comes from the peer.

use std::io;

use super::{Endpoint, Gone, Read, Wakes, Way};
use crate::error::PeerMisbehaved;
use crate::layout::End;
use crate::ring::{Available, Peeked};

impl<W: Wakes> Endpoint<W> {
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
}
