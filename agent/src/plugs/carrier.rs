//! Connections that the agent carries: two joined ends each, whose bytes go from one to the other inside the kernel
//! (`splice`), never through this process's memory. They have a thread of their own: bulk does not keep the agent
//! from its messages.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{OFlag, SpliceFFlags, splice};
use nix::sys::socket::Shutdown;
use nix::unistd::pipe2;
use patchbay_agent_core::Event;
use patchbay_ebpf_common::Reason;
use ssmmp::{InstanceId, Repeated, Status};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::{debug, warn};

use super::waiting::reset;
use crate::boot_time;
use crate::datapath::{Path, SessionReport};

/// Connections for whose thread there was no room.
static NO_THREAD: Repeated = Repeated::new();
/// Connections that are carried at once; further ones wait until one has ended. Each takes six
/// descriptors.
pub const MAX_CARRIED: usize = 1_024;
/// Bytes on their way in each direction of a connection: a pipe's size.
const PIPE_BYTES: usize = 64 << 10;

/// A connection and its continuation.
pub(super) struct Joined {
    /// The source.
    pub(super) instance: InstanceId,
    /// To the program.
    pub(super) near: TcpStream,
    /// To the destination.
    pub(super) far: TcpStream,
    /// Where the destination listens.
    pub(super) at: SocketAddr,
    /// Its place among those that are carried.
    pub(super) place: OwnedSemaphorePermit,
}

/// Carries what it is given.
#[derive(Clone)]
pub(super) struct Carrier {
    places: Arc<Semaphore>,
    carried: Arc<Mutex<Carried>>,
    events: mpsc::Sender<Event>,
}

#[derive(Default)]
struct Carried {
    live: HashMap<SocketAddr, Counted>,
    /// To the thread, once there is one; it holds no more than [`MAX_CARRIED`].
    thread: Option<mpsc::UnboundedSender<(SocketAddr, Joined)>>,
}

/// What a connection has carried so far, from the program and to it.
#[derive(Clone)]
struct Counted {
    bytes: Arc<[AtomicU64; 2]>,
    begun: SessionReport,
}

impl Counted {
    fn report(&self) -> SessionReport {
        let mut report = self.begun.clone();
        report.sent.tcp_bytes = self.bytes[0].load(Ordering::Relaxed);
        report.received.tcp_bytes = self.bytes[1].load(Ordering::Relaxed);
        report
    }
}

impl Carrier {
    pub(super) fn new(events: mpsc::Sender<Event>) -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_CARRIED)), carried: Arc::default(), events }
    }

    /// A place for one more connection, as soon as there is one.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.places.clone().acquire_owned().await
    }

    fn carried(&self) -> MutexGuard<'_, Carried> {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sessions(&self) -> Vec<SessionReport> {
        self.carried().live.values().map(Counted::report).collect()
    }

    /// Carries a connection until it ends.
    pub(super) fn carry(&self, joined: Joined) {
        let Ok(source) = joined.far.local_addr() else { return };
        let mut begun = SessionReport::between(joined.instance.0, InstanceId::UNKNOWN.0, joined.at);
        begun.source = source;
        begun.path = Path::Tcp(Reason::ThroughAgent);
        begun.established = boot_time().unwrap_or_default();
        let mut carried = self.carried();
        carried.live.insert(source, Counted { bytes: Arc::default(), begun });
        if carried.thread.is_none() {
            let (sender, receiver) = mpsc::unbounded_channel();
            let carrier = self.clone();
            let spawned =
                std::thread::Builder::new().name("plugs".into()).spawn(move || carrier.run(receiver));
            match spawned {
                Ok(_) => carried.thread = Some(sender),
                Err(error) => {
                    if let Some(times) = crate::again(&NO_THREAD) {
                        warn!(times, "a connection is reset: no thread can be started: {error}");
                    }
                }
            }
        }
        // Without a thread both ends are closed by being dropped.
        let unsent = match &carried.thread {
            Some(thread) => thread.send((source, joined)).is_err(),
            None => true,
        };
        if unsent {
            carried.live.remove(&source);
        }
    }

    fn run(self, mut joined: mpsc::UnboundedReceiver<(SocketAddr, Joined)>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async move {
            while let Some((source, joined)) = joined.recv().await {
                tokio::spawn(self.clone().carry_one(source, joined));
            }
        });
    }

    async fn carry_one(self, source: SocketAddr, joined: Joined) {
        let counted = self.carried().live.get(&source).cloned();
        let Some(counted) = counted else { return };
        let Joined { instance, near, far, place, .. } = joined;
        let ended = match (here(near), here(far)) {
            (Ok(near), Ok(far)) => both_ways(near, far, &counted.bytes).await,
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        if let Err(error) = &ended {
            debug!(%instance, %source, "a carried connection broke: {error}");
        }
        let status = if ended.is_ok() { Status::CLOSED } else { Status::BROKEN };
        self.carried().live.remove(&source);
        let _ = self.events.send(Event::PlugLeft(counted.report(), status)).await;
        drop(place);
    }
}

