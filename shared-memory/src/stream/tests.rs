use std::sync::atomic::{AtomicU32, Ordering};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::*;
use crate::{DEFAULT_SPIN, MIN_RING_BYTES, Rings};

const SOON: Duration = Duration::from_secs(20);

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let connect = TcpStream::connect(listener.local_addr().expect("bound"));
    let (source, accepted) = tokio::join!(connect, listener.accept());
    let (source, destination) = (source.expect("it listens"), accepted.expect("connected").0);
    source.set_nodelay(true).expect("TCP");
    destination.set_nodelay(true).expect("TCP");
    (source, destination)
}

fn small() -> Rings {
    Rings::new(MIN_RING_BYTES, MIN_RING_BYTES).expect("good sizes")
}

async fn pair(spin: Duration) -> (MemoryStream, MemoryStream) {
    let ((a, b), [to_a, to_b]) = (tcp().await, Offer::pair(1, small()).expect("memory"));
    let a = MemoryStream::new(a, (0, 0), to_a, spin).expect("good memory");
    (a, MemoryStream::new(b, (0, 0), to_b, spin).expect("good memory"))
}

/// The byte at a place of a stream.
fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

async fn send<S: AsyncWrite>(
    mut to: WriteHalf<S>,
    from: u64,
    bytes: u64,
    mut random: StdRng,
) -> WriteHalf<S> {
    let mut at = from;
    while at < from + bytes {
        let size = random.random_range(1..=9_000).min(from + bytes - at);
        let chunk: Vec<u8> = (at..at + size).map(pattern).collect();
        let (one, two) = chunk.split_at(random.random_range(0..=chunk.len()));
        let slices = [IoSlice::new(one), IoSlice::new(&[]), IoSlice::new(two)];
        at += to.write_vectored(&slices).await.expect("connected") as u64;
    }
    to
}

