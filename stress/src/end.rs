//! One end of a session, with every way to write and to read that programs use.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrStorage, recv, recvmmsg, recvmsg, send, sendmsg, setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use rand::Rng as _;
use rand::rngs::StdRng;

use crate::pattern::{Stream, TABLE};

/// Nothing may take longer: what does hangs.
pub const HANGS_AFTER: Duration = Duration::from_secs(30);
/// Largest piece for one call, in bytes.
const MOST: usize = 256 << 10;

/// One end.
pub struct End {
    pub socket: OwnedFd,
    pub sends: Stream,
    pub receives: Stream,
    pub random: StdRng,
    pub buffer: Vec<u8>,
}

/// How an end learns that it may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// poll
    Level,
    /// Edge-triggered epoll
    Edge,
}

/// What an end offers for each write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Some size, by some call.
    Any,
    /// All that is left, megabytes if there are.
    Large,
}

/// What went wrong, for people.
pub type Problem = String;

fn problem(what: &str) -> impl FnOnce(Errno) -> Problem {
    let what = what.to_owned();
    move |error| format!("{what}: {error}")
}

impl End {
    pub fn new(socket: OwnedFd, sends: u64, receives: u64, random: StdRng) -> Self {
        let limit = TimeVal::seconds(HANGS_AFTER.as_secs().cast_signed());
        // Without these a hang is only found from outside.
        let _ = setsockopt(&socket, sockopt::ReceiveTimeout, &limit);
        let _ = setsockopt(&socket, sockopt::SendTimeout, &limit);
        let buffer = vec![0; MOST];
        Self { socket, sends: Stream::new(sends), receives: Stream::new(receives), random, buffer }
    }

