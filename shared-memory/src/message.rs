//! One message with descriptors through a Unix socket.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::error::Unusable;

/// The most that the kernel puts into one message (SCM_MAX_FD). With room for fewer, those that did fit are lost
/// without having been closed.
const MAX_DESCRIPTORS: usize = 253;

/// Sends it, in one piece. Does not wait: EAGAIN when there is no room.
pub(crate) fn send(to: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let descriptors: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &control };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<()>(to.as_fd().as_raw_fd(), &[IoSlice::new(message)], control, flags, None)?;
    // A message of a few bytes is taken whole or not at all.
    if sent == message.len() { Ok(()) } else { Err(nix::Error::EMSGSIZE) }
}

/// Receives one: its length, 0 at the end, and its descriptors. Does not wait: EAGAIN when there is none.
pub(crate) fn receive(from: impl AsFd, message: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Unusable> {
    let mut control = nix::cmsg_space!([i32; MAX_DESCRIPTORS]);
    let mut buffers = [IoSliceMut::new(message)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(from.as_fd().as_raw_fd(), &mut buffers, Some(&mut control), flags)
        .map_err(Unusable::kernel("recvmsg"))?;
    // First of all owned, so that whatever came is closed again.
    let mut descriptors = Vec::new();
    for control in received.cmsgs().map_err(Unusable::kernel("recvmsg"))? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            #[expect(unsafe_code, reason = "the kernel hands descriptors over as numbers")]
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
            descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    if received.flags.intersects(MsgFlags::MSG_CTRUNC | MsgFlags::MSG_TRUNC) {
        return Err(Unusable::Offer("the message is longer than any"));
    }
    Ok((received.bytes, descriptors))
}
