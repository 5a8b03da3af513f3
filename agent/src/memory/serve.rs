//! The socket at which instances ask. A thread of its own serves it: closing a descriptor that a peer passed can take as
//! long as the peer likes.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use patchbay_shared_memory::handing::{FromAgent, FromEnd, Named};
use patchbay_shared_memory::{Observer, Offer, Rings, Side, Unusable};
use ssmmp::{InstanceId, Repeated};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::broker::{Asked, Decision, Ends};
use super::{Shared, peer};
use crate::socket_table;

/// Connections of instances' processes at once; further ones are closed.
pub const MAX_LINKS: usize = 4_096;
/// Of one instance.
pub const MAX_LINKS_OF_ONE: usize = 64;
/// How long an end waits for its other end to ask.
const ASK_WITHIN: Duration = Duration::from_secs(1);
/// Pause after the listener failed, which it does when descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Processes that can't be accepted, and memory that can't be made.
static NOT_ACCEPTED: Repeated = Repeated::new();
static NOT_MADE: Repeated = Repeated::new();

/// One process's connection, as others reach it.
pub struct Link {
    pub instance: InstanceId,
    connection: OwnedFd,
}

impl Link {
    /// Says something. A process that does not read gets nothing more.
    pub fn say(&self, word: FromAgent) -> nix::Result<()> {
        word.send(&self.connection)
    }
}

/// Serves the socket until the agent ends.
pub fn begin(listener: OwnedFd, shared: Arc<Shared>, cgroups: PathBuf) -> io::Result<()> {
    let listener = StdListener::from(listener);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("memory".into()).spawn(move || {
        runtime.block_on(async {
            match UnixListener::from_std(listener) {
                Ok(listener) => accept(listener, shared, cgroups).await,
                Err(error) => warn!("no memory is handed out: {error}"),
            }
        });
    })?;
    Ok(())
}

async fn accept(listener: UnixListener, shared: Arc<Shared>, cgroups: PathBuf) {
    for number in 1.. {
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                if let Some(times) = crate::again(&NOT_ACCEPTED) {
                    warn!(times, "a process can't ask for memory, it is tried again: {error}");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let link = peer::instance(&connection, &cgroups, &shared.directory)
            .and_then(|instance| Ok((instance, connection.as_fd().try_clone_to_owned()?)));
        match link {
            Ok((instance, connection)) if !shared.is_full(instance) => {
                shared.with(|state| state.links.insert(number, Arc::new(Link { instance, connection })));
            }
            Ok((instance, _)) => {
                debug!(%instance, "too many of its processes ask for memory");
                continue;
            }
            Err(why) => {
                if let Some(times) = crate::again(&NOT_ACCEPTED) {
                    warn!(times, "a process that asks for memory is refused: {why}");
                }
                continue;
            }
        }
        let shared = shared.clone();
        tokio::spawn(async move {
            let reason = listen(&connection, number, &shared).await;
            debug!(link = number, "a connection for memory ended: {reason}");
            shared.with(|state| {
                state.links.remove(&number);
                state.broker.link_gone(number);
            });
        });
    }
}

async fn listen(connection: &UnixStream, link: u64, shared: &Arc<Shared>) -> String {
    let would_wait = |error| match error {
        Unusable::Kernel { error, .. } => io::Error::from(error),
        other => io::Error::from(other),
    };
    loop {
        let said = connection
            .async_io(Interest::READABLE, || FromEnd::receive(connection).map_err(would_wait))
            .await;
        match said {
            Ok(Some(FromEnd::Ask(named))) => asked(link, named, shared),
            Ok(Some(FromEnd::Have(named, memory))) => has(link, named, memory.as_fd(), shared),
            Ok(Some(FromEnd::Gone(number))) => shared.with(|state| state.broker.gone(link, number)),
            Ok(None) => return "the process closed it".into(),
            Err(error) => return error.to_string(),
        }
    }
}

/// Who asks; `None` unless the connection's socket on that side was made by the instance that the process belongs to.
fn prove(link: u64, named: &Named, shared: &Shared) -> Result<(Asked, Ends), String> {
    let link_of = |link| shared.with(|state| state.links.get(&link).map(|link| link.instance));
    let instance = link_of(link).ok_or("its connection has ended")?;
    let ends = (named.source, named.destination);
    let (local, remote) = match named.side {
        Side::Source => ends,
        Side::Destination => (ends.1, ends.0),
    };
    let cgroup = socket_table::cgroup_of(local, remote)
        .map_err(|error| format!("the connection is not in the agent's network: {error}"))?;
    match shared.directory.instance(cgroup) {
        Some((owner, _)) if owner == instance => Ok((Asked { link, number: named.number, instance }, ends)),
        _ => Err("the connection is another one's".into()),
    }
}

fn asked(link: u64, named: Named, shared: &Arc<Shared>) {
    let (asked, ends) = match prove(link, &named, shared) {
        Ok(proven) => proven,
        Err(why) => {
            let link = shared.with(|state| state.links.get(&link).cloned());
            // One that does not read hears nothing; its sessions stay on TCP.
            let _ = link.map(|link| link.say(FromAgent::Refused(named.number, why)));
            return;
        }
    };
    match shared.with(|state| state.broker.ask(asked, named.side, ends)) {
        Decision::Wait => {
            let Some(turn) = shared.with(|state| state.broker.turn(&ends)) else { return };
            let shared = shared.clone();
            tokio::spawn(async move {
                sleep(ASK_WITHIN).await;
                if let Some(asked) = shared.with(|state| state.broker.expire(&ends, turn)) {
                    shared.refuse(&[asked], "the other end did not ask within a second");
                }
            });
        }
        Decision::Refuse(who, why) => shared.refuse(&who, &why),
        Decision::Pair(pair) => {
            if let Err(error) = hand_out(pair, ends, shared) {
                shared.with(|state| state.broker.failed(&ends));
                if let Some(times) = crate::again(&NOT_MADE) {
                    warn!(times, "sessions get no memory, they stay on TCP: {error}");
                }
                shared.refuse(&pair, &error.to_string());
            }
        }
    }
}

/// Makes memory for both ends. Where only one can be told, it finds that its peer's signal is closed, and stays on TCP.
fn hand_out(pair: [Asked; 2], ends: Ends, shared: &Shared) -> Result<(), Unusable> {
    let rings = Rings::new(shared.ring_bytes, shared.ring_bytes)
        .ok_or(Unusable::Header("the size of a ring is out of bounds"))?;
    let mut offers = Offer::pair(0, rings)?;
    let observer = Observer::new(offers[0].memory())?;
    for (offer, asked) in offers.iter_mut().zip(pair) {
        offer.session = asked.number;
    }
    shared.with(|state| state.broker.made(&ends, observer));
    for (offer, asked) in offers.into_iter().zip(pair) {
        let link = shared.with(|state| state.links.get(&asked.link).cloned());
        let sent = link.ok_or(nix::Error::EPIPE).and_then(|link| link.say(FromAgent::Offer(offer)));
        sent.map_err(|error| Unusable::Kernel { call: "sendmsg", error })?;
    }
    Ok(())
}

/// A process shows the memory that an earlier agent handed out.
fn has(link: u64, named: Named, memory: BorrowedFd<'_>, shared: &Shared) {
    let Ok((asked, ends)) = prove(link, &named, shared) else { return };
    let observe = || {
        let observer = Observer::new(memory).ok()?;
        let bytes = observer.rings().total();
        Some((observer, bytes))
    };
    shared.with(|state| state.broker.have(asked, named.side, ends, observe));
}
