//! Instances.

use std::collections::{BTreeSet, VecDeque};

use ssmmp::{Address, InstanceId, MessageId, Name, Port};

use super::node::Polls;
use crate::time::Millis;

/// The states of an instance.
///
/// ```text
///         execution_request
///                 │
///                 ▼    execution_response 2xx, or its agent tells that it runs
///             Starting ─────────────────────────────────────────────▶ Running
///              │  │  │                                                 │  │
///              │  │  └─ stopped on request, its node ends ──▶ Stopping ◀──┘  │  stopped, replaced, surplus, idle, silent,
///              │  │                                             │         │  its node ends
///              │  └──── ended by itself, gone with its node ─┐  │ shut down, by force or not, gone with its node
///              │                                             ▼  ▼         │
///              │  execution_response not 2xx, none in time   Ended ◀──────┘ ended by itself, gone with its node
///              └──▶ Failed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceState {
    /// Its execution was requested.
    Starting,
    /// Its sockets listen.
    Running,
    /// It gets no new sessions and will end.
    Stopping,
    /// It could not be started, or its start failed.
    Failed,
    /// It is over.
    Ended,
}

impl InstanceState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
            Self::Ended => "ended",
        }
    }

    /// From its word.
    pub fn from_word(text: &str) -> Self {
        match text {
            "starting" => Self::Starting,
            "running" => Self::Running,
            "stopping" => Self::Stopping,
            "failed" => Self::Failed,
            _ => Self::Ended,
        }
    }

    /// Whether this state may follow at once; no other transition happens.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Starting => next != Self::Starting,
            Self::Running => matches!(next, Self::Stopping | Self::Ended),
            Self::Stopping => next == Self::Ended,
            Self::Failed | Self::Ended => false,
        }
    }

    /// Whether a process may exist.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Stopping)
    }
}

/// An instance.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Unique in the cluster, never used again.
    pub id: InstanceId,
    /// Its application.
    pub app: Name,
    /// Its service.
    pub service: Name,
    /// Its node.
    pub address: Address,
    /// The node's name.
    pub node: String,
    /// A port for each socket.
    pub sockets: Vec<(Name, Port)>,
    /// Where it stands.
    pub state: InstanceState,
    /// When it was made.
    pub created: Millis,
    /// When it ended.
    pub ended: Option<Millis>,
    /// Why it ended.
    pub reason: Option<String>,
    /// Its last output, when it failed.
    pub output: Vec<String>,
    /// Unplanned ends of its service before it.
    pub restarts: u32,
    /// The entry of the agent's repository that it was executed from.
    pub program: Name,
    /// What it was executed with ([`crate::graph::Service::recipe`]); empty when that is not known.
    pub recipe: String,
    /// It is to be moved to another node.
    pub leaving: Option<Leaving>,
    /// The instance that ends when this one runs.
    pub replaces: Option<InstanceId>,
    /// It answered 199.
    pub overloaded: bool,
    /// Which of its limits its agent could not apply, and why.
    pub unlimited: Option<Box<str>>,
    /// Answers of 199 in a row.
    pub(crate) overloads: u32,
    pub(crate) tried: BTreeSet<Address>,
    /// The latest request for its execution: only the answer to that counts.
    pub(crate) execution: Option<MessageId>,
    pub(crate) polls: Polls,
    pub(crate) stopping: Stopping,
    pub(crate) idle_since: Millis,
    /// Open and pending sessions.
    pub(crate) sessions: BTreeSet<u64>,
    /// Those of them to its sockets.
    pub(crate) accepted: u32,
}

/// Where an instance is to be moved, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// The node.
    pub to: Address,
    /// A sentence.
    pub why: String,
}

/// How far the shutdown of an instance is.
#[derive(Debug, Clone, Default)]
pub struct Stopping {
    /// Its sockets' sessions are gone: those of its plugs are next.
    pub(crate) plugs: bool,
    /// Sessions still to be asked to close.
    pub(crate) queue: VecDeque<u64>,
    /// Sessions asked to close.
    pub(crate) asked: BTreeSet<u64>,
    /// It was asked to end.
    pub(crate) asked_to_end: bool,
    /// It did not do as it was asked, or does not answer: it is ended by force.
    pub(crate) by_force: bool,
    /// Its shutdown was not planned: it counts against the budget of restarts.
    pub(crate) failed: bool,
}

impl Instance {
    pub(crate) fn port(&self, socket: &str) -> Option<Port> {
        self.sockets.iter().find(|(name, _)| name.as_str() == socket).map(|(_, port)| *port)
    }
}
