//! What the users were told, so that it can be asked for again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A file that was taken.
#[derive(Debug, Clone)]
pub struct StoredFile {
    pub name: String,
    pub sha256: String,
}

/// Every write that was acknowledged, and how the requests went.
#[derive(Default)]
pub struct Ledger(Mutex<Entries>);

#[derive(Default)]
pub struct Entries {
    /// Users that were registered; all have the same password.
    pub users: Vec<String>,
    /// Texts of posts.
    pub posts: Vec<String>,
    pub files: Vec<StoredFile>,
    /// Requests answered at once.
    pub ok: u64,
    /// Requests answered after they were asked again.
    pub retried: u64,
    /// Requests given up.
    pub failed: u64,
    /// Single tries that failed.
    pub failed_tries: u64,
    /// The longest time that one request took to be answered.
    pub longest: Duration,
    /// What a user was told and found otherwise later; the first ones.
    pub wrong: Vec<String>,
    /// The first failures' texts.
    pub errors: Vec<String>,
}

/// Texts of failures that are kept.
const KEPT: usize = 20;

impl Ledger {
    pub fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was answered, at its first try or a later one.
    pub fn answered(&self, begun: Instant, tries: u32) {
        let mut entries = self.entries();
        match tries {
            1 => entries.ok += 1,
            _ => entries.retried += 1,
        }
        entries.longest = entries.longest.max(begun.elapsed());
    }

    /// A try failed.
    pub fn failed_try(&self) {
        self.entries().failed_tries += 1;
    }

    /// A request was given up.
    pub fn failed(&self, text: String) {
        let mut entries = self.entries();
        entries.failed += 1;
        if entries.errors.len() < KEPT {
            entries.errors.push(text);
        }
    }

    /// Something is not as a user was told.
    pub fn wrong(&self, text: String) {
        self.entries().wrong.push(text);
    }
}
