use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted of peers' behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Messages that were understood.
    Messages,
    /// Malformed messages that were answered with a 4xx.
    Refused,
    /// Malformed messages and unknown types that have no response: logged and dropped.
    Dropped,
    /// Messages of another dialect that SSMMP does not have.
    Ignored,
    /// Fields nobody here knows; ignored and forwarded.
    UnknownFields,
    /// Messages whose sub_type names another hop than the one they came on.
    OtherHop,
    /// Connections closed at once, since too many are open.
    RefusedConnections,
}

const ALL: [Counter; 7] = [
    Counter::Messages,
    Counter::Refused,
    Counter::Dropped,
    Counter::Ignored,
    Counter::UnknownFields,
    Counter::OtherHop,
    Counter::RefusedConnections,
];

/// The counters of all connections since the start.
#[derive(Debug)]
pub struct Counters([AtomicU64; ALL.len()]);

/// The one set of counters of this process.
pub static COUNTERS: Counters = Counters([const { AtomicU64::new(0) }; ALL.len()]);

impl Counters {
    /// Counts one; returns the new count.
    pub fn add(&self, counter: Counter) -> u64 {
        self.add_many(counter, 1)
    }

    /// Counts several; returns the new count.
    pub fn add_many(&self, counter: Counter, many: u64) -> u64 {
        self.0[counter as usize].fetch_add(many, Ordering::Relaxed) + many
    }

    /// Every counter with its name and count.
    pub fn all(&self) -> impl Iterator<Item = (Counter, u64)> {
        ALL.into_iter().map(|counter| (counter, self.0[counter as usize].load(Ordering::Relaxed)))
    }
}

impl Counter {
    /// The counter's name, as metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Refused => "messages_refused",
            Self::Dropped => "messages_dropped",
            Self::Ignored => "messages_ignored",
            Self::UnknownFields => "unknown_fields",
            Self::OtherHop => "messages_of_another_hop",
            Self::RefusedConnections => "connections_refused",
        }
    }
}
