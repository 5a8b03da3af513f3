//! Which sessions are declared to the kernel, found by either of their instances.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use ssmmp::InstanceId;

/// Sessions of a source with a destination's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// The source.
    pub source: InstanceId,
    /// The destination.
    pub destination: InstanceId,
    /// The source's cgroup.
    pub source_cgroup: u64,
    /// Where the destination listens.
    pub at: SocketAddr,
}

/// All that are declared.
#[derive(Debug, Default)]
pub struct Declared(HashMap<InstanceId, BTreeSet<Pair>>);

impl Declared {
    /// One that may be declared already.
    pub fn insert(&mut self, pair: Pair) {
        for end in [pair.source, pair.destination] {
            self.0.entry(end).or_default().insert(pair);
        }
    }

    /// Takes those of an instance, as source and as destination.
    pub fn take(&mut self, id: InstanceId) -> BTreeSet<Pair> {
        let gone = self.0.remove(&id).unwrap_or_default();
        for pair in &gone {
            let other = if pair.source == id { pair.destination } else { pair.source };
            if let Some(of_other) = self.0.get_mut(&other) {
                of_other.remove(pair);
                if of_other.is_empty() {
                    self.0.remove(&other);
                }
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_of_one_end_is_gone_for_the_other_too() {
        let pair = |source, destination, port| Pair {
            source: InstanceId(source),
            destination: InstanceId(destination),
            source_cgroup: source,
            at: SocketAddr::from(([10, 0, 0, 1], port)),
        };
        let mut declared = Declared::default();
        for one in
            [pair(1, 2, 54_000), pair(1, 2, 54_000), pair(1, 3, 54_001), pair(3, 2, 54_000), pair(2, 2, 1)]
        {
            declared.insert(one);
        }
        assert_eq!(declared.take(InstanceId(2)).len(), 3);
        assert_eq!(declared.take(InstanceId(1)).into_iter().collect::<Vec<_>>(), [pair(1, 3, 54_001)]);
        assert!(declared.take(InstanceId(3)).is_empty());
        assert!(declared.0.is_empty());
    }
}
