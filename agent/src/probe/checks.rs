//! The differences between a redirected socket and plain TCP that are known, and what they forbid.

use serde::Serialize;

use crate::datapath::habit::tried;

/// A difference that a kernel may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// FIONREAD says 0 for bytes that came over TCP to a socket in the map.
    UnreadSizeMixed,
    /// FIONREAD is wrong for redirected bytes.
    UnreadSize,
    /// splice does not see redirected bytes.
    Splice,
    /// MSG_WAITALL returns short.
    WaitAll,
    /// SO_RCVLOWAT is ignored.
    Minimum,
    /// Urgent data comes inline.
    Urgent,
    /// MSG_ZEROCOPY is never completed.
    ZeroCopy,
    /// A blocking read gives EAGAIN after a half-close was acknowledged.
    HalfClose,
    /// A blocking read gives EAGAIN before ECONNRESET.
    Reset,
    /// A blocking read gives EAGAIN after a signal whose handler asks for calls to go on.
    Signal,
    /// Deleting a socket from the map loses its unread bytes.
    Delete,
    /// Unread redirected bytes count into the receive buffer.
    Charged,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::UnreadSizeMixed,
        Self::UnreadSize,
        Self::Splice,
        Self::WaitAll,
        Self::Minimum,
        Self::Urgent,
        Self::ZeroCopy,
        Self::HalfClose,
        Self::Reset,
        Self::Signal,
        Self::Delete,
        Self::Charged,
    ];

    /// A word for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnreadSizeMixed => "unread-size-mixed",
            Self::UnreadSize => "unread-size",
            Self::Splice => "splice",
            Self::WaitAll => "wait-all",
            Self::Minimum => "minimum",
            Self::Urgent => "urgent",
            Self::ZeroCopy => "zero-copy",
            Self::HalfClose => "half-close",
            Self::Reset => "reset",
            Self::Signal => "signal",
            Self::Delete => "delete",
            Self::Charged => "charged",
        }
    }

    /// The bit of [`tried`] that is unsafe with it; 0 when it concerns no habit.
    pub fn tried(self) -> u32 {
        match self {
            Self::UnreadSizeMixed | Self::UnreadSize => tried::UNREAD_SIZE,
            Self::Splice => tried::SPLICE,
            Self::WaitAll => tried::WAIT_ALL,
            Self::Minimum => tried::MINIMUM,
            Self::Urgent => tried::URGENT,
            Self::ZeroCopy => tried::ZERO_COPY,
            Self::HalfClose | Self::Reset | Self::Signal => tried::BLOCKS,
            Self::Delete | Self::Charged => 0,
        }
    }

    /// For people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::UnreadSizeMixed => "FIONREAD, mixed bytes",
            Self::UnreadSize => "FIONREAD, redirected bytes",
            Self::Splice => "splice from the socket",
            Self::WaitAll => "MSG_WAITALL",
            Self::Minimum => "SO_RCVLOWAT",
            Self::Urgent => "urgent data",
            Self::ZeroCopy => "MSG_ZEROCOPY completion",
            Self::HalfClose => "blocking read, half-close",
            Self::Reset => "blocking read, reset",
            Self::Signal => "blocking read, signal",
            Self::Delete => "delete loses unread bytes",
            Self::Charged => "unread bytes are charged",
        }
    }

    /// What Patchbay does where it is present.
    pub fn answer(self) -> &'static str {
        match self {
            Self::Delete => "sockets leave the map only when they are read empty",
            Self::Charged => "the budget leaves TCP its own room in the receive buffer",
            _ => "programs that do it stay on TCP under auto",
        }
    }
}
