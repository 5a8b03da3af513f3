//! The accepting end.

use std::io::{self, Read as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::address::{Listener, Socket};
use super::clock::Clock;
use super::drive::Polled;
use super::report::{Counts, EndReport};
use super::talk::{Part, Room, Step, Talk};
use super::{Kind, Serve, Style, Work};

/// The first byte of a connection whose stream goes back.
pub const BACK: u8 = b'b';
/// The first byte of any other connection that carries a stream.
pub const THERE: u8 = b't';

/// How long threads may take to end with their connections.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the threads of this end share.
struct Shared {
    clock: Clock,
    counts: Mutex<Counts>,
    work: Work,
    /// Connections that a thread still works on.
    working: AtomicUsize,
}

/// Serves until this program's input ends.
pub fn run(serve: &Serve) -> Result<EndReport> {
    let listener = Listener::bind(&serve.at).with_context(|| format!("{} can't be listened at", serve.at))?;
    let shared = Arc::new(Shared {
        clock: Clock::new(),
        counts: Mutex::new(Counts::new()),
        work: serve.work.clone(),
        working: AtomicUsize::new(0),
    });
    println!("ready");
    let serving = Arc::clone(&shared);
    std::thread::spawn(move || {
        let result = match serving.work.style {
            Style::Blocking => serve_blocking(&serving, &listener),
            Style::Epoll => serve_polled(&serving, &listener),
        };
        if let Err(error) = result {
            eprintln!("error: {error}");
        }
    });
    io::stdin().read_to_end(&mut Vec::new())?;
    shared.clock.stop();
    // Threads see their connections end and count for the last time.
    let asked = Instant::now();
    while shared.working.load(Ordering::Acquire) > 0 && asked.elapsed() < LAST_WORDS {
        std::thread::sleep(Duration::from_millis(1));
    }
    let counts = shared.counts.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(counts.report(&shared.clock))
}

/// The first connection starts the clock.
fn start_clock(shared: &Arc<Shared>, started: &mut bool) {
    if !std::mem::replace(started, true) {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(shared.work.warm_up));
            shared.clock.begin();
        });
    }
}

fn serve_blocking(shared: &Arc<Shared>, listener: &Listener) -> io::Result<()> {
    let mut started = false;
    loop {
        let socket = listener.accept(shared.work.no_delay, true)?;
        start_clock(shared, &mut started);
        if shared.work.kind == Kind::Short {
            // As programs do that answer short requests: one after the other.
            work(shared, socket);
            continue;
        }
        let shared = Arc::clone(shared);
        shared.working.fetch_add(1, Ordering::AcqRel);
        std::thread::spawn(move || {
            work(&shared, socket);
            shared.working.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

/// One connection, in blocking calls.
fn work(shared: &Shared, socket: Socket) {
    let mut counts = Counts::new();
    let result = (|| {
        let Some(part) = part(&shared.work, &socket)? else { return Ok(()) };
        let mut talk = Talk::new(socket, part, shared.work.size);
        let mut room = Room::new(shared.work.size);
        while talk.step(&mut room, &shared.clock, &mut counts)? != Step::Done {}
        Ok::<(), io::Error>(())
    })();
    if let Err(error) = result {
        eprintln!("error: {error}");
    }
    shared.counts.lock().unwrap_or_else(PoisonError::into_inner).add(&counts);
}

/// What this end does on a connection; the connecting end says which way a stream goes.
fn part(work: &Work, socket: &Socket) -> io::Result<Option<Part>> {
    Ok(match work.kind {
        Kind::Request => Some(Part::Answers(None)),
        Kind::Short => Some(Part::Answers(Some(1))),
        Kind::Stream | Kind::Halves => {
            let mut first = [0];
            match first_byte(socket, &mut first)? {
                0 => None,
                _ if first[0] == BACK => Some(Part::Writes),
                _ => Some(Part::Reads),
            }
        }
    })
}

/// Behind epoll the first byte is waited for too: it comes at once.
fn first_byte(socket: &Socket, first: &mut [u8; 1]) -> io::Result<usize> {
    loop {
        match socket.read(first) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_micros(50));
            }
            result => return result,
        }
    }
}

fn serve_polled(shared: &Arc<Shared>, listener: &Listener) -> io::Result<()> {
    let mut polled = Polled::new(&shared.clock, Room::new(shared.work.size))?;
    polled.listen(listener)?;
    let mut started = false;
    shared.working.fetch_add(1, Ordering::AcqRel);
    let mut all = Counts::new();
    loop {
        if shared.clock.is_stopped() {
            shared.counts.lock().unwrap_or_else(PoisonError::into_inner).add(&all);
            shared.working.fetch_sub(1, Ordering::AcqRel);
            return Ok(());
        }
        let (accept, _) = polled.turn(&mut all)?;
        if !accept {
            continue;
        }
        loop {
            match listener.accept(shared.work.no_delay, false) {
                Ok(socket) => {
                    start_clock(shared, &mut started);
                    if let Some(part) = part(&shared.work, &socket)? {
                        polled.add(Talk::new(socket, part, shared.work.size))?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}