    fn raw(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// A size that is small, middle or large with equal chance.
    pub fn size(&mut self, most: usize) -> usize {
        let limit = [64, 4096, MOST][self.random.random_range(0..3)];
        self.random.random_range(1..=limit.min(most).max(1))
    }

    /// One call of some writing kind; returns what it took. `EAGAIN` is `None`.
    pub fn write_some(&mut self, most: usize) -> Result<Option<usize>, Problem> {
        let size = self.size(most);
        let bytes = self.sends.next(size);
        let flags = MsgFlags::MSG_NOSIGNAL;
        let taken = match self.random.random_range(0..5) {
            0 => send(self.raw(), bytes, flags),
            1 => {
                let middle = size / 2;
                let pieces = [IoSlice::new(&bytes[..middle]), IoSlice::new(&bytes[middle..])];
                sendmsg::<()>(self.raw(), &pieces, &[], flags, None)
            }
            2 if size > 1 => {
                // The second call sends what MSG_MORE held back, if anything was.
                let first = size / 2;
                let more = MsgFlags::from_bits_retain(flags.bits() | libc::MSG_MORE);
                match send(self.raw(), &bytes[..first], more) {
                    Ok(taken) if taken == first => {
                        let rest = send(self.raw(), &bytes[first..], flags);
                        Ok(taken
                            + rest
                                .or_else(|e| if e == Errno::EAGAIN { Ok(0) } else { Err(e) })
                                .map_err(|error| format!("the second send: {error}"))?)
                    }
                    taken => taken,
                }
            }
            3 => self.send_file(size),
            _ => self.splice_in(size),
        };
        match taken {
            Ok(taken) => {
                self.sends.advance(taken);
                Ok(Some(taken))
            }
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(format!("writing at {}: {error}", self.sends.position)),
        }
    }

    /// One send of as much as there is. `EAGAIN` is `None`.
    fn write_large(&mut self, most: usize) -> Result<Option<usize>, Problem> {
        match send(self.raw(), self.sends.next(most), MsgFlags::MSG_NOSIGNAL) {
            Ok(taken) => {
                self.sends.advance(taken);
                Ok(Some(taken))
            }
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(format!("writing at {}: {error}", self.sends.position)),
        }
    }

    fn send_file(&self, size: usize) -> Result<usize, Errno> {
        let mut offset = self.sends.index() as i64;
        nix::sys::sendfile::sendfile64(&self.socket, table_file(), Some(&mut offset), size)
    }

    /// Through a pipe. What the socket does not take has not been sent.
    fn splice_in(&self, size: usize) -> Result<usize, Errno> {
        let (out, into) = nix::unistd::pipe()?;
        let held = nix::unistd::write(&into, self.sends.next(size.min(32 << 10)))?;
        drop(into);
        nix::fcntl::splice(&out, None, &self.socket, None, held, nix::fcntl::SpliceFFlags::empty())
    }

    /// One call of some reading kind, checked. `EAGAIN` is `None`, the end is `Some(0)`.
    pub fn read_some(&mut self, most: usize) -> Result<Option<usize>, Problem> {
        let size = self.size(most);
        let kind = self.random.random_range(0..4);
        self.read_by(kind, size)
    }

    pub fn read_by(&mut self, kind: u32, size: usize) -> Result<Option<usize>, Problem> {
        let raw = self.raw();
        let buffer = &mut self.buffer[..size];
        let got = match kind {
            0 => recv(raw, buffer, MsgFlags::empty()),
            1 => {
                let (first, second) = buffer.split_at_mut(size / 2);
                let mut pieces = [IoSliceMut::new(first), IoSliceMut::new(second)];
                recvmsg::<()>(raw, &mut pieces, None, MsgFlags::empty()).map(|message| message.bytes)
            }
            2 => {
                // What was looked at must be what is then taken.
                match recv(raw, buffer, MsgFlags::MSG_PEEK) {
                    Ok(seen) if seen > 0 => {
                        let looked = buffer[..seen].to_vec();
                        let taken = recv(raw, &mut buffer[..seen], MsgFlags::empty());
                        if taken.is_ok_and(|taken| buffer[..taken] != looked[..taken]) {
                            return Err("what was peeked at was not what came".into());
                        }
                        taken
                    }
                    other => other,
                }
            }
            _ => receive_many(raw, buffer),
        };
        match got {
            Ok(got) => {
                let bytes = std::mem::take(&mut self.buffer);
                let checked = self.receives.check(&bytes[..got]);
                self.buffer = bytes;
                checked.map(|()| Some(got))
            }
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(format!("reading at {}: {error}", self.receives.position)),
        }
    }

    /// Sends exactly so much on a blocking socket.
    pub fn write_all(&mut self, length: u64) -> Result<(), Problem> {
        let end = self.sends.position + length;
        while self.sends.position < end {
            let most = usize::try_from(end - self.sends.position).unwrap_or(MOST).min(MOST);
            if self.write_some(most)?.is_none() {
                return Err(format!("a blocking write gave EAGAIN or hung at {}", self.sends.position));
            }
        }
        Ok(())
    }

    /// Receives exactly so much on a blocking socket.
    pub fn read_all(&mut self, length: u64) -> Result<(), Problem> {
        let end = self.receives.position + length;
        while self.receives.position < end {
            let begun = Instant::now();
            let most = usize::try_from(end - self.receives.position).unwrap_or(MOST).min(MOST);
            match self.read_some(most)? {
                Some(0) => return Err(format!("it ended early, at {}", self.receives.position)),
                Some(_) => {}
                None if begun.elapsed() >= HANGS_AFTER => {
                    return Err(format!("a blocking read hung at {}", self.receives.position));
                }
                None => return Err(format!("a blocking read gave EAGAIN at {}", self.receives.position)),
            }
        }
        Ok(())
    }

    /// Waits until there is something to read.
    pub fn wait_readable(&self) -> Result<(), Problem> {
        Waits::new(self.socket.try_clone().map_err(|e| e.to_string())?, false)?.wait(false, true)
    }

    /// Asserts that the other end has closed.
    pub fn read_end(&mut self) -> Result<(), Problem> {
        match self.read_by(0, 1)? {
            Some(0) => Ok(()),
            got => Err(format!("{got:?} instead of the end")),
        }
    }

    pub fn set_blocking(&self, blocking: bool) -> Result<(), Problem> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let flag = if blocking { OFlag::empty() } else { OFlag::O_NONBLOCK };
        fcntl(&self.socket, FcntlArg::F_SETFL(flag)).map(drop).map_err(problem("fcntl"))
    }

