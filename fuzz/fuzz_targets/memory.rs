//! An end of a session whose peer writes anything anywhere into their memory, signals, sends over TCP, and goes away,
//! whenever it likes: no panic, no access outside of the memory, nothing that waits for ever, and every failure is the
//! session's own.
#![no_main]

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use patchbay_fuzz::Script;
use patchbay_shared_memory::{BlockingStream, For, MIN_RING_BYTES, Observer, Offer, Rings, Side};

/// Where the control words are: eight bytes each, in the first part of the first page.
const CONTROL_BYTES: u64 = 1280;
/// The most that is read or written at once.
const MOST: u64 = 3 * MIN_RING_BYTES as u64;

/// What an honest end may say about a peer that is not.
fn is_expected(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::InvalidData | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
    )
}

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { return };
    let tcp = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (mut theirs, _) = listener.accept().expect("connected");
    theirs.set_nonblocking(true).expect("TCP");
    let size = |script: &mut Script<'_>| MIN_RING_BYTES << script.below(3);
    let rings = Rings::new(size(&mut script), size(&mut script)).expect("good sizes");
    let [ours, evil] = Offer::pair(1, rings).expect("memory");
    let memory = File::from(evil.memory().as_fd().try_clone_to_owned().expect("a descriptor"));
    let length = memory.metadata().expect("a file").len();
    let mut observer = Observer::new(&memory).expect("good memory");
    // The peer's signal, taken out of its offer as a process would get it.
    let (there, here) = UnixStream::pair().expect("descriptors");
    evil.send(&there).expect("room");
    let evil = Offer::receive(&here).expect("an offer");
    let mut evil = Some(evil.into_signal());
    let mut stream = BlockingStream::new(tcp, (0, 0), ours, Duration::ZERO).expect("good memory");
    stream.set_timeout(Some(Duration::ZERO));
    let mut buffer = vec![0; MOST as usize];
    while let Some(step) = script.byte() {
        let value = u64::from(script.byte().unwrap_or(0));
        match step % 12 {
            // A word that is nearly right, or far from it.
            0..=2 => {
                let word = script.below(CONTROL_BYTES / 8) * 8;
                let value = if step >= 128 { value } else { value << (8 * script.below(8)) };
                memory.write_all_at(&value.to_ne_bytes(), word).expect("writable");
            }
            // One that differs a little from what is there.
            3 => {
                let word = script.below(CONTROL_BYTES / 8) * 8;
                let mut bytes = [0; 8];
                memory.read_exact_at(&mut bytes, word).expect("readable");
                let value = u64::from_ne_bytes(bytes).wrapping_add(value).wrapping_sub(128);
                memory.write_all_at(&value.to_ne_bytes(), word).expect("writable");
            }
            4 => {
                let at = (value << 7) % (length - 8);
                memory.write_all_at(&[step; 8], at).expect("writable");
            }
            5 => drop(evil.as_ref().map(|signal| flood(signal, value as usize * 17))),
            6 => drop(theirs.write(&vec![step; value as usize])),
            7 if value < 16 => drop(theirs.shutdown(Shutdown::Write)),
            7 if value < 32 => evil = None,
            7 | 8 => {
                let read = stream.read(&mut buffer[..(value * 40) as usize]);
                assert!(read.as_ref().map_or_else(|error| is_expected(error.kind()), |_| true), "{read:?}");
            }
            9 => {
                let wrote = stream.write(&buffer[..(value * 40) as usize]);
                assert!(wrote.as_ref().map_or_else(|error| is_expected(error.kind()), |_| true), "{wrote:?}");
            }
            10 => {
                let what = if value.is_multiple_of(2) { For::Reading } else { For::Writing };
                drop(stream.sleep(what));
                drop(stream.awake());
                drop(stream.give_back());
            }
            _ if value < 8 => stream.move_to_tcp(),
            _ if value < 12 => drop(stream.end()),
            _ => {
                for side in [Side::Source, Side::Destination] {
                    let (first, second) = (observer.count(side), observer.count(side));
                    assert!(second.written >= first.written && second.read >= first.read);
                }
                drop(theirs.read(&mut buffer));
            }
        }
    }
});

/// Signals, few or very many.
fn flood(mut signal: &UnixStream, bytes: usize) {
    let _ = signal.set_nonblocking(true);
    let _ = signal.write(&vec![0; bytes]);
}
