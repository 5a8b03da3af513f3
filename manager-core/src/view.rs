//! The state as people see it.

use std::net::IpAddr;

use patchbay_api as api;
use ssmmp::{InstanceId, Name};

use crate::graph::Kind;
use crate::graph::policy::Policy;
use crate::state::app::App;
use crate::state::instance::{Instance, InstanceState};
use crate::state::node::Node;
use crate::state::session::{Session, SessionState};
use crate::time::Millis;
use crate::{Core, placing, unwanted};

/// A running instance of a gateway, which users find by name (W2).
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Its application.
    pub app: Name,
    /// Its service.
    pub service: Name,
    /// Its id, which is in its canonical name.
    pub id: InstanceId,
    /// Its node's address.
    pub address: IpAddr,
    /// Whether its node is connected and it is not about to leave it.
    pub stays: bool,
}

/// A part of a list.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Only what has a larger id.
    pub after: u64,
    /// So many at most.
    pub limit: usize,
}

impl Page {
    /// Everything.
    pub const ALL: Self = Self { after: 0, limit: usize::MAX };
}

impl Core {
    /// All running instances of gateways.
    pub fn gateways(&self) -> Vec<Gateway> {
        let services = self.state.apps.iter().flat_map(|(app, known)| {
            let gateways = known.graph.services.iter().filter(|(_, service)| service.kind == Kind::Gateway);
            gateways.filter_map(move |(service, _)| self.state.inventory.of_service(app, service))
        });
        services
            .flat_map(|of_service| &of_service.alive)
            .filter_map(|id| self.state.inventory.instance(*id))
            .filter(|instance| instance.state == InstanceState::Running)
            .map(|instance| Gateway {
                app: instance.app.clone(),
                service: instance.service.clone(),
                id: instance.id,
                address: instance.address.0,
                stays: unwanted::unwanted(&self.state, instance).is_none()
                    && self
                        .state
                        .inventory
                        .node(instance.address)
                        .is_some_and(|node| node.connection.is_some()),
            })
            .collect()
    }

    /// Whether an instance is one of a gateway.
    pub fn is_gateway(&self, id: InstanceId) -> bool {
        self.state.inventory.instance(id).is_some_and(|instance| {
            let app = self.state.apps.get(instance.app.as_str());
            let service = app.and_then(|app| app.graph.services.get(instance.service.as_str()));
            service.is_none_or(|service| service.kind == Kind::Gateway)
        })
    }

    /// When the latest event came, milliseconds since 1970.
    pub fn now(&self) -> Millis {
        self.state.now
    }

