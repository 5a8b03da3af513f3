//! Services without a runtime: sessions that wait in the thread that uses them, or have a descriptor for its own loop.
//!
//! One further thread, `patchbay`, speaks with the agent and accepts; it takes no signals, and no byte of a session passes
//! through it.
//!
//! ```no_run
//! use std::io::{Read as _, Write as _};
//!
//! # fn main() -> Result<(), patchbay_sdk::Error> {
//! let service = patchbay_sdk::blocking::BlockingService::start()?;
//! let mut session = service.connect("store", None)?;
//! session.write_all(b"hello")?;
//! session.read_exact(&mut [0; 5])?;
//! service.end();
//! # Ok(())
//! # }
//! ```

mod session;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use session::BlockingSession;

use crate::registry::lock;
use crate::{Error, Service};

/// Accepted sessions that may wait for the program; further ones wait in the kernel.
const ACCEPTED: usize = 64;
/// How long [`BlockingService::end`] waits for the last words to the agent.
const END_WITHIN: Duration = Duration::from_secs(2);
/// Pause after accepting failed, which it does when descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// This service's instance.
pub struct BlockingService {
    service: Arc<Service>,
    handle: Handle,
    end: CancellationToken,
    requested: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

/// A listening socket of this service; several threads may accept.
pub struct BlockingSocket {
    accepted: Mutex<mpsc::Receiver<(io::Result<BlockingSession>, tokio::sync::OwnedSemaphorePermit)>>,
    /// How many there are.
    count: Arc<EventFd>,
}

impl BlockingService {
    /// Reads the configuration, listens at every socket, and connects to the agent. Call it once.
    ///
    /// # Errors
    /// The configuration is wrong, a socket's port is taken, or there can be no further thread.
    pub fn start() -> Result<Self, Error> {
        let (sender, receiver) = mpsc::channel();
        let requested = Arc::new(
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(io::Error::from)?,
        );
        let (end, asked) = (CancellationToken::new(), requested.clone());
        let ends = end.clone();
        let work = move || {
            let begun = begin();
            let (runtime, service) = match begun {
                Ok(begun) => begun,
                Err(error) => {
                    let _ = sender.send(Err(error));
                    return;
                }
            };
            let service = Arc::new(service);
            let _ = sender.send(Ok((service.clone(), runtime.handle().clone())));
            drop(sender);
            runtime.block_on(async move {
                let shutdown = async {
                    service.shutdown_requested().await;
                    service.ask_all_to_close();
                    let _ = asked.write(1);
                    std::future::pending::<()>().await
                };
                tokio::select! {
                    () = ends.cancelled() => {}
                    () = shutdown => {}
                }
                service.tell_ended().await;
            });
            runtime.shutdown_background();
        };
        // A thread has its maker's mask: signals stay with the program's own threads.
        let before = SigSet::all()
            .thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)
            .map_err(io::Error::from)?;
        let thread = std::thread::Builder::new().name("patchbay".into()).spawn(work);
        let _ = before.thread_set_mask();
        let thread = Some(thread?);
        let (service, handle) =
            receiver.recv().map_err(|_| io::Error::other("the thread for the agent has ended"))??;
        Ok(Self { service, handle, end, requested, thread })
    }

    /// A new session with whatever instance the Manager chooses, within this time; without one as long as
    /// [`crate::Plug::connect`] may take.
    ///
    /// # Errors
    /// As [`crate::Plug::connect`], or the time is over.
    pub fn connect(&self, plug: &str, timeout: Option<Duration>) -> Result<BlockingSession, Error> {
        let plug = self.service.plug(plug)?;
        let (sender, receiver) = mpsc::channel();
        let task = self.handle.spawn(async move {
            let session = plug.connect().await;
            let _ = sender.send(session.and_then(|session| Ok(BlockingSession::new(session)?)));
        });
        let ended = |_| Error::Io(io::Error::other("the service has ended"));
        let Some(timeout) = timeout else { return receiver.recv().map_err(ended)? };
        receiver.recv_timeout(timeout).unwrap_or_else(|error| {
            task.abort();
            Err(match error {
                mpsc::RecvTimeoutError::Timeout => io::Error::from(io::ErrorKind::TimedOut).into(),
                mpsc::RecvTimeoutError::Disconnected => ended(mpsc::RecvError),
            })
        })
    }

    /// A socket of this service.
    ///
    /// # Errors
    /// The graph gives the service no such socket, or, alone, its address can't be used.
    pub fn socket(&self, name: &str) -> Result<BlockingSocket, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_SEMAPHORE;
        let count = Arc::new(EventFd::from_flags(flags).map_err(io::Error::from)?);
        let (sender, receiver) = mpsc::channel();
        let places = Arc::new(Semaphore::new(ACCEPTED));
        // In the runtime, where a socket of a service that runs alone begins to listen.
        let _inside = self.handle.enter();
        let (socket, counted) = (self.service.socket(name)?, count.clone());
        self.handle.spawn(async move {
            while let Ok(place) = places.clone().acquire_owned().await {
                let session = socket.accept().await.and_then(BlockingSession::new);
                let failed = session.is_err();
                if sender.send((session, place)).is_err() {
                    return;
                }
                let _ = counted.write(1);
                if failed {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        });
        Ok(BlockingSocket { accepted: Mutex::new(receiver), count })
    }

    /// Whether the instance is asked to end: finish what is at hand, then call [`Self::end`].
    pub fn is_shutdown_requested(&self) -> bool {
        self.service.is_shutdown_requested()
    }

    /// Readable once the instance is asked to end.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.requested.as_fd()
    }

    /// Says whether this instance has as much work as it can do; the Manager then prefers others.
    pub fn set_overloaded(&self, overloaded: bool) {
        self.service.set_overloaded(overloaded);
    }

    /// Tells the agent that the instance ends. To be called after the last session was dropped.
    pub fn end(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        self.end.cancel();
        let until = Instant::now() + END_WITHIN;
        if let Some(thread) = self.thread.take() {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

impl Drop for BlockingService {
    fn drop(&mut self) {
        self.finish();
    }
}

fn begin() -> Result<(tokio::runtime::Runtime, Service), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let service = runtime.block_on(Service::start())?;
    Ok((runtime, service))
}

impl BlockingSocket {
    /// The next session; without a time it waits for ever.
    ///
    /// # Errors
    /// None came in time ([`io::ErrorKind::TimedOut`], with no time at all [`io::ErrorKind::WouldBlock`]), the connection failed
    /// before it was accepted, or the process has no descriptors left.
    pub fn accept(&self, timeout: Option<Duration>) -> io::Result<BlockingSession> {
        let until = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Ok((session, _place)) = lock(&self.accepted).try_recv() {
                let _ = self.count.read();
                return session;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match (timeout, left) {
                (Some(Duration::ZERO), _) => return Err(io::ErrorKind::WouldBlock.into()),
                (_, Some(Duration::ZERO)) => return Err(io::ErrorKind::TimedOut.into()),
                _ => {}
            }
            // A bit more, so that the time is over when it wakes.
            let left = left.map(|left| left + Duration::from_millis(1));
            let left = left
                .map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            match poll(&mut [PollFd::new(self.count.as_fd(), PollFlags::POLLIN)], left) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Readable when a session waits to be accepted.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.count.as_fd()
    }
}
