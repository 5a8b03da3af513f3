use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::layout::Rings;

/// Counts signals.
#[derive(Default, Clone)]
struct Bell(Rc<Cell<u32>>);

impl Wakes for Bell {
    fn wake(&self) {
        self.0.set(self.0.get() + 1);
    }
}

/// One direction of a TCP connection that loses nothing.
#[derive(Default)]
struct Tcp {
    bytes: VecDeque<u8>,
    ended: bool,
}

/// One end, with what it should have seen. Without an endpoint it has no memory yet, or is closed.
struct One {
    endpoint: Option<Endpoint<Bell>>,
    region: Arc<Region>,
    side: Side,
    /// Counts signals to this end; and the peer's.
    bell: Bell,
    peer: Bell,
    to_peer: Rc<RefCell<Tcp>>,
    from_peer: Rc<RefCell<Tcp>>,
    written: Vec<u8>,
    read: Vec<u8>,
    saw_end: bool,
    said_end: bool,
    closed: bool,
}

/// Two ends on TCP.
fn plain() -> [One; 2] {
    let region = Arc::new(Region::on_heap(Rings::tiny(16)));
    let bells = [Bell::default(), Bell::default()];
    let tcps = [Rc::new(RefCell::new(Tcp::default())), Rc::new(RefCell::new(Tcp::default()))];
    [0, 1].map(|one| One {
        endpoint: None,
        region: region.clone(),
        side: [Side::Source, Side::Destination][one],
        bell: bells[one].clone(),
        peer: bells[1 - one].clone(),
        to_peer: tcps[one].clone(),
        from_peer: tcps[1 - one].clone(),
        written: Vec::new(),
        read: Vec::new(),
        saw_end: false,
        said_end: false,
        closed: false,
    })
}

/// Two ends that use memory from the first byte.
fn pair() -> [One; 2] {
    let mut ends = plain();
    for end in &mut ends {
        end.attach();
    }
    for end in &mut ends {
        let endpoint = end.endpoint.as_mut().expect("open");
        assert_eq!(endpoint.write(&[]).expect("open"), Write::Bytes(0));
    }
    for end in &mut ends {
        end.read(1);
        let endpoint = end.endpoint.as_mut().expect("open");
        assert_eq!((endpoint.outgoing(), endpoint.incoming()), (Way::Ring, Way::Ring));
    }
    ends
}

impl One {
    fn attach(&mut self) {
        if self.endpoint.is_none() && !self.closed && !self.said_end {
            let counts = (self.written.len() as u64, self.read.len() as u64);
            self.endpoint = Some(Endpoint::new(self.region.clone(), self.side, counts, self.peer.clone()));
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let written = match &mut self.endpoint {
            Some(endpoint) => endpoint.write(&[IoSlice::new(bytes)]),
            None if self.said_end || self.closed => return,
            None => Ok(Write::Tcp),
        };
        match written {
            Ok(Write::Bytes(taken)) => self.written.extend(&bytes[..taken]),
            Ok(Write::Tcp) => {
                self.to_peer.borrow_mut().bytes.extend(bytes);
                self.written.extend(bytes);
                if let Some(endpoint) = &mut self.endpoint {
                    endpoint.tcp_written(bytes.len());
                }
            }
            Ok(Write::Full) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::BrokenPipe),
        }
    }

    /// Reads TCP, at most so many bytes; `None` when nothing is there.
    fn read_tcp(&mut self, most: usize) -> Option<usize> {
        let mut tcp = self.from_peer.borrow_mut();
        let bytes = most.min(tcp.bytes.len());
        self.read.extend(tcp.bytes.drain(..bytes));
        (bytes > 0 || (most > 0 && tcp.ended)).then_some(bytes)
    }

