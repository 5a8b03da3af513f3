//! Sessions between processes: whole streams, peers that are killed in the midst of them, and peers that write anything
//! anywhere. Every byte is checked. For longer: `cargo test --release -p patchbay-shared-memory --test processes --
//! --rounds 1000 --mebibytes 10000`.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use patchbay_shared_memory::{DEFAULT_SPIN, MIN_RING_BYTES, MemoryStream, Observer, Offer, Rings, Side};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// Rounds of each scenario unless set otherwise.
const ROUNDS: u64 = 12;
/// Within this an end hears that its peer is gone.
const HEARS_WITHIN: Duration = Duration::from_secs(2);
/// Within this anything is done.
const DONE_WITHIN: Duration = Duration::from_secs(30);
/// A user without rights.
const NOBODY: u32 = 65_534;
/// MiB of a whole stream, each way, unless set otherwise.
const MEBIBYTES: u64 = 16;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    if let [_, role, socket, address, seed, bytes] = &arguments[..]
        && role.starts_with("peer-")
    {
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let address = address.parse().expect("an address");
        return runtime.block_on(peer(role, Path::new(socket), address, number(seed), number(bytes)));
    }
    let option = |name: &str, otherwise: u64| {
        let given = arguments.iter().skip_while(|argument| *argument != name).nth(1);
        given.map_or(otherwise, |given| given.parse().expect("a number"))
    };
    let (rounds, mebibytes) = (option("--rounds", ROUNDS), option("--mebibytes", MEBIBYTES));
    runtime.block_on(async {
        whole(mebibytes << 20).await;
        killed(rounds).await;
        hostile(rounds).await;
    });
}

/// After so many bytes the pattern repeats: a prime, so that no ring's size divides it.
const PERIOD: u64 = 65_521;

