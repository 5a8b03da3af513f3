//! Applications: applied, changed, stopped.

use ssmmp::{InstanceId, Status};

use crate::events::{Apply, Effect, Ticket};
use crate::graph::{Graph, State};
use crate::row::Key;
use crate::state::ManagerState;
use crate::state::app::{App, ServiceState};
use crate::{answering, planning, queued_requests, shutdown};

/// Applies a graph with what its plan says, or nothing when a plan was seen that is out of date.
pub(crate) fn apply_planned(core: &mut ManagerState, ticket: Ticket, apply: Apply) {
    let Apply { graph, text, warnings, seen } = apply;
    let plan = planning::plan(core, &graph, &text, warnings);
    let answer = if seen.is_some_and(|seen| seen != plan.seen) {
        let app = &plan.app;
        Err(format!(
            "the graph or the application {app} is another one than the plan saw; nothing was changed, plan again"
        ))
    } else {
        apply_graph(core, graph, text);
        Ok(plan)
    };
    core.effect(Effect::Applied(ticket, answer));
}

/// Makes an application what its graph says: minimums are started; what was executed by an earlier
/// graph and differs is replaced, one at a time; services that are gone are stopped after that.
fn apply_graph(core: &mut ManagerState, graph: Graph, text: String) {
    let name = graph.app.clone();
    let earlier = core.apps.remove(&name);
    let changes = graph.changes_since(earlier.as_ref().map(|app| &app.graph), &core.config.policy()).len();
    let mut app = App::new(graph, text, core.now);
    for (service, state) in earlier.map(|app| app.services).unwrap_or_default() {
        app.services.insert(service.clone(), kept(&app, &service, state));
    }
    let services: Vec<String> = app.graph.services.keys().cloned().collect();
    for service in &services {
        app.state_mut(service).replacing = true;
    }
    core.apps.insert(name.clone(), app);
    core.save(Key::App(name.clone()));
    for service in services {
        core.save(Key::Service(name.clone(), service));
    }
    core.publish("app-applied", format!("app {name}"), format!("applied with {changes} changes"));
    core.touch_app(&name);
    queued_requests::retry_waiting(core, &name);
}

/// Stops every instance of an application; nothing is started for it until it is applied again.
pub(crate) fn stop_app(core: &mut ManagerState, name: &str) {
    let Some(app) = core.apps.get_mut(name) else { return };
    app.stopped = true;
    let waiting: Vec<_> =
        app.services.values_mut().flat_map(|state| std::mem::take(&mut state.waiting)).collect();
    for request in waiting {
        answering::refuse_request(core, &request, Status::UNAVAILABLE, "the application is being stopped");
    }
    core.save(Key::App(name.to_owned()));
    core.publish("app-stopped", format!("app {name}"), "stopped on request".into());
    let instances: Vec<InstanceId> =
        core.inventory.of_app(name).flat_map(|(_, instances)| instances.alive.iter().copied()).collect();
    for id in instances {
        shutdown::stop_instance(core, id, "the application was stopped");
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
