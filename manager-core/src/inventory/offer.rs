//! The running instances of a service that listen on the same sockets, kept so that a choice among them
//! looks at a few of them, however many there are.

use std::collections::{BTreeMap, BTreeSet};

use ssmmp::{Address, InstanceId, Name};

use crate::policy::choice::Field;

/// The order in which instances are preferred: few sessions first, then the old.
pub type Rank = (u32, InstanceId);

/// Instances of which none is better than the others but for its sessions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peers {
    ranks: BTreeSet<Rank>,
    /// The same ones in the order of their ids; ids grow, so that most are added at the end.
    ids: Vec<InstanceId>,
}

impl Peers {
    /// The best.
    pub fn first(&self) -> Option<Rank> {
        self.ranks.first().copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// By its place in the order of ids.
    pub fn get(&self, place: usize) -> Option<InstanceId> {
        self.ids.get(place).copied()
    }

    /// The one with the smallest id above another.
    pub fn after(&self, id: InstanceId) -> Option<InstanceId> {
        self.get(self.ids.partition_point(|other| *other <= id))
    }

    fn add(&mut self, rank: Rank) {
        if self.ranks.insert(rank)
            && let Err(place) = self.ids.binary_search(&rank.1)
        {
            self.ids.insert(place, rank.1);
        }
    }

    fn remove(&mut self, rank: Rank) {
        if self.ranks.remove(&rank)
            && let Ok(place) = self.ids.binary_search(&rank.1)
        {
            self.ids.remove(place);
        }
    }

    /// One has other sessions: its id stays where it is.
    fn rank_again(&mut self, before: Rank, after: Rank) {
        if self.ranks.remove(&before) {
            self.ranks.insert(after);
        }
    }
}

/// Those of all nodes and of each, either all fit or all overloaded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Class {
    all: Peers,
    on: BTreeMap<Address, Peers>,
    /// The best of each node: the least loaded one elsewhere is among the first two.
    best: BTreeSet<(Rank, Address)>,
}

impl Class {
    fn change(&mut self, node: Address, before: Option<Rank>, after: Option<Rank>) {
        let here = self.on.entry(node).or_default();
        let best_before = here.first();
        for peers in [&mut self.all, &mut *here] {
            match (before, after) {
                (Some(before), Some(after)) => peers.rank_again(before, after),
                (Some(before), None) => peers.remove(before),
                (None, Some(after)) => peers.add(after),
                (None, None) => {}
            }
        }
        let best = here.first();
        if here.is_empty() {
            self.on.remove(&node);
        }
        if best != best_before {
            best_before.map(|rank| self.best.remove(&(rank, node)));
            best.map(|rank| self.best.insert((rank, node)));
        }
    }

    fn field(&self, near: Address) -> Field<'_> {
        let elsewhere = self.best.iter().find(|(_, node)| *node != near);
        Field {
            all: &self.all,
            near: self.on.get(&near),
            least_elsewhere: elsewhere.map(|((sessions, _), _)| *sessions),
        }
    }
}

/// Running instances with the same sockets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offer {
    /// The sockets.
    pub sockets: Box<[Name]>,
    /// Those that answer 199 are apart: they get a session only when there are no others.
    fit: Class,
    overloaded: Class,
}

impl Offer {
    /// No instances yet.
    pub fn of(sockets: Box<[Name]>) -> Self {
        Self { sockets, ..Self::default() }
    }

    /// Whether there is one that does not answer 199.
    pub fn has_fit(&self) -> bool {
        !self.fit.all.is_empty()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fit.all.is_empty() && self.overloaded.all.is_empty()
    }

    /// What a choice for an asker on a node looks at.
    pub fn field(&self, near: Address, fit: bool) -> Field<'_> {
        if fit { self.fit.field(near) } else { self.overloaded.field(near) }
    }

    /// An instance on a node comes, changes or goes; with whether it is overloaded.
    pub fn change(&mut self, node: Address, before: Option<(bool, Rank)>, after: Option<(bool, Rank)>) {
        let of = |standing: Option<(bool, Rank)>, overloaded: bool| {
            standing.filter(|(is_overloaded, _)| *is_overloaded == overloaded).map(|(_, rank)| rank)
        };
        for (class, overloaded) in [(&mut self.fit, false), (&mut self.overloaded, true)] {
            let (before, after) = (of(before, overloaded), of(after, overloaded));
            if before.is_some() || after.is_some() {
                class.change(node, before, after);
            }
        }
    }
}
