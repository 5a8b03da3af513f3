//! Applications, and what is kept of their services besides their graphs.

use std::collections::BTreeMap;

use ssmmp::{Address, InstanceId, SessionRequest};

use super::node::Connection;
use crate::graph::{Graph, Service};
use crate::policy::restarts::Failures;
use crate::time::Millis;

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