    fn read(&mut self, most: usize) {
        let mut into = vec![0; most];
        loop {
            let Some(endpoint) = &mut self.endpoint else {
                self.saw_end |= !self.closed && self.read_tcp(most) == Some(0);
                return;
            };
            match endpoint.read(&mut into).expect("an honest peer") {
                Read::Bytes(bytes) => self.read.extend(&into[..bytes]),
                Read::Ended => self.saw_end = true,
                Read::Tcp(limit) => {
                    let read = self.read_tcp(most.min(limit));
                    let endpoint = self.endpoint.as_mut().expect("open");
                    match read {
                        Some(bytes) if endpoint.tcp_read(bytes) => self.saw_end = true,
                        Some(0) => continue,
                        _ => {}
                    }
                }
                // As one that is about to sleep: it looks what TCP says.
                Read::Nothing if endpoint.gone.is_none() => {
                    let tcp = self.from_peer.borrow();
                    if !tcp.bytes.is_empty() {
                        endpoint.tcp_has_bytes().expect("an honest peer");
                        continue;
                    }
                    if tcp.ended {
                        endpoint.peer_is_gone(Gone::Closed);
                        continue;
                    }
                }
                Read::Nothing => {}
            }
            return;
        }
    }

    fn end(&mut self) {
        if self.closed {
            return;
        }
        if self.endpoint.as_mut().is_none_or(Endpoint::end) {
            self.to_peer.borrow_mut().ended = true;
        }
        self.said_end = true;
    }

    /// Drops the end as a program does; or as a kill does, after which nothing is said in memory.
    fn close(&mut self, killed: bool) {
        if killed {
            std::mem::forget(self.endpoint.take());
        }
        self.endpoint = None;
        (self.said_end, self.closed) = (true, true);
        self.to_peer.borrow_mut().ended = true;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Vec<u8>),
    Read(usize, usize),
    Attach(usize),
    Move(usize),
    End(usize),
    Close(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let one = || 0..2_usize;
    prop_oneof![
        20 => (one(), prop::collection::vec(any::<u8>(), 0..24)).prop_map(|(one, bytes)| Step::Write(one, bytes)),
        20 => (one(), 0..24_usize).prop_map(|(one, most)| Step::Read(one, most)),
        4 => one().prop_map(Step::Attach),
        2 => one().prop_map(Step::Move),
        1 => one().prop_map(Step::End),
        1 => (one(), any::<bool>()).prop_map(|(one, killed)| Step::Close(one, killed)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 1000 }))]

    /// Whenever whichever end gets the memory, moves, ends, closes or is killed: what was written is read, in order, then the end.
    #[test]
    fn no_byte_is_lost_or_moved_when_a_session_moves(steps in prop::collection::vec(step(), 0..120)) {
        let mut ends = plain();
        for step in steps {
            match step {
                Step::Write(one, bytes) => ends[one].write(&bytes),
                Step::Read(one, most) => ends[one].read(most),
                Step::Attach(one) => ends[one].attach(),
                Step::Move(one) => if let Some(endpoint) = &mut ends[one].endpoint { endpoint.move_to_tcp() },
                Step::End(one) => ends[one].end(),
                Step::Close(one, killed) => ends[one].close(killed),
            }
            for one in 0..2 {
                prop_assert!(ends[1 - one].written.starts_with(&ends[one].read), "read what was written");
                prop_assert!(!ends[one].saw_end || ends[1 - one].said_end, "an end that was said");
            }
        }
        for one in 0..2 {
            for _ in 0..64 {
                ends[one].read(16);
            }
            if !ends[one].closed {
                prop_assert_eq!(&ends[one].read, &ends[1 - one].written);
                prop_assert_eq!(ends[one].saw_end, ends[1 - one].said_end);
            }
        }
    }
}

#[test]
fn both_directions_move_when_one_end_asks_and_the_other_only_reads() {
    let [mut a, mut b] = pair();
    a.write(b"before");
    b.write(b"answer");
    let signals = b.bell.0.get();
    a.endpoint.as_mut().expect("open").move_to_tcp();
    assert!(b.bell.0.get() > signals, "one that sleeps must be woken to move");
    for _ in 0..3 {
        a.read(16);
        b.read(16);
    }
    for end in [&a, &b] {
        let endpoint = end.endpoint.as_ref().expect("open");
        assert_eq!((endpoint.outgoing(), endpoint.incoming()), (Way::Last, Way::Last));
    }
    assert_eq!((&a.read[..], &b.read[..]), (&b"answer"[..], &b"before"[..]));
}

