//! The end that writes.

use std::io::IoSlice;
use std::sync::Arc;

use super::{Wake, parts};
use crate::bytes::{self, Byte};
use crate::error::PeerMisbehaved;
use crate::layout::{End, RingWords, reader};
use crate::region::Region;
use crate::sync::{Ordering, fence};

/// Writes bytes into a ring.
#[derive(Debug)]
pub struct Producer {
    region: Arc<Region>,
    ring: usize,
    /// Bytes written: what is published as the tail.
    tail: u64,
    /// Bytes that the consumer has read, as far as is known here.
    head: u64,
    messages: u64,
    ended: bool,
    /// Whether the consumer may believe that this end sleeps.
    asleep: bool,
}

/// Room in a ring, handed out to be filled in place. The peer can see and change what is in it at any time:
/// what was written is not what will be read back.
#[derive(Debug)]
pub struct Reserved<'a> {
    parts: [&'a [Byte]; 2],
}

impl Reserved<'_> {
    /// Bytes of room.
    pub fn len(&self) -> usize {
        self.parts[0].len() + self.parts[1].len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The room itself: up to the ring's end, and from its start.
    pub fn parts(&self) -> [&[Byte]; 2] {
        self.parts
    }

    /// Puts bytes at an offset, as many as there is room for, and says how many.
    pub fn put(&self, at: usize, from: &[u8]) -> usize {
        let [first, second] = self.parts;
        let into_first = first.get(at..).unwrap_or_default();
        let into_second = second.get(at.saturating_sub(first.len())..).unwrap_or_default();
        let in_first = from.len().min(into_first.len());
        let in_second = (from.len() - in_first).min(into_second.len());
        bytes::write(&into_first[..in_first], &from[..in_first]);
        bytes::write(&into_second[..in_second], &from[in_first..in_first + in_second]);
        in_first + in_second
    }
}

impl Producer {
    /// The only producer of this ring, before anything was written.
    pub(crate) fn new(region: Arc<Region>, ring: usize) -> Self {
        Self { region, ring, tail: 0, head: 0, messages: 0, ended: false, asleep: false }
    }

    fn words(&self) -> &RingWords {
        &self.region.control().rings[self.ring]
    }

    fn capacity(&self) -> usize {
        self.region.rings().of(self.ring)
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.tail
    }

    fn reader_says(&self, flags: u32) -> bool {
        self.words().reader.0.load(Ordering::Relaxed) & flags == flags
    }

    /// Whether the consumer is gone.
    pub fn is_reader_gone(&self) -> bool {
        self.reader_says(reader::GONE)
    }

    /// Whether the consumer has the memory.
    pub fn is_reader_ready(&self) -> bool {
        self.reader_says(reader::READY)
    }

    /// Whether the consumer reads the ring, and so knows where its stream went over from TCP. Only then it can go back.
    pub fn is_reader_in_ring(&self) -> bool {
        self.reader_says(reader::IN_RING)
    }

    /// Whether the consumer wants what follows over TCP.
    pub fn is_tcp_wanted(&self) -> bool {
        self.reader_says(reader::WANTS_TCP)
    }

    /// Says that what follows is in the ring, after so many bytes over TCP.
    pub fn begin(&mut self, after: u64) -> Wake {
        self.words().producer.0.start.store(after.saturating_add(1), Ordering::Release);
        self.wake()
    }

    /// Reads the consumer's index.
    fn look(&mut self) -> Result<(), PeerMisbehaved> {
        let head = self.words().consumer.0.head.load(Ordering::Acquire);
        if head < self.head || head > self.tail {
            return Err(PeerMisbehaved::Head { head, tail: self.tail });
        }
        self.head = head;
        Ok(())
    }

    /// Bytes of room, of which so many are wanted: the consumer's index is only read when they seem to be missing.
    ///
    /// # Errors
    /// The peer published an index that can't be.
    pub fn room(&mut self, wanted: usize) -> Result<usize, PeerMisbehaved> {
        let room = |this: &Self| this.capacity() - (this.tail - this.head) as usize;
        if room(self) < wanted {
            self.look()?;
        }
        Ok(room(self))
    }

    /// Writes as many bytes as there is room for, and says how many. Nothing after [`Self::end`].
    ///
    /// # Errors
    /// The peer published an index that can't be.
    pub fn write(&mut self, from: &[u8]) -> Result<(usize, Wake), PeerMisbehaved> {
        self.write_vectored(&[IoSlice::new(from)])
    }

