//! What lies where in the memory of a session.
//!
//! One page of control words, then the bytes of both rings. Every word has one writer, and words that
//! different ends write lie on cache lines of their own.

use crate::sync::{AtomicU32, AtomicU64};

/// Bytes before the first ring: one page.
pub(crate) const CONTROL_BYTES: usize = 4096;

/// The smallest ring, in bytes: one page.
pub const MIN_RING_BYTES: usize = 4 << 10;
/// The largest ring, in bytes.
pub const MAX_RING_BYTES: usize = 16 << 20;
/// The size of a ring unless set otherwise, in bytes.
pub const DEFAULT_RING_BYTES: usize = 256 << 10;

/// Which end of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The one that connected.
    Source,
    /// The one that accepted.
    Destination,
}

impl Side {
    /// The ring that this end writes: 0 or 1.
    pub(crate) fn writes(self) -> usize {
        usize::from(self == Self::Destination)
    }

    /// The other end.
    pub fn peer(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// The sizes of both rings, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rings([usize; 2]);

impl Rings {
    /// Sizes of the ring towards the destination and of the one towards the source, in bytes.
    /// `None` unless both are powers of two between [`MIN_RING_BYTES`] and [`MAX_RING_BYTES`].
    pub fn new(to_destination: usize, to_source: usize) -> Option<Self> {
        let good =
            |bytes: &usize| bytes.is_power_of_two() && (MIN_RING_BYTES..=MAX_RING_BYTES).contains(bytes);
        let sizes = [to_destination, to_source];
        sizes.iter().all(good).then_some(Self(sizes))
    }

    /// Rings of a few bytes, in which the model checker finds every order of events.
    #[cfg(test)]
    pub(crate) fn tiny(bytes: usize) -> Self {
        assert!(bytes.is_power_of_two());
        Self([bytes, bytes])
    }

    /// The size of one ring, in bytes.
    pub(crate) fn of(self, ring: usize) -> usize {
        self.0[ring]
    }

    /// Where a ring begins, in bytes from the start of the memory.
    #[cfg(not(loom))]
    pub(crate) fn start(self, ring: usize) -> usize {
        CONTROL_BYTES + if ring == 0 { 0 } else { self.0[0] }
    }

    /// The size of everything, in bytes.
    pub fn total(self) -> usize {
        CONTROL_BYTES + self.0[0] + self.0[1]
    }
}

impl Default for Rings {
    fn default() -> Self {
        Self([DEFAULT_RING_BYTES; 2])
    }
}

/// A value on cache lines of its own. Two lines: processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct Line<T>(pub T);

/// Written by a ring's producer.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct ProducerWords {
    /// Bytes written so far.
    pub tail: AtomicU64,
    /// 0, or one more than the bytes that went over TCP before the first of this ring.
    pub start: AtomicU64,
    /// 0, or where the stream ends in this ring: see [`End`].
    pub end: AtomicU64,
    /// Writes so far.
    pub messages: AtomicU64,
}

/// Written by a ring's consumer.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct ConsumerWords {
    /// Bytes read so far.
    pub head: AtomicU64,
}

/// One ring's words.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct RingWords {
    pub producer: Line<ProducerWords>,
    pub consumer: Line<ConsumerWords>,
    /// Bits of [`reader`]: set by the consumer; [`reader::SLEEPS`] is taken back by the producer that wakes it.
    pub reader: Line<AtomicU32>,
    /// 0, or one more than the head at which the sleeping producer wants to be woken. Set by the producer, taken
    /// back by the consumer that wakes it.
    pub writer: Line<AtomicU64>,
}

/// Bits of [`RingWords::reader`].
pub(crate) mod reader {
    /// It sleeps, or is about to.
    pub(crate) const SLEEPS: u32 = 1;
    /// It wants what follows over TCP.
    pub(crate) const WANTS_TCP: u32 = 2;
    /// It is gone.
    pub(crate) const GONE: u32 = 4;
    /// It has the memory: the producer may begin.
    pub(crate) const READY: u32 = 8;
    /// It has read what came over TCP before, and reads the ring.
    pub(crate) const IN_RING: u32 = 16;
}

/// The page at the start.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Control {
    /// What [`crate::memory`] writes into the file before anyone maps it.
    pub header: Line<AtomicU64>,
    pub rings: [RingWords; 2],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Control>() <= CONTROL_BYTES);

/// How a stream ends in its ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Nothing follows.
    Closed,
    /// What follows comes over TCP.
    Moved,
}

impl End {
    /// The word that says so: the index of the first byte that is not in the ring, and how it ends.
    pub(crate) fn word(self, at: u64) -> u64 {
        at << 2 | if self == Self::Closed { 1 } else { 2 }
    }

    /// What a word says; `None` if it says nothing.
    pub(crate) fn from_word(word: u64) -> Option<(Self, u64)> {
        match word & 3 {
            1 => Some((Self::Closed, word >> 2)),
            2 => Some((Self::Moved, word >> 2)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_read_as_it_was_written() {
        for at in [0, 1, 4095, u64::MAX >> 2] {
            for end in [End::Closed, End::Moved] {
                assert_eq!(End::from_word(end.word(at)), Some((end, at)));
            }
        }
        assert_eq!((End::from_word(0), End::from_word(7)), (None, None));
    }

    #[test]
    fn rings_have_bounds() {
        assert!(Rings::new(MIN_RING_BYTES, MAX_RING_BYTES).is_some());
        for bad in [0, 1, MIN_RING_BYTES / 2, MIN_RING_BYTES + 1, 3 * MIN_RING_BYTES, 2 * MAX_RING_BYTES] {
            assert!(Rings::new(bad, MIN_RING_BYTES).is_none(), "{bad}");
            assert!(Rings::new(MIN_RING_BYTES, bad).is_none(), "{bad}");
        }
    }
}
