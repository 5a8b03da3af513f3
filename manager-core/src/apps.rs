//! Applications: applied, changed, stopped.

use ssmmp::InstanceId;

use super::row::Key;
use super::{App, Apply, Core, Effect, ServiceState, Ticket};
use crate::graph::{Graph, State};

impl Core {
    /// Applies a graph with what its plan says, or nothing when a plan was seen that is out of date.
    pub(super) fn apply_planned(&mut self, ticket: Ticket, apply: Apply) {
        let Apply { graph, text, warnings, seen } = apply;
        let plan = self.plan(&graph, &text, warnings);
        let answer = if seen.is_some_and(|seen| seen != plan.seen) {
            let app = &plan.app;
            Err(format!(
                "the graph or the application {app} is another one than the plan saw; nothing was changed, plan again"
            ))
        } else {
            self.apply(graph, text);
            Ok(plan)
        };
        self.effect(Effect::Applied(ticket, answer));
    }

    /// Makes an application what its graph says: minimums are started; what was executed by an earlier
    /// graph and differs is replaced, one at a time; services that are gone are stopped after that.
    fn apply(&mut self, graph: Graph, text: String) {
        let name = graph.app.clone();
        let earlier = self.apps.remove(&name);
        let changes =
            graph.changes_since(earlier.as_ref().map(|app| &app.graph), &self.config.policy()).len();
        let mut app = App::new(graph, text, self.now);
        for (service, state) in earlier.map(|app| app.services).unwrap_or_default() {
            app.services.insert(service.clone(), kept(&app, &service, state));
        }
        let services: Vec<String> = app.graph.services.keys().cloned().collect();
        for service in &services {
            app.state_mut(service).replacing = true;
        }
        self.apps.insert(name.clone(), app);
        self.save(Key::App(name.clone()));
        for service in services {
            self.save(Key::Service(name.clone(), service));
        }
        self.publish("app-applied", format!("app {name}"), format!("applied with {changes} changes"));
        self.settle_app(&name);
        self.retry_waiting(&name);
    }

    /// Stops every instance of an application; nothing is started for it until it is applied again.
    pub(super) fn stop_app(&mut self, name: &str) {
        let Some(app) = self.apps.get_mut(name) else { return };
        app.stopped = true;
        let waiting: Vec<_> =
            app.services.values_mut().flat_map(|state| std::mem::take(&mut state.waiting)).collect();
        for request in waiting {
            self.refuse_request(&request, ssmmp::Status::UNAVAILABLE, "the application is being stopped");
        }
        self.save(Key::App(name.to_owned()));
        self.publish("app-stopped", format!("app {name}"), "stopped on request".into());
        let instances: Vec<InstanceId> =
            self.inventory.of_app(name).flat_map(|(_, instances)| instances.alive.iter().copied()).collect();
        for id in instances {
            self.stop_instance(id, "the application was stopped");
        }
    }
}

/// What of a service's state outlives a new graph: a failing service is tried again at once, and a number
/// of replicas that is out of its new bounds is forgotten.
fn kept(app: &App, service: &str, earlier: ServiceState) -> ServiceState {
    let vertex = app.service(service);
    ServiceState {
        scaled: earlier
            .scaled
            .filter(|scaled| vertex.is_some_and(|v| (v.fewest()..=v.most.max(v.fewest())).contains(scaled))),
        home: earlier.home.filter(|_| vertex.is_none_or(|vertex| vertex.state == State::Node)),
        waiting: earlier.waiting,
        turn: earlier.turn,
        latest: earlier.latest,
        ..ServiceState::default()
    }
}