    /// Counts of everything.
    pub fn status(&self) -> api::ManagerStatus {
        api::ManagerStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            nodes: self.state.inventory.connected(),
            apps: self.state.apps.len(),
            instances: self.state.inventory.running(),
            sessions: self.state.sessions.open(),
            time_ms: self.state.now,
            clock_set_ms: 0,
        }
    }

    /// The policy where a graph says nothing.
    pub fn usual_policy(&self) -> Policy {
        self.state.config.policy()
    }

    /// All applications.
    pub fn apps(&self) -> Vec<api::App> {
        self.state.apps.iter().map(|(name, app)| self.view_app(name, app)).collect()
    }

    /// An application's graph and text.
    pub fn app(&self, name: &str) -> Option<&App> {
        self.state.apps.get(name)
    }

    fn view_app(&self, name: &str, app: &App) -> api::App {
        let services: Vec<api::Service> = app
            .graph
            .services
            .iter()
            .map(|(service, vertex)| {
                let running = self.state.inventory.of_service(name, service).map_or(0, |of| of.running);
                let state = app.state(service);
                let problem = state.map(|s| s.failures.problem.clone()).filter(|p| !p.is_empty());
                let unable = || {
                    let nobody = self.state.inventory.able(&vertex.program).next().is_none();
                    let lacking = placing::lacking(&self.state, &vertex.program);
                    let text = format!("no node has `{}` in its repository{lacking}", vertex.program);
                    (nobody && self.state.inventory.connected() > 0).then_some(text)
                };
                api::Service {
                    name: service.clone(),
                    kind: vertex.kind.as_str().into(),
                    running,
                    replicas: (vertex.fewest(), vertex.most.max(vertex.fewest())),
                    program: vertex.program.clone(),
                    scaled: state.and_then(|state| state.scaled),
                    problem: problem.or_else(unable),
                    retry_ms: state.map(|state| state.failures.not_before).filter(|at| *at > self.state.now),
                }
            })
            .collect();
        let is_missing = |service: &api::Service| service.running < service.replicas.0 as usize;
        let state = if app.stopped {
            "stopped"
        } else if services.iter().any(|service| service.problem.is_some()) {
            "degraded"
        } else if services.iter().any(is_missing) {
            "starting"
        } else {
            "running"
        };
        api::App { name: name.into(), state: state.into(), services, applied_ms: app.applied }
    }

    /// All nodes.
    pub fn nodes(&self) -> Vec<api::Node> {
        self.state.inventory.nodes().map(|node| self.view_node(node)).collect()
    }

    fn view_node(&self, node: &Node) -> api::Node {
        api::Node {
            name: node.name.clone(),
            address: node.address.to_string(),
            state: node.state().as_str().into(),
            draining: self.state.drained.contains(&node.address),
            healthy_ms: node.polls.healthy,
            services: node.repository.iter().map(ToString::to_string).collect(),
            instances: self.state.inventory.on_node(node.address).map_or(0, |on_node| on_node.running),
            redirection: node.redirection.clone(),
            since_ms: node.since,
            version: node.version.clone(),
            clock_ahead_ms: node.clock_ahead,
        }
    }

    /// Instances in the order of their ids, the ended ones only on request; as many as fit on a page.
    pub fn instances(&self, app: Option<&str>, ended: bool, page: Page) -> Vec<api::Instance> {
        self.state
            .inventory
            .instances_after(ssmmp::InstanceId(page.after))
            .filter(|i| app.is_none_or(|app| app == i.app.as_str()))
            .filter(|i| ended || i.state.is_alive() || self.is_latest_failure(i))
            .take(page.limit)
            .map(|instance| self.view_instance(instance))
            .collect()
    }

    /// The last failed instance of a service that has none running is worth seeing.
    fn is_latest_failure(&self, instance: &Instance) -> bool {
        let (app, service) = (instance.app.as_str(), instance.service.as_str());
        self.state.inventory.of_service(app, service).is_some_and(|of| of.newest == instance.id)
            && self.state.apps.get(app).is_some_and(|app| {
                !app.stopped && app.state(service).is_some_and(|state| !state.failures.problem.is_empty())
            })
    }

    /// An instance, alive or remembered.
    pub fn instance(&self, id: u64) -> Option<&Instance> {
        self.state.inventory.instance(ssmmp::InstanceId(id))
    }

    /// A session, open or remembered.
    pub fn session(&self, id: u64) -> Option<&Session> {
        self.state.sessions.get(id)
    }

    /// Sessions in the order of their ids, the ended ones only on request; as many as fit on a page.
    pub fn sessions(&self, app: Option<&str>, ended: bool, page: Page) -> Vec<api::Session> {
        self.state
            .sessions
            .after(page.after)
            .filter(|s| app.is_none_or(|app| app == s.edge.app.as_str()))
            .filter(|s| s.state == SessionState::Open || (ended && s.source_port.is_known()))
            .take(page.limit)
            .map(|s| self.view_session(s))
            .collect()
    }

    fn view_session(&self, session: &Session) -> api::Session {
        let node = |id| self.state.inventory.instance(id).map(|i| i.node.clone()).unwrap_or_default();
        api::Session {
            id: session.id,
            app: session.edge.app.to_string(),
            source: api::End {
                service: session.edge.source.to_string(),
                instance: session.source.0,
                name: session.edge.plug.to_string(),
                node: node(session.source),
                address: session.source_address.to_string(),
                port: session.source_port.0,
            },
            destination: api::End {
                service: session.edge.destination.to_string(),
                instance: session.destination.0,
                name: session.edge.socket.to_string(),
                node: node(session.destination),
                address: session.destination_address.to_string(),
                port: session.destination_port.0,
            },
            state: if session.state == SessionState::Open { "open" } else { "closed" }.into(),
            path: session.path.to_string(),
            reason: session.reason.as_deref().map(str::to_owned),
            sent: session.sent,
            received: session.received,
            opened_ms: session.opened,
            closed_ms: session.closed,
            status: session.status.map(ssmmp::Status::code),
            details: session.details.as_deref().map(|details| api::Details {
                paths: details.paths.clone().map(|path| path.to_string()),
                switches: details.switches,
                in_flight_bytes: details.in_flight,
                last_activity_ms: details.last_activity,
            }),
        }
    }

    fn view_instance(&self, instance: &Instance) -> api::Instance {
        api::Instance {
            id: instance.id.0,
            app: instance.app.to_string(),
            service: instance.service.to_string(),
            node: instance.node.clone(),
            program: instance.program.to_string(),
            leaving: if instance.state == InstanceState::Running {
                unwanted::unwanted(&self.state, instance)
            } else {
                None
            },
            overloaded: instance.overloaded,
            unlimited: instance.unlimited.as_deref().filter(|_| instance.state.is_alive()).map(str::to_owned),
            healthy_ms: instance.polls.healthy,
            state: instance.state.as_str().into(),
            sockets: instance.sockets.iter().map(|(name, port)| (name.to_string(), port.0)).collect(),
            sessions: instance.sessions.len(),
            restarts: instance.restarts,
            created_ms: instance.created,
            ended_ms: instance.ended,
            reason: instance.reason.clone(),
            output: instance.output.clone(),
        }
    }
}
