//! Session requests wait for a start of their destination: one start serves all who wait (S4).

use ssmmp::{InstanceId, Status};

use super::{Core, Millis, Timer, Waiting};

/// Requests that may wait for one service to start; further ones are refused with 503.
pub const MAX_WAITING: usize = 32_768;
/// Those of one instance; further ones are refused with 429.
pub const MAX_WAITING_OF_ONE: usize = 8_192;
/// Answered requests of one instance that may be unacknowledged; further ones are refused with 429.
pub const MAX_PENDING_OF_ONE: usize = 16_384;
/// Sessions that one instance may have opened and not closed; further requests are refused with 429.
pub const MAX_SESSIONS_OF_ONE: usize = 65_536;
/// Sessions that all instances may have; further requests are refused with 503.
pub const MAX_SESSIONS: usize = 4_000_000;
/// A request waits for as long as so many starts may take, then it is refused with 504.
const STARTS_WAITED_FOR: Millis = 3;

impl Core {
    /// One start serves all who wait.
    pub(super) fn wait_for_start(&mut self, app_name: &str, service: &str, waiting: Waiting) {
        let within = self.policy(app_name, service).start_within * STARTS_WAITED_FOR;
        let now = self.now;
        let Some(app) = self.apps.get_mut(app_name) else { return };
        if app.stopped {
            self.refuse_request(&waiting, Status::UNAVAILABLE, "the application is stopped");
            return;
        }
        let state = app.state_mut(service);
        if state.failures.is_failing && state.failures.not_before > now {
            let reason = format!("it is failing: {}", state.failures.problem);
            self.refuse_request(&waiting, Status::UNAVAILABLE, &reason);
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
            self.refuse_request(&waiting, Status::TOO_MANY, "too many of its requests wait for this service");
            return;
        }
        if state.waiting.len() >= MAX_WAITING {
            self.refuse_request(&waiting, Status::UNAVAILABLE, "too many requests wait for this service");
            return;
        }
        let is_first = state.waiting.is_empty();
        state.waiting.push(waiting);
        if is_first {
            self.at(now + within, Timer::Waiting(app_name.into(), service.into()));
            self.settle(app_name, service);
        }
    }

    /// Refuses who has waited too long.
    pub(super) fn waited_long(&mut self, app: &str, service: &str) {
        let within = self.policy(app, service).start_within * STARTS_WAITED_FOR;
        let now = self.now;
        let Some(known) = self.apps.get_mut(app) else { return };
        let waiting = &mut known.state_mut(service).waiting;
        let waits = |waiting: &Waiting| waiting.since + within > now;
        let late: Vec<Waiting> = waiting.extract_if(.., |waiting| !waits(waiting)).collect();
        if let Some(first) = waiting.iter().map(|waiting| waiting.since).min() {
            self.at(first + within, Timer::Waiting(app.into(), service.into()));
        }
        for waiting in late {
            self.refuse_request(&waiting, Status::NO_ANSWER, "no instance of it could be started in time");
        }
    }

    /// An instance runs: who waited for its service is answered.
    pub(super) fn serve_waiting(&mut self, app: &str, service: &str) {
        for waiting in self.take_waiting(app, service) {
            self.session_requested(waiting.connection, waiting.request);
        }
    }

    pub(super) fn fail_waiting(&mut self, app: &str, service: &str, status: Status, reason: &str) {
        for waiting in self.take_waiting(app, service) {
            self.refuse_request(&waiting, status, reason);
        }
    }

    /// An instance has ended: nothing is started for what it asked.
    pub(super) fn withdraw_waiting(&mut self, app: &str, asker: InstanceId) {
        let Some(app) = self.apps.get_mut(app) else { return };
        let is_its = |waiting: &mut Waiting| waiting.request.source_service_instance_id == asker;
        let services = app.services.values_mut();
        let withdrawn: Vec<Waiting> = services.flat_map(|s| s.waiting.extract_if(.., is_its)).collect();
        for waiting in withdrawn {
            self.refuse_request(&waiting, Status::UNAVAILABLE, "the instance that asked has ended");
        }
    }

    fn take_waiting(&mut self, app: &str, service: &str) -> Vec<Waiting> {
        let state = self.apps.get_mut(app).and_then(|app| app.services.get_mut(service));
        state.map(|state| std::mem::take(&mut state.waiting)).unwrap_or_default()
    }

    pub(super) fn retry_all_waiting(&mut self) {
        let apps: Vec<String> = self.apps.keys().cloned().collect();
        for app in apps {
            self.retry_waiting(&app);
        }
    }

    /// The graph or the nodes have changed: who waits for a service of an application may be served now.
    pub(super) fn retry_waiting(&mut self, app: &str) {
        let services: Vec<String> = self
            .apps
            .get(app)
            .map(|app| {
                let waiting = app.services.iter().filter(|(_, state)| !state.waiting.is_empty());
                waiting.map(|(service, _)| service.clone()).collect()
            })
            .unwrap_or_default();
        for service in services {
            self.serve_waiting(app, &service);
        }
    }
}
