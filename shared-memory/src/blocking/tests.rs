use std::net::TcpListener;
use std::thread;

use super::*;
use crate::{DEFAULT_SPIN, MIN_RING_BYTES, Rings};

fn pair(spin: Duration) -> (BlockingStream, BlockingStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let a = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (b, _) = listener.accept().expect("connected");
    let rings = Rings::new(MIN_RING_BYTES, MIN_RING_BYTES).expect("good sizes");
    let [to_a, to_b] = Offer::pair(1, rings).expect("memory");
    let a = BlockingStream::new(a, (0, 0), to_a, spin).expect("good memory");
    (a, BlockingStream::new(b, (0, 0), to_b, spin).expect("good memory"))
}

#[test]
fn a_stream_arrives_whole_also_when_it_moves() {
    const BYTES: usize = 1 << 20;
    for (spin, moves_after) in [(Duration::ZERO, BYTES), (DEFAULT_SPIN, BYTES), (DEFAULT_SPIN, BYTES / 2)] {
        let (mut a, mut b) = pair(spin);
        let all: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
        let sent = all.clone();
        let thread = thread::spawn(move || {
            a.write_all(&sent[..moves_after]).expect("connected");
            if moves_after < BYTES {
                a.move_to_tcp();
                a.write_all(&sent[moves_after..]).expect("connected");
            }
            a.end().expect("connected");
            let mut answer = Vec::new();
            a.read_to_end(&mut answer).expect("connected");
            (answer, a.through_memory().0)
        });
        let mut got = Vec::new();
        b.read_to_end(&mut got).expect("connected");
        assert!(got == all, "every byte is right");
        b.write_all(b"thanks").expect("connected");
        drop(b);
        let (answer, through_memory) = thread.join().expect("no panic");
        assert_eq!((&answer[..], through_memory), (&b"thanks"[..], moves_after as u64));
    }
}

#[test]
fn who_waits_in_vain_is_told_so_in_time() {
    let (mut a, mut b) = pair(Duration::ZERO);
    a.write_all(b"x").expect("connected");
    b.read_exact(&mut [0]).expect("connected");
    b.set_timeout(Some(Duration::ZERO));
    assert_eq!(b.read(&mut [0]).expect_err("nothing").kind(), io::ErrorKind::WouldBlock);
    b.set_timeout(Some(Duration::from_millis(30)));
    let begun = Instant::now();
    assert_eq!(b.read(&mut [0]).expect_err("nothing").kind(), io::ErrorKind::TimedOut);
    assert!(begun.elapsed() >= Duration::from_millis(30));
    a.set_timeout(Some(Duration::from_millis(30)));
    let error = a.write_all(&[0; 3 * MIN_RING_BYTES]).expect_err("the ring is full");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    drop(b);
    assert_eq!(a.write(&[0]).expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
}
