//! Session requests wait for a start of their destination: one start serves all who wait (S4).

use ssmmp::{InstanceId, Status};

use crate::answering;
use crate::state::ManagerState;
use crate::state::app::Waiting;
use crate::state::timers::Timer;
use crate::time::Millis;

/// Requests that may wait for one service to start; further ones are refused with 503.
pub const MAX_WAITING: usize = 32_768;
/// Those of one instance; further ones are refused with 429.
pub const MAX_WAITING_OF_ONE: usize = 8_192;
/// A request waits for as long as so many starts may take, then it is refused with 504.
const STARTS_WAITED_FOR: Millis = 3;

/// One start serves all who wait.
pub(crate) fn wait_for_start(core: &mut ManagerState, app_name: &str, service: &str, waiting: Waiting) {
    let within = core.policy(app_name, service).start_within * STARTS_WAITED_FOR;
    let now = core.now;
    let Some(app) = core.apps.get_mut(app_name) else { return };
    if app.stopped {
        answering::refuse_request(core, &waiting, Status::UNAVAILABLE, "the application is stopped");
        return;
    }
    let state = app.state_mut(service);
    if state.failures.is_failing && state.failures.not_before > now {
        let reason = format!("it is failing: {}", state.failures.problem);
        answering::refuse_request(core, &waiting, Status::UNAVAILABLE, &reason);
        return;
    }
    let source = waiting.request.source_service_instance_id;
    let own = state.waiting.iter().filter(|earlier| earlier.request.source_service_instance_id == source);
    let (mut count, mut is_repeated) = (0, false);
    for earlier in own {
        count += 1;
        is_repeated |= earlier.request.message_id == waiting.request.message_id;
    }
    if is_repeated {
        return;
    }
    if count >= MAX_WAITING_OF_ONE {
        answering::refuse_request(
            core,
            &waiting,
            Status::TOO_MANY,
            "too many of its requests wait for this service",
        );
        return;
    }
    if state.waiting.len() >= MAX_WAITING {
        answering::refuse_request(
            core,
            &waiting,
            Status::UNAVAILABLE,
            "too many requests wait for this service",
        );
        return;
    }
    let is_first = state.waiting.is_empty();
    state.waiting.push(waiting);
    if is_first {
        core.at(now + within, Timer::Waiting(app_name.into(), service.into()));
        core.touch(app_name, service);
    }
}

/// Refuses who has waited too long.
pub(crate) fn waited_long(core: &mut ManagerState, app: &str, service: &str) {
    let within = core.policy(app, service).start_within * STARTS_WAITED_FOR;
    let now = core.now;
    let Some(known) = core.apps.get_mut(app) else { return };
    let waiting = &mut known.state_mut(service).waiting;
    let waits = |waiting: &Waiting| waiting.since + within > now;
    let late: Vec<Waiting> = waiting.extract_if(.., |waiting| !waits(waiting)).collect();
    if let Some(first) = waiting.iter().map(|waiting| waiting.since).min() {
        core.at(first + within, Timer::Waiting(app.into(), service.into()));
    }
    for waiting in late {
        answering::refuse_request(
            core,
            &waiting,
            Status::NO_ANSWER,
            "no instance of it could be started in time",
        );
    }
}

pub(crate) fn fail_waiting(core: &mut ManagerState, app: &str, service: &str, status: Status, reason: &str) {
    for waiting in take_waiting(core, app, service) {
        answering::refuse_request(core, &waiting, status, reason);
    }
}

/// An instance has ended: nothing is started for what it asked.
pub(crate) fn withdraw_waiting(core: &mut ManagerState, app: &str, asker: InstanceId) {
    let Some(app) = core.apps.get_mut(app) else { return };
    let is_its = |waiting: &mut Waiting| waiting.request.source_service_instance_id == asker;
    let services = app.services.values_mut();
    let withdrawn: Vec<Waiting> = services.flat_map(|s| s.waiting.extract_if(.., is_its)).collect();
    for waiting in withdrawn {
        answering::refuse_request(core, &waiting, Status::UNAVAILABLE, "the instance that asked has ended");
    }
}

pub(crate) fn take_waiting(core: &mut ManagerState, app: &str, service: &str) -> Vec<Waiting> {
    let state = core.apps.get_mut(app).and_then(|app| app.services.get_mut(service));
    state.map(|state| std::mem::take(&mut state.waiting)).unwrap_or_default()
}

pub(crate) fn retry_all_waiting(core: &mut ManagerState) {
    let apps: Vec<String> = core.apps.keys().cloned().collect();
    for app in apps {
        retry_waiting(core, &app);
    }
}

/// The graph or the nodes have changed: who waits for a service of an application may be served now.
pub(crate) fn retry_waiting(core: &mut ManagerState, app: &str) {
    let services: Vec<String> = core
        .apps
        .get(app)
        .map(|app| {
            let waiting = app.services.iter().filter(|(_, state)| !state.waiting.is_empty());
            waiting.map(|(service, _)| service.clone()).collect()
        })
        .unwrap_or_default();
    for service in services {
        core.touch_waiting(app, &service);
    }
}
