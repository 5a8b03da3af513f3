//! Starts are delayed: one event begins only so many, and a node has only so many under way
//! ([`super::inventory::MAX_STARTS`]). Services that miss instances meanwhile take turns.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::{Core, Timer};

/// Starts that one event begins at most; the others follow a moment later, so that other events are not kept
/// waiting by an application of many instances.
pub const STARTS_AT_ONCE: usize = 64;
/// Other events that are handled before starts go on, unless there are none: answers come before starts, so
/// that their queue does not grow.
const HEARD_BETWEEN: usize = 2 * STARTS_AT_ONCE;
/// Services that one event looks at for missing instances at most.
const LOOKED_AT: usize = 256;
/// The moment after which starts go on, milliseconds.
const MOMENT: u64 = 1;

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

    /// Takes the next one in turn.
    fn next(&mut self) -> Option<(String, String)> {
        let behind = (Bound::Excluded(&self.latest), Bound::Unbounded);
        let next = self.services.range(behind).next().or_else(|| self.services.first())?.clone();
        self.services.remove(&next);
        self.latest.clone_from(&next);
        Some(next)
    }
}

impl Core {
    /// A service misses instances that can't be started yet.
    pub(super) fn delay(&mut self, app: &str, service: &str) {
        self.delayed.services.insert((app.to_owned(), service.to_owned()));
    }

    /// Whether a service misses instances that can't be started yet.
    pub(super) fn is_delayed(&self, app: &str, service: &str) -> bool {
        !self.delayed.services.is_empty()
            && self.delayed.services.contains(&(app.to_owned(), service.to_owned()))
    }

    /// Delayed starts may go on in a moment.
    pub(super) fn continue_later(&mut self) {
        if !self.delayed.services.is_empty() {
            self.at(self.now + MOMENT, Timer::Starts);
        }
    }

    /// Starts what is missing of delayed services, as far as it can be.
    pub(super) fn continue_starts(&mut self) {
        if self.delayed.heard < HEARD_BETWEEN {
            self.continue_later();
            return;
        }
        self.delayed.heard = 0;
        for _ in 0..self.delayed.services.len().min(LOOKED_AT) {
            if self.starts_left == 0 {
                break;
            }
            let Some((app, service)) = self.delayed.next() else { return };
            self.settle(&app, &service);
        }
        if self.starts_left == 0 {
            self.continue_later();
        }
    }
}
