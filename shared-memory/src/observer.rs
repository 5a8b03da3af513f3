//! A third party that counts: the agent.

use std::os::fd::AsFd;

use crate::error::Unusable;
use crate::layout::{End, Rings, Side, reader};
use crate::memory;
use crate::region::Region;
use crate::sync::Ordering;

/// What went one way, as its ends say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Bytes written.
    pub written: u64,
    /// Bytes read.
    pub read: u64,
    /// Writes.
    pub messages: u64,
}

/// Reads the counters of a session that it is no end of. Writes nothing, and never goes back: ends that lie
/// make their own counters wrong.
#[derive(Debug)]
pub struct Observer {
    region: Region,
    seen: [Count; 2],
    lied: bool,
}

impl Observer {
    /// Looks at a session's memory.
    ///
    /// # Errors
    /// It is no session's memory, or the kernel refuses.
    pub fn new(memory: impl AsFd) -> Result<Self, Unusable> {
        Ok(Self { region: memory::open(memory, false)?, seen: Default::default(), lied: false })
    }

    /// The sizes of its rings.
    pub fn rings(&self) -> Rings {
        self.region.rings()
    }

    /// What one end has written to the other so far.
    pub fn count(&mut self, writer: Side) -> Count {
        let ring = writer.writes();
        let words = &self.region.control().rings[ring];
        // In this order an honest reader is never ahead.
        let read = words.consumer.0.head.load(Ordering::Acquire);
        let messages = words.producer.0.messages.load(Ordering::Relaxed);
        let written = words.producer.0.tail.load(Ordering::Acquire);
        let seen = &mut self.seen[ring];
        self.lied |= read > written || read < seen.read || written < seen.written || messages < seen.messages;
        seen.read = seen.read.max(read);
        seen.written = seen.written.max(written);
        seen.messages = seen.messages.max(messages);
        *seen
    }

    /// Whether bytes go through it: both ends have taken it, and neither has gone back to TCP.
    pub fn is_in_use(&self) -> bool {
        self.region.control().rings.iter().all(|words| {
            let taken = words.reader.0.load(Ordering::Relaxed) & reader::READY != 0;
            let end = End::from_word(words.producer.0.end.load(Ordering::Relaxed));
            taken && !matches!(end, Some((End::Moved, _)))
        })
    }

    /// Whether counters were seen that no honest ends publish.
    pub fn has_seen_lies(&self) -> bool {
        self.lied
    }
}
