//! The kinds of sessions: what the connecting and the accepting end do.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use clap::ValueEnum;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, setsockopt, shutdown, sockopt};
use rand::Rng as _;

use crate::end::{End, Problem, Waiting, Writes, pass, set_option};

/// Largest length of one direction for blocking ends under `always`, in bytes.
const LONGEST_BLOCKING: u64 = 128 << 10;

/// A kind of session. Each has a listening port of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// Both directions at once, poll
    Duplex,
    /// Both directions at once, edge-triggered epoll
    Edge,
    /// Both directions at once in writes of megabytes, edge-triggered epoll
    Frames,
    /// Requests and answers, blocking
    Turns,
    /// One direction, blocking
    OneWay,
    /// The source shuts its sending down, then gets something back without blocking in a call
    HalfClose,
    /// The source resets in the middle
    Abort,
    /// The destination reads now and then
    SlowReader,
    /// The destination reads nothing and closes
    DeadReader,
    /// The first bytes go with the connection request
    FastOpen,
    /// The destination is woken by the first bytes
    Deferred,
    /// Bytes are sent before they are accepted
    Early,
    /// The socket is passed on in the middle
    Passed,
    /// A child process reads from the inherited socket in the middle
    Shared,
    /// The source shuts its sending down, then blocks for what comes back (a habit)
    BlockingHalfClose,
    /// The destination asks how much is unread (a habit)
    UnreadSize,
    /// The destination waits for all (a habit)
    WaitAll,
    /// The destination waits for a minimum (a habit)
    LowWater,
    /// The destination takes bytes out with splice (a habit)
    SpliceOut,
    /// A thread blocks in reading while another writes (a habit)
    Concurrent,
}

impl Kind {
    /// Whether `always` may be used with it: it has no habit that redirection breaks.
    pub fn is_safe(self) -> bool {
        self < Self::BlockingHalfClose
    }

    /// What the two ends agree on: bytes from the source, then back. With `always`, blocking ends must
    /// not send so much that they wait in TCP: their next read would give EAGAIN.
    pub fn lengths(self, random: &mut impl rand::Rng, always: bool, longest: u64) -> (u64, u64) {
        let blocks = !matches!(self, Self::Duplex | Self::Edge | Self::Frames | Self::DeadReader);
        let longest = if always && blocks { LONGEST_BLOCKING } else { longest };
        let mut length = || match random.random_range(0..3) {
            0 => random.random_range(1..1_000),
            1 => random.random_range(1..200_000.min(longest)),
            _ => random.random_range(1..longest),
        };
        (length(), length())
    }

    /// The connecting end's part.
    pub fn source(self, end: &mut End, sends: u64, receives: u64) -> Result<(), Problem> {
        match self {
            Self::Duplex => end.duplex(sends, receives, Waiting::Level, Writes::Any),
            Self::Edge => end.duplex(sends, receives, Waiting::Edge, Writes::Any),
            Self::Frames => end.duplex(sends, receives, Waiting::Edge, Writes::Large),
            Self::Turns => turns(end, sends, receives, true),
            Self::HalfClose => {
                end.write_all(sends)?;
                shutdown(end.socket.as_raw_fd(), Shutdown::Write).map_err(|e| format!("shutdown: {e}"))?;
                end.duplex(0, receives, Waiting::Level, Writes::Any)?;
                end.wait_readable()?;
                end.read_end()
            }
            Self::BlockingHalfClose => {
                end.write_all(sends)?;
                shutdown(end.socket.as_raw_fd(), Shutdown::Write).map_err(|e| format!("shutdown: {e}"))?;
                end.read_all(receives)?;
                end.read_end()
            }
            Self::Abort => {
                end.write_all(sends)?;
                let now = libc::linger { l_onoff: 1, l_linger: 0 };
                setsockopt(&end.socket, sockopt::Linger, &now).map_err(|e| format!("linger: {e}"))
            }
            Self::SlowReader | Self::OneWay | Self::UnreadSize | Self::WaitAll | Self::LowWater => {
                end.write_all(sends)?;
                end.read_all(1)
            }
            Self::SpliceOut | Self::Passed | Self::Shared | Self::Early => {
                end.write_all(sends)?;
                end.read_all(1)
            }
            Self::DeadReader => dead_reader(end),
            Self::FastOpen | Self::Deferred => {
                end.write_all(sends)?;
                end.read_all(receives)
            }
            Self::Concurrent => concurrent(end, sends, receives),
        }
    }

