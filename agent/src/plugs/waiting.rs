//! Connections that reached a plug's own address: the kernel had nowhere to lead them. Each waits for the core's
//! word, and is then joined with its destination, or reset.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use patchbay_agent_core::{Event, MAX_WAITING, Waiting};
use ssmmp::{InstanceId, Name};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use super::carrier::{Carrier, Joined};
use super::is_below;
use crate::socket_table;

/// How long a connection may wait for its destination; then it is reset.
pub const WAIT_WITHIN: Duration = Duration::from_secs(120);
/// How long a destination may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Between a destination that does not answer and the next one, doubled each time.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Words of the core for one connection that may wait: it says one, and the next when that one has failed.
const VERDICTS: usize = 4;
/// Pause after the listener failed, which it does when descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What becomes of a waiting connection.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is joined with this destination, after so many others.
    Join(SocketAddr, u8),
    /// It is reset, for a reason.
    Refuse(String),
}

/// Where connections wait.
#[derive(Clone)]
pub(super) struct Desk {
    waiting: Arc<Mutex<HashMap<Waiting, mpsc::Sender<Verdict>>>>,
    next: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    events: mpsc::Sender<Event>,
    carrier: Carrier,
}

/// Whose connections a listener gets.
struct Owner {
    id: InstanceId,
    plug: Name,
    cgroup: u64,
    folder: PathBuf,
}

impl Desk {
    pub(super) fn new(events: mpsc::Sender<Event>, carrier: Carrier) -> Self {
        Self { waiting: Arc::default(), next: Arc::default(), refused: Arc::default(), events, carrier }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Waiting, mpsc::Sender<Verdict>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The core's word for a connection; one that has ended hears nothing.
    pub(super) fn tell(&self, waiting: Waiting, verdict: Verdict) {
        if let Some(sender) = self.waiting().get(&waiting) {
            let _ = sender.try_send(verdict);
        }
    }

    /// Accepts the connections of a plug of an instance, whose cgroup is in a folder.
    pub(super) fn accept(
        &self,
        id: InstanceId,
        plug: Name,
        listener: BorrowedFd<'_>,
        cgroup: u64,
        folder: PathBuf,
    ) -> io::Result<AbortHandle> {
        let listener = TcpListener::from_std(listener.try_clone_to_owned()?.into())?;
        let (desk, owner) = (self.clone(), Arc::new(Owner { id, plug, cgroup, folder }));
        Ok(tokio::spawn(desk.accept_all(listener, owner)).abort_handle())
    }

    async fn accept_all(self, listener: TcpListener, owner: Arc<Owner>) {
        let places = Arc::new(Semaphore::new(MAX_WAITING));
        loop {
            // Who finds no place waits in the kernel's queue, and takes no descriptor.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok((stream, peer)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            if let Err(why) = owner.check(&stream, peer) {
                self.refuse(&owner, stream, &why);
                continue;
            }
            let waiting = Waiting(self.next.fetch_add(1, Ordering::Relaxed));
            let (sender, verdicts) = mpsc::channel(VERDICTS);
            self.waiting().insert(waiting, sender);
            let (desk, owner) = (self.clone(), owner.clone());
            tokio::spawn(async move {
                let waits = Event::PlugWaits(owner.id, owner.plug.clone(), waiting);
                let joined = match desk.events.send(waits).await {
                    Ok(()) => desk.wait(&owner, waiting, stream, verdicts).await,
                    Err(_) => None,
                };
                desk.waiting().remove(&waiting);
                drop(place);
                if let Some(joined) = joined {
                    desk.carrier.carry(joined);
                }
            });
        }
    }

    /// Waits until a connection has its destination; `None` when it was reset.
    async fn wait(
        &self,
        owner: &Owner,
        waiting: Waiting,
        stream: TcpStream,
        mut verdicts: mpsc::Receiver<Verdict>,
    ) -> Option<Joined> {
        let deadline = Instant::now() + WAIT_WITHIN;
        loop {
            let verdict = async { (verdicts.recv().await, self.carrier.place().await) };
            let (at, tries, place) = match timeout_at(deadline, verdict).await {
                Ok((Some(Verdict::Join(at, tries)), Ok(place))) => (at, tries, place),
                Ok((Some(Verdict::Refuse(why)), _)) => {
                    self.refuse(owner, stream, &why);
                    return None;
                }
                _ => {
                    let gave_up = Event::PlugGaveUp(owner.id, owner.plug.clone(), waiting);
                    let _ = self.events.send(gave_up).await;
                    self.refuse(owner, stream, "no destination in time");
                    return None;
                }
            };
            let event = match timeout(CONNECT_WITHIN, TcpStream::connect(at)).await {
                Ok(Ok(far)) => match far.local_addr() {
                    Ok(local) => {
                        let _ = self.events.send(Event::PlugJoined(owner.id, local, at)).await;
                        return Some(Joined { instance: owner.id, near: stream, far, at, place });
                    }
                    Err(_) => Event::PlugFailed(owner.id, owner.plug.clone(), waiting, at, tries),
                },
                _ => Event::PlugFailed(owner.id, owner.plug.clone(), waiting, at, tries),
            };
            // Whoever has just ended is known to have, or its successor to be there, a little later.
            tokio::time::sleep(RETRY_PAUSE * (1 << tries.min(8))).await;
            let _ = self.events.send(event).await;
        }
    }

    fn refuse(&self, owner: &Owner, stream: TcpStream, why: &str) {
        let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        // Whoever connects again and again does not fill the log.
        if refused.is_power_of_two() {
            warn!(instance = %owner.id, plug = %owner.plug, refused, "a connection of a plug is reset: {why}");
        }
        reset(stream);
    }
}

impl Owner {
    /// Only the instance itself may use its plug's address.
    fn check(&self, stream: &TcpStream, peer: SocketAddr) -> Result<(), String> {
        let local = stream.local_addr().map_err(|error| error.to_string())?;
        let cgroup = socket_table::cgroup_of(peer, local)
            .map_err(|error| format!("the process behind it is unknown: {error}"))?;
        match is_below(cgroup, self.cgroup, Path::new(&self.folder)) {
            true => Ok(()),
            false => Err(format!("the process behind it is not the instance's (cgroup {cgroup})")),
        }
    }
}

/// Ends a connection so that its peer sees a reset.
pub(super) fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}
