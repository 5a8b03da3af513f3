//! Applications: applied, changed, stopped.

use ssmmp::InstanceId;

use super::{App, Core, Effect, Timer};
use crate::graph::{Graph, Kind};

impl Core {
    /// Makes an application what its graph says: services that are gone are stopped, minimums started.
    pub(super) fn apply(&mut self, graph: Graph, text: String) {
        let name = graph.app.clone();
        let earlier = self.apps.get(&name).map(|app| &app.graph);
        let changes = graph.changes_since(earlier, &self.config.policy()).len();
        let mut app = App::new(graph, text, self.now);
        if let Some(earlier) = self.apps.remove(&name) {
            app.waiting = earlier.waiting;
        }
        self.apps.insert(name.clone(), app);
        self.effect(Effect::SaveApp(name.clone()));
        self.publish("app-applied", format!("app {name}"), format!("applied with {changes} changes"));
        let graph = self.apps.get(&name).map(|app| &app.graph);
        let gone: Vec<InstanceId> = self
            .inventory
            .of_app(&name)
            .filter(|(service, _)| graph.is_some_and(|graph| !graph.services.contains_key(service.as_str())))
            .flat_map(|(_, instances)| instances.alive.iter().copied())
            .collect();
        for id in gone {
            self.stop_instance(id, "its service is not in the graph any more");
        }
        self.keep_minimums(&name);
    }

    /// Stops every instance of an application; nothing is started for it until it is applied again.
    pub(super) fn stop_app(&mut self, name: &str) {
        let Some(app) = self.apps.get_mut(name) else { return };
        app.stopped = true;
        let waiting: Vec<_> = std::mem::take(&mut app.waiting).into_values().flatten().collect();
        for request in waiting {
            self.refuse_request(&request, ssmmp::Status::UNAVAILABLE, "the application is being stopped");
        }
        self.effect(Effect::SaveApp(name.to_owned()));
        self.publish("app-stopped", format!("app {name}"), "stopped on request".into());
        let instances: Vec<InstanceId> =
            self.inventory.of_app(name).flat_map(|(_, instances)| instances.alive.iter().copied()).collect();
        for id in instances {
            self.stop_instance(id, "the application was stopped");
        }
    }

    /// Starts what is missing of an application.
    pub(super) fn keep_minimums(&mut self, app: &str) {
        let services: Vec<String> =
            self.apps.get(app).map(|app| app.graph.services.keys().cloned().collect()).unwrap_or_default();
        for service in services {
            self.keep_minimum(app, &service);
        }
    }

    /// Starts what is missing of all applications: a node has come.
    pub(super) fn keep_all_minimums(&mut self) {
        let apps: Vec<String> = self.apps.keys().cloned().collect();
        for app in apps {
            self.keep_minimums(&app);
        }
    }

    /// Starts instances of a service up to its fewest replicas; after failures with growing pauses.
    pub(super) fn keep_minimum(&mut self, app_name: &str, service_name: &str) {
        let Some(app) = self.apps.get(app_name).filter(|app| !app.stopped) else { return };
        let Some(service) = app.service(service_name) else { return };
        let least = match service.kind {
            Kind::Gateway => service.least.max(1),
            _ => service.least,
        };
        if let Some(failures) = app.failures.get(service_name)
            && failures.not_before > self.now
        {
            let at = failures.not_before;
            self.at(at, Timer::Restart(app_name.into(), service_name.into()));
            return;
        }
        let instances = self.inventory.of_service(app_name, service_name);
        let alive = instances.map_or(0, |instances| instances.starting + instances.running.len());
        for _ in alive..least as usize {
            if !self.start(app_name, service_name, None) {
                return;
            }
        }
    }
}
