//! What the Manager knows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ssmmp::{Address, InstanceId, MessageId, Name, Port, SessionRequest};

use super::policy::restarts::Failures;
use super::row::InstanceRow;
use super::secret::SecretHash;
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
    /// What is kept of its services besides the graph.
    pub(crate) services: BTreeMap<String, ServiceState>,
    /// Instances may run of services that the graph has no more.
    pub(crate) has_gone: bool,
}

/// What is kept of a service of an application besides its graph.
#[derive(Debug, Clone)]
pub struct ServiceState {
    /// Instances that people asked for; without it the load decides.
    pub scaled: Option<u32>,
    /// The node that holds its state, when its state is on a node.
    pub home: Option<Address>,
    /// Requests that wait for a start.
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) failures: Failures,
    /// Sessions given out: the seed of random choices.
    pub(crate) turn: u64,
    /// The instance that got the latest one, for a balance that goes round.
    pub(crate) latest: InstanceId,
    /// Some of its instances may have to be replaced.
    pub(crate) replacing: bool,
    /// When the number of replicas changed.
    pub(crate) changed: Millis,
    /// When its replicas were last weighed.
    pub(crate) weighed: Millis,
    /// Since when one replica fewer would do.
    pub(crate) underused: Option<Millis>,
}

impl Default for ServiceState {
    fn default() -> Self {
        Self {
            scaled: None,
            home: None,
            waiting: Vec::new(),
            failures: Failures::default(),
            turn: 0,
            latest: InstanceId(0),
            replacing: false,
            changed: 0,
            weighed: 0,
            underused: None,
        }
    }
}

/// A session request that waits for an instance to start.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub(crate) connection: Connection,
    pub(crate) request: SessionRequest,
    pub(crate) since: Millis,
}

impl App {
    pub(crate) fn new(graph: Graph, text: String, applied: Millis) -> Self {
        Self { graph, text, applied, stopped: false, services: BTreeMap::new(), has_gone: true }
    }

    pub(crate) fn service(&self, name: &str) -> Option<&Service> {
        self.graph.services.get(name)
    }

    /// What is kept of a service besides the graph.
    pub fn state(&self, service: &str) -> Option<&ServiceState> {
        self.services.get(service)
    }

    pub(crate) fn state_mut(&mut self, service: &str) -> &mut ServiceState {
        self.services.entry(service.to_owned()).or_default()
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

impl From<InstanceRow> for Instance {
    /// As it was kept, or as it begins: nothing is known of it besides.
    fn from(row: InstanceRow) -> Self {
        Self {
            id: row.id,
            app: row.app,
            service: row.service,
            address: row.address,
            node: row.node,
            sockets: row.sockets,
            state: row.state,
            created: row.created,
            ended: row.ended,
            reason: row.reason,
            output: row.output,
            program: row.program,
            recipe: row.recipe,
            leaving: row.leaving,
            replaces: row.replaces,
            restarts: 0,
            overloaded: false,
            unlimited: None,
            overloads: 0,
            tried: BTreeSet::new(),
            execution: None,
            polls: Polls::default(),
            stopping: Stopping::default(),
            idle_since: row.created,
            sessions: BTreeSet::new(),
            accepted: 0,
        }
    }
}

impl Instance {
    pub(crate) fn port(&self, socket: &str) -> Option<Port> {
        self.sockets.iter().find(|(name, _)| name.as_str() == socket).map(|(_, port)| *port)
    }
}
