//! The load decides how many replicas a service has, within its bounds (section 4, 18).

use super::execution::{Begun, Start};
use super::policy::scaling::{Replica, Situation, Verdict, is_underused, least_used, verdict};
use super::{Core, InstanceState, Millis};
use crate::graph::Kind;
use crate::graph::policy::Policy;

impl Core {
    /// Weighs a service's load, once an interval of its health polls.
    pub(super) fn weigh_now_and_then(&mut self, app: &str, service: &str) {
        let every = self.policy(app, service).health.every;
        let now = self.now;
        let Some(known) = self.apps.get_mut(app).filter(|app| !app.stopped) else { return };
        let state = known.state_mut(service);
        if now.saturating_sub(state.weighed) >= every {
            state.weighed = now;
            self.weigh(app, service);
        }
    }

    /// An instance has got one more session: are there too many for its service? Replicas are looked at only
    /// when their sum says so.
    pub(super) fn weigh_after_session(&mut self, app: &str, service: &str) {
        let Some(of_service) = self.inventory.of_service(app, service) else { return };
        let (running, accepted) = (of_service.running as u64, of_service.accepted);
        let policy = self.policy(app, service);
        if accepted > u64::from(policy.scale.sessions) * running && self.may_grow(app, service, &policy) {
            self.weigh(app, service);
        }
    }

    /// Whether one more replica could be started now.
    fn may_grow(&self, app: &str, service: &str, policy: &Policy) -> bool {
        let running = self.inventory.of_service(app, service).map_or(0, |of| of.running);
        let situation = self.situation(app, service, policy);
        situation.is_some_and(|situation| {
            situation.starting == 0
                && situation.is_settled
                && !situation.is_fixed
                && (running as u32) < situation.most
        })
    }

    /// An instance has answered 199 again: if that starts one more replica, one is started.
    pub(super) fn weigh_after_overload(&mut self, app: &str, service: &str, overloads: u32) {
        let policy = self.policy(app, service);
        if overloads >= policy.scale.overloads && self.may_grow(app, service, &policy) {
            self.weigh(app, service);
        }
    }

    /// Starts one more replica of a service, or shuts one down, if its load says so.
    pub(super) fn weigh(&mut self, app: &str, service: &str) {
        let policy = self.policy(app, service);
        let Some(situation) = self.situation(app, service, &policy) else { return };
        let replicas = self.replicas(app, service);
        let underused = is_underused(&replicas, situation, policy.scale);
        match verdict(&replicas, situation, policy.scale) {
            Verdict::Up(why) => {
                if self.start(app, service, Start::default()) == Begun::Yes {
                    self.scaled(app, service, format!("one more replica: {why}"));
                } else {
                    // It is tried again after the pause, not with each session.
                    self.changed(app, service);
                }
            }
            Verdict::Down(id, why) => {
                self.stop_instance(id, &why);
                self.scaled(app, service, format!("one replica fewer: {why}"));
            }
            Verdict::Keep
                if underused && self.underused_for(app, service) >= policy.idle.unwrap_or(Millis::MAX) =>
            {
                if let Some(id) = least_used(&replicas) {
                    let why = format!(
                        "{} replicas were more than the load needs for the idle time",
                        replicas.len()
                    );
                    self.stop_instance(id, &why);
                    self.scaled(app, service, format!("one replica fewer: {why}"));
                }
            }
            Verdict::Keep => {}
        }
        let now = self.now;
        if let Some(known) = self.apps.get_mut(app) {
            let state = known.state_mut(service);
            state.underused = underused.then(|| state.underused.unwrap_or(now));
        }
    }

    fn underused_for(&self, app: &str, service: &str) -> Millis {
        let since = self.apps.get(app).and_then(|app| app.state(service)).and_then(|state| state.underused);
        since.map_or(0, |since| self.now.saturating_sub(since))
    }

    fn changed(&mut self, app: &str, service: &str) {
        let now = self.now;
        if let Some(known) = self.apps.get_mut(app) {
            let state = known.state_mut(service);
            state.changed = now;
            state.underused = None;
        }
    }

    fn scaled(&mut self, app: &str, service: &str, text: String) {
        self.changed(app, service);
        self.publish("service-scaled", format!("service {service}"), text);
    }

    fn situation(&self, app: &str, service: &str, policy: &Policy) -> Option<Situation> {
        let known = self.apps.get(app).filter(|app| !app.stopped)?;
        let vertex = known.service(service)?;
        let (least, most) = self.bounds(app, service);
        let state = known.state(service);
        let since = state.map_or(Millis::MAX, |state| self.now.saturating_sub(state.changed));
        let of_service = self.inventory.of_service(app, service)?;
        let is_scaled = state.is_some_and(|state| state.scaled.is_some());
        let is_failing = state.is_some_and(|state| state.failures.not_before > self.now);
        Some(Situation {
            least,
            most,
            starting: of_service.starting as u32,
            is_settled: since >= policy.scale.pause && !self.replaces_some(app, service),
            is_fixed: vertex.kind == Kind::Baas || is_scaled || is_failing,
        })
    }

    /// The running instances of a service.
    pub(super) fn replicas(&self, app: &str, service: &str) -> Vec<Replica> {
        let idle = self.policy(app, service).idle;
        let is_idle = |since: Millis| idle.is_some_and(|idle| self.now.saturating_sub(since) >= idle);
        self.inventory
            .of_service(app, service)
            .into_iter()
            .flat_map(|of_service| &of_service.alive)
            .filter_map(|id| self.inventory.instance(*id))
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
}
