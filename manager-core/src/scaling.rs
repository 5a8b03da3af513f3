//! The load decides how many replicas a service has, within its bounds (section 4, 18).

use crate::execution::Begun;
use crate::graph::Kind;
use crate::graph::policy::Policy;
use crate::placing::Start;
use crate::policy::scaling::{Situation, Verdict, is_underused, least_used, verdict};
use crate::state::ManagerState;
use crate::time::Millis;
use crate::{execution, replicas, shutdown, unwanted};

/// Weighs a service's load, once an interval of its health polls.
pub(crate) fn weigh_now_and_then(core: &mut ManagerState, app: &str, service: &str) {
    let every = core.policy(app, service).health.every;
    let now = core.now;
    let Some(known) = core.apps.get_mut(app).filter(|app| !app.stopped) else { return };
    let state = known.state_mut(service);
    if now.saturating_sub(state.weighed) >= every {
        state.weighed = now;
        core.touch_load(app, service);
    }
}

/// An instance has got one more session: are there too many for its service? Replicas are looked at only
/// when their sum says so.
pub(crate) fn weigh_after_session(core: &mut ManagerState, app: &str, service: &str) {
    let Some(of_service) = core.inventory.of_service(app, service) else { return };
    let (running, accepted) = (of_service.running as u64, of_service.accepted);
    let policy = core.policy(app, service);
    if accepted > u64::from(policy.scale.sessions) * running && may_grow(core, app, service, &policy) {
        core.touch_load(app, service);
    }
}

/// Whether one more replica could be started now.
fn may_grow(core: &ManagerState, app: &str, service: &str, policy: &Policy) -> bool {
    let running = core.inventory.of_service(app, service).map_or(0, |of| of.running);
    let situation = situation(core, app, service, policy);
    situation.is_some_and(|situation| {
        situation.starting == 0
            && situation.is_settled
            && !situation.is_fixed
            && (running as u32) < situation.most
    })
}

/// An instance has answered 199 again: if that starts one more replica, one is started.
pub(crate) fn weigh_after_overload(core: &mut ManagerState, app: &str, service: &str, overloads: u32) {
    let policy = core.policy(app, service);
    if overloads >= policy.scale.overloads && may_grow(core, app, service, &policy) {
        core.touch_load(app, service);
    }
}

/// Starts one more replica of a service, or shuts one down, if its load says so.
pub(crate) fn weigh(core: &mut ManagerState, app: &str, service: &str) {
    let policy = core.policy(app, service);
    let Some(situation) = situation(core, app, service, &policy) else { return };
    let replicas = replicas::replicas(core, app, service);
    let underused = is_underused(&replicas, situation, policy.scale);
    match verdict(&replicas, situation, policy.scale) {
        Verdict::Up(why) => {
            if execution::start(core, app, service, Start::default()) == Begun::Yes {
                scaled(core, app, service, format!("one more replica: {why}"));
            } else {
                // It is tried again after the pause, not with each session.
                changed(core, app, service);
            }
        }
        Verdict::Down(id, why) => {
            shutdown::stop_instance(core, id, &why);
            scaled(core, app, service, format!("one replica fewer: {why}"));
        }
        Verdict::Keep
            if underused && underused_for(core, app, service) >= policy.idle.unwrap_or(Millis::MAX) =>
        {
            if let Some(id) = least_used(&replicas) {
                let why =
                    format!("{} replicas were more than the load needs for the idle time", replicas.len());
                shutdown::stop_instance(core, id, &why);
                scaled(core, app, service, format!("one replica fewer: {why}"));
            }
        }
        Verdict::Keep => {}
    }
    let now = core.now;
    if let Some(known) = core.apps.get_mut(app) {
        let state = known.state_mut(service);
        state.underused = underused.then(|| state.underused.unwrap_or(now));
    }
}

fn underused_for(core: &ManagerState, app: &str, service: &str) -> Millis {
    let since = core.apps.get(app).and_then(|app| app.state(service)).and_then(|state| state.underused);
    since.map_or(0, |since| core.now.saturating_sub(since))
}

fn changed(core: &mut ManagerState, app: &str, service: &str) {
    let now = core.now;
    if let Some(known) = core.apps.get_mut(app) {
        let state = known.state_mut(service);
        state.changed = now;
        state.underused = None;
    }
}

fn scaled(core: &mut ManagerState, app: &str, service: &str, text: String) {
    changed(core, app, service);
    core.publish("service-scaled", format!("service {service}"), text);
}

fn situation(core: &ManagerState, app: &str, service: &str, policy: &Policy) -> Option<Situation> {
    let known = core.apps.get(app).filter(|app| !app.stopped)?;
    let vertex = known.service(service)?;
    let (least, most) = replicas::bounds(core, app, service);
    let state = known.state(service);
    let since = state.map_or(Millis::MAX, |state| core.now.saturating_sub(state.changed));
    let of_service = core.inventory.of_service(app, service)?;
    let is_scaled = state.is_some_and(|state| state.scaled.is_some());
    let is_failing = state.is_some_and(|state| state.failures.not_before > core.now);
    Some(Situation {
        least,
        most,
        starting: of_service.starting as u32,
        is_settled: since >= policy.scale.pause && !unwanted::replaces_some(core, app, service),
        is_fixed: vertex.kind == Kind::Baas || is_scaled || is_failing,
    })
}
