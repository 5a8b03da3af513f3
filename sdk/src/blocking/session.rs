//! A session for programs without a runtime.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use patchbay_shared_memory::{BlockingStream, For, Way};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::memory::{Claim, READER, WRITER, keep};
use crate::session::{About, Session};

/// Times that an operation which does not wait looks again after a signal.
const TRIES: u32 = 8;

/// A session that one thread at a time reads and writes. Dropping it closes it and tells the agent.
///
/// Reads and writes wait as long as [`Self::set_timeout`] says; where that is no time at all they say
/// [`io::ErrorKind::WouldBlock`], and [`Self::descriptor`] says when to try again.
pub struct BlockingSession {
    // First, so that the agent is told before the connection ends.
    about: About,
    stream: Stream,
    claim: Option<Claim>,
    /// Bytes written and read so far.
    counts: (u64, u64),
    timeout: Option<Duration>,
    ready: Ready,
    /// What said last that it would wait: reading, writing.
    waits: [bool; 2],
    _over: DropGuard,
}

enum Stream {
    Tcp(TcpStream),
    Memory(Box<BlockingStream>),
    /// While the one becomes the other.
    Between,
}

/// What is readable when there may be something to do.
struct Ready {
    epoll: Epoll,
    /// Whether room for writing over TCP is waited for, too.
    room: bool,
    news: Arc<News>,
}

/// Becomes readable when the agent has a word for the session, or asks to close it. Nobody but this process has it.
struct News(EventFd);

impl Wake for News {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // It is full only when it is readable already.
        let _ = self.0.write(1);
    }
}

impl BlockingSession {
    /// Takes a session that nothing was read from and written to. In a tokio runtime.
    pub(super) fn new(session: Session) -> io::Result<Self> {
        let (carrier, about) = session.into_parts();
        let (tcp, claim) = carrier.into_parts()?;
        tcp.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let news = Arc::new(News(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?));
        epoll.add(&tcp, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        epoll.add(&news.0, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
        let over = CancellationToken::new();
        let (asked, waker, ended) = (about.close_requested.clone(), news.clone(), over.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = asked.cancelled() => waker.wake_by_ref(),
                () = ended.cancelled() => {}
            }
        });
        Ok(Self {
            about,
            stream: Stream::Tcp(tcp),
            claim,
            counts: (0, 0),
            timeout: None,
            ready: Ready { epoll, room: false, news },
            waits: [false; 2],
            _over: over.drop_guard(),
        })
    }

    /// How long a read or a write waits; for ever, if `None`. After it they say [`io::ErrorKind::TimedOut`]; after no time
    /// at all [`io::ErrorKind::WouldBlock`].
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// Whether the Manager has asked to close this session, or this instance ends: finish the message at hand and drop it.
    pub fn is_close_requested(&self) -> bool {
        self.about.close_requested.is_cancelled()
    }

    /// Whether what is written goes through shared memory now.
    pub fn is_in_memory(&self) -> bool {
        matches!(&self.stream, Stream::Memory(stream) if stream.ways().0 == Way::Ring)
    }

