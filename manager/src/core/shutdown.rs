//! Instances are shut down: sessions first, then the instance, then by force (section 4, 12 and 13).

use ssmmp::{GracefulShutdownRequest, HardShutdownRequest, InstanceId};

use super::{Core, Effect, InstanceState, Outstanding, Timer};
use crate::graph::Kind;

impl Core {
    /// Begins to shut an instance down: it gets no new sessions, and its sessions are closed.
    pub(super) fn stop_instance(&mut self, id: InstanceId, reason: &str) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        match instance.state {
            InstanceState::Starting | InstanceState::Running => {}
            _ => return,
        }
        instance.state = InstanceState::Stopping;
        instance.reason = Some(reason.to_owned());
        let sessions = instance.sessions.clone();
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
        let instance = self.instances.get(&id);
        if instance.is_some_and(|i| i.state == InstanceState::Stopping && i.sessions.is_empty()) {
            self.ask_to_end(id);
        }
    }

    /// Asks an instance to end.
    pub(super) fn ask_to_end(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(&id).filter(|i| i.state == InstanceState::Stopping) else {
            return;
        };
        let asked = self
            .outstanding
            .values()
            .any(|waits| *waits == Outstanding::Graceful(id) || *waits == Outstanding::Hard(id));
        if asked {
            return;
        }
        let (address, service_name) = (instance.address, instance.service.clone());
        let request =
            GracefulShutdownRequest { message_id: self.message_id(), service_name, service_instance_id: id };
        self.at(self.now + self.config.shutdown_timeout, Timer::Graceful(id));
        self.send_to(address, request, Some(Outstanding::Graceful(id)));
    }

    /// Ends an instance that did not end when it was asked to.
    pub(super) fn force_end(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(&id).filter(|i| i.state.is_alive()) else { return };
        let (address, service_name) = (instance.address, instance.service.clone());
        let request =
            HardShutdownRequest { message_id: self.message_id(), service_name, service_instance_id: id };
        self.at(self.now + self.config.shutdown_timeout, Timer::Hard(id));
        self.send_to(address, request, Some(Outstanding::Hard(id)));
    }

    /// Shuts down regular instances beyond the minimum that had no session for the idle time.
    pub(super) fn end_idle(&mut self) {
        let idle: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|i| i.state == InstanceState::Running && i.sessions.is_empty())
            .filter(|i| self.now.saturating_sub(i.idle_since) >= self.config.idle_timeout)
            .filter(|i| {
                let service = self.apps.get(&i.app).and_then(|app| app.service(i.service.as_str()));
                let running = self
                    .instances
                    .values()
                    .filter(|o| o.app == i.app && o.service == i.service && o.state == InstanceState::Running)
                    .count();
                // A BaaS holds state: it stays. One instance at a time, so that the minimum holds.
                service.is_some_and(|s| s.kind == Kind::Regular && running > s.least as usize)
            })
            .map(|i| i.id)
            .collect();
        if let Some(id) = idle.first() {
            self.stop_instance(*id, "no session for the idle time");
        }
    }
}
