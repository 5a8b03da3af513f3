//! Which connected nodes can execute a service, in the order in which they are tried. Nodes with the same
//! repository are kept together, so that a node's load changes in one list, however many services it has.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use ssmmp::{Address, Name};

/// Where a node comes: those with room for another start first, then those with few living instances.
pub type Turn = (bool, usize, Address);

/// The lists.
#[derive(Debug, Default)]
pub struct Able {
    kinds: BTreeMap<BTreeSet<Name>, u64>,
    of_service: HashMap<Name, BTreeSet<u64>>,
    nodes: HashMap<u64, BTreeSet<Turn>>,
    listed: HashMap<Address, (u64, Turn)>,
    next: u64,
}

impl Able {
    /// A node can execute what is in a repository.
    pub fn add(&mut self, repository: &BTreeSet<Name>, turn: Turn) {
        let kind = match self.kinds.get(repository) {
            Some(kind) => *kind,
            None => {
                self.next += 1;
                self.kinds.insert(repository.clone(), self.next);
                for service in repository {
                    self.of_service.entry(service.clone()).or_default().insert(self.next);
                }
                self.next
            }
        };
        self.nodes.entry(kind).or_default().insert(turn);
        self.listed.insert(turn.2, (kind, turn));
    }

    /// A node can execute nothing any more; its repository as it was added.
    pub fn remove(&mut self, repository: &BTreeSet<Name>, node: Address) {
        let Some((kind, turn)) = self.listed.remove(&node) else { return };
        let Some(nodes) = self.nodes.get_mut(&kind) else { return };
        nodes.remove(&turn);
        if !nodes.is_empty() {
            return;
        }
        self.nodes.remove(&kind);
        self.kinds.remove(repository);
        for service in repository {
            if let Some(kinds) = self.of_service.get_mut(service) {
                kinds.remove(&kind);
                if kinds.is_empty() {
                    self.of_service.remove(service);
                }
            }
        }
    }

    /// A node's turn has changed.
    pub fn change(&mut self, turn: Turn) {
        let Some((kind, listed)) = self.listed.get_mut(&turn.2) else { return };
        if *listed != turn
            && let Some(nodes) = self.nodes.get_mut(kind)
        {
            nodes.remove(listed);
            nodes.insert(turn);
            *listed = turn;
        }
    }

    /// Those that can execute a service, in their order.
    pub fn of(&self, service: &str) -> impl Iterator<Item = Turn> {
        let kinds = self.of_service.get(service).into_iter().flatten();
        let mut lists: Vec<_> =
            kinds.filter_map(|kind| self.nodes.get(kind)).map(|nodes| nodes.iter().copied()).collect();
        let heads =
            lists.iter_mut().enumerate().filter_map(|(list, turns)| Some(Reverse((turns.next()?, list))));
        let mut heads: BinaryHeap<_> = heads.collect();
        std::iter::from_fn(move || {
            let Reverse((turn, list)) = heads.pop()?;
            heads.extend(lists[list].next().map(|next| Reverse((next, list))));
            Some(turn)
        })
    }
}