    /// The same from several buffers.
    ///
    /// # Errors
    /// The peer published an index that can't be.
    pub fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> Result<(usize, Wake), PeerMisbehaved> {
        let wanted = from.iter().map(|slice| slice.len()).sum();
        let room = self.reserve(wanted)?;
        let mut written = 0;
        for slice in from {
            written += room.put(written, slice);
        }
        Ok((written, self.commit(written)))
    }

    /// Room for as many bytes as wanted, or as there is, to be filled in place and then published by [`Self::commit`].
    ///
    /// # Errors
    /// The peer published an index that can't be.
    pub fn reserve(&mut self, wanted: usize) -> Result<Reserved<'_>, PeerMisbehaved> {
        let room = if self.ended { 0 } else { self.room(wanted)?.min(wanted) };
        Ok(Reserved { parts: parts(self.region.ring(self.ring), self.tail, room) })
    }

    /// Publishes the first bytes of what was reserved, as one message.
    ///
    /// # Panics
    /// When there was no room for so many, or the stream has ended.
    pub fn commit(&mut self, bytes: usize) -> Wake {
        if bytes == 0 {
            return Wake::NotNeeded;
        }
        assert!(
            !self.ended && bytes <= self.capacity() - (self.tail - self.head) as usize,
            "it was reserved"
        );
        self.tail += bytes as u64;
        self.messages += 1;
        let words = &self.words().producer.0;
        words.messages.store(self.messages, Ordering::Relaxed);
        words.tail.store(self.tail, Ordering::Release);
        self.wake()
    }

    /// Says that the stream ends here. What was written before is read before; nothing is written afterwards.
    pub fn end(&mut self, end: End) -> Wake {
        if self.ended {
            return Wake::NotNeeded;
        }
        self.ended = true;
        self.words().producer.0.end.store(end.word(self.tail), Ordering::Release);
        self.wake()
    }

    /// Whether the consumer sleeps; it counts as awake from now on.
    fn wake(&self) -> Wake {
        fence(Ordering::SeqCst);
        let flags = &self.words().reader.0;
        if flags.load(Ordering::Relaxed) & reader::SLEEPS == 0 {
            return Wake::NotNeeded;
        }
        let before = flags.fetch_and(!reader::SLEEPS, Ordering::Relaxed);
        Wake::when(before & reader::SLEEPS != 0)
    }

    /// Says that this end is about to sleep until half of the ring is free, or the consumer has something to say.
    /// Returns whether there is room already, and then it should not sleep.
    ///
    /// # Errors
    /// The peer published an index that can't be.
    pub fn sleep(&mut self) -> Result<bool, PeerMisbehaved> {
        // At most what was written: a consumer that has read everything always wakes it.
        let half = (self.capacity() / 2) as u64;
        let wanted = self.tail.saturating_sub(half);
        self.words().writer.0.store(wanted + 1, Ordering::Relaxed);
        self.asleep = true;
        fence(Ordering::SeqCst);
        self.look()?;
        let moves = self.is_tcp_wanted() && self.is_reader_in_ring();
        Ok(self.room(1)? > 0 || self.is_reader_gone() || moves)
    }

    /// Whether the consumer has not signalled since this end said that it sleeps.
    pub fn is_asleep(&self) -> bool {
        self.asleep && self.words().writer.0.load(Ordering::Relaxed) != 0
    }

    /// Takes back what [`Self::sleep`] said.
    pub fn awake(&mut self) {
        if self.asleep {
            self.asleep = false;
            self.words().writer.0.store(0, Ordering::Relaxed);
        }
    }

    /// Gives the free pages of this ring back to the system; for rings that idle.
    ///
    /// # Errors
    /// The peer published an index that can't be.
    pub fn give_back(&mut self) -> Result<(), PeerMisbehaved> {
        self.look()?;
        let capacity = self.capacity();
        let (used, at) = ((self.tail - self.head) as usize, self.tail as usize & (capacity - 1));
        let free = capacity - used;
        let first = free.min(capacity - at);
        // Refused where the system can't, and then the pages stay.
        let _ = self.region.give_back(self.ring, at, at + first);
        let _ = self.region.give_back(self.ring, 0, free - first);
        Ok(())
    }
}
