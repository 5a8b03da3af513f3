//! An index from a hash to the numbers of what has it. The hashed values themselves stay where they are,
//! so an entry is 16 bytes; and it grows a little at a time, with no pause to hash everything again.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, Hash, RandomState};

/// The index. Different values may have the same hash: who looks up compares what is found.
#[derive(Debug, Default)]
pub struct ByHash {
    entries: BTreeSet<(u64, u64)>,
    /// Keyed anew in each process: no peer can choose values that collide.
    hashes: RandomState,
}

impl ByHash {
    /// The numbers of what may have a value.
    pub fn find(&self, value: impl Hash) -> impl Iterator<Item = u64> {
        let hash = self.hashes.hash_one(value);
        self.entries.range((hash, 0)..=(hash, u64::MAX)).map(|(_, id)| *id)
    }

    /// Something has a value.
    pub fn insert(&mut self, value: impl Hash, id: u64) {
        self.entries.insert((self.hashes.hash_one(value), id));
    }

    /// Many at once, into an empty index.
    pub fn fill<T: Hash>(&mut self, values: impl Iterator<Item = (T, u64)>) {
        self.entries = values.map(|(value, id)| (self.hashes.hash_one(value), id)).collect();
    }

    /// Something has a value no more.
    pub fn remove(&mut self, value: impl Hash, id: u64) {
        self.entries.remove(&(self.hashes.hash_one(value), id));
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The numbers of all.
    #[cfg(test)]
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().map(|(_, id)| *id)
    }
}
