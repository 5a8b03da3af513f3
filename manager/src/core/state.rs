//! What the Manager knows.

use std::collections::{BTreeMap, BTreeSet};

use ssmmp::{Address, InstanceId, Name, Port, SessionRequest};

use crate::graph::{Graph, Service};

/// Milliseconds since 1970.
pub type Millis = u64;

/// An agent's connection, numbered by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection(pub u64);

/// An application.
#[derive(Debug, Clone)]
pub struct App {
    /// Its graph.
    pub graph: Graph,
    /// The file it was read from.
    pub text: String,
    /// When it was applied.
    pub applied: Millis,
    /// Stopped by people; nothing is started for it.
    pub stopped: bool,
    /// Requests that wait for a start, by destination service.
    pub(crate) waiting: BTreeMap<String, Vec<Waiting>>,
    /// Failed starts in a row, by service.
    pub(crate) failures: BTreeMap<String, Failures>,
}

/// Failed starts of a service.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failures {
    pub(crate) count: u32,
    pub(crate) not_before: Millis,
    pub(crate) problem: String,
}

/// A session request that waits for an instance to start.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub(crate) connection: Connection,
    pub(crate) request: SessionRequest,
}

impl App {
    pub(crate) fn new(graph: Graph, text: String, applied: Millis) -> Self {
        Self { graph, text, applied, stopped: false, waiting: BTreeMap::new(), failures: BTreeMap::new() }
    }

    pub(crate) fn service(&self, name: &str) -> Option<&Service> {
        self.graph.services.get(name)
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
    /// `kernel`, or why it does not redirect.
    pub redirection: String,
    /// Since when it is connected or lost.
    pub since: Millis,
    pub(crate) polls: Polls,
}

/// How a party is polled (section 4, 15).
#[derive(Debug, Clone, Copy, Default)]
pub struct Polls {
    /// Polls in a row without an answer.
    pub(crate) misses: u32,
    /// When the next one is due; an earlier plan's timer finds another time here.
    pub(crate) next: Millis,
}

impl Node {
    pub(crate) fn lost(address: Address, now: Millis) -> Self {
        Self {
            address,
            name: address.to_string(),
            connection: None,
            repository: BTreeSet::new(),
            redirection: "unknown".into(),
            since: now,
            polls: Polls::default(),
        }
    }
}

/// The states of an instance.
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
    /// Failed starts of its service before it.
    pub restarts: u32,
    pub(crate) tried: BTreeSet<Address>,
    pub(crate) polls: Polls,
    /// It was asked to end already.
    pub(crate) asked_to_end: bool,
    pub(crate) overloaded: bool,
    pub(crate) idle_since: Millis,
    /// Open and pending sessions.
    pub(crate) sessions: BTreeSet<u64>,
}

impl Instance {
    /// An instance as it is read back from disk.
    #[expect(clippy::too_many_arguments, reason = "one argument a column")]
    pub fn restored(
        id: InstanceId,
        app: Name,
        service: Name,
        address: Address,
        node: String,
        sockets: Vec<(Name, Port)>,
        state: InstanceState,
        created: Millis,
    ) -> Self {
        Self {
            id,
            app,
            service,
            address,
            node,
            sockets,
            state,
            created,
            ended: None,
            reason: None,
            output: Vec::new(),
            restarts: 0,
            tried: BTreeSet::new(),
            polls: Polls::default(),
            asked_to_end: false,
            overloaded: false,
            idle_since: created,
            sessions: BTreeSet::new(),
        }
    }

    pub(crate) fn port(&self, socket: &str) -> Option<Port> {
        self.sockets.iter().find(|(name, _)| name.as_str() == socket).map(|(_, port)| *port)
    }
}
