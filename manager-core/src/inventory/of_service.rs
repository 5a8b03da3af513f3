//! The living instances of one service of an application.

use std::collections::{BTreeMap, BTreeSet};

use ssmmp::{Address, InstanceId};

use super::offer::Offer;
use super::standing::Standing;
use crate::policy::choice::Field;
use crate::state::instance::{Instance, InstanceState};

/// A service's living instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfService {
    /// They live.
    pub alive: BTreeSet<InstanceId>,
    /// How many of them are being started.
    pub starting: usize,
    /// How many of them run.
    pub running: usize,
    /// Sessions to the sockets of those that run.
    pub accepted: u64,
    /// The latest that was ever started.
    pub newest: InstanceId,
    /// How many start or run on each node.
    replicas_on: BTreeMap<Address, u32>,
    /// Living ones, each with one that starts or runs and is to replace it.
    replacements: BTreeSet<(InstanceId, InstanceId)>,
    /// Those that run, by their sockets: of one kind, but while the graph has changed.
    offers: Vec<Offer>,
}

impl Default for OfService {
    fn default() -> Self {
        Self {
            alive: BTreeSet::new(),
            starting: 0,
            running: 0,
            accepted: 0,
            newest: InstanceId::UNKNOWN,
            replicas_on: BTreeMap::new(),
            replacements: BTreeSet::new(),
            offers: Vec::new(),
        }
    }
}

impl OfService {
    /// How many start or run on a node.
    pub fn replicas_on(&self, node: Address) -> u32 {
        self.replicas_on.get(&node).copied().unwrap_or(0)
    }

    /// Whether all that live run.
    pub fn all_run(&self) -> bool {
        self.running == self.alive.len()
    }

    /// Living ones that are to be replaced, each with one that starts or runs to replace it: few.
    pub fn replacements(&self) -> impl Iterator<Item = (InstanceId, InstanceId)> {
        self.replacements.iter().copied()
    }

    /// Whether one that runs has a socket.
    pub fn offers(&self, socket: &str) -> bool {
        self.offering(socket).next().is_some()
    }

    /// What a choice among those that run and have a socket looks at, for an asker on a node.
    pub fn fields(&self, socket: &str, near: Address) -> Vec<Field<'_>> {
        let fit = self.offering(socket).any(Offer::has_fit);
        self.offering(socket).map(|offer| offer.field(near, fit)).collect()
    }

    fn offering(&self, socket: &str) -> impl Iterator<Item = &Offer> {
        self.offers.iter().filter(move |offer| offer.sockets.iter().any(|name| name.as_str() == socket))
    }

    pub(super) fn index(&mut self, instance: &Instance, before: Option<Standing>, after: Option<Standing>) {
        self.rank(instance, before, after);
        let of = |standing: Option<Standing>| standing.map(|standing| standing.state);
        let (was, is) = (of(before), of(after));
        if was != is {
            self.count(instance, was, is);
        }
    }

    fn rank(&mut self, instance: &Instance, before: Option<Standing>, after: Option<Standing>) {
        let runs =
            |standing: Option<Standing>| standing.filter(|standing| standing.state == InstanceState::Running);
        let (before, after) = (runs(before), runs(after));
        let accepted = |standing: Option<Standing>| standing.map_or(0, |s| u64::from(s.accepted));
        self.accepted = self.accepted + accepted(after) - accepted(before);
        let rank = |standing: Standing| (standing.overloaded, (standing.sessions, instance.id));
        let (before, after) = (before.map(rank), after.map(rank));
        if before == after || instance.sockets.is_empty() {
            return;
        }
        let sockets = || instance.sockets.iter().map(|(name, _)| name);
        let place = self.offers.binary_search_by(|offer| offer.sockets.iter().cmp(sockets()));
        let place = match place {
            Ok(place) => place,
            Err(place) => {
                self.offers.insert(place, Offer::of(sockets().cloned().collect()));
                place
            }
        };
        self.offers[place].change(instance.address, before, after);
        if self.offers[place].is_empty() {
            self.offers.remove(place);
        }
    }

    fn count(&mut self, instance: &Instance, was: Option<InstanceState>, is: Option<InstanceState>) {
        use InstanceState::{Running, Starting};
        let id = instance.id;
        let one = |state: Option<InstanceState>, wanted| usize::from(state == Some(wanted));
        self.starting = self.starting + one(is, Starting) - one(was, Starting);
        self.running = self.running + one(is, Running) - one(was, Running);
        let serves = |state: Option<InstanceState>| matches!(state, Some(Starting | Running));
        let lives = |state: Option<InstanceState>| state.is_some_and(InstanceState::is_alive);
        if lives(is) {
            self.alive.insert(id);
        } else if self.alive.remove(&id) {
            let of_it = (id, InstanceId(0))..=(id, InstanceId(u64::MAX));
            let replacing: Vec<_> = self.replacements.range(of_it).copied().collect();
            for pair in replacing {
                self.replacements.remove(&pair);
            }
        }
        match (serves(was), serves(is)) {
            (false, true) => {
                *self.replicas_on.entry(instance.address).or_default() += 1;
                if let Some(old) = instance.replaces.filter(|old| self.alive.contains(old)) {
                    self.replacements.insert((old, id));
                }
            }
            (true, false) => {
                if let Some(replicas) = self.replicas_on.get_mut(&instance.address) {
                    *replicas -= 1;
                    if *replicas == 0 {
                        self.replicas_on.remove(&instance.address);
                    }
                }
                instance.replaces.map(|old| self.replacements.remove(&(old, id)));
            }
            _ => {}
        }
    }
}
