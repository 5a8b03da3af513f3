//! The living instances of one service of an application.

use std::collections::{BTreeMap, BTreeSet};

use ssmmp::{Address, InstanceId};

use super::Standing;
use crate::core::state::InstanceState;

/// The order in which running instances are preferred: not overloaded, few sessions, old.
pub type Rank = (bool, usize, InstanceId);

/// A service's living instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfService {
    /// They live.
    pub alive: BTreeSet<InstanceId>,
    /// How many of them are being started.
    pub starting: usize,
    /// Those that run, the best for a new session first.
    pub running: BTreeSet<Rank>,
    /// The latest that was ever started.
    pub newest: InstanceId,
    running_on: BTreeMap<Address, BTreeSet<Rank>>,
}

impl Default for OfService {
    fn default() -> Self {
        Self {
            alive: BTreeSet::new(),
            starting: 0,
            running: BTreeSet::new(),
            newest: InstanceId::UNKNOWN,
            running_on: BTreeMap::new(),
        }
    }
}

impl OfService {
    /// Those that run on a node, the best for a new session first.
    pub fn running_on(&self, node: Address) -> impl Iterator<Item = &Rank> {
        self.running_on.get(&node).into_iter().flatten()
    }

    pub(super) fn index(
        &mut self,
        id: InstanceId,
        node: Address,
        before: Option<Standing>,
        after: Option<Standing>,
    ) {
        if let Some(before) = before {
            match before.state {
                InstanceState::Starting => self.starting -= 1,
                InstanceState::Running => self.remove_running(node, rank(id, before)),
                _ => {}
            }
            self.alive.remove(&id);
        }
        let Some(after) = after else { return };
        match after.state {
            InstanceState::Starting => self.starting += 1,
            InstanceState::Running => {
                self.running.insert(rank(id, after));
                self.running_on.entry(node).or_default().insert(rank(id, after));
            }
            _ => {}
        }
        if after.state.is_alive() {
            self.alive.insert(id);
        }
    }

    fn remove_running(&mut self, node: Address, rank: Rank) {
        self.running.remove(&rank);
        if let Some(here) = self.running_on.get_mut(&node) {
            here.remove(&rank);
            if here.is_empty() {
                self.running_on.remove(&node);
            }
        }
    }
}

fn rank(id: InstanceId, standing: Standing) -> Rank {
    (standing.overloaded, standing.sessions, id)
}
