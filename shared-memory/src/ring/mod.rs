//! One ring of bytes: one producer, one consumer, in memory that both can write.
//!
//! Indices count bytes since the beginning and never wrap. Each end keeps its own in private memory, publishes it,
//! and never reads it back; the other's it reads once, checks, and keeps. So whatever a peer writes where, this end
//! only ever touches bytes of the ring, and notices an index that no honest peer would publish.
//!
//! Sleeping: who finds nothing to do says so in shared memory, then looks again, then sleeps; who publishes an
//! index looks afterwards whether the other sleeps. Between the two steps of each stands a fence, so that at least
//! one sees the other (`model.rs` tries every order).

mod consumer;
mod producer;

#[cfg(loom)]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;

pub use consumer::{Available, Consumer, Peeked};
pub use producer::{Producer, Reserved};

use crate::bytes::Byte;

/// The other end sleeps: whoever gets this signals it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a peer that sleeps would sleep on"]
pub enum Wake {
    /// Signal it.
    Needed,
    /// It is awake, or asked for more than there is yet.
    NotNeeded,
}

impl Wake {
    pub(crate) fn when(needed: bool) -> Self {
        if needed { Self::Needed } else { Self::NotNeeded }
    }

    /// Needed if one of both is.
    pub fn or(self, other: Self) -> Self {
        Self::when(self == Self::Needed || other == Self::Needed)
    }
}

/// The bytes of a ring from an index on: up to its end, and from its start.
fn parts(ring: &[Byte], index: u64, length: usize) -> [&[Byte]; 2] {
    debug_assert!(ring.len().is_power_of_two() && length <= ring.len());
    let from = index as usize & (ring.len() - 1);
    let first = length.min(ring.len() - from);
    [&ring[from..from + first], &ring[..length - first]]
}
