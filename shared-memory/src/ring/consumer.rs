//! The end that reads.

use std::sync::Arc;

use super::{Wake, parts};
use crate::bytes::{self, Byte};
use crate::error::PeerMisbehaved;
use crate::layout::{End, RingWords, reader};
use crate::region::Region;
use crate::sync::{Ordering, fence};

/// Reads bytes from a ring.
#[derive(Debug)]
pub struct Consumer {
    region: Arc<Region>,
    ring: usize,
    /// Bytes read: what is published as the head.
    head: u64,
    /// Bytes that the producer has written, as far as is known here.
    tail: u64,
    /// How the stream ends, once that was seen.
    ended: Option<End>,
    /// Whether the producer may believe that this end sleeps.
    asleep: bool,
}

/// What a ring holds for its reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Available {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// Nothing any more.
    Ended(End),
}

/// Unread bytes, handed out where they lie. The peer can change them at any time: who reads one twice may
/// see two values, so what is checked must be copied first.
#[derive(Debug)]
pub struct Peeked<'a> {
    parts: [&'a [Byte]; 2],
}

impl Peeked<'_> {
    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.parts[0].len() + self.parts[1].len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes themselves: up to the ring's end, and from its start.
    pub fn parts(&self) -> [&[Byte]; 2] {
        self.parts
    }

    /// Copies bytes from an offset on, as many as there are, and says how many.
    pub fn copy(&self, at: usize, into: &mut [u8]) -> usize {
        let [first, second] = self.parts;
        let from_first = first.get(at..).unwrap_or_default();
        let from_second = second.get(at.saturating_sub(first.len())..).unwrap_or_default();
        let in_first = into.len().min(from_first.len());
        let in_second = (into.len() - in_first).min(from_second.len());
        bytes::read(&from_first[..in_first], &mut into[..in_first]);
        bytes::read(&from_second[..in_second], &mut into[in_first..in_first + in_second]);
        in_first + in_second
    }
}

impl Consumer {
    /// The only consumer of this ring, before anything was read.
    pub(crate) fn new(region: Arc<Region>, ring: usize) -> Self {
        Self { region, ring, head: 0, tail: 0, ended: None, asleep: false }
    }

    fn words(&self) -> &RingWords {
        &self.region.control().rings[self.ring]
    }

    /// Bytes read so far.
    pub fn read_so_far(&self) -> u64 {
        self.head
    }

    /// Reads the producer's index.
    fn look(&mut self) -> Result<(), PeerMisbehaved> {
        let tail = self.words().producer.0.tail.load(Ordering::Acquire);
        let capacity = self.region.rings().of(self.ring) as u64;
        if tail < self.tail || tail - self.head > capacity {
            return Err(PeerMisbehaved::Tail { tail, head: self.head, capacity });
        }
        self.tail = tail;
        Ok(())
    }

    /// Whether the producer has published anything new, without reading it. For those who spin.
    pub fn is_stirred(&self) -> bool {
        let words = &self.words().producer.0;
        words.tail.load(Ordering::Relaxed) != self.tail || words.end.load(Ordering::Relaxed) != 0
    }

    /// What there is, of which so many bytes are wanted: the producer's index is only read when they seem to be
    /// missing.
    ///
    /// # Errors
    /// The peer published an index or an end that can't be.
    pub fn available(&mut self, wanted: usize) -> Result<Available, PeerMisbehaved> {
        if self.tail - self.head < (wanted as u64).max(1) {
            self.look()?;
        }
        if self.tail > self.head {
            return Ok(Available::Bytes((self.tail - self.head) as usize));
        }
        if let Some(end) = self.ended {
            return Ok(Available::Ended(end));
        }
        let word = self.words().producer.0.end.load(Ordering::Acquire);
        if word == 0 {
            return Ok(Available::Nothing);
        }
        // What was written before the end was said may have been published since the look above.
        self.look()?;
        match End::from_word(word) {
            Some((end, at)) if at == self.tail => {
                self.ended = Some(end);
                let left = (self.tail - self.head) as usize;
                Ok(if left > 0 { Available::Bytes(left) } else { Available::Ended(end) })
            }
            _ => Err(PeerMisbehaved::End { word, tail: self.tail }),
        }
    }

