//! What an earlier run had on disk is taken back.

use std::collections::HashMap;

use ssmmp::{Address, InstanceId};

use super::{App, Core, Instance, InstanceState, Millis, Node, ServiceState, Session, SessionState, Timer};
use crate::graph::Graph;

/// What was on disk.
#[derive(Debug, Default)]
pub struct Saved {
    /// Applications that were not stopped: graph, text, when applied.
    pub apps: Vec<(Graph, String, Millis)>,
    /// What is kept of their services: application, service, state.
    pub services: Vec<(String, String, ServiceState)>,
    /// Message ids below this may be in use.
    pub message_ids: Option<u64>,
    /// Nodes that had registered.
    pub nodes: Vec<Node>,
    /// Nodes where nothing is executed.
    pub drained: Vec<Address>,
    /// Instances that had not ended, and those that ended last.
    pub instances: Vec<Instance>,
    /// Sessions that had not ended, acknowledged or not.
    pub sessions: Vec<Session>,
    /// The largest id ever given to an instance.
    pub last_instance: u64,
    /// The largest id ever given to a session.
    pub last_session: u64,
}

impl Core {
    /// Takes back what an earlier run had on disk: instances wait for their agents to return; moves,
    /// drains and shutdowns that had begun go on then.
    pub fn restore(&mut self, saved: Saved) {
        self.next_instance = saved.last_instance + 1;
        self.next_session = saved.last_session + 1;
        for (graph, text, applied) in saved.apps {
            let mut app = App::new(graph, text, applied);
            let services: Vec<String> = app.graph.services.keys().cloned().collect();
            for service in services {
                app.state_mut(&service).replacing = true;
            }
            self.apps.insert(app.graph.app.clone(), app);
        }
        for (app, service, state) in saved.services {
            if let Some(app) = self.apps.get_mut(&app) {
                app.services.insert(service, ServiceState { replacing: true, ..state });
            }
        }
        if let Some(reserved) = saved.message_ids {
            self.message_ids.resume(reserved);
        }
        for node in saved.nodes {
            self.inventory.put_node(node);
        }
        self.drained = saved.drained.into_iter().collect();
        let mut of_instance: HashMap<InstanceId, Vec<u64>> = HashMap::new();
        let mut accepted: HashMap<InstanceId, u32> = HashMap::new();
        for session in &saved.sessions {
            *accepted.entry(session.destination).or_default() += 1;
            for end in [session.source, session.destination] {
                of_instance.entry(end).or_default().push(session.id);
            }
        }
        let mut instances = saved.instances;
        // The old before the new, as they were started.
        instances.sort_by_key(|instance| instance.id);
        for mut instance in instances {
            if instance.ended.is_some() {
                self.inventory.add_ended(instance);
                continue;
            }
            instance.idle_since = self.now;
            instance.sessions = of_instance.remove(&instance.id).into_iter().flatten().collect();
            instance.accepted = accepted.get(&instance.id).copied().unwrap_or(0);
            let (id, runs) = (instance.id, instance.state == InstanceState::Running);
            self.expect_node(instance.address);
            self.inventory.add(instance);
            if runs {
                self.plan_instance_polls(id);
            }
        }
        let now = self.now;
        self.sessions.restore(saved.sessions.into_iter().map(|mut session| {
            if session.state == SessionState::Pending {
                // Its time begins again: while the Manager was away nobody could acknowledge.
                session.opened = now;
            }
            session
        }));
    }

    /// Agents can connect from now on: the time for which those of restored instances are waited for
    /// begins.
    pub fn ready(&mut self, now: Millis) {
        self.now = self.now.max(now);
        let lost: Vec<Address> =
            self.inventory.nodes().filter(|node| node.connection.is_none()).map(|n| n.address).collect();
        for address in lost {
            self.inventory.disconnect(address, self.now);
            self.at(self.now + self.config.agent_grace, Timer::NodeGrace(address));
        }
    }

    /// Ids of the Manager's messages below this may be in use.
    pub fn reserved_message_ids(&self) -> u64 {
        self.message_ids.reserved()
    }

    /// A node, connected or lost.
    pub fn node(&self, address: Address) -> Option<&Node> {
        self.inventory.node(address)
    }

    /// Whether nothing is executed on a node.
    pub fn is_drained(&self, address: Address) -> bool {
        self.drained.contains(&address)
    }
}