#[test]
fn bytes_over_tcp_that_no_mark_announced_end_the_session() {
    let [mut a, b] = pair();
    b.to_peer.borrow_mut().bytes.extend(b"early");
    let endpoint = a.endpoint.as_mut().expect("open");
    assert_eq!(endpoint.read(&mut [0; 8]).expect("nothing yet"), Read::Nothing);
    for _ in 0..2 {
        let error = endpoint.tcp_has_bytes().expect_err("no mark");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(endpoint.read(&mut [0; 8]).is_err() && endpoint.write(&[IoSlice::new(b"x")]).is_err());
        assert!(endpoint.reader_sleeps().is_err() && endpoint.writer_sleeps().is_err());
    }
}

#[test]
fn a_connection_that_failed_says_so_after_the_last_byte() {
    let [mut a, mut b] = pair();
    b.write(b"last");
    let endpoint = a.endpoint.as_mut().expect("open");
    endpoint.peer_is_gone(Gone::Failed(nix::libc::ECONNRESET));
    assert_eq!(endpoint.read(&mut [0; 8]).expect("written before"), Read::Bytes(4));
    let error = endpoint.read(&mut [0; 8]).expect_err("it failed");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(endpoint.write(&[IoSlice::new(b"x")]).is_err());
}

#[test]
fn what_was_reserved_is_what_is_peeked_at() {
    let [mut a, mut b] = pair();
    let (a, b) = (a.endpoint.as_mut().expect("open"), b.endpoint.as_mut().expect("open"));
    for round in 0..10_u8 {
        let room = a.reserve(7).expect("open").expect("room");
        assert_eq!(room.put(0, &[round; 7]), 7);
        a.commit(7);
        let mut copy = [0; 7];
        let peeked = b.peek(64).expect("open").expect("bytes");
        assert_eq!((peeked.copy(0, &mut copy), copy), (7, [round; 7]));
        b.consume(7);
    }
    a.move_to_tcp();
    assert_eq!(a.reserve(1).expect("open").err(), Some(Write::Tcp));
    assert_eq!(b.peek(1).expect("open").err(), Some(Read::Tcp(usize::MAX)));
}

#[test]
fn a_ring_that_begins_before_what_was_read_ends_the_session() {
    let [mut a, mut b] = plain();
    b.write(b"over TCP");
    a.attach();
    a.read(16);
    let _ = Producer::new(a.region.clone(), Side::Destination.writes()).begin(7);
    let error = a.endpoint.as_mut().expect("open").read(&mut [0; 8]).expect_err("it was read already");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn tcp_that_ends_before_the_ring_begins_is_the_end() {
    let [mut a, mut b] = plain();
    b.write(b"over TCP");
    a.attach();
    let _ = Producer::new(a.region.clone(), Side::Destination.writes()).begin(9);
    b.close(true);
    for _ in 0..4 {
        a.read(16);
    }
    assert!(a.saw_end && a.read == b"over TCP");
}

#[test]
fn a_peer_that_never_takes_the_memory_is_served_over_tcp() {
    let [mut a, mut b] = plain();
    a.attach();
    a.write(b"hello");
    b.read(16);
    b.write(b"answer");
    a.read(16);
    let endpoint = a.endpoint.as_mut().expect("open");
    endpoint.signal_is_closed();
    assert_eq!((endpoint.outgoing(), endpoint.incoming()), (Way::Last, Way::Last));
    a.write(b"more");
    b.read(16);
    assert_eq!((&a.read[..], &b.read[..]), (&b"answer"[..], &b"hellomore"[..]));
}
