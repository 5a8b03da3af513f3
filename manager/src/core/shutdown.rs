//! Instances are shut down: sessions first, then the instance, then by force (section 4, 12 and 13).

use ssmmp::{GracefulShutdownRequest, HardShutdownRequest, InstanceId};

use super::{Core, Effect, InstanceState, Outstanding, Timer};
use crate::graph::Kind;

impl Core {
    /// Begins to shut an instance down: it gets no new sessions, and its sessions are closed.
    pub(super) fn stop_instance(&mut self, id: InstanceId, reason: &str) {
        let instance = self.inventory.instance(id);
        if !instance.is_some_and(|i| matches!(i.state, InstanceState::Starting | InstanceState::Running)) {
            return;
        }
        let sessions = self.inventory.change(id, |instance| {
            instance.state = InstanceState::Stopping;
            instance.reason = Some(reason.to_owned());
            instance.sessions.clone()
        });
        let sessions = sessions.unwrap_or_default();
        self.effect(Effect::SaveInstance(id));
        let none = sessions.is_empty();
        for session in sessions {
            self.ask_to_close(session);
        }
        if none {
            self.ask_to_end(id);
        } else {
            self.at(self.now + self.config.shutdown_timeout / 2, Timer::CloseSessions(id));
        }
    }

    /// The last session of an instance that is being stopped has closed.
    pub(super) fn sessions_of_stopping_closed(&mut self, id: InstanceId) {
        let instance = self.inventory.instance(id);
        if instance.is_some_and(|i| i.state == InstanceState::Stopping && i.sessions.is_empty()) {
            self.ask_to_end(id);
        }
    }

    /// Asks an instance to end.
    pub(super) fn ask_to_end(&mut self, id: InstanceId) {
        let instance = self.inventory.instance(id);
        let Some(instance) = instance.filter(|i| i.state == InstanceState::Stopping && !i.asked_to_end)
        else {
            return;
        };
        let (address, service_name) = (instance.address, instance.service.clone());
        let request =
            GracefulShutdownRequest { message_id: self.message_id(), service_name, service_instance_id: id };
        self.inventory.change(id, |instance| instance.asked_to_end = true);
        self.at(self.now + self.config.shutdown_timeout, Timer::Graceful(id));
        self.send_to(address, request, Some(Outstanding::Graceful(id)));
    }

    /// Ends an instance that did not end when it was asked to.
    pub(super) fn force_end(&mut self, id: InstanceId) {
        let Some(instance) = self.inventory.instance(id).filter(|i| i.state.is_alive()) else { return };
        let (address, service_name) = (instance.address, instance.service.clone());
        self.inventory.change(id, |instance| instance.asked_to_end = true);
        let request =
            HardShutdownRequest { message_id: self.message_id(), service_name, service_instance_id: id };
        self.at(self.now + self.config.shutdown_timeout, Timer::Hard(id));
        self.send_to(address, request, Some(Outstanding::Hard(id)));
    }

    /// Goes on with the shutdown of an instance whose agent has come back.
    pub(super) fn resume_stop(&mut self, id: InstanceId) {
        let sessions = self.inventory.change(id, |instance| {
            instance.asked_to_end = false;
            instance.sessions.clone()
        });
        for session in sessions.iter().flatten() {
            self.ask_to_close(*session);
        }
        self.at(self.now + self.config.shutdown_timeout / 2, Timer::CloseSessions(id));
        self.sessions_of_stopping_closed(id);
    }

    /// An instance's agent does not say that it ended.
    pub(super) fn hard_timed_out(&mut self, id: InstanceId) {
        if self.inventory.instance(id).is_some_and(|instance| instance.state.is_alive()) {
            self.doubt(id);
            self.instance_ended(id, "no answer to the hard shutdown", Vec::new());
        }
    }

    /// Shuts down a regular instance beyond the minimum that had no session for the idle time.
    pub(super) fn end_if_idle(&mut self, id: InstanceId) {
        let Some(instance) = self.inventory.instance(id) else { return };
        let idle = instance.state == InstanceState::Running
            && instance.sessions.is_empty()
            && self.now.saturating_sub(instance.idle_since) >= self.config.idle_timeout;
        if !idle {
            return;
        }
        let (app, service) = (instance.app.as_str(), instance.service.as_str());
        let running = self.inventory.of_service(app, service).map_or(0, |of| of.running.len());
        let vertex = self.apps.get(app).and_then(|app| app.service(service));
        // A BaaS holds state: it stays.
        if vertex.is_some_and(|s| s.kind == Kind::Regular && running > s.least as usize) {
            self.stop_instance(id, "no session for the idle time");
        }
    }
}
