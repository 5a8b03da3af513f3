//! Starts are delayed: one event begins only so many, and a node has only so many under way
//! ([`crate::inventory::on_node::MAX_STARTS`]). Services that miss instances meanwhile take turns.

use std::collections::BTreeSet;
use std::ops::Bound;

/// Starts that one event begins at most; the others follow a moment later, so that other events are not kept
/// waiting by an application of many instances.
pub(crate) const STARTS_AT_ONCE: usize = 64;
/// Other events that are handled before starts go on, unless there are none: answers come before starts, so
/// that their queue does not grow.
pub(crate) const HEARD_BETWEEN: usize = 2 * STARTS_AT_ONCE;
/// Services that one event looks at for missing instances at most.
pub(crate) const LOOKED_AT: usize = 256;
/// The moment after which starts go on, milliseconds.
pub(crate) const MOMENT: u64 = 1;

/// Services that miss instances, by application and name, and the one that was looked at last.
#[derive(Debug, Default)]
pub(crate) struct Delayed {
    services: BTreeSet<(String, String)>,
    latest: (String, String),
    /// Events since starts last went on.
    heard: usize,
}

impl Delayed {
    /// An event comes; whether nothing else waits.
    pub(crate) fn hear(&mut self, nothing_waits: bool) {
        self.heard = if nothing_waits { HEARD_BETWEEN } else { self.heard + 1 };
    }

    /// A service misses instances that can't be started yet.
    pub(crate) fn add(&mut self, app: &str, service: &str) {
        self.services.insert((app.to_owned(), service.to_owned()));
    }

    /// Whether it does.
    pub(crate) fn contains(&self, app: &str, service: &str) -> bool {
        !self.services.is_empty() && self.services.contains(&(app.to_owned(), service.to_owned()))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether starts may go on: other events had their turns. They are counted anew then.
    pub(crate) fn begin(&mut self) -> bool {
        let may = self.heard >= HEARD_BETWEEN;
        if may {
            self.heard = 0;
        }
        may
    }

    /// Takes the next one in turn.
    pub(crate) fn next(&mut self) -> Option<(String, String)> {
        let behind = (Bound::Excluded(&self.latest), Bound::Unbounded);
        let next = self.services.range(behind).next().or_else(|| self.services.first())?.clone();
        self.services.remove(&next);
        self.latest.clone_from(&next);
        Some(next)
    }
}