    /// The accepting end's part.
    pub fn destination(self, end: &mut End, receives: u64, sends: u64) -> Result<(), Problem> {
        match self {
            Self::Duplex => end.duplex(sends, receives, Waiting::Level, Writes::Any),
            Self::Edge => end.duplex(sends, receives, Waiting::Edge, Writes::Any),
            Self::Frames => end.duplex(sends, receives, Waiting::Edge, Writes::Large),
            Self::Turns => turns(end, sends, receives, false),
            Self::HalfClose | Self::BlockingHalfClose => {
                end.read_all(receives)?;
                end.read_end()?;
                end.write_all(sends)
            }
            Self::Abort => prefix(end),
            Self::OneWay | Self::Early => {
                end.read_all(receives)?;
                end.write_all(1)
            }
            Self::SlowReader => {
                while end.receives.position < receives {
                    std::thread::sleep(Duration::from_millis(20));
                    let most = (receives - end.receives.position).min(1 << 20);
                    end.read_all(most)?;
                }
                end.write_all(1)
            }
            Self::DeadReader => {
                std::thread::sleep(Duration::from_millis(50));
                Ok(())
            }
            Self::FastOpen | Self::Deferred => {
                end.read_all(receives)?;
                end.write_all(sends)
            }
            Self::Passed => {
                end.read_all(receives / 2)?;
                end.socket = pass(&end.socket)?;
                end.read_all(receives - receives / 2)?;
                end.write_all(1)
            }
            Self::Shared => {
                end.read_all(receives / 3)?;
                read_by_child(end, receives / 3)?;
                end.read_all(receives - 2 * (receives / 3))?;
                end.write_all(1)
            }
            Self::UnreadSize => unread_size(end, receives),
            Self::WaitAll => wait_all(end, receives),
            Self::LowWater => low_water(end, receives),
            Self::SpliceOut => splice_out(end, receives),
            Self::Concurrent => concurrent(end, sends, receives),
        }
    }
}

