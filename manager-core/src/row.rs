//! What is kept on disk, whole: who writes a row looks at nothing else, and what is read back is the same rows.

use std::collections::BTreeSet;
use std::sync::Arc;

use ssmmp::{Address, InstanceId, Name, Port};

use crate::graph::Graph;
use crate::state::instance::{Instance, InstanceState, Leaving, Stopping};
use crate::state::node::Polls;
use crate::state::secret::SecretHash;
use crate::state::session::Session;
use crate::time::Millis;

/// A row to be written in place of an earlier one with its key.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// An application.
    App(AppRow),
    /// A service of an application.
    Service(ServiceRow),
    /// A node: what is kept of it, `None` once it is forgotten, and whether it is drained.
    Node(Address, Option<NodeRow>, bool),
    /// Message ids below this may be in use.
    MessageIds(u64),
    /// An instance, and since when it is so, milliseconds since 1970.
    Instance(Box<InstanceRow>, Millis),
    /// A session; its details are not kept.
    Session(Arc<Session>),
}

impl Row {
    /// Whether it is one of the many that agents tell again.
    pub fn is_session(&self) -> bool {
        matches!(self, Self::Session(_))
    }
}

/// An application.
#[derive(Debug, Clone, PartialEq)]
pub struct AppRow {
    /// Its name.
    pub name: String,
    /// Its graph's file.
    pub text: String,
    /// When it was applied, milliseconds since 1970.
    pub applied: Millis,
    /// Stopped by people.
    pub stopped: bool,
}

/// What is kept of a service besides its graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRow {
    /// Its application.
    pub app: String,
    /// Its name.
    pub service: String,
    /// Instances that people asked for.
    pub scaled: Option<u32>,
    /// The node that holds its state.
    pub home: Option<Address>,
}

/// A node that has registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Its agent's network address.
    pub address: Address,
    /// Its name.
    pub name: String,
    /// What its agents prove with that they are its.
    pub secret: Option<SecretHash>,
    /// When it was first known, milliseconds since 1970.
    pub first: Millis,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRow {
    /// Its id.
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
    /// When it was made, milliseconds since 1970.
    pub created: Millis,
    /// When it ended, milliseconds since 1970.
    pub ended: Option<Millis>,
    /// Why it ended.
    pub reason: Option<String>,
    /// Its last output, when it failed.
    pub output: Vec<String>,
    /// The entry of the agent's repository that it was executed from.
    pub program: Name,
    /// What it was executed with; empty when that is not known.
    pub recipe: String,
    /// It is to be moved.
    pub leaving: Option<Leaving>,
    /// The instance that ends when this one runs.
    pub replaces: Option<InstanceId>,
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

/// What was on disk.
#[derive(Debug, Default)]
pub struct Saved {
    /// Applications that were not stopped: graph, text, when applied.
    pub apps: Vec<(Graph, String, Millis)>,
    /// What is kept of their services.
    pub services: Vec<ServiceRow>,
    /// Message ids below this may be in use.
    pub message_ids: Option<u64>,
    /// Nodes that had registered.
    pub nodes: Vec<NodeRow>,
    /// Nodes where nothing is executed.
    pub drained: Vec<Address>,
    /// Instances that had not ended, and those that ended last.
    pub instances: Vec<InstanceRow>,
    /// Sessions that had not ended, acknowledged or not.
    pub sessions: Vec<Session>,
    /// The largest id ever given to an instance.
    pub last_instance: u64,
    /// The largest id ever given to a session.
    pub last_session: u64,
}

/// What has a row, by its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    App(String),
    Service(String, String),
    Node(Address),
    MessageIds,
    Instance(InstanceId),
    Session(u64),
}