/// The connection in this thread's runtime.
fn here(stream: TcpStream) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(stream.into_std()?)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Carries both directions until both have ended; a broken end breaks the other.
async fn both_ways(near: TcpStream, far: TcpStream, bytes: &[AtomicU64; 2]) -> io::Result<()> {
    let result = tokio::try_join!(one_way(&near, &far, &bytes[0]), one_way(&far, &near, &bytes[1]));
    if result.is_err() {
        reset(near);
        reset(far);
    }
    result.map(drop)
}

/// Carries one direction to its end.
async fn one_way(from: &TcpStream, to: &TcpStream, bytes: &AtomicU64) -> io::Result<()> {
    let (out, into) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    loop {
        let mut waiting = from.async_io(Interest::READABLE, || splice_some(from, &into, PIPE_BYTES)).await?;
        if waiting == 0 {
            nix::sys::socket::shutdown(to.as_raw_fd(), Shutdown::Write)?;
            return Ok(());
        }
        while waiting > 0 {
            let moved = to.async_io(Interest::WRITABLE, || splice_some(&out, to, waiting)).await?;
            waiting -= moved;
            bytes.fetch_add(moved as u64, Ordering::Relaxed);
        }
    }
}

fn splice_some(from: &impl AsFd, to: &impl AsFd, bytes: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    Ok(splice(from, None, to, None, bytes, flags)?)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let connecting = TcpStream::connect(listener.local_addr().expect("bound"));
        let (connected, accepted) = tokio::join!(connecting, listener.accept());
        (connected.expect("connected"), accepted.expect("accepted").0)
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    #[tokio::test]
    async fn every_byte_arrives_in_order_and_each_end_is_passed_on() {
        let ((mut program, near), (far, mut destination)) = (pair().await, pair().await);
        let bytes: Arc<[AtomicU64; 2]> = Arc::default();
        let counted = bytes.clone();
        let carried = tokio::spawn(async move { both_ways(near, far, &counted).await });
        let (sent, answer) = (pattern(3_000_000), pattern(777_777));
        let (question, back) = (sent.clone(), answer.clone());
        let serving = tokio::spawn(async move {
            let mut got = Vec::new();
            destination.read_to_end(&mut got).await.expect("read");
            assert_eq!(got, question);
            // The other direction goes on after the program has ended its own.
            destination.write_all(&back).await.expect("written");
        });
        program.write_all(&sent).await.expect("written");
        program.shutdown().await.expect("ended");
        let mut got = Vec::new();
        program.read_to_end(&mut got).await.expect("read");
        assert_eq!(got, answer);
        serving.await.expect("served");
        carried.await.expect("no panic").expect("not broken");
        assert_eq!(bytes.each_ref().map(|b| b.load(Ordering::Relaxed)), [3_000_000, 777_777]);
    }

    #[tokio::test]
    async fn a_reset_is_passed_on() {
        let ((mut program, near), (far, destination)) = (pair().await, pair().await);
        let carried = tokio::spawn(async move { both_ways(near, far, &Default::default()).await });
        reset(destination);
        assert!(program.read(&mut [0]).await.is_err(), "a reset, no end");
        assert!(carried.await.expect("no panic").is_err());
    }
}
