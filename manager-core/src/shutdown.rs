//! Instances are shut down (section 4, 12 and 13; T1, T2, T8, T9): the sessions to their sockets are
//! closed first, a few at a time, by their peers; then those of their plugs; then they are asked to end;
//! then they are ended by force.

use ssmmp::{GracefulShutdownRequest, HardShutdownRequest, InstanceId};

use super::row::Key;
use super::{Core, InstanceState, Millis, Outstanding, SessionState, Stopping, Timer};

/// Sessions of one instance that are being closed at the same time.
const CLOSE_AT_ONCE: usize = 8;
/// How long an instance's sessions may take to close at most, milliseconds; then it is asked to end.
const CLOSE_ALL_WITHIN: Millis = 600_000;
/// Hard shutdown requests before an instance counts as ended.
pub(super) const HARD_TRIES: u32 = 3;

impl Core {
    /// Begins to shut an instance down: it gets no new sessions, and its sessions are closed.
    pub(super) fn stop_instance(&mut self, id: InstanceId, reason: &str) {
        let instance = self.inventory.instance(id);
        if !instance.is_some_and(|i| matches!(i.state, InstanceState::Starting | InstanceState::Running)) {
            return;
        }
        self.inventory.change(id, |instance| {
            instance.state = InstanceState::Stopping;
            instance.reason = Some(reason.to_owned());
        });
        self.save(Key::Instance(id));
        self.resume_stop(id);
    }

    /// Goes on with the shutdown of an instance whose agent has come back.
    pub(super) fn resume_stop(&mut self, id: InstanceId) {
        self.inventory.change(id, |instance| {
            let failed = instance.stopping.failed;
            instance.stopping = Stopping { failed, ..Stopping::default() };
        });
        self.at(self.now + CLOSE_ALL_WITHIN, Timer::Drain(id));
        self.continue_stop(id);
    }

    /// Takes the next steps of a shutdown: nothing but waiting may be left to do.
    pub(super) fn continue_stop(&mut self, id: InstanceId) {
        loop {
            let instance = self.inventory.instance(id).filter(|i| i.state == InstanceState::Stopping);
            let Some(instance) = instance.filter(|i| !i.stopping.asked_to_end) else { return };
            let stopping = &instance.stopping;
            if instance.sessions.is_empty() {
                if stopping.by_force {
                    self.send_hard(id, 0)
                } else {
                    self.ask_to_end(id)
                }
                return;
            }
            if stopping.by_force || stopping.asked.len() >= CLOSE_AT_ONCE {
                return;
            }
            if let Some(session) = stopping.queue.front().copied() {
                let ask = self.can_be_asked(session);
                self.inventory.change(id, |instance| {
                    instance.stopping.queue.pop_front();
                    if ask {
                        instance.stopping.asked.insert(session);
                    }
                });
                if ask {
                    self.ask_to_close(session, None);
                }
                continue;
            }
            if !stopping.asked.is_empty() || !self.next_sessions(id) {
                return;
            }
        }
    }

    /// Queues the sessions that are next to close. False when there is only to wait, or nothing is left.
    fn next_sessions(&mut self, id: InstanceId) -> bool {
        let Some(instance) = self.inventory.instance(id) else { return false };
        if instance.stopping.plugs {
            // Its plugs' sessions were asked once. What it opened since, to finish its work, it closes.
            self.ask_to_end(id);
            return false;
        }
        let of = |incoming: bool| -> Vec<u64> {
            let is_of = |session: &u64| {
                self.sessions.get(*session).is_some_and(|s| (s.destination == id) == incoming)
            };
            instance.sessions.iter().copied().filter(is_of).collect()
        };
        let incoming = of(true);
        let askable: Vec<u64> =
            incoming.iter().copied().filter(|session| self.can_be_asked(*session)).collect();
        let (plugs, next) = match (incoming.is_empty(), askable.is_empty()) {
            (true, _) => (true, of(false)),
            // Promised ones are about to be acknowledged, others were asked already.
            (false, true) => return false,
            (false, false) => (false, askable),
        };
        self.inventory.change(id, |instance| {
            instance.stopping.plugs = plugs;
            instance.stopping.queue = next.into();
        });
        true
    }

    fn can_be_asked(&self, session: u64) -> bool {
        let is_open = self.sessions.get(session).is_some_and(|s| s.state == SessionState::Open);
        is_open && !self.closings.contains(session)
    }

    /// Asks an instance to end.
    pub(super) fn ask_to_end(&mut self, id: InstanceId) {
        let instance = self.inventory.instance(id).filter(|i| i.state == InstanceState::Stopping);
        let Some(instance) = instance.filter(|i| !i.stopping.asked_to_end && !i.stopping.by_force) else {
            return;
        };
        let (address, service_name) = (instance.address, instance.program.clone());
        let within = self.policy(instance.app.as_str(), instance.service.as_str()).stop_within;
        let request =
            GracefulShutdownRequest { message_id: self.message_id(), service_name, service_instance_id: id };
        self.inventory.change(id, |instance| instance.stopping.asked_to_end = true);
        self.at(self.now + within, Timer::Graceful(id));
        self.send_to(address, request, Some(Outstanding::Graceful(id)));
    }

    /// Ends an instance that did not end when it was asked to, or that does not answer: its peers close
    /// its sessions first.
    pub(super) fn force_end(&mut self, id: InstanceId) {
        let Some(instance) = self.inventory.instance(id).filter(|i| i.state.is_alive()) else { return };
        if instance.stopping.by_force {
            return;
        }
        let within = self.policy(instance.app.as_str(), instance.service.as_str()).close_within;
        let sessions = instance.sessions.clone();
        self.inventory.change(id, |instance| {
            instance.state = InstanceState::Stopping;
            instance.stopping.by_force = true;
            instance.stopping.asked_to_end = false;
        });
        self.save(Key::Instance(id));
        self.at(self.now + within, Timer::Force(id));
        for session in sessions {
            self.ask_to_close(session, Some(id));
        }
        self.continue_stop(id);
    }

    /// Has an instance's agent end it, in a few tries.
    pub(super) fn send_hard(&mut self, id: InstanceId, tries: u32) {
        let instance = self.inventory.instance(id).filter(|i| i.state == InstanceState::Stopping);
        let Some(instance) = instance.filter(|i| i.stopping.asked_to_end == (tries > 0)) else { return };
        if tries >= HARD_TRIES {
            self.doubt(id);
            self.instance_ended(id, "no answer to the hard shutdown", Vec::new());
            return;
        }
        let (address, service_name) = (instance.address, instance.program.clone());
        let within = self.policy(instance.app.as_str(), instance.service.as_str()).stop_within;
        self.inventory.change(id, |instance| instance.stopping.asked_to_end = true);
        let request =
            HardShutdownRequest { message_id: self.message_id(), service_name, service_instance_id: id };
        self.at(self.now + within, Timer::Hard(id, tries + 1));
        self.send_to(address, request, Some(Outstanding::Hard(id)));
    }
}