    /// What a program's own loop waits for to be readable, after a read or a write has said [`io::ErrorKind::WouldBlock`];
    /// then it tries again both what it wanted. It is the same for the whole life of the session.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.ready.epoll.0.as_fd()
    }

    /// Says that nothing follows.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn end(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Memory(stream) => stream.end(),
            Stream::Between => Ok(()),
        }
    }

    /// Does what the agent wants of this session, and takes what made the descriptor readable.
    fn look(&mut self, task: usize) -> io::Result<()> {
        let Some(Claim { slot, .. }) = &self.claim else { return Ok(()) };
        let news = slot.news(task, &Waker::from(self.ready.news.clone()));
        if let Some(offer) = news.offer {
            let memory = keep(&offer);
            let Stream::Tcp(tcp) = std::mem::replace(&mut self.stream, Stream::Between) else {
                return Ok(());
            };
            self.stream = match BlockingStream::new(tcp, self.counts, *offer, slot.spin) {
                Ok(mut stream) => {
                    slot.taken(memory, Waker::from(self.ready.news.clone()));
                    let [signal, _] = stream.descriptors();
                    self.ready.epoll.add(signal, EpollEvent::new(EpollFlags::EPOLLIN, 2))?;
                    Stream::Memory(Box::new(stream))
                }
                Err((tcp, _)) => Stream::Tcp(tcp),
            };
        }
        if let Stream::Memory(stream) = &mut self.stream {
            if news.move_to_tcp {
                stream.move_to_tcp();
            }
            if news.give_back {
                stream.give_back()?;
            }
        }
        Ok(())
    }

    /// Tries without waiting; before it says that it would wait, the peer knows that it is to signal.
    fn attempt<T>(
        &mut self,
        what: For,
        work: &mut impl FnMut(&mut dyn Both) -> io::Result<T>,
    ) -> io::Result<T> {
        // Only who has told the peer to signal looks for signals.
        let slept = self.waits != [false; 2];
        if slept {
            let _ = self.ready.news.0.read();
        }
        let result = self.try_some_times(what, slept, work);
        let waits = result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.waits[what as usize] = waits;
        // Looking took away what was said to the peer for the other task.
        let other = if what == For::Reading { For::Writing } else { For::Reading };
        if self.waits[other as usize]
            && let Stream::Memory(stream) = &mut self.stream
            && !is_on_tcp(stream, other)
            && stream.sleep(other).unwrap_or(true)
        {
            self.ready.news.wake_by_ref();
        }
        result
    }

    fn try_some_times<T>(
        &mut self,
        what: For,
        mut slept: bool,
        work: &mut impl FnMut(&mut dyn Both) -> io::Result<T>,
    ) -> io::Result<T> {
        for _ in 0..TRIES {
            self.look(if what == For::Reading { READER } else { WRITER })?;
            let result = match &mut self.stream {
                Stream::Tcp(stream) => work(stream),
                Stream::Memory(stream) => {
                    stream.set_timeout(Some(Duration::ZERO));
                    if slept {
                        stream.awake()?;
                    }
                    work(&mut **stream)
                }
                Stream::Between => return Err(io::Error::other("the session is between TCP and memory")),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => return other,
            }
            let on_tcp = match &mut self.stream {
                Stream::Memory(stream) => {
                    let ready = stream.sleep(what)?;
                    slept = true;
                    let on_tcp = is_on_tcp(stream, what);
                    if ready && !on_tcp {
                        continue;
                    }
                    on_tcp
                }
                _ => true,
            };
            self.wait_for_room(on_tcp && what == For::Writing)?;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // The program's loop has its turn; the descriptor is readable at once.
        self.ready.news.wake_by_ref();
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Whether the descriptor becomes readable also when TCP has room.
    fn wait_for_room(&mut self, wanted: bool) -> io::Result<()> {
        if wanted == self.ready.room {
            return Ok(());
        }
        self.ready.room = wanted;
        let flags = if wanted { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        let mut event = EpollEvent::new(flags, 0);
        match &mut self.stream {
            Stream::Tcp(stream) => self.ready.epoll.modify(&*stream, &mut event)?,
            Stream::Memory(stream) => self.ready.epoll.modify(stream.descriptors()[1], &mut event)?,
            Stream::Between => {}
        }
        Ok(())
    }

    /// Tries until it succeeds or the time is over.
    fn until<T>(&mut self, what: For, mut work: impl FnMut(&mut dyn Both) -> io::Result<T>) -> io::Result<T> {
        let until = self.timeout.map(|timeout| Instant::now() + timeout);
        let result = loop {
            if self.timeout.is_none() {
                self.look(if what == For::Reading { READER } else { WRITER })?;
                if let Stream::Memory(stream) = &mut self.stream {
                    // It spins first, where that pays.
                    stream.set_timeout(None);
                    break work(&mut **stream);
                }
            }
            let result = self.attempt(what, &mut work);
            let waits = result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            if !waits || self.timeout == Some(Duration::ZERO) {
                break result;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                break Err(io::ErrorKind::TimedOut.into());
            }
            // A bit more, so that the time is over when it wakes.
            let left = left.map(|left| left + Duration::from_millis(1));
            let left = left
                .map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            match poll(&mut [PollFd::new(self.ready.epoll.0.as_fd(), PollFlags::POLLIN)], left) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => break Err(error.into()),
            }
        };
        let waits = result
            .as_ref()
            .is_err_and(|error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
        if !waits {
            self.about.note(&result);
        }
        result
    }
}

/// Whether TCP says when to go on.
fn is_on_tcp(stream: &BlockingStream, what: For) -> bool {
    match (what, stream.ways()) {
        (For::Reading, (_, way)) => way == Way::Last,
        (For::Writing, (way, _)) => matches!(way, Way::First | Way::Last),
    }
}

/// What both carriers of a session are.
trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

impl Read for BlockingSession {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.until(For::Reading, |stream| stream.read(into))?;
        self.counts.1 += read as u64;
        Ok(read)
    }
}

impl Write for BlockingSession {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let written = self.until(For::Writing, |stream| stream.write(from))?;
        self.counts.0 += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        // What was written is in the ring, or with the kernel.
        Ok(())
    }
}
