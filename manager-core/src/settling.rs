//! A service gets the instances that it should have: missing ones are started, unwanted ones replaced,
//! surplus ones shut down. Called whenever something of it has changed; calling it again changes nothing.

use ssmmp::{Address, InstanceId, Status};

use super::execution::{Begun, Start};
use super::policy::scaling::least_used;
use super::{Core, InstanceState, Timer};
use crate::graph::State;

impl Core {
    /// All services of all applications: a node has come, or may be used again.
    pub(super) fn settle_all(&mut self) {
        let apps: Vec<String> = self.apps.keys().cloned().collect();
        for app in apps {
            self.settle_app(&app);
        }
    }

    /// All services of an application.
    pub(super) fn settle_app(&mut self, app: &str) {
        let services: Vec<String> =
            self.apps.get(app).map(|app| app.graph.services.keys().cloned().collect()).unwrap_or_default();
        for service in services {
            self.settle(app, &service);
        }
        self.stop_gone(app);
    }

    /// One service.
    pub(super) fn settle(&mut self, app: &str, service: &str) {
        let Some(known) = self.apps.get(app).filter(|app| !app.stopped) else { return };
        if known.service(service).is_none() {
            self.stop_gone(app);
            return;
        }
        self.start_missing(app, service);
        self.replace_unwanted(app, service);
        self.stop_surplus(app, service);
    }

    /// Fewest and most instances of a service now: the graph's bounds, or what people asked for.
    pub(super) fn bounds(&self, app: &str, service: &str) -> (u32, u32) {
        let Some(known) = self.apps.get(app) else { return (0, 0) };
        let Some(vertex) = known.service(service) else { return (0, 0) };
        match known.state(service).and_then(|state| state.scaled) {
            Some(scaled) => (scaled, scaled),
            None => (vertex.fewest(), vertex.most.max(vertex.fewest())),
        }
    }

    fn start_missing(&mut self, app: &str, service: &str) {
        let Some(known) = self.apps.get(app) else { return };
        let Some(vertex) = known.service(service) else { return };
        let state = known.state(service);
        let near =
            state.and_then(|state| state.waiting.first()).map(|w| w.request.source_service_instance_id);
        let near = near.and_then(|id| self.inventory.instance(id)).map(|instance| instance.address);
        let least = self.bounds(app, service).0.max(u32::from(near.is_some()));
        let bound_to_node = vertex.state == State::Node;
        if self.count(app, service, bound_to_node) >= least {
            return;
        }
        if let Some(at) = state.map(|state| state.failures.not_before).filter(|at| *at > self.now) {
            self.at(at, Timer::Settle(app.into(), service.into()));
            return;
        }
        while self.count(app, service, bound_to_node) < least {
            if self.starts_left == 0 {
                self.delay(app, service);
                self.continue_later();
                return;
            }
            match self.start(app, service, Start { near, may_wait: true, ..Start::default() }) {
                Begun::Yes => self.starts_left -= 1,
                Begun::Later => {
                    self.delay(app, service);
                    return;
                }
                Begun::No => {
                    if near.is_some() && self.count(app, service, true) == 0 {
                        self.fail_waiting(app, service, Status::UNAVAILABLE, "no node can execute it");
                    }
                    return;
                }
            }
        }
    }

    /// Instances that run or start, without those that are to replace one that still runs. For a service
    /// whose state is on its node also those that are ending: two would share the state.
    fn count(&self, app: &str, service: &str, also_ending: bool) -> u32 {
        let Some(of_service) = self.inventory.of_service(app, service) else { return 0 };
        if also_ending {
            return of_service.alive.len() as u32;
        }
        let all = of_service.starting + of_service.running;
        let doubled = match self.replaces_some(app, service) {
            false => 0,
            true => of_service.replacements().filter(|(_, new)| self.doubles(*new)).count(),
        };
        (all - doubled) as u32
    }

    fn doubles(&self, id: InstanceId) -> bool {
        let is = |id, state| self.inventory.instance(id).is_some_and(|instance| instance.state == state);
        let replaced = self.inventory.instance(id).and_then(|instance| instance.replaces);
        !is(id, InstanceState::Stopping) && replaced.is_some_and(|old| is(old, InstanceState::Running))
    }

    fn stop_surplus(&mut self, app: &str, service: &str) {
        let (_, most) = self.bounds(app, service);
        let Some(of_service) = self.inventory.of_service(app, service) else { return };
        let running = of_service.running;
        let ending = of_service.alive.len() - of_service.starting - running;
        // One at a time: its sessions go to the others.
        if ending > 0 || self.count(app, service, false) <= most || running as u32 <= most {
            return;
        }
        let replicas: Vec<_> =
            self.replicas(app, service).into_iter().filter(|r| !self.doubles(r.id)).collect();
        if let Some(id) = least_used(&replicas) {
            self.stop_instance(id, &format!("{service} has more than its {most} replicas"));
        }
    }

    /// Services that the graph has no more, once nothing executed by an earlier graph needs them.
    pub(super) fn stop_gone(&mut self, app: &str) {
        let Some(known) = self.apps.get(app).filter(|app| app.has_gone && !app.stopped) else { return };
        if known.services.values().any(|state| state.replacing) {
            return;
        }
        let gone: Vec<InstanceId> = self
            .inventory
            .of_app(app)
            .filter(|(service, _)| known.service(service.as_str()).is_none())
            .flat_map(|(_, instances)| instances.alive.iter().copied())
            .collect();
        if let Some(app) = self.apps.get_mut(app) {
            app.has_gone = false;
        }
        for id in gone {
            self.stop_instance(id, "its service is not in the graph any more");
        }
    }

    /// A node by its name or address; a name that several nodes have is nobody's.
    pub(super) fn find_node(&self, text: &str) -> Option<Address> {
        let mut named = self.inventory.nodes().filter(|node| node.name == text);
        let only = named.next().filter(|_| named.next().is_none());
        let by_address = || text.parse().ok().map(|ip: std::net::IpAddr| Address::from(ip));
        only.map(|node| node.address).or_else(|| by_address().filter(|at| self.inventory.node(*at).is_some()))
    }
}
