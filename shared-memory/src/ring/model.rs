//! Every order in which two ends of a ring can meet, as far as the memory model allows.
//! `RUSTFLAGS="--cfg loom" cargo test --release -p patchbay-shared-memory --lib model`

use std::sync::Arc;

use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::{Available, Consumer, Producer, Wake};
use crate::layout::{End, Rings};
use crate::region::Region;

/// What wakes an end: a signal that stays until it is taken.
#[derive(Default)]
struct Signal {
    pending: Mutex<bool>,
    sent: Condvar,
}

impl Signal {
    fn send(&self, wake: Wake) {
        if wake == Wake::Needed {
            *self.pending.lock().expect("no panic") = true;
            self.sent.notify_one();
        }
    }

    /// Sleeps. A model in which nobody sends deadlocks, and loom says so.
    fn take(&self) {
        let mut pending = self.pending.lock().expect("no panic");
        while !*pending {
            pending = self.sent.wait(pending).expect("no panic");
        }
        *pending = false;
    }
}

fn write_all(producer: &mut Producer, mut from: &[u8], reader: &Signal, writer: &Signal) {
    while !from.is_empty() {
        let (written, wake) = producer.write(from).expect("honest");
        reader.send(wake);
        from = &from[written..];
        if written == 0 {
            if !producer.sleep().expect("honest") {
                writer.take();
            }
            producer.awake();
        }
    }
}

fn read_to_end(consumer: &mut Consumer, reader: &Signal, writer: &Signal) -> (Vec<u8>, End) {
    let mut all = Vec::new();
    loop {
        let mut into = [0; 2];
        let (available, wake) = consumer.read(&mut into).expect("honest");
        writer.send(wake);
        match available {
            Available::Bytes(read) => all.extend(&into[..read]),
            Available::Ended(end) => return (all, end),
            Available::Nothing => {
                if !consumer.sleep().expect("honest") {
                    reader.take();
                }
                consumer.awake();
            }
        }
    }
}

fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
}

/// Bytes of a stream through a ring that it fills and wraps: none lost, none changed, nobody sleeps for ever.
fn stream(bytes: &'static [u8], ring: usize, end: End) {
    model(move || {
        let region = Arc::new(Region::on_heap(Rings::tiny(ring)));
        let signals = Arc::new((Signal::default(), Signal::default()));
        let mut producer = Producer::new(region.clone(), 0);
        let theirs = signals.clone();
        let thread = thread::spawn(move || {
            write_all(&mut producer, bytes, &theirs.0, &theirs.1);
            theirs.0.send(producer.end(end));
        });
        let mut consumer = Consumer::new(region, 0);
        assert_eq!(read_to_end(&mut consumer, &signals.0, &signals.1), (bytes.to_vec(), end));
        thread.join().expect("no panic");
    });
}

#[test]
fn a_stream_that_fills_and_wraps_arrives_and_nobody_sleeps_for_ever() {
    stream(b"abcde", 2, End::Closed);
}

#[test]
fn a_stream_that_moves_to_tcp_is_read_up_to_its_mark() {
    stream(b"ab", 4, End::Moved);
}

#[test]
fn a_writer_that_waits_for_room_is_woken_by_a_reader_that_leaves_or_wants_tcp() {
    for leaves in [true, false] {
        model(move || {
            let region = Arc::new(Region::on_heap(Rings::tiny(2)));
            let signal = Arc::new(Signal::default());
            let mut producer = Producer::new(region.clone(), 0);
            assert_eq!(producer.write(b"ab").expect("honest").0, 2);
            let theirs = signal.clone();
            let thread = thread::spawn(move || {
                let mut consumer = Consumer::new(region, 0);
                theirs.send(consumer.enter());
                theirs.send(if leaves { consumer.leave() } else { consumer.want_tcp() });
            });
            while !(producer.is_reader_gone() || producer.is_tcp_wanted()) {
                if !producer.sleep().expect("honest") {
                    signal.take();
                }
                producer.awake();
            }
            thread.join().expect("no panic");
        });
    }
}

#[test]
fn a_reader_that_waits_on_tcp_is_woken_when_the_ring_begins() {
    model(|| {
        let region = Arc::new(Region::on_heap(Rings::tiny(2)));
        let signals = Arc::new((Signal::default(), Signal::default()));
        let mut producer = Producer::new(region.clone(), 0);
        let theirs = signals.clone();
        let thread = thread::spawn(move || {
            theirs.0.send(producer.begin(7));
            write_all(&mut producer, b"a", &theirs.0, &theirs.1);
            theirs.0.send(producer.end(End::Closed));
        });
        let mut consumer = Consumer::new(region, 0);
        while consumer.start() != Some(7) {
            if !consumer.sleep_before_start() {
                signals.0.take();
            }
            consumer.awake();
        }
        assert_eq!(read_to_end(&mut consumer, &signals.0, &signals.1), (b"a".to_vec(), End::Closed));
        thread.join().expect("no panic");
    });
}
