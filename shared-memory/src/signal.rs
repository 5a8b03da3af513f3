//! What wakes the other end: a byte through a pair of Unix sockets.
//!
//! No eventfd: one that two processes share has one set of flags and one counter, so a peer could fill it, take
//! O_NONBLOCK away, and have this end's write wait for ever. No pipe either: whoever reads it holds a lock while bytes
//! are copied to memory that may never answer. A socket's end has flags of its own, and MSG_DONTWAIT by call.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};

use crate::error::{PeerMisbehaved, Unusable};

/// More unread bytes than an honest peer's socket buffer holds signals.
pub(crate) const FLOOD_BYTES: usize = 4096;

/// Both ends.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Unusable> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socketpair(AddressFamily::Unix, SockType::Stream, None, flags).map_err(Unusable::kernel("socketpair"))
}

/// Wakes the peer. Where that fails, it has signals enough, or is gone, which is noticed elsewhere.
pub(crate) fn send(to: impl AsFd) {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let _ = nix::sys::socket::send(to.as_fd().as_raw_fd(), &[0], flags);
}

/// What an end found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Signalled {
    Yes,
    No,
    /// The peer's end is closed.
    Gone,
}

/// What the result of reading an end into [`FLOOD_BYTES`] means.
pub(crate) fn found(read: io::Result<usize>) -> Result<Signalled, PeerMisbehaved> {
    match read {
        Ok(FLOOD_BYTES) => Err(PeerMisbehaved::Signals),
        Ok(0) => Ok(Signalled::Gone),
        Ok(_) => Ok(Signalled::Yes),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(Signalled::No)
        }
        Err(_) => Ok(Signalled::Gone),
    }
}

/// Takes every signal that has come, without waiting.
pub(crate) fn take(from: impl AsFd) -> Result<Signalled, PeerMisbehaved> {
    let read =
        nix::sys::socket::recv(from.as_fd().as_raw_fd(), &mut [0; FLOOD_BYTES], MsgFlags::MSG_DONTWAIT);
    found(read.map_err(io::Error::from))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn signals_come_once_and_never_block_their_sender() {
        let (ours, theirs) = pair().expect("descriptors");
        assert_eq!(take(&ours), Ok(Signalled::No));
        for _ in 0..100_000 {
            send(&theirs);
        }
        assert_eq!((take(&ours), take(&ours)), (Ok(Signalled::Yes), Ok(Signalled::No)));
        drop(ours);
        send(&theirs);
        assert_eq!(take(&theirs), Ok(Signalled::Gone));
    }

    #[test]
    fn a_flood_is_noticed() {
        let (ours, theirs) = pair().expect("descriptors");
        UnixStream::from(theirs).write_all(&[0; FLOOD_BYTES]).expect("room");
        assert_eq!(take(&ours), Err(PeerMisbehaved::Signals));
    }
}