/// The pattern, twice: bytes from any place of it follow in one piece.
fn pattern() -> Vec<u8> {
    (0..2 * PERIOD).map(|at| ((at % PERIOD).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// Writes the pattern, until so many bytes or an error.
async fn send(to: &mut (impl AsyncWrite + Unpin), bytes: u64, random: &mut StdRng) -> io::Result<u64> {
    let (mut at, buffer) = (0, pattern());
    while at < bytes {
        let size = random.random_range(1..=20_000).min(bytes - at) as usize;
        let from = (at % PERIOD) as usize;
        at += to.write(&buffer[from..from + size]).await? as u64;
    }
    Ok(at)
}

/// Reads and checks until the end or an error; returns how many bytes were right.
async fn receive(from: &mut (impl AsyncRead + Unpin), at: &mut u64, random: &mut StdRng) -> io::Result<()> {
    let (mut buffer, expected) = (vec![0; 20_000], pattern());
    loop {
        let most = random.random_range(1..=buffer.len());
        let read = from.read(&mut buffer[..most]).await?;
        if read == 0 {
            return Ok(());
        }
        let begin = (*at % PERIOD) as usize;
        assert!(buffer[..read] == expected[begin..begin + read], "wrong bytes after {at}");
        *at += read as u64;
    }
}

/// A session with another process, which plays a role.
struct Session {
    child: Child,
    stream: MemoryStream,
    observer: Observer,
    _folder: tempfile::TempDir,
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn session(role: &str, seed: u64, bytes: u64) -> Session {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("offers");
    let offers = UnixListener::bind(&path).expect("a socket");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args([role, path.to_str().expect("a plain path")])
        .args([listener.local_addr().expect("bound").to_string(), seed.to_string(), bytes.to_string()])
        .stdin(Stdio::null())
        .spawn()
        .expect("this program runs");
    let (tcp, _) = timeout(DONE_WITHIN, listener.accept()).await.expect("it connects").expect("connected");
    tcp.set_nodelay(true).expect("TCP");
    let rings = Rings::new(MIN_RING_BYTES << (seed % 6), MIN_RING_BYTES).expect("good sizes");
    let [theirs, ours] = Offer::pair(seed, rings).expect("memory");
    let observer = Observer::new(ours.memory()).expect("good memory");
    let (to_child, _) = offers.accept().expect("it connects there first");
    theirs.send(&to_child).expect("room");
    let spin = if seed.is_multiple_of(2) { DEFAULT_SPIN } else { Duration::ZERO };
    let stream = MemoryStream::new(tcp, (0, 0), ours, spin).expect("good memory");
    Session { child, stream, observer, _folder: folder }
}

/// The other process.
async fn peer(role: &str, socket: &Path, address: SocketAddr, seed: u64, bytes: u64) {
    let offers = UnixStream::connect(socket).expect("it listens");
    let tcp = TcpStream::connect(address).await.expect("it listens");
    tcp.set_nodelay(true).expect("TCP");
    let begun = Instant::now();
    let offer = loop {
        match Offer::receive(&offers) {
            Ok(offer) => break offer,
            Err(_) if begun.elapsed() < DONE_WITHIN => sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("no offer: {error}"),
        }
    };
    assert_eq!((offer.side, offer.session), (Side::Source, seed));
    if seed % 3 == 1 && nix::unistd::geteuid().is_root() {
        // As another user, in a network namespace of its own: what is handed over needs neither.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may");
        nix::unistd::setgid(NOBODY.into()).expect("root may");
        nix::unistd::setuid(NOBODY.into()).expect("root may");
    }
    let memory = offer.memory().as_fd().try_clone_to_owned().expect("a descriptor");
    let mut stream = MemoryStream::new(tcp, (0, 0), offer, DEFAULT_SPIN).expect("good memory");
    let mut random = StdRng::seed_from_u64(seed);
    if seed % 5 == 4 {
        // One that moves at once: the session goes to memory and back.
        stream.move_to_tcp();
    }
    let evil = async {
        // The words that this end publishes, and all bytes; so its honest half goes on, and wakes the other end.
        const WORDS: [u64; 7] = [128, 136, 144, 152, 512, 768, 896];
        let memory = std::fs::File::from(memory);
        let size = memory.metadata().expect("a file").len();
        let mut random = StdRng::seed_from_u64(seed + 1);
        sleep(Duration::from_millis(random.random_range(0..20))).await;
        loop {
            let word = WORDS[random.random_range(0..WORDS.len())];
            let at = if random.random_bool(0.5) { word } else { random.random_range(4096..size - 8) };
            let value: u64 =
                if random.random_bool(0.5) { random.random() } else { random.random_range(0..100_000) };
            let bytes = value.to_ne_bytes();
            std::os::unix::fs::FileExt::write_at(&memory, &bytes, at).expect("writable");
            if random.random_bool(0.02) {
                // Takes pages away, and tries to make the file smaller.
                let hole = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
                    | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
                nix::fcntl::fallocate(&memory, hole, (at / 4096 * 4096) as i64, 4096)
                    .expect("its own memory");
                memory.set_len(0).expect_err("it is sealed");
            }
            if random.random_bool(0.1) {
                tokio::task::yield_now().await;
            }
        }
    };
    let (mut reader, mut writer) = split(stream);
    let (mut at, mut other) = (0, StdRng::seed_from_u64(seed + 2));
    let sends = async {
        let sent = send(&mut writer, bytes, &mut random).await;
        writer.shutdown().await.ok();
        sent
    };
    if role == "peer-evil" {
        // It talks too, so that the other end is awake to see what it wrote.
        let mut nowhere = tokio::io::sink();
        let all = async { tokio::join!(evil, sends, tokio::io::copy(&mut reader, &mut nowhere)) };
        let _ = timeout(Duration::from_millis(60), all).await;
        return;
    }
    let talk = async { tokio::join!(sends, receive(&mut reader, &mut at, &mut other)) };
    let (sent, received) = talk.await;
    assert_eq!((sent.expect("connected"), at), (bytes, bytes));
    received.expect("connected");
}

/// Whole streams, both ways at once, in memory and back.
async fn whole(bytes: u64) {
    let within = DONE_WITHIN + Duration::from_millis(bytes >> 14);
    for seed in 0..6 {
        let mut session = session("peer-whole", seed, bytes).await;
        let (mut reader, mut writer) = split(&mut session.stream);
        let (mut at, mut random, mut other) = (0, StdRng::seed_from_u64(seed), StdRng::seed_from_u64(seed));
        let sends = async {
            let sent = send(&mut writer, bytes, &mut random).await;
            writer.shutdown().await.expect("connected");
            sent
        };
        let talk = async { tokio::join!(sends, receive(&mut reader, &mut at, &mut other)) };
        let done = timeout(within, talk).await;
        let (sent, received) = done.unwrap_or_else(|_| panic!("after {within:?} {at} bytes have come"));
        received.expect("connected");
        assert_eq!((sent.expect("connected"), at), (bytes, bytes));
        assert!(session.child.wait().expect("a child").success(), "the peer found every byte right");
        let (written, read) = session.stream.through_memory();
        let count = session.observer.count(Side::Destination);
        assert_eq!((count.written, count.read), (written, written), "the agent counts the same");
        assert_eq!(session.observer.count(Side::Source).read, read);
        assert!(!session.observer.has_seen_lies());
        if seed % 5 != 4 {
            assert!(written + read > bytes, "through memory");
        }
    }
    println!("whole streams: 6 sessions, {} MiB each, every byte right", bytes >> 19);
}

/// Peers that are killed: what came is right, and both tasks hear of it.
async fn killed(rounds: u64) {
    let (mut through_memory, mut over_all) = (0, 0);
    for seed in 0..rounds {
        let mut session = session("peer-killed", seed, u64::MAX).await;
        let id = nix::unistd::Pid::from_raw(session.child.id() as i32);
        let mut random = StdRng::seed_from_u64(1000 + seed);
        let lives = Duration::from_micros(random.random_range(0..60_000));
        let (mut reader, mut writer) = split(&mut session.stream);
        let (mut at, mut one, mut two) = (0, StdRng::seed_from_u64(seed), StdRng::seed_from_u64(seed));
        let kill = async {
            sleep(lives).await;
            nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGKILL).expect("our child");
            Instant::now()
        };
        let sends = async { (send(&mut writer, u64::MAX, &mut one).await, Instant::now()) };
        let receives = async { (receive(&mut reader, &mut at, &mut two).await, Instant::now()) };
        let all = async { tokio::join!(kill, sends, receives) };
        let (killed, (sent, heard_writing), (received, heard_reading)) =
            timeout(DONE_WITHIN, all).await.expect("both hear that the peer is gone");
        let good = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
        assert!(good.contains(&sent.expect_err("nobody reads").kind()));
        assert!(received.is_ok() || received.is_err_and(|error| good.contains(&error.kind())));
        assert!(heard_writing - killed < HEARS_WITHIN && heard_reading - killed < HEARS_WITHIN);
        through_memory += session.stream.through_memory().1;
        over_all += at;
    }
    println!(
        "kills: {rounds}, {} MiB read, {} MiB of them through memory, 0 wrong bytes",
        over_all >> 20,
        through_memory >> 20
    );
    assert!(through_memory > 0, "through memory");
}

/// Peers that write anything anywhere: their session ends, and that is all.
async fn hostile(rounds: u64) {
    let mut broken = 0;
    for seed in 0..rounds {
        let mut session = session("peer-evil", seed, u64::MAX).await;
        let (mut reader, mut writer) = split(&mut session.stream);
        let mut buffer = vec![0; 20_000];
        let sends = async {
            loop {
                if let Err(error) = writer.write(&[7; 10_000]).await {
                    return Some(error.kind());
                }
            }
        };
        let receives = async {
            loop {
                match reader.read(&mut buffer).await {
                    Ok(0) => return None,
                    Ok(_) => {}
                    Err(error) => return Some(error.kind()),
                }
            }
        };
        let all = async { tokio::join!(sends, receives) };
        let (wrote, read) = timeout(DONE_WITHIN, all).await.expect("an evil peer ends its session at last");
        broken += u64::from([wrote, read].contains(&Some(ErrorKind::InvalidData)));
        assert!(session.child.wait().expect("a child").success(), "it did what it was told");
        for side in [Side::Source, Side::Destination] {
            let first = session.observer.count(side);
            let second = session.observer.count(side);
            assert!(second.written >= first.written && second.read >= first.read, "counters never go back");
        }
    }
    println!("hostile peers: {rounds}, {broken} of them were caught, nothing else happened");
    assert!(broken > rounds / 3, "most are caught");
}