    /// Sends and receives at once, never blocking in a call, until both directions are complete.
    pub fn duplex(
        &mut self,
        sends: u64,
        receives: u64,
        waiting: Waiting,
        writes: Writes,
    ) -> Result<(), Problem> {
        self.set_blocking(false)?;
        let mut waits =
            Waits::new(self.socket.try_clone().map_err(|e| e.to_string())?, waiting == Waiting::Edge)?;
        let (end, received) = (self.sends.position + sends, self.receives.position + receives);
        let begun = Instant::now();
        loop {
            let (to_send, to_receive) = (end - self.sends.position, received - self.receives.position);
            if to_send == 0 && to_receive == 0 {
                return Ok(());
            }
            let mut progress = false;
            if to_send > 0 {
                let all = usize::try_from(to_send).unwrap_or(usize::MAX);
                progress |= match writes {
                    Writes::Any => self.write_some(all.min(MOST))?,
                    Writes::Large => self.write_large(all)?,
                }
                .is_some();
            }
            if to_receive > 0 {
                match self.read_some(usize::try_from(to_receive).unwrap_or(MOST).min(MOST))? {
                    Some(0) => return Err(format!("it ended early, at {}", self.receives.position)),
                    got => progress |= got.is_some(),
                }
            }
            if !progress {
                waits.wait(to_send > 0, to_receive > 0).map_err(|error| {
                    format!(
                        "{error}: {to_send} to send, {to_receive} to receive after {} s",
                        begun.elapsed().as_secs()
                    )
                })?;
            }
        }
    }
}

fn receive_many(raw: RawFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(1, None);
    let mut pieces = [[IoSliceMut::new(buffer)]];
    let mut messages = recvmmsg(raw, &mut headers, &mut pieces, MsgFlags::empty(), None)?;
    Ok(messages.next().map_or(0, |message| message.bytes))
}

/// Level by poll, or edge by epoll.
enum Waits {
    Level(OwnedFd),
    Edge(nix::sys::epoll::Epoll),
}

impl Waits {
    fn new(socket: OwnedFd, edge: bool) -> Result<Self, Problem> {
        use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
        if !edge {
            return Ok(Self::Level(socket));
        }
        let epoll = Epoll::new(EpollCreateFlags::empty()).map_err(problem("epoll"))?;
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll.add(&socket, EpollEvent::new(flags, 0)).map_err(problem("epoll"))?;
        Ok(Self::Edge(epoll))
    }

    fn wait(&mut self, send: bool, receive: bool) -> Result<(), Problem> {
        let limit = u16::try_from(HANGS_AFTER.as_millis()).unwrap_or(u16::MAX);
        let ready = match self {
            Self::Level(socket) => {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::POLLOUT, send);
                flags.set(PollFlags::POLLIN, receive);
                poll(&mut [PollFd::new(socket.as_fd(), flags)], PollTimeout::from(limit))
                    .map(|ready| ready as usize)
            }
            Self::Edge(epoll) => {
                let mut events = [nix::sys::epoll::EpollEvent::empty()];
                epoll.wait(&mut events, limit)
            }
        };
        match ready {
            Ok(0) => Err("nothing happens any more".into()),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(format!("waiting: {error}")),
        }
    }
}

/// The table as a file, for sendfile.
fn table_file() -> &'static OwnedFd {
    static FILE: OnceLock<OwnedFd> = OnceLock::new();
    FILE.get_or_init(|| {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let file = memfd_create("pattern", MFdFlags::MFD_CLOEXEC).expect("memory for the pattern");
        let mut written = 0;
        while written < TABLE.len() {
            written += nix::unistd::write(&file, &TABLE[written..]).expect("memory for the pattern");
        }
        file
    })
}

/// Sets an option that nix does not know.
#[expect(unsafe_code, reason = "nix has none of these options")]
pub fn set_option(socket: &OwnedFd, level: i32, option: i32, value: libc::c_int) -> std::io::Result<()> {
    // SAFETY: the kernel reads one integer.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Hands a socket over as another process would: a new descriptor of the same open file.
#[expect(unsafe_code, reason = "the received number becomes an owned descriptor")]
pub fn pass(socket: &OwnedFd) -> Result<OwnedFd, Problem> {
    use nix::sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, SockFlag, SockType, socketpair,
    };
    let (a, b) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())
        .map_err(problem("pair"))?;
    let rights = [socket.as_raw_fd()];
    sendmsg::<()>(
        a.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::empty(),
        None,
    )
    .map_err(problem("SCM_RIGHTS"))?;
    let mut byte = [0];
    let mut pieces = [IoSliceMut::new(&mut byte)];
    let mut room = nix::cmsg_space!([RawFd; 1]);
    let message = recvmsg::<()>(b.as_raw_fd(), &mut pieces, Some(&mut room), MsgFlags::empty())
        .map_err(problem("SCM_RIGHTS"))?;
    for control in message.cmsgs().map_err(problem("SCM_RIGHTS"))? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(descriptor) = descriptors.first()
        {
            // SAFETY: the kernel has just made the descriptor for this process.
            return Ok(unsafe { OwnedFd::from_raw_fd(*descriptor) });
        }
    }
    Err("no descriptor came".into())
}
