//! Runs sessions of every kind between two threads of this process and checks every byte by its
//! position. It knows nothing of redirection: run it under `patchbay exec`, or plain.

mod end;
mod kinds;
mod pattern;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum as _};
use end::{End, Problem, set_option};
use kinds::Kind;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrStorage, accept4, bind, connect,
    getsockname, listen, sendto, setsockopt, socket, sockopt,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

/// Sessions of every kind of reader and writer, every byte checked by its position.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The same seed makes the same sessions
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long to begin new sessions, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Sessions at once
    #[arg(long, default_value_t = 8)]
    parallel: usize,
    /// Only these kinds; all of them if absent
    #[arg(long, value_enum, value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// Only kinds and lengths that `always` may be used with
    #[arg(long)]
    safe: bool,
    /// Largest length of one direction of a session, in MiB
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1_024))]
    longest: u64,
    /// End when so many bytes were checked, if that is earlier, in units of 10^9
    #[arg(long, value_name = "COUNT")]
    gigabytes: Option<u64>,
    /// Check the next bytes of a stream that come from the input: a child of this program
    #[arg(long, hide = true, num_args = 2)]
    inherited: Vec<String>,
}

/// What came of it.
#[derive(Serialize, Default)]
struct Report {
    sessions: u64,
    bytes: u64,
    by_kind: BTreeMap<String, u64>,
    problems: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let [stream, length] = &arguments.inherited[..] {
        return match read_inherited(stream, length) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprintln!("{problem}");
                ExitCode::FAILURE
            }
        };
    }
    match run(&arguments) {
        Ok(report) => {
            println!("{}", serde_json::to_string(&report).unwrap_or_default());
            if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The part of a child that shares a socket with this program.
fn read_inherited(stream: &str, length: &str) -> Result<(), Problem> {
    let (Some(stream), Ok(length)) = (pattern::Stream::read(stream), length.parse()) else {
        return Err("--inherited takes a stream and a length".into());
    };
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| format!("input: {error}"))?;
    let mut end = End::new(socket, 0, 0, StdRng::seed_from_u64(length));
    end.receives = stream;
    end.read_all(length)
}

fn run(arguments: &Arguments) -> Result<Report> {
    let kinds: Vec<Kind> = match &arguments.kinds[..] {
        [] => Kind::value_variants().to_vec(),
        some => some.to_vec(),
    };
    let kinds: Vec<Kind> = kinds.into_iter().filter(|kind| !arguments.safe || kind.is_safe()).collect();
    let listeners: Vec<Listener> =
        kinds.iter().map(|kind| Listener::new(*kind)).collect::<Result<_>>().context("listening")?;
    let report = Mutex::new(Report::default());
    let next = AtomicU64::new(0);
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    let enough = arguments.gigabytes.map_or(u64::MAX, |count| count.saturating_mul(1_000_000_000));
    let goes_on = || {
        let report = lock(&report);
        Instant::now() < until && report.problems.is_empty() && report.bytes < enough
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.parallel {
            scope.spawn(|| {
                while goes_on() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let mut random = StdRng::seed_from_u64(arguments.seed.wrapping_mul(1_000_003) + number);
                    let listener = &listeners[random.random_range(0..listeners.len())];
                    let result = session(listener, number, &mut random, arguments);
                    let mut report = lock(&report);
                    report.sessions += 1;
                    *report.by_kind.entry(format!("{:?}", listener.kind)).or_default() += 1;
                    match result {
                        Ok(bytes) => report.bytes += bytes,
                        Err(problem) => report.problems.push(format!(
                            "{:?} (seed {}, session {number}): {problem}",
                            listener.kind, arguments.seed
                        )),
                    }
                }
            });
        }
    });
    Ok(report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

fn lock(report: &Mutex<Report>) -> std::sync::MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A kind's listening sockets, IPv4 and IPv6. One session at a time is connected and accepted, so that
/// the two ends find each other.
struct Listener {
    kind: Kind,
    sockets: Mutex<Vec<(OwnedFd, SocketAddr)>>,
}

impl Listener {
    fn new(kind: Kind) -> Result<Self> {
        let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), (Ipv6Addr::LOCALHOST, 0).into()];
        let sockets = addresses.map(|address| listen_at(kind, address)).into_iter().collect::<Result<_>>()?;
        Ok(Self { kind, sockets: Mutex::new(sockets) })
    }
}

