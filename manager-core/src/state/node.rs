//! Nodes, that are their agents.

use std::collections::{BTreeMap, BTreeSet};

use ssmmp::{Address, Name};

use super::secret::SecretHash;
use crate::time::Millis;

/// Why instances end whose agent ends.
pub(crate) const ENDS_WITH_AGENT: &str = "its agent ends";

/// An agent's connection, numbered by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection(pub u64);

/// The states of a node.
///
/// ```text
///   registers             says x_ending              connection ends
///  ───────────▶ Up ───────────────────────▶ Ending ───────────────────▶ Ended
///               │▲                                                        │
///  connection   ││ registers again                        registers again │
///  ends, or its ▼│                                                        │
///  polls    Lost ┘      Up ◀──────────────────────────────────────────────┘
///  unanswered
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Its agent is connected.
    Up,
    /// Its agent is connected and ends soon.
    Ending,
    /// Its agent is gone and may return.
    Lost,
    /// Its agent is gone, as it said.
    Ended,
}

impl NodeState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Ending => "ending",
            Self::Lost => "lost",
            Self::Ended => "ended",
        }
    }

    /// Whether this state may follow at once; no other transition happens.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Up => matches!(next, Self::Ending | Self::Lost),
            Self::Ending => next == Self::Ended,
            Self::Lost | Self::Ended => next == Self::Up,
        }
    }
}

/// A node, that is its agent.
#[derive(Debug, Clone)]
pub struct Node {
    /// The agent's network address.
    pub address: Address,
    /// For people.
    pub name: String,
    /// Its connection, while it stands.
    pub connection: Option<Connection>,
    /// What its agent can execute.
    pub repository: BTreeSet<Name>,
    /// What its agent has in its repository and can't execute, with the reason.
    pub unavailable: BTreeMap<Name, String>,
    /// `kernel`, or why it does not redirect.
    pub redirection: String,
    /// Since when it is connected or lost.
    pub since: Millis,
    /// When it was first known.
    pub first: Millis,
    /// What its agents prove with that they are its; none: its agent has told no secret.
    pub secret: Option<SecretHash>,
    /// Its agent has announced its end: nothing is placed there.
    pub ending: bool,
    /// Its agent's version; empty when it has told none.
    pub version: String,
    /// How far its clock was ahead when it last told, milliseconds.
    pub clock_ahead: Option<i64>,
    pub(crate) polls: Polls,
}

/// How a party is polled (section 4, 15).
#[derive(Debug, Clone, Copy, Default)]
pub struct Polls {
    /// Polls in a row without an answer.
    pub(crate) misses: u32,
    /// The latest good answer (M3); 0 for none.
    pub(crate) healthy: Millis,
    /// When the next one is due; an earlier plan's timer finds another time here.
    pub(crate) next: Millis,
}

impl Node {
    /// Where it stands.
    pub fn state(&self) -> NodeState {
        match (self.connection.is_some(), self.ending) {
            (true, false) => NodeState::Up,
            (true, true) => NodeState::Ending,
            (false, false) => NodeState::Lost,
            (false, true) => NodeState::Ended,
        }
    }

    /// A node whose agent is not connected, known since `now`, milliseconds since 1970.
    pub(crate) fn lost(address: Address, now: Millis) -> Self {
        Self {
            address,
            name: address.to_string(),
            connection: None,
            repository: BTreeSet::new(),
            unavailable: BTreeMap::new(),
            redirection: "unknown".into(),
            since: now,
            first: now,
            secret: None,
            ending: false,
            version: String::new(),
            clock_ahead: None,
            polls: Polls::default(),
        }
    }
}
