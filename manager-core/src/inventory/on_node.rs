//! What lives on one node, and which ports it takes.

use std::collections::{BTreeMap, BTreeSet};

use ssmmp::{InstanceId, Name, Port, SOCKET_PORTS};

use crate::state::instance::{Instance, InstanceState};

/// Starts under way on one node at once; minimums beyond wait until some of these are answered, so that the
/// time a start may take is not spent waiting for others.
pub const MAX_STARTS: usize = 32;
/// Ports in [`SOCKET_PORTS`].
const RANGE: usize = (*SOCKET_PORTS.end() - *SOCKET_PORTS.start()) as usize + 1;
const WORDS: usize = RANGE.div_ceil(64);

/// A node's living instances.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OnNode {
    /// They live.
    pub alive: BTreeSet<InstanceId>,
    /// How many of them are being started.
    pub starting: usize,
    /// How many of them run.
    pub running: usize,
    /// Taken ports of [`SOCKET_PORTS`], a bit each.
    range: Vec<u64>,
    /// Taken ports outside of it: gateways'.
    fixed: BTreeSet<u16>,
    /// What may run here though it counts as over; [`MAX_STRANGERS`](super::MAX_STRANGERS) at most.
    pub(super) strangers: BTreeMap<InstanceId, Stranger>,
}

/// An instance that may run though it counts as over: its ports are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// The entry of the agent's repository that it was executed from.
    pub program: Name,
    /// Its ports.
    pub ports: Vec<Port>,
    /// How often its agent was asked to end it.
    pub asked: u32,
}

impl OnNode {
    pub(super) fn index(
        &mut self,
        instance: &Instance,
        was: Option<InstanceState>,
        is: Option<InstanceState>,
    ) {
        let one = |state: Option<InstanceState>, wanted| usize::from(state == Some(wanted));
        self.starting = self.starting + one(is, InstanceState::Starting) - one(was, InstanceState::Starting);
        self.running = self.running + one(is, InstanceState::Running) - one(was, InstanceState::Running);
        let lives = |state: Option<InstanceState>| state.is_some_and(InstanceState::is_alive);
        match (lives(was), lives(is)) {
            (false, true) => self.add(instance),
            (true, false) => self.remove(instance),
            _ => {}
        }
    }

    fn add(&mut self, instance: &Instance) {
        self.alive.insert(instance.id);
        for (_, port) in &instance.sockets {
            self.set(*port, true);
        }
    }

    fn remove(&mut self, instance: &Instance) {
        self.alive.remove(&instance.id);
        for (_, port) in &instance.sockets {
            self.set(*port, false);
        }
    }

    /// Whether a living instance has a port, or one that may not be gone yet.
    pub fn is_taken(&self, port: Port) -> bool {
        self.is_held(port)
            || match place(port) {
                Some((word, bit)) => self.range.get(word).is_some_and(|bits| bits & bit != 0),
                None => self.fixed.contains(&port.0),
            }
    }

    fn is_held(&self, port: Port) -> bool {
        self.strangers.values().any(|stranger| stranger.ports.contains(&port))
    }

    /// The free ports of [`SOCKET_PORTS`], lowest first.
    pub fn free_ports(&self) -> impl Iterator<Item = Port> {
        (0..WORDS)
            .flat_map(|word| {
                let mut free = !self.range.get(word).copied().unwrap_or(0);
                std::iter::from_fn(move || {
                    let bit = (free != 0).then(|| free.trailing_zeros() as usize)?;
                    free &= free - 1;
                    Some(word * 64 + bit)
                })
            })
            .take_while(|offset| *offset < RANGE)
            .map(|offset| Port(SOCKET_PORTS.start() + offset as u16))
            .filter(|port| !self.is_held(*port))
    }

    fn set(&mut self, port: Port, taken: bool) {
        match place(port) {
            Some((word, bit)) => {
                self.range.resize(WORDS, 0);
                match taken {
                    true => self.range[word] |= bit,
                    false => self.range[word] &= !bit,
                }
            }
            None if taken => drop(self.fixed.insert(port.0)),
            None => drop(self.fixed.remove(&port.0)),
        }
    }
}

fn place(port: Port) -> Option<(usize, u64)> {
    let offset = usize::from(port.0.checked_sub(*SOCKET_PORTS.start())?);
    (offset < RANGE).then_some((offset / 64, 1 << (offset % 64)))
}
