use std::collections::VecDeque;
use std::io::IoSlice;

use proptest::prelude::*;

use super::*;
use crate::error::PeerMisbehaved;
use crate::layout::{End, Rings};
use crate::region::Region;
use crate::sync::Ordering;

const BYTES: usize = 16;

fn ring() -> (Producer, Consumer, std::sync::Arc<Region>) {
    let region = std::sync::Arc::new(Region::on_heap(Rings::tiny(BYTES)));
    (Producer::new(region.clone(), 0), Consumer::new(region.clone(), 0), region)
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Vec<u8>>),
    Reserve(usize, usize, Vec<u8>),
    Read(usize),
    Peek(usize, usize),
    ReaderSleeps,
    WriterSleeps,
    End(End),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..24);
    prop_oneof![
        3 => prop::collection::vec(bytes(), 0..4).prop_map(Step::Write),
        2 => (0..24_usize, 0..24_usize, bytes()).prop_map(|(wanted, used, bytes)| Step::Reserve(wanted, used, bytes)),
        4 => (0..24_usize).prop_map(Step::Read),
        2 => (0..24_usize, 0..24_usize).prop_map(|(most, used)| Step::Peek(most, used)),
        2 => Just(Step::ReaderSleeps),
        2 => Just(Step::WriterSleeps),
        1 => prop_oneof![Just(End::Closed), Just(End::Moved)].prop_map(Step::End),
    ]
}

/// The ring beside a queue that can't be wrong.
struct Both {
    producer: Producer,
    consumer: Consumer,
    queue: VecDeque<u8>,
    ended: Option<End>,
    /// Whether each end sleeps and was not woken since.
    reader_sleeps: bool,
    writer_sleeps: bool,
}

impl Both {
    fn room(&self) -> usize {
        if self.ended.is_some() { 0 } else { BYTES - self.queue.len() }
    }

    fn written(&mut self, bytes: &[u8], wake: Wake) {
        self.queue.extend(bytes);
        let wakes = self.reader_sleeps && !bytes.is_empty();
        assert_eq!(wake, Wake::when(wakes), "a sleeping reader is woken, and only one");
        self.reader_sleeps &= !wakes;
    }

    fn was_read(&mut self, bytes: &[u8], wake: Wake) {
        let expected: Vec<u8> = self.queue.drain(..bytes.len()).collect();
        assert_eq!(bytes, expected);
        let wakes = self.writer_sleeps && !bytes.is_empty() && BYTES - self.queue.len() >= BYTES / 2;
        assert_eq!(wake, Wake::when(wakes), "a sleeping writer is woken when half of the ring is free");
        self.writer_sleeps &= !wakes;
    }