fn new_socket(address: SocketAddr) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

fn listen_at(kind: Kind, address: SocketAddr) -> Result<(OwnedFd, SocketAddr)> {
    let listener = new_socket(address)?;
    bind(listener.as_raw_fd(), &SockaddrStorage::from(address))?;
    match kind {
        Kind::FastOpen => set_option(&listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16)?,
        Kind::Deferred => set_option(&listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 5)?,
        _ => {}
    }
    listen(&listener, Backlog::new(64)?)?;
    let bound: SockaddrStorage = getsockname(listener.as_raw_fd())?;
    let port = match (bound.as_sockaddr_in(), bound.as_sockaddr_in6()) {
        (Some(v4), _) => v4.port(),
        (_, Some(v6)) => v6.port(),
        _ => 0,
    };
    Ok((listener, SocketAddr::new(address.ip(), port)))
}

/// One session; returns the bytes that both ends checked.
fn session(
    listener: &Listener,
    number: u64,
    random: &mut StdRng,
    arguments: &Arguments,
) -> Result<u64, Problem> {
    let kind = listener.kind;
    let (there, back) = kind.lengths(random, arguments.safe, arguments.longest << 20);
    let (mut source, mut destination) = connected(listener, number, random)?;
    let to_receive = there;
    let sent = source.sends.position;
    std::thread::scope(|scope| {
        let accepting = scope.spawn(move || {
            let result = kind.destination(&mut destination, to_receive, back);
            (result, destination.receives.position)
        });
        let result = kind.source(&mut source, there.saturating_sub(sent), back);
        let received = source.receives.position;
        drop(source);
        let (other, at_destination) =
            accepting.join().unwrap_or_else(|_| (Err("the accepting end panicked".into()), 0));
        // The cause is seldom the end that says it first.
        match (result, other) {
            (Ok(()), Ok(())) => Ok(received + at_destination),
            (Err(one), Err(other)) => Err(format!("source: {one}; destination: {other}")),
            (Err(one), Ok(())) => Err(format!("source: {one}")),
            (Ok(()), Err(other)) => Err(format!("destination: {other}")),
        }
    })
}

fn connected(listener: &Listener, number: u64, random: &mut StdRng) -> Result<(End, End), Problem> {
    let fail = |what: &'static str| move |error: nix::Error| format!("{what}: {error}");
    let sockets = listener.sockets.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (listening, address) = &sockets[random.random_range(0..sockets.len())];
    let socket = new_socket(*address).map_err(fail("socket"))?;
    let (one, other) = (StdRng::seed_from_u64(random.random()), StdRng::seed_from_u64(random.random()));
    let _ = setsockopt(&socket, sockopt::TcpNoDelay, &random.random());
    let mut source = End::new(socket, 2 * number, 2 * number + 1, one);
    let at = SockaddrStorage::from(*address);
    if listener.kind == Kind::FastOpen {
        let flags = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
        let sent =
            sendto(source.socket.as_raw_fd(), source.sends.next(1), &at, flags).map_err(fail("TFO"))?;
        source.sends.advance(sent);
    } else {
        connect(source.socket.as_raw_fd(), &at).map_err(fail("connect"))?;
    }
    if matches!(listener.kind, Kind::Deferred | Kind::Early) {
        // Before anybody accepts.
        source.write_all(1)?;
    }
    let accepted = accept4(listening.as_raw_fd(), SockFlag::SOCK_CLOEXEC).map_err(fail("accept"))?;
    Ok((source, End::new(own(accepted), 2 * number + 1, 2 * number, other)))
}

#[expect(unsafe_code, reason = "nix returns the accepted socket as a number")]
fn own(descriptor: i32) -> OwnedFd {
    // SAFETY: the kernel has just made the descriptor for this process.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
