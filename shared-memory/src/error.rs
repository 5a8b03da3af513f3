//! What can go wrong.

use std::io;

/// What a peer did that no honest one does. It ends the session, and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerMisbehaved {
    /// The producer's index went back, or further than the ring has room.
    #[error("it says that it wrote {tail} bytes; {head} were read of a ring of {capacity}")]
    Tail {
        /// Bytes that it says it wrote.
        tail: u64,
        /// Bytes read here.
        head: u64,
        /// The ring's size, in bytes.
        capacity: u64,
    },
    /// The consumer's index went back, or beyond what was written.
    #[error("it says that it read {head} bytes of {tail}")]
    Head {
        /// Bytes that it says it read.
        head: u64,
        /// Bytes written here.
        tail: u64,
    },
    /// It went over to the ring at a place in its stream that is read already.
    #[error("it says that its ring begins after {start} bytes; {received} came over TCP")]
    Start {
        /// Bytes before the ring's first, as it says.
        start: u64,
        /// Bytes received over TCP.
        received: u64,
    },
    /// The end of the stream is where it can't be.
    #[error("it ended its stream with {word:#x} after {tail} bytes")]
    End {
        /// The word that says where and how.
        word: u64,
        /// Bytes that it says it wrote.
        tail: u64,
    },
    /// Bytes came over TCP while the ring was in use.
    #[error("it sent bytes over TCP without saying in the ring where they belong")]
    EarlyTcp,
    /// More signals than there can be reasons for.
    #[error("it signalled without end")]
    Signals,
}

/// Why memory for a session can't be made or taken. The session stays on TCP.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The kernel refuses.
    #[error("{call}: {error}")]
    Kernel {
        /// What it was asked for.
        call: &'static str,
        /// Its answer.
        error: nix::Error,
    },
    /// The file could become smaller, or is none that can be sealed: reading it could end this process.
    #[error("the memory is not sealed: it must be a memfd with F_SEAL_SEAL, F_SEAL_SHRINK and F_SEAL_GROW")]
    NotSealed,
    /// Huge pages that were not set aside end the process that touches them.
    #[error("the memory is no tmpfs memory: its pages may be missing when they are touched")]
    NotTmpfs,
    /// The header says something else than the file.
    #[error("the memory's header is wrong: {0}")]
    Header(&'static str),
    /// Pages may be missing when they are touched.
    #[error("vm.overcommit_memory is 2 or can't be read: a page may be missing when it is touched")]
    StrictOvercommit,
    /// A message that is no offer of memory.
    #[error("no offer of memory: {0}")]
    Offer(&'static str),
}

impl Unusable {
    pub(crate) fn kernel(call: &'static str) -> impl FnOnce(nix::Error) -> Self {
        move |error| Self::Kernel { call, error }
    }
}

impl From<PeerMisbehaved> for io::Error {
    fn from(error: PeerMisbehaved) -> Self {
        Self::new(io::ErrorKind::InvalidData, format!("the session's peer broke its shared memory: {error}"))
    }
}

impl From<Unusable> for io::Error {
    fn from(error: Unusable) -> Self {
        Self::other(error)
    }
}
