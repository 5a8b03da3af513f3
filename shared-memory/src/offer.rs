//! One end's part of a session's memory, and how it is handed to a process.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::error::Unusable;
use crate::layout::{Rings, Side};
use crate::memory;
use crate::message;
use crate::signal;

/// What a message with an offer begins with.
pub(crate) const MAGIC: [u8; 8] = *b"PATCHOF1";
/// A message: MAGIC, the session's number (8 bytes), the side (1 byte: 0 or 1).
pub(crate) const MESSAGE_BYTES: usize = 17;
/// Descriptors in a message: the memory, the signal.
const DESCRIPTORS: usize = 2;

/// What one end of a session needs to use shared memory. Whoever made it keeps no copy: a signal's closed end says
/// that its peer is gone.
#[derive(Debug)]
pub struct Offer {
    /// Which end this is for.
    pub side: Side,
    /// The session, as its agent numbers it.
    pub session: u64,
    pub(crate) memory: OwnedFd,
    pub(crate) signal: OwnedFd,
}

impl Offer {
    /// Makes the memory of a session: one part for its source, one for its destination.
    ///
    /// # Errors
    /// The kernel refuses memory or descriptors; the session stays on TCP.
    pub fn pair(session: u64, rings: Rings) -> Result<[Self; 2], Unusable> {
        let memory = memory::create(rings)?;
        let again = memory.try_clone().map_err(|_| Unusable::kernel("dup")(nix::Error::last()))?;
        let (source, destination) = signal::pair()?;
        Ok([
            Self { side: Side::Source, session, memory, signal: source },
            Self { side: Side::Destination, session, memory: again, signal: destination },
        ])
    }

    /// The session's memory, for an [`crate::Observer`].
    pub fn memory(&self) -> impl AsFd + '_ {
        &self.memory
    }

    /// Only the signal, as a plain socket: for tests whose peer is no honest one.
    pub fn into_signal(self) -> UnixStream {
        self.signal.into()
    }

    /// Sends it through a connected Unix socket, in one message. Does not wait.
    ///
    /// # Errors
    /// The socket has no room (EAGAIN), or is none that takes descriptors.
    pub fn send(self, to: impl AsFd) -> nix::Result<()> {
        let mut message = [0; MESSAGE_BYTES];
        message[..8].copy_from_slice(&MAGIC);
        message[8..16].copy_from_slice(&self.session.to_ne_bytes());
        message[16] = u8::from(self.side == Side::Destination);
        message::send(to, &message, &[self.memory.as_fd(), self.signal.as_fd()])
    }

    /// Receives one from a connected Unix socket. Does not wait: EAGAIN when there is none.
    ///
    /// # Errors
    /// What came is no offer, or nothing has come.
    pub fn receive(from: impl AsFd) -> Result<Self, Unusable> {
        let mut message = [0; MESSAGE_BYTES];
        let (length, descriptors) = message::receive(from, &mut message)?;
        Self::read(&message[..length], descriptors)
    }

    /// What a message with these descriptors offers.
    pub(crate) fn read(message: &[u8], descriptors: Vec<OwnedFd>) -> Result<Self, Unusable> {
        if message.len() != MESSAGE_BYTES || message[..8] != MAGIC || message[16] > 1 {
            return Err(Unusable::Offer("the message is another"));
        }
        let Ok([memory, signal]) = <[OwnedFd; DESCRIPTORS]>::try_from(descriptors) else {
            return Err(Unusable::Offer("it has not two descriptors"));
        };
        let mut session = [0; 8];
        session.copy_from_slice(&message[8..16]);
        let side = if message[16] == 0 { Side::Source } else { Side::Destination };
        Ok(Self { side, session: u64::from_ne_bytes(session), memory, signal })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Write as _};
    use std::os::fd::AsRawFd as _;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;

    #[test]
    fn an_offer_arrives_as_it_was_sent() {
        let (ours, theirs) = UnixStream::pair().expect("descriptors");
        let [source, destination] = Offer::pair(77, Rings::default()).expect("memory");
        source.send(&ours).expect("room");
        destination.send(&ours).expect("room");
        for side in [Side::Source, Side::Destination] {
            let offer = Offer::receive(&theirs).expect("an offer");
            assert_eq!((offer.side, offer.session), (side, 77));
            memory::open(&offer.memory, true).expect("good memory");
        }
        let nothing = Offer::receive(&theirs).expect_err("nothing more");
        assert!(matches!(nothing, Unusable::Kernel { error: nix::Error::EAGAIN, .. }), "{nothing}");
    }

    #[test]
    fn what_is_no_offer_is_refused() {
        let (mut ours, theirs) = UnixStream::pair().expect("descriptors");
        ours.write_all(&[0; MESSAGE_BYTES]).expect("room");
        assert!(matches!(Offer::receive(&theirs), Err(Unusable::Offer(_))));
        let mut message = [0; MESSAGE_BYTES];
        message[..8].copy_from_slice(&MAGIC);
        for count in [0, 1, 3, 20] {
            let descriptors = vec![0; count];
            let control = [ControlMessage::ScmRights(&descriptors)];
            let control = if count == 0 { &[][..] } else { &control };
            let message = [IoSlice::new(&message)];
            sendmsg::<()>(ours.as_raw_fd(), &message, control, MsgFlags::empty(), None).expect("room");
            assert!(matches!(Offer::receive(&theirs), Err(Unusable::Offer(_))), "{count}");
        }
    }
}
