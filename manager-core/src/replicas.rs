//! How many instances a service has, and how many it may have.

use ssmmp::InstanceId;

use crate::policy::scaling::Replica;
use crate::state::ManagerState;
use crate::state::instance::InstanceState;
use crate::time::Millis;
use crate::unwanted;

/// The running instances of a service.
pub(crate) fn replicas(core: &ManagerState, app: &str, service: &str) -> Vec<Replica> {
    let idle = core.policy(app, service).idle;
    let is_idle = |since: Millis| idle.is_some_and(|idle| core.now.saturating_sub(since) >= idle);
    core.inventory
        .of_service(app, service)
        .into_iter()
        .flat_map(|of_service| &of_service.alive)
        .filter_map(|id| core.inventory.instance(*id))
        .filter(|instance| instance.state == InstanceState::Running)
        .map(|instance| Replica {
            id: instance.id,
            sessions: instance.sessions.len() as u32,
            accepted: instance.accepted,
            overloads: instance.overloads,
            is_idle: instance.sessions.is_empty() && is_idle(instance.idle_since),
        })
        .collect()
}

/// Fewest and most instances of a service now: the graph's bounds, or what people asked for.
pub(crate) fn bounds(core: &ManagerState, app: &str, service: &str) -> (u32, u32) {
    let Some(known) = core.apps.get(app) else { return (0, 0) };
    let Some(vertex) = known.service(service) else { return (0, 0) };
    match known.state(service).and_then(|state| state.scaled) {
        Some(scaled) => (scaled, scaled),
        None => (vertex.fewest(), vertex.most.max(vertex.fewest())),
    }
}

/// Instances that run or start, without those that are to replace one that still runs. For a service
/// whose state is on its node also those that are ending: two would share the state.
pub(crate) fn count(core: &ManagerState, app: &str, service: &str, also_ending: bool) -> u32 {
    let Some(of_service) = core.inventory.of_service(app, service) else { return 0 };
    if also_ending {
        return of_service.alive.len() as u32;
    }
    let all = of_service.starting + of_service.running;
    let doubled = match unwanted::replaces_some(core, app, service) {
        false => 0,
        true => of_service.replacements().filter(|(_, new)| doubles(core, *new)).count(),
    };
    (all - doubled) as u32
}

pub(crate) fn doubles(core: &ManagerState, id: InstanceId) -> bool {
    let is = |id, state| core.inventory.instance(id).is_some_and(|instance| instance.state == state);
    let replaced = core.inventory.instance(id).and_then(|instance| instance.replaces);
    !is(id, InstanceState::Stopping) && replaced.is_some_and(|old| is(old, InstanceState::Running))
}
