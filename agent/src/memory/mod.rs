//! Shared memory for sessions whose ends are both services with an SDK: handed out at a Unix socket that every instance
//! finds in `PATCHBAY_MEMORY` (docs/shared-memory.md).

mod broker;
mod peer;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use patchbay_agent_core::Declare;
use patchbay_agent_core::session_report::SessionReport;
use patchbay_ebpf_common::Reason;
use patchbay_shared_memory::handing::{FromAgent, listen_at};
use ssmmp::extension::{Switch, Switched};
use ssmmp::{InstanceId, Name};
use tracing::info;

pub use broker::Bounds;
use broker::{Asked, Broker, Ends};
use serve::Link;

use crate::instance_listener::Directory;

/// Memory of a node unless set otherwise, in bytes, counted as the sizes of rings: some 2,000 sessions.
pub const NODE_BYTES: usize = 1 << 30;
/// Memory of one application unless set otherwise, in bytes.
pub const APP_BYTES: usize = 512 << 20;
/// The longest path of a Unix socket, in bytes.
const MAX_PATH: usize = 107;

/// How memory is handed out.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How much.
    pub bounds: Bounds,
    /// The size of each of a session's two rings, in bytes.
    pub ring_bytes: usize,
}

/// What hands memory out; nothing, where that is switched off or not possible.
#[derive(Clone, Default)]
pub struct Memory(Option<Arc<Shared>>);

/// What the agent and the thread that serves the socket have together.
struct Shared {
    directory: Directory,
    ring_bytes: usize,
    state: Mutex<State>,
}

struct State {
    broker: Broker,
    links: HashMap<u64, Arc<Link>>,
}

impl Memory {
    /// Listens in a folder. Returns also where, for the instances' environment.
    ///
    /// # Errors
    /// Why no memory is handed out here.
    pub fn begin(
        folder: &Path,
        cgroups: PathBuf,
        directory: Directory,
        options: Options,
    ) -> io::Result<(Self, PathBuf)> {
        let path = folder.join("memory");
        if path.as_os_str().len() > MAX_PATH {
            let why = format!("the path {} is longer than a socket's may be", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        // Tried once now, so that a machine that can't is known from the start.
        let rings = patchbay_shared_memory::Rings::default();
        patchbay_shared_memory::Offer::pair(0, rings)
            .and_then(|[offer, _]| patchbay_shared_memory::Observer::new(offer.memory()))?;
        // An earlier agent's; whoever connects to it now is told by nobody.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = listen_at(&path)?;
        let state = State { broker: Broker::new(options.bounds, options.ring_bytes), links: HashMap::new() };
        let shared = Arc::new(Shared { directory, ring_bytes: options.ring_bytes, state: Mutex::new(state) });
        serve::begin(listener, shared.clone(), cgroups)?;
        Ok((Self(Some(shared)), path))
    }

    /// An instance and its application.
    pub fn add(&self, id: InstanceId, app: Option<&Name>) {
        if let Some(shared) = &self.0 {
            shared.with(|state| state.broker.add(id, app.cloned()));
        }
    }

    /// An instance is gone.
    pub fn remove(&self, id: InstanceId) {
        if let Some(shared) = &self.0 {
            shared.with(|state| state.broker.remove(id));
        }
    }

    /// A session may come to be.
    pub fn declare(&self, declare: &Declare) {
        let Some(shared) = &self.0 else { return };
        let refused = match declare.redirect {
            Err(reason @ (Reason::Never | Reason::OtherNode)) => Some(reason.text()),
            _ if !declare.memory => Some("no memory by graph"),
            _ => None,
        };
        let Declare { source, at, destination, .. } = *declare;
        shared.move_to_tcp(|broker| broker.declare(source, at, destination, refused));
    }

    /// Switches as a person wants it: sessions with memory move to TCP, and new ones get none until it is on again.
    pub fn switch(&self, switch: &Switch) {
        let Some(shared) = &self.0 else { return };
        match &switch.which {
            Switched::Node => self.switch_all(switch.on),
            // They stay on TCP once they were moved there.
            Switched::Sessions(sessions) if !switch.on => shared.move_to_tcp(|broker| {
                sessions.iter().flat_map(|session| broker.ends_of(session.source, session.port.0)).collect()
            }),
            Switched::Sessions(_) => {}
        }
    }

    /// Switches for the whole node.
    pub fn switch_all(&self, on: bool) {
        let Some(shared) = &self.0 else { return };
        let (sessions, bytes) = shared.with(|state| state.broker.used());
        info!(on, sessions, bytes, "memory of sessions switched");
        shared.move_to_tcp(|broker| broker.pause((!on).then_some("switched off")));
    }

    /// Adds what went through memory to what else is known of sessions.
    pub fn count<'a>(&self, sessions: impl Iterator<Item = &'a mut SessionReport>) {
        let Some(shared) = &self.0 else { return };
        let now = crate::monotonic_time().unwrap_or_default();
        shared.with(|state| {
            for session in sessions {
                state.broker.count(session, now);
            }
        });
    }

    /// A session has ended.
    pub fn closed(&self, ends: Ends) {
        if let Some(shared) = &self.0 {
            shared.with(|state| state.broker.release(&ends));
        }
    }
}

impl Shared {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether an instance, or the node, has as many connections as it may.
    fn is_full(&self, id: InstanceId) -> bool {
        self.with(|state| {
            let of_one = state.links.values().filter(|link| link.instance == id).count();
            state.links.len() >= serve::MAX_LINKS || of_one >= serve::MAX_LINKS_OF_ONE
        })
    }

    fn link(&self, asked: &Asked) -> Option<Arc<Link>> {
        self.with(|state| state.links.get(&asked.link).cloned())
    }

    fn refuse(&self, who: &[Asked], why: &str) {
        for asked in who {
            // One that does not read hears nothing; its sessions stay on TCP.
            let _ = self.link(asked).map(|link| link.say(FromAgent::Refused(asked.number, why.to_owned())));
        }
    }

    /// Tells those that the broker names.
    fn move_to_tcp(&self, who: impl FnOnce(&mut Broker) -> Vec<Asked>) {
        for asked in self.with(|state| who(&mut state.broker)) {
            // One that does not read does not move either; its peer asks it to.
            let _ = self.link(&asked).map(|link| link.say(FromAgent::MoveToTcp(asked.number)));
        }
    }
}