    /// Reads as many bytes as there are and says how many; what there was otherwise, if there were none.
    ///
    /// # Errors
    /// The peer published an index or an end that can't be.
    pub fn read(&mut self, into: &mut [u8]) -> Result<(Available, Wake), PeerMisbehaved> {
        let available = self.available(into.len())?;
        if !matches!(available, Available::Bytes(_)) {
            return Ok((available, Wake::NotNeeded));
        }
        let bytes = self.unread(into.len()).copy(0, into);
        Ok((Available::Bytes(bytes), self.consume(bytes)))
    }

    /// The unread bytes that are known, at most so many. See [`Self::available`].
    pub fn unread(&self, most: usize) -> Peeked<'_> {
        let length = most.min((self.tail - self.head) as usize);
        Peeked { parts: parts(self.region.ring(self.ring), self.head, length) }
    }

    /// Gives the first unread bytes back to the producer.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn consume(&mut self, bytes: usize) -> Wake {
        if bytes == 0 {
            return Wake::NotNeeded;
        }
        assert!(bytes as u64 <= self.tail - self.head, "they were there");
        self.head += bytes as u64;
        self.words().consumer.0.head.store(self.head, Ordering::Release);
        fence(Ordering::SeqCst);
        let writer = &self.words().writer.0;
        let wanted = writer.load(Ordering::Relaxed);
        if wanted == 0 || self.head < wanted - 1 {
            return Wake::NotNeeded;
        }
        Wake::when(writer.swap(0, Ordering::Relaxed) != 0)
    }

    /// Says that this end is about to sleep. Returns whether something has come meanwhile, and then it should not.
    ///
    /// # Errors
    /// The peer published an index or an end that can't be.
    pub fn sleep(&mut self) -> Result<bool, PeerMisbehaved> {
        self.words().reader.0.fetch_or(reader::SLEEPS, Ordering::Relaxed);
        self.asleep = true;
        fence(Ordering::SeqCst);
        Ok(self.available(usize::MAX)? != Available::Nothing)
    }

    /// Bytes that went over TCP before the first in the ring, once the producer has begun there.
    pub fn start(&self) -> Option<u64> {
        self.words().producer.0.start.load(Ordering::Acquire).checked_sub(1)
    }

    /// As [`Self::sleep`], for a consumer that still reads TCP: returns whether the producer has begun in the ring.
    pub fn sleep_before_start(&mut self) -> bool {
        self.words().reader.0.fetch_or(reader::SLEEPS, Ordering::Relaxed);
        self.asleep = true;
        fence(Ordering::SeqCst);
        self.start().is_some()
    }

    /// Whether the producer has not signalled since this end said that it sleeps.
    pub fn is_asleep(&self) -> bool {
        self.asleep && self.words().reader.0.load(Ordering::Relaxed) & reader::SLEEPS != 0
    }

    /// Takes back what [`Self::sleep`] said.
    pub fn awake(&mut self) {
        if self.asleep {
            self.asleep = false;
            self.words().reader.0.fetch_and(!reader::SLEEPS, Ordering::Relaxed);
        }
    }

    /// Says that this end has the memory.
    pub fn ready(&mut self) -> Wake {
        self.say(reader::READY)
    }

    /// Says that this end has read all that came over TCP before the ring.
    pub fn enter(&mut self) -> Wake {
        self.say(reader::IN_RING)
    }

    /// Asks the producer to send what follows over TCP.
    pub fn want_tcp(&mut self) -> Wake {
        self.say(reader::WANTS_TCP)
    }

    /// Says that nothing will be read any more.
    pub fn leave(&mut self) -> Wake {
        self.say(reader::GONE)
    }

    fn say(&mut self, flag: u32) -> Wake {
        let before = self.words().reader.0.fetch_or(flag, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // Also a producer that waits for its own reader looks: it may have to move what it will write.
        let asleep = self.words().writer.0.swap(0, Ordering::Relaxed) != 0;
        Wake::when(before & flag == 0 || asleep)
    }
}
