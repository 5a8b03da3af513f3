//! A service gets the instances that it should have: missing ones are started, unwanted ones replaced, surplus
//! ones shut down. Done whenever something of it was touched; doing it again changes nothing.

use ssmmp::{InstanceId, Status};

use crate::execution::Begun;
use crate::graph::State;
use crate::placing::Start;
use crate::policy::scaling::least_used;
use crate::state::ManagerState;
use crate::state::delayed::LOOKED_AT;
use crate::state::timers::Timer;
use crate::{execution, queued_requests, replacing, replicas, shutdown};

/// Starts what is missing of delayed services, as far as it can be.
pub(crate) fn continue_starts(core: &mut ManagerState) {
    if !core.delayed.begin() {
        core.continue_later();
        return;
    }
    for _ in 0..core.delayed.len().min(LOOKED_AT) {
        if core.starts_left == 0 {
            break;
        }
        let Some((app, service)) = core.delayed.next() else { return };
        settle(core, &app, &service);
    }
    if core.starts_left == 0 {
        core.continue_later();
    }
}

/// One service.
pub(crate) fn settle(core: &mut ManagerState, app: &str, service: &str) {
    let Some(known) = core.apps.get(app).filter(|app| !app.stopped) else { return };
    if known.service(service).is_none() {
        stop_gone(core, app);
        return;
    }
    start_missing(core, app, service);
    replacing::replace_unwanted(core, app, service);
    stop_surplus(core, app, service);
    stop_gone(core, app);
}

fn start_missing(core: &mut ManagerState, app: &str, service: &str) {
    let Some(known) = core.apps.get(app) else { return };
    let Some(vertex) = known.service(service) else { return };
    let state = known.state(service);
    let near = state.and_then(|state| state.waiting.first()).map(|w| w.request.source_service_instance_id);
    let near = near.and_then(|id| core.inventory.instance(id)).map(|instance| instance.address);
    let least = replicas::bounds(core, app, service).0.max(u32::from(near.is_some()));
    let bound_to_node = vertex.state == State::Node;
    if replicas::count(core, app, service, bound_to_node) >= least {
        return;
    }
    if let Some(at) = state.map(|state| state.failures.not_before).filter(|at| *at > core.now) {
        core.at(at, Timer::Settle(app.into(), service.into()));
        return;
    }
    while replicas::count(core, app, service, bound_to_node) < least {
        if core.starts_left == 0 {
            core.delayed.add(app, service);
            core.continue_later();
            return;
        }
        match execution::start(core, app, service, Start { near, may_wait: true, ..Start::default() }) {
            Begun::Yes => core.starts_left -= 1,
            Begun::Later => {
                core.delayed.add(app, service);
                return;
            }
            Begun::No => {
                if near.is_some() && replicas::count(core, app, service, true) == 0 {
                    queued_requests::fail_waiting(
                        core,
                        app,
                        service,
                        Status::UNAVAILABLE,
                        "no node can execute it",
                    );
                }
                return;
            }
        }
    }
}

fn stop_surplus(core: &mut ManagerState, app: &str, service: &str) {
    let (_, most) = replicas::bounds(core, app, service);
    let Some(of_service) = core.inventory.of_service(app, service) else { return };
    let running = of_service.running;
    let ending = of_service.alive.len() - of_service.starting - running;
    // One at a time: its sessions go to the others.
    if ending > 0 || replicas::count(core, app, service, false) <= most || running as u32 <= most {
        return;
    }
    let replicas: Vec<_> = replicas::replicas(core, app, service)
        .into_iter()
        .filter(|r| !replicas::doubles(core, r.id))
        .collect();
    if let Some(id) = least_used(&replicas) {
        shutdown::stop_instance(core, id, &format!("{service} has more than its {most} replicas"));
    }
}

/// Services that the graph has no more, once nothing executed by an earlier graph needs them.
fn stop_gone(core: &mut ManagerState, app: &str) {
    let Some(known) = core.apps.get(app).filter(|app| app.has_gone && !app.stopped) else { return };
    if known.services.values().any(|state| state.replacing) {
        return;
    }
    let gone: Vec<InstanceId> = core
        .inventory
        .of_app(app)
        .filter(|(service, _)| known.service(service.as_str()).is_none())
        .flat_map(|(_, instances)| instances.alive.iter().copied())
        .collect();
    if let Some(app) = core.apps.get_mut(app) {
        app.has_gone = false;
    }
    for id in gone {
        shutdown::stop_instance(core, id, "its service is not in the graph any more");
    }
}