    fn take(&mut self, step: Step) -> Result<(), PeerMisbehaved> {
        if matches!(step, Step::Write(_) | Step::Reserve(..)) {
            // One that writes does not sleep.
            self.producer.awake();
            self.writer_sleeps = false;
        }
        match step {
            Step::Write(bufs) => {
                let slices: Vec<IoSlice<'_>> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
                let (written, wake) = self.producer.write_vectored(&slices)?;
                let all = bufs.concat();
                assert_eq!(written, all.len().min(self.room()));
                self.written(&all[..written], wake);
            }
            Step::Reserve(wanted, used, bytes) => {
                let reserved = self.producer.reserve(wanted)?;
                let room = reserved.len();
                let used = reserved.put(0, &bytes).min(used);
                assert_eq!(reserved.put(room + 1, &bytes), 0, "beyond the room");
                assert_eq!(room, wanted.min(self.room()));
                let wake = self.producer.commit(used);
                self.written(&bytes[..used], wake);
            }
            Step::Read(most) => {
                let mut into = vec![0; most];
                let (available, wake) = self.consumer.read(&mut into)?;
                let read = match available {
                    Available::Bytes(read) => read,
                    Available::Nothing => {
                        assert_eq!((self.queue.len(), self.ended), (0, None));
                        0
                    }
                    Available::Ended(end) => {
                        assert_eq!((self.queue.len(), self.ended), (0, Some(end)));
                        0
                    }
                };
                assert_eq!(read, most.min(self.queue.len()));
                self.was_read(&into[..read], wake);
            }
            Step::Peek(most, used) => {
                let _ = self.consumer.available(most)?;
                let peeked = self.consumer.unread(most);
                let mut into = vec![0; peeked.len()];
                for at in 0..into.len() {
                    assert_eq!(peeked.copy(at, &mut into[at..]), into.len() - at);
                }
                let used = used.min(into.len());
                let wake = self.consumer.consume(used);
                self.was_read(&into[..used], wake);
            }
            Step::ReaderSleeps => {
                let ready = self.consumer.sleep()?;
                assert_eq!(ready, !self.queue.is_empty() || self.ended.is_some());
                if ready {
                    self.consumer.awake();
                }
                self.reader_sleeps = !ready;
            }
            Step::WriterSleeps => {
                let ready = self.producer.sleep()?;
                assert_eq!(ready, self.queue.len() < BYTES);
                if ready {
                    self.producer.awake();
                }
                self.writer_sleeps = !ready;
            }
            Step::End(end) => {
                let wake = self.producer.end(end);
                assert_eq!(wake, Wake::when(self.reader_sleeps && self.ended.is_none()));
                self.reader_sleeps &= wake != Wake::Needed;
                self.ended = self.ended.or(Some(end));
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn a_ring_is_a_queue(steps in prop::collection::vec(step(), 0..200)) {
        let (producer, consumer, _) = ring();
        let queue = VecDeque::new();
        let mut both =
            Both { producer, consumer, queue, ended: None, reader_sleeps: false, writer_sleeps: false };
        for step in steps {
            both.take(step).expect("an honest peer");
        }
    }

    /// A peer that writes anything anywhere: this end copies from the ring only, and fails or goes on.
    #[test]
    fn whatever_the_peer_writes_an_end_stays_in_its_ring(
        words in prop::collection::vec((0..6_usize, prop_oneof![0..64_u64, any::<u64>()], step()), 1..100)
    ) {
        let (producer, consumer, region) = ring();
        let mut ends = (Some(producer), Some(consumer));
        for (place, value, step) in words {
            let words = &region.control().rings[0];
            match place {
                0 => words.producer.0.tail.store(value, Ordering::Relaxed),
                1 => words.producer.0.end.store(value, Ordering::Relaxed),
                2 => words.consumer.0.head.store(value, Ordering::Relaxed),
                3 => words.reader.0.store(value as u32, Ordering::Relaxed),
                4 => words.writer.0.store(value, Ordering::Relaxed),
                _ => region.ring(0)[value as usize % BYTES].store(value as u8, Ordering::Relaxed),
            }
            let mut into = [0; 24];
            let failed = match (&step, &mut ends) {
                (Step::Write(bufs), (Some(producer), _)) => {
                    let slices: Vec<IoSlice<'_>> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
                    producer.write_vectored(&slices).map(drop)
                }
                (Step::Reserve(wanted, used, bytes), (Some(producer), _)) => producer
                    .reserve(*wanted)
                    .map(|reserved| reserved.put(*used, bytes))
                    .map(drop),
                (Step::WriterSleeps, (Some(producer), _)) => producer.sleep().map(drop),
                (Step::End(_), (Some(producer), _)) => producer.give_back(),
                (Step::Read(most), (_, Some(consumer))) => consumer.read(&mut into[..*most]).map(drop),
                (Step::Peek(most, _), (_, Some(consumer))) => consumer.available(*most).map(|_| {
                    let peeked = consumer.unread(*most);
                    let bytes = peeked.copy(0, &mut into);
                    let _ = consumer.consume(bytes);
                }),
                (Step::ReaderSleeps, (_, Some(consumer))) => consumer.sleep().map(drop),
                _ => Ok(()),
            };
            // Its session is over: nobody uses the end again.
            match failed {
                Err(PeerMisbehaved::Head { .. }) => ends.0 = None,
                Err(PeerMisbehaved::Tail { .. } | PeerMisbehaved::End { .. }) => ends.1 = None,
                Err(other) => panic!("{other} is not said by a ring"),
                Ok(()) => {}
            }
        }
    }
}

#[test]
fn an_index_that_cannot_be_is_noticed() {
    let lie = |tail: u64| {
        let (mut producer, mut consumer, region) = ring();
        let _ = producer.write(b"12345678").expect("room");
        assert_eq!(consumer.read(&mut [0; 4]).expect("honest").0, Available::Bytes(4));
        region.control().rings[0].producer.0.tail.store(tail, Ordering::Relaxed);
        consumer.available(16)
    };
    assert_eq!(lie(20), Ok(Available::Bytes(16)));
    for tail in [7, 0, 21, u64::MAX, 1 << 63] {
        assert_eq!(lie(tail), Err(PeerMisbehaved::Tail { tail, head: 4, capacity: 16 }));
    }
    let lie = |head: u64| {
        let (mut producer, mut consumer, region) = ring();
        let _ = producer.write(b"12345678").expect("room");
        let _ = consumer.read(&mut [0; 4]).expect("honest");
        assert_eq!(producer.room(16), Ok(12));
        region.control().rings[0].consumer.0.head.store(head, Ordering::Relaxed);
        producer.room(16)
    };
    assert_eq!(lie(8), Ok(16));
    for head in [3, 9, u64::MAX] {
        assert_eq!(lie(head), Err(PeerMisbehaved::Head { head, tail: 8 }));
    }
}

#[test]
fn an_end_that_cannot_be_is_noticed() {
    for (word, good) in
        [(End::Closed.word(4), true), (End::Moved.word(3), false), (End::Closed.word(5), false), (3, false)]
    {
        let (mut producer, mut consumer, region) = ring();
        let _ = producer.write(b"1234").expect("room");
        let _ = consumer.read(&mut [0; 4]).expect("honest");
        region.control().rings[0].producer.0.end.store(word, Ordering::Relaxed);
        let expected =
            if good { Ok(Available::Ended(End::Closed)) } else { Err(PeerMisbehaved::End { word, tail: 4 }) };
        assert_eq!(consumer.available(1), expected);
    }
}