/// Reads until the end or so many bytes, and checks each.
async fn receive<S: AsyncRead>(from: &mut ReadHalf<S>, at: &mut u64, until: u64, mut random: StdRng) {
    while *at < until {
        let most = random.random_range(1..=9_000).min(until - *at);
        let mut buffer = vec![0; most as usize];
        let read = from.read(&mut buffer).await.expect("connected");
        if read == 0 {
            return;
        }
        for byte in &buffer[..read] {
            assert_eq!(*byte, pattern(*at), "byte {at}");
            *at += 1;
        }
        if random.random_bool(0.01) {
            sleep(Duration::from_micros(200)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_in_both_directions_arrive_whole_with_and_without_spinning() {
    const BYTES: u64 = 4 << 20;
    for spin in [Duration::ZERO, DEFAULT_SPIN] {
        let (a, b) = pair(spin).await;
        let mut ends = Vec::new();
        for (number, stream) in [a, b].into_iter().enumerate() {
            let (mut reader, writer) = split(stream);
            ends.push(tokio::spawn(async move {
                let random = |more| StdRng::seed_from_u64(number as u64 + more);
                let mut at = 0;
                let sends =
                    async { send(writer, 0, BYTES, random(2)).await.shutdown().await.expect("connected") };
                tokio::join!(sends, receive(&mut reader, &mut at, u64::MAX, random(4)));
                assert_eq!(at, BYTES);
            }));
        }
        for end in ends {
            timeout(SOON, end).await.expect("nobody sleeps for ever").expect("every byte is right");
        }
    }
}

/// One end that reads and writes at once, and may pause to change how.
struct Both {
    random: StdRng,
    sent: u64,
    received: u64,
    ended: bool,
}

impl Both {
    const BYTES: u64 = 300_000;

    /// Goes on until so many bytes went both ways together, or everything did.
    async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(&mut self, stream: S, until: u64) -> S {
        let (mut reader, mut writer) = split(stream);
        let mut buffer = vec![0; 9_000];
        while self.sent + self.received < until && !(self.sent == Self::BYTES && self.ended) {
            let size = self.random.random_range(1..=9_000).min(Self::BYTES - self.sent);
            let most = self.random.random_range(1..=9_000);
            let chunk: Vec<u8> = (self.sent..self.sent + size).map(pattern).collect();
            tokio::select! {
                written = writer.write(&chunk), if size > 0 => self.sent += written.expect("connected") as u64,
                read = reader.read(&mut buffer[..most]), if !self.ended => {
                    let read = read.expect("connected");
                    self.ended = read == 0;
                    for byte in &buffer[..read] {
                        assert_eq!(*byte, pattern(self.received), "byte {}", self.received);
                        self.received += 1;
                    }
                }
            }
            if size > 0 && self.sent == Self::BYTES {
                writer.shutdown().await.expect("connected");
            }
        }
        reader.unsplit(writer)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_takes_memory_and_leaves_it_at_any_moment() {
    let mut through_memory = 0;
    for seed in 0..24 {
        let ((a, b), [to_a, to_b]) = (tcp().await, Offer::pair(1, small()).expect("memory"));
        let mut ends = Vec::new();
        for (number, (stream, offer)) in [(a, to_a), (b, to_b)].into_iter().enumerate() {
            ends.push(tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(2 * seed + number as u64);
                let (takes, leaves) =
                    (random.random_range(0..Both::BYTES), random.random_range(0..Both::BYTES));
                let mut both = Both { random, sent: 0, received: 0, ended: false };
                let stream = both.exchange(stream, takes).await;
                let counts = (both.sent, both.received);
                let stream = MemoryStream::new(stream, counts, offer, DEFAULT_SPIN).expect("good memory");
                let mut stream = both.exchange(stream, takes + leaves).await;
                if number == 0 || seed % 3 == 0 {
                    stream.move_to_tcp();
                }
                let stream = both.exchange(stream, u64::MAX).await;
                assert_eq!(both.received, Both::BYTES);
                stream.through_memory()
            }));
        }
        for end in ends {
            let end = timeout(SOON, end).await.expect("nobody sleeps for ever").expect("every byte is right");
            through_memory += end.0;
        }
    }
    assert!(through_memory > 0, "some go through memory for a while");
}

#[tokio::test]
async fn a_session_uses_memory_once_both_ends_have_it_and_tcp_until_then() {
    let ((a, mut b), [to_a, to_b]) = (tcp().await, Offer::pair(1, small()).expect("memory"));
    let mut a = MemoryStream::new(a, (0, 0), to_a, Duration::ZERO).expect("good memory");
    a.write_all(b"one").await.expect("connected");
    let mut three = [0; 3];
    b.read_exact(&mut three).await.expect("over TCP");
    let mut b = MemoryStream::new(b, (0, 3), to_b, Duration::ZERO).expect("good memory");
    // A reader that waits on TCP hears that the ring begins.
    let (read, ()) = tokio::join!(b.read_exact(&mut three), async {
        sleep(Duration::from_millis(20)).await;
        a.write_all(b"two").await.expect("connected");
    });
    assert_eq!((read.expect("connected"), &three), (3, b"two"));
    assert_eq!((a.ways(), b.ways()), ((Way::Ring, Way::First), (Way::First, Way::Ring)));
    assert_eq!((a.through_memory(), b.through_memory()), ((3, 0), (0, 3)));
    a.move_to_tcp();
    a.write_all(b"six").await.expect("connected");
    b.read_exact(&mut three).await.expect("over TCP again");
    assert_eq!((&three, a.ways().0, b.ways().1), (b"six", Way::Last, Way::Last));
    drop(a);
    assert_eq!(b.read(&mut three).await.expect("an end"), 0);
}

#[tokio::test]
async fn a_writer_waits_for_its_reader_and_hears_that_it_is_gone() {
    let (mut a, mut b) = pair(Duration::ZERO).await;
    let mut one = [0];
    for _ in 0..2 {
        a.write_all(b"x").await.expect("connected");
        b.read_exact(&mut one).await.expect("connected");
        b.write_all(b"x").await.expect("connected");
        a.read_exact(&mut one).await.expect("connected");
    }
    let written = a.write(&[1; 3 * MIN_RING_BYTES]).await.expect("connected");
    assert_eq!(written, MIN_RING_BYTES, "no more than the ring holds");
    timeout(Duration::from_millis(50), a.write(&[1])).await.expect_err("the ring is full");
    let (wrote, _) = tokio::join!(timeout(SOON, a.write(&[1])), async {
        b.read_exact(&mut [0; MIN_RING_BYTES / 2]).await.expect("connected");
    });
    assert_eq!(wrote.expect("woken").expect("connected"), 1);
    while timeout(Duration::from_millis(20), a.write(&[1; 64])).await.is_ok() {}
    let (wrote, ()) = tokio::join!(timeout(SOON, a.write(&[1])), async {
        sleep(Duration::from_millis(20)).await;
        drop(b);
    });
    assert_eq!(wrote.expect("woken").expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(a.read(&mut one).await.expect("an end"), 0);
}

#[tokio::test]
async fn a_half_closed_session_still_reads() {
    let (mut a, mut b) = pair(Duration::ZERO).await;
    a.write_all(b"question").await.expect("connected");
    a.shutdown().await.expect("connected");
    let mut all = Vec::new();
    b.read_to_end(&mut all).await.expect("connected");
    assert_eq!(all, b"question");
    b.write_all(b"answer").await.expect("connected");
    drop(b);
    let mut all = Vec::new();
    a.read_to_end(&mut all).await.expect("connected");
    assert_eq!(all, b"answer");
    assert_eq!(a.write(b"x").await.expect_err("it has ended").kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn who_waits_sleeps() {
    let (mut a, mut b) = pair(DEFAULT_SPIN).await;
    a.write_all(b"x").await.expect("connected");
    b.read_exact(&mut [0]).await.expect("connected");
    let polls = AtomicU32::new(0);
    let mut one = [0];
    let mut read = Box::pin(b.read_exact(&mut one));
    let counted = std::future::poll_fn(|cx| {
        polls.fetch_add(1, Ordering::Relaxed);
        read.as_mut().poll(cx)
    });
    timeout(Duration::from_millis(200), counted).await.expect_err("nothing is sent");
    let polls = polls.into_inner();
    assert!(polls < 100, "polled {polls} times in vain");
}

#[tokio::test]
async fn bytes_are_used_where_they_lie() {
    let (mut a, mut b) = pair(Duration::ZERO).await;
    assert!(a.reserve(1, |_| (0, ())).await.expect("connected").is_some(), "the peer has the memory");
    for round in 0..3000_u64 {
        let filled = a.reserve(5, |[first, second]| {
            for (place, byte) in first.iter().chain(second).enumerate() {
                byte.store(pattern(round + place as u64), Ordering::Relaxed);
            }
            (first.len() + second.len(), ())
        });
        filled.await.expect("connected").expect("in memory");
        let sum = |parts: [&[Byte]; 2]| {
            let bytes = parts[0].iter().chain(parts[1]);
            (5, bytes.map(|byte| u32::from(byte.load(Ordering::Relaxed))).sum::<u32>())
        };
        let expected = (round..round + 5).map(|at| u32::from(pattern(at))).sum();
        // The first finds the way from TCP to memory.
        let found = match b.peek(5, sum).await.expect("connected") {
            Some(found) => found,
            None => unreachable!("both have the memory"),
        };
        assert_eq!(found, expected);
    }
    a.shutdown().await.expect("connected");
    assert_eq!(b.peek(5, |_| (0, ())).await.expect("an end"), None);
}

#[tokio::test]
async fn a_peer_that_breaks_its_memory_ends_its_session_only() {
    for (place, value) in [(0, u64::MAX), (0, 1 << 40), (128, u64::MAX), (16, 7)] {
        let ((a, b), [to_a, to_b]) = (tcp().await, Offer::pair(1, small()).expect("memory"));
        let evil = memory::open(to_b.memory(), true).expect("good memory");
        let mut a = MemoryStream::new(a, (0, 0), to_a, DEFAULT_SPIN).expect("good memory");
        let mut b = MemoryStream::new(b, (0, 0), to_b, DEFAULT_SPIN).expect("good memory");
        for _ in 0..2 {
            a.write_all(b"x").await.expect("connected");
            b.write_all(b"x").await.expect("connected");
            a.read_exact(&mut [0]).await.expect("connected");
            b.read_exact(&mut [0]).await.expect("connected");
        }
        let words = &evil.control().rings[usize::from(place != 128)];
        let word = match place {
            0 => &words.producer.0.tail,
            16 => &words.producer.0.end,
            _ => &words.consumer.0.head,
        };
        word.store(value, Ordering::Relaxed);
        evil.control().rings[0].reader.0.fetch_or(1, Ordering::Relaxed);
        b.endpoint.wakes().wake();
        let failed = async {
            loop {
                let error = if place == 128 {
                    a.write_all(&[0; 2 * MIN_RING_BYTES]).await
                } else {
                    a.read(&mut [0; 64]).await.map(drop)
                };
                if let Err(error) = error {
                    return error;
                }
            }
        };
        let error = timeout(SOON, failed).await.expect("it is noticed");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}

#[tokio::test]
async fn a_read_that_does_not_wait_finds_what_is_there() {
    let (mut a, mut b) = pair(Duration::ZERO).await;
    let mut buffer = [0; 8];
    let quiet =
        |read: io::Result<usize>| assert_eq!(read.expect_err("nothing").kind(), io::ErrorKind::WouldBlock);
    quiet(b.try_read(&mut buffer));
    a.write_all(b"one").await.expect("connected");
    assert_eq!(b.try_read(&mut buffer).expect("it is there"), 3);
    quiet(b.try_read(&mut buffer));
    a.move_to_tcp();
    a.write_all(b"two").await.expect("connected");
    let arrived = async {
        loop {
            match b.try_read(&mut buffer) {
                Ok(bytes) => return bytes,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert_eq!(timeout(SOON, arrived).await.expect("it arrives"), 3);
    let (a, mut b) = pair(Duration::ZERO).await;
    quiet(b.try_read(&mut buffer));
    drop(a);
    let ended = async {
        while b.try_read(&mut buffer).is_err() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, ended).await.expect("the end is seen");
}