/// A child process, which has the socket as its input, reads and checks the next bytes.
fn read_by_child(end: &mut End, length: u64) -> Result<(), Problem> {
    let socket = end.socket.try_clone().map_err(|error| format!("dup: {error}"))?;
    let output = std::process::Command::new("/proc/self/exe")
        .args(["--inherited", &end.receives.describe(), &length.to_string()])
        .stdin(socket)
        .output()
        .map_err(|error| format!("a child: {error}"))?;
    if !output.status.success() {
        return Err(format!("a child: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    end.receives.position += length;
    Ok(())
}

/// Messages that the two ends cut in the same places.
fn turns(end: &mut End, sends: u64, receives: u64, first: bool) -> Result<(), Problem> {
    const PARTS: u64 = 20;
    for part in 0..PARTS {
        let share = |total: u64| total * (part + 1) / PARTS - total * part / PARTS;
        if first {
            end.write_all(share(sends))?;
            end.read_all(share(receives))?;
        } else {
            end.read_all(share(receives))?;
            end.write_all(share(sends))?;
        }
    }
    Ok(())
}

/// Reads until the other end breaks off: all that came is right.
fn prefix(end: &mut End) -> Result<(), Problem> {
    let begun = std::time::Instant::now();
    loop {
        match end.read_some(1 << 16) {
            Ok(Some(0)) => return Ok(()),
            Ok(Some(_)) => {}
            // A known difference: a redirected reader that blocks when the reset comes gets EAGAIN first.
            Ok(None) if begun.elapsed() < crate::end::HANGS_AFTER => {}
            Ok(None) => return Err("it hangs after a reset".into()),
            Err(problem) if problem.contains("ECONNRESET") => return Ok(()),
            Err(problem) => return Err(problem),
        }
    }
}

/// Sends until the receiver, which never reads, stops it; nothing may be taken for ever.
fn dead_reader(end: &mut End) -> Result<(), Problem> {
    /// More than any buffers of TCP and of redirection together, in bytes.
    const BOUND: u64 = 64 << 20;
    end.set_blocking(false)?;
    loop {
        match end.write_some(1 << 18) {
            Ok(None) => return Ok(()),
            Ok(Some(_)) if end.sends.position > BOUND => {
                return Err(format!(
                    "{} bytes were taken for a receiver that never reads",
                    end.sends.position
                ));
            }
            Ok(Some(_)) => {}
            // It has closed meanwhile.
            Err(problem) if problem.contains("EPIPE") || problem.contains("ECONNRESET") => return Ok(()),
            Err(problem) => return Err(problem),
        }
    }
}

#[expect(unsafe_code, reason = "nix has no FIONREAD")]
fn unread(end: &End) -> usize {
    let mut unread: libc::c_int = 0;
    // SAFETY: the kernel writes one integer.
    let result = unsafe { libc::ioctl(end.socket.as_raw_fd(), libc::FIONREAD, &raw mut unread) };
    if result == 0 { usize::try_from(unread).unwrap_or_default() } else { 0 }
}

/// Reads only what FIONREAD promises, as nginx and Java do.
fn unread_size(end: &mut End, receives: u64) -> Result<(), Problem> {
    let begun = std::time::Instant::now();
    while end.receives.position < receives {
        let there = unread(end);
        if there == 0 {
            if begun.elapsed() > crate::end::HANGS_AFTER {
                return Err(format!("FIONREAD stays 0 at {}", end.receives.position));
            }
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        let most = (receives - end.receives.position).min(there as u64);
        end.read_all(most)?;
    }
    end.write_all(1)
}

fn wait_all(end: &mut End, receives: u64) -> Result<(), Problem> {
    while end.receives.position < receives {
        let left = usize::try_from(receives - end.receives.position).unwrap_or(usize::MAX);
        let size = end.random.random_range(1..=left.min(100_000));
        let mut bytes = vec![0; size];
        let got = recv(end.socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_WAITALL)
            .map_err(|error| format!("waiting for all at {}: {error}", end.receives.position))?;
        if got != size {
            return Err(format!("MSG_WAITALL gave {got} of {size} at {}", end.receives.position));
        }
        end.receives.check(&bytes)?;
    }
    end.write_all(1)
}

fn low_water(end: &mut End, receives: u64) -> Result<(), Problem> {
    const MINIMUM: u64 = 1_000;
    while end.receives.position < receives {
        let minimum = MINIMUM.min(receives - end.receives.position);
        set_option(&end.socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, minimum as libc::c_int)
            .map_err(|error| format!("SO_RCVLOWAT: {error}"))?;
        let before = end.receives.position;
        // TCP itself may sleep for ever in a receiving call with a minimum, when its first part came alone
        // (seen on Linux 6.18 without redirection); programs that use it wait before they call.
        end.wait_readable()?;
        let most = usize::try_from(receives - before).unwrap_or(1 << 16).clamp(minimum as usize, 1 << 16);
        match end.read_by(0, most)? {
            Some(got) if (got as u64) < minimum => {
                return Err(format!("SO_RCVLOWAT {minimum} gave {got} at {before}"));
            }
            Some(_) => {}
            None => return Err(format!("it hangs at {before} with SO_RCVLOWAT")),
        }
    }
    end.write_all(1)
}

fn splice_out(end: &mut End, receives: u64) -> Result<(), Problem> {
    let (out, into): (OwnedFd, OwnedFd) = nix::unistd::pipe().map_err(|e| format!("pipe: {e}"))?;
    let mut bytes = vec![0; 64 << 10];
    while end.receives.position < receives {
        let most = usize::try_from(receives - end.receives.position).unwrap_or(bytes.len()).min(bytes.len());
        let moved =
            nix::fcntl::splice(&end.socket, None, &into, None, most, nix::fcntl::SpliceFFlags::empty())
                .map_err(|error| format!("splice at {}: {error}", end.receives.position))?;
        if moved == 0 {
            return Err(format!("it ended early, at {}", end.receives.position));
        }
        let got = nix::unistd::read(&out, &mut bytes[..moved]).map_err(|e| format!("the pipe: {e}"))?;
        end.receives.check(&bytes[..got])?;
    }
    end.write_all(1)
}

/// A thread sends while this one blocks in receiving.
fn concurrent(end: &mut End, sends: u64, receives: u64) -> Result<(), Problem> {
    let socket = pass(&end.socket)?;
    let mut stream = end.sends;
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            while stream.position < sends {
                let most = usize::try_from(sends - stream.position).unwrap_or(1 << 16).min(1 << 16);
                let taken = send(socket.as_raw_fd(), stream.next(most), MsgFlags::MSG_NOSIGNAL)
                    .map_err(|error| format!("a blocking send at {}: {error}", stream.position))?;
                stream.advance(taken);
            }
            Ok(())
        });
        let read = end.read_all(receives);
        read.and(writer.join().unwrap_or_else(|_| Err("the writer panicked".into())))
    })
}
