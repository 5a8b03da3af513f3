//! Shared memory for sessions: asked for at the agent, taken when it comes.
//!
//! The agent names its socket in `PATCHBAY_MEMORY`. Each session asks once, goes on over TCP meanwhile, and is served
//! over TCP if nothing comes (docs/shared-memory.md).

mod carrier;
mod slot;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use patchbay_shared_memory::handing::{FromAgent, FromEnd, Named, connect_to, send_have};
use patchbay_shared_memory::{DEFAULT_SPIN, Unusable};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, warn};

pub use carrier::{Carrier, Claim, READER, WRITER};
use slot::Slot;
pub use slot::Use;

use crate::registry::lock;

/// Where the agent hands memory out.
const SOCKET: &str = "PATCHBAY_MEMORY";
/// How long an end waits without sleeping at most, in microseconds.
const SPIN: &str = "PATCHBAY_SPIN";
/// Words to the agent that may wait; sessions whose asks find no room stay on TCP.
const QUEUE: usize = 4_096;
/// First pause before the agent is tried again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A session that has carried nothing for so long gives pages back.
const IDLE: Duration = Duration::from_secs(10);

/// The way to the agent that hands memory out.
pub struct Memory {
    path: PathBuf,
    spin: Duration,
    slots: Mutex<HashMap<u64, Arc<Slot>>>,
    words: mpsc::Sender<Word>,
}

/// What is to be said to the agent.
enum Word {
    Ask(u64),
    Gone(u64),
}

impl Memory {
    /// As the environment says; `None` where the agent hands no memory out. Call it in a tokio runtime.
    pub fn start() -> Option<Arc<Self>> {
        let path = PathBuf::from(std::env::var_os(SOCKET)?);
        let spin = match std::env::var(SPIN).map(|text| text.parse()) {
            Ok(Ok(microseconds)) => Duration::from_micros(microseconds),
            Ok(Err(_)) => {
                warn!("{SPIN} is no number of microseconds; it is ignored");
                DEFAULT_SPIN
            }
            Err(_) => DEFAULT_SPIN,
        };
        let (words, said) = mpsc::channel(QUEUE);
        let this = Arc::new(Self { path, spin, slots: Mutex::default(), words });
        tokio::spawn(run(this.clone(), said));
        Some(this)
    }

    /// Asks for memory for a session.
    fn ask(&self, named: Named, in_use: Use) -> Arc<Slot> {
        let slot = Arc::new(Slot::new(named, self.spin, in_use));
        lock(&self.slots).insert(named.number, slot.clone());
        // Where it finds no room the session stays on TCP, unless the agent's connection is made anew.
        let _ = self.words.try_send(Word::Ask(named.number));
        slot
    }

    /// A session has ended.
    fn forget(&self, number: u64) {
        let slot = lock(&self.slots).remove(&number);
        if slot.is_some_and(|slot| !slot.is_refused()) {
            // The kernel tells the agent, too.
            let _ = self.words.try_send(Word::Gone(number));
        }
    }

    fn slot(&self, number: u64) -> Option<Arc<Slot>> {
        lock(&self.slots).get(&number).cloned()
    }

    fn all(&self) -> Vec<Arc<Slot>> {
        lock(&self.slots).values().cloned().collect()
    }
}

/// Keeps the connection to the agent; sessions go on while it is away.
async fn run(memory: Arc<Memory>, mut said: mpsc::Receiver<Word>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let connected = connect_to(&memory.path)
            .map_err(io::Error::from)
            .and_then(|connection| UnixStream::from_std(StdUnixStream::from(connection)));
        match connected {
            Ok(connection) => {
                let reason = talk(&memory, connection, &mut said, &mut pause).await;
                debug!("the agent's connection for memory ended: {reason}; sessions go on");
            }
            Err(error) => debug!(path = %memory.path.display(), "no memory from the agent: {error}"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn talk(
    memory: &Arc<Memory>,
    connection: UnixStream,
    said: &mut mpsc::Receiver<Word>,
    pause: &mut Duration,
) -> String {
    // All that was said before is in the slots.
    while said.try_recv().is_ok() {}
    for slot in memory.all() {
        let told = tell(&connection, || match slot.memory() {
            Some(memory) => send_have(&connection, &slot.named, memory),
            None if slot.is_waiting() => FromEnd::Ask(slot.named).send(&connection),
            None => Ok(()),
        });
        if let Err(error) = told.await {
            return error.to_string();
        }
    }
    let mut idle = interval(IDLE / 2);
    idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            word = said.recv() => {
                let word = match word {
                    Some(Word::Ask(number)) => memory.slot(number).map(|slot| FromEnd::Ask(slot.named)),
                    Some(Word::Gone(number)) => Some(FromEnd::Gone(number)),
                    None => return "the service ends".into(),
                };
                let Some(word) = word else { continue };
                if let Err(error) = tell(&connection, || word.send(&connection)).await {
                    return error.to_string();
                }
            }
            heard = hear(&connection) => match heard {
                Ok(Some(word)) => {
                    *pause = FIRST_PAUSE;
                    take(memory, word);
                }
                Ok(None) => return "it closed it".into(),
                Err(error) => return error.to_string(),
            },
            _ = idle.tick() => {
                for slot in memory.all() {
                    slot.give_back_after(IDLE);
                }
            }
        }
    }
}

/// Says something as soon as there is room.
async fn tell(connection: &UnixStream, mut say: impl FnMut() -> nix::Result<()>) -> io::Result<()> {
    connection.async_io(Interest::WRITABLE, || say().map_err(io::Error::from)).await
}

async fn hear(connection: &UnixStream) -> io::Result<Option<FromAgent>> {
    let would_wait = |error| match error {
        Unusable::Kernel { error, .. } => io::Error::from(error),
        other => io::Error::from(other),
    };
    connection.async_io(Interest::READABLE, || FromAgent::receive(connection).map_err(would_wait)).await
}

fn take(memory: &Memory, word: FromAgent) {
    match word {
        FromAgent::Offer(offer) => {
            // One for a session that has ended is closed, by which its peer hears of it.
            if let Some(slot) = memory.slot(offer.session) {
                slot.offered(offer);
            }
        }
        FromAgent::Refused(number, reason) => {
            if let Some(slot) = memory.slot(number) {
                debug!(source = %slot.named.source, destination = %slot.named.destination, "no memory: {reason}");
                slot.refused();
            }
        }
        FromAgent::MoveToTcp(number) => {
            if let Some(slot) = memory.slot(number) {
                slot.move_to_tcp();
            }
        }
    }
}

/// A descriptor of a session's memory, to show it to the agent's successor.
pub fn keep(offer: &patchbay_shared_memory::Offer) -> Option<OwnedFd> {
    use std::os::fd::AsFd as _;
    offer.memory().as_fd().try_clone_to_owned().ok()
}
