//! What was: answers of the calls below `/v1/history`, read from the Manager's database.

use serde::{Deserialize, Serialize};

use crate::{Event, Instance, Session};

/// A session, open or ended, and what happened to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionHistory {
    /// The session; one that was never acknowledged is `pending` as long as its row is kept.
    pub session: Session,
    /// Its newest events, oldest first.
    pub events: Vec<Event>,
}

/// An instance, its states and its sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceHistory {
    /// The instance.
    pub instance: Instance,
    /// Its states, oldest first.
    pub changes: Vec<InstanceChange>,
    /// Its newest sessions, as source or destination, oldest first.
    pub sessions: Vec<Session>,
    /// Whether it had more sessions than these.
    pub more_sessions: bool,
    /// Its newest events, oldest first.
    pub events: Vec<Event>,
}

/// One state of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceChange {
    /// Since when, milliseconds since 1970.
    pub at_ms: u64,
    /// `starting`, `running`, `stopping`, `failed` or `ended`.
    pub state: String,
    /// Why, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A node: when it came and went, and what ran there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHistory {
    /// Its name.
    pub name: String,
    /// Its newest events, oldest first.
    pub events: Vec<Event>,
    /// Its newest instances, oldest first.
    pub instances: Vec<Instance>,
    /// Whether it had more instances than these.
    pub more_instances: bool,
}
