use std::sync::atomic::{AtomicU64, Ordering};

use ssmmp::MessageType;

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
    /// TLS handshakes that failed: no certificate, or not a good one, or no TLS.
    RefusedHandshakes,
}

const ALL: [Counter; 8] = [
    Counter::Messages,
    Counter::Refused,
    Counter::Dropped,
    Counter::Ignored,
    Counter::UnknownFields,
    Counter::OtherHop,
    Counter::RefusedConnections,
    Counter::RefusedHandshakes,
];

/// The counters of all connections since the start.
#[derive(Debug)]
pub struct Counters {
    counts: [AtomicU64; ALL.len()],
    by_type: [AtomicU64; MessageType::ALL.len()],
}

/// The one set of counters of this process.
pub static COUNTERS: Counters = Counters {
    counts: [const { AtomicU64::new(0) }; ALL.len()],
    by_type: [const { AtomicU64::new(0) }; MessageType::ALL.len()],
};

impl Counters {
    /// Counts one; returns the new count.
    pub fn add(&self, counter: Counter) -> u64 {
        self.add_many(counter, 1)
    }

    /// Counts several; returns the new count.
    pub fn add_many(&self, counter: Counter, many: u64) -> u64 {
        self.counts[counter as usize].fetch_add(many, Ordering::Relaxed) + many
    }

    /// Counts a message that was understood.
    pub fn add_message(&self, message_type: MessageType) {
        self.add(Counter::Messages);
        self.by_type[message_type as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Understood messages of every type.
    pub fn messages(&self) -> impl Iterator<Item = (MessageType, u64)> {
        let count = |kind: MessageType| self.by_type[kind as usize].load(Ordering::Relaxed);
        MessageType::ALL.iter().map(move |kind| (*kind, count(*kind)))
    }

    /// Every counter with its name and count.
    pub fn all(&self) -> impl Iterator<Item = (Counter, u64)> {
        ALL.into_iter().map(|counter| (counter, self.counts[counter as usize].load(Ordering::Relaxed)))
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
            Self::RefusedHandshakes => "handshakes_refused",
        }
    }

    /// What it counts, in a sentence.
    pub fn help(self) -> &'static str {
        match self {
            Self::Messages => "Messages of agents that were understood",
            Self::Refused => "Malformed messages that were answered with a 4xx",
            Self::Dropped => "Malformed messages and unknown types that have no response",
            Self::Ignored => "Messages of another dialect that SSMMP does not have",
            Self::UnknownFields => "Fields nobody here knows; ignored and forwarded",
            Self::OtherHop => "Messages whose sub_type names another hop",
            Self::RefusedConnections => "Connections closed at once, since too many are open",
            Self::RefusedHandshakes => "TLS handshakes of agents that failed",
        }
    }
}
