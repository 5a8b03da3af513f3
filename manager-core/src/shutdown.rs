//! Instances are shut down (section 4, 12 and 13; T1, T2, T8, T9): the sessions to their sockets are
//! closed first, a few at a time, by their peers; then those of their plugs; then they are asked to end;
//! then they are ended by force.

use ssmmp::{GracefulShutdownRequest, HardShutdownRequest, InstanceId};

use crate::row::Key;
use crate::state::ManagerState;
use crate::state::instance::{InstanceState, Stopping};
use crate::state::pending_requests::Outstanding;
use crate::state::session::SessionState;
use crate::state::timers::Timer;
use crate::strangers::HARD_TRIES;
use crate::time::Millis;
use crate::{closing, execution, strangers};

/// Sessions of one instance that are being closed at the same time.
const CLOSE_AT_ONCE: usize = 8;
/// How long an instance's sessions may take to close at most, milliseconds; then it is asked to end.
const CLOSE_ALL_WITHIN: Millis = 600_000;

/// Begins to shut an instance down: it gets no new sessions, and its sessions are closed.
pub(crate) fn stop_instance(core: &mut ManagerState, id: InstanceId, reason: &str) {
    let instance = core.inventory.instance(id);
    if !instance.is_some_and(|i| matches!(i.state, InstanceState::Starting | InstanceState::Running)) {
        return;
    }
    core.inventory.change(id, |instance| {
        instance.state = InstanceState::Stopping;
        instance.reason = Some(reason.to_owned());
    });
    core.save(Key::Instance(id));
    resume_stop(core, id);
}

/// Goes on with the shutdown of an instance whose agent has come back.
pub(crate) fn resume_stop(core: &mut ManagerState, id: InstanceId) {
    core.inventory.change(id, |instance| {
        let failed = instance.stopping.failed;
        instance.stopping = Stopping { failed, ..Stopping::default() };
    });
    core.at(core.now + CLOSE_ALL_WITHIN, Timer::Drain(id));
    core.touch_stopping(id);
}

/// Takes the next steps of a shutdown: nothing but waiting may be left to do.
pub(crate) fn continue_stop(core: &mut ManagerState, id: InstanceId) {
    loop {
        let instance = core.inventory.instance(id).filter(|i| i.state == InstanceState::Stopping);
        let Some(instance) = instance.filter(|i| !i.stopping.asked_to_end) else { return };
        let stopping = &instance.stopping;
        if instance.sessions.is_empty() {
            if stopping.by_force {
                send_hard(core, id, 0)
            } else {
                ask_to_end(core, id)
            }
            return;
        }
        if stopping.by_force || stopping.asked.len() >= CLOSE_AT_ONCE {
            return;
        }
        if let Some(session) = stopping.queue.front().copied() {
            let ask = can_be_asked(core, session);
            core.inventory.change(id, |instance| {
                instance.stopping.queue.pop_front();
                if ask {
                    instance.stopping.asked.insert(session);
                }
            });
            if ask {
                closing::ask_to_close(core, session, None);
            }
            continue;
        }
        if !stopping.asked.is_empty() || !next_sessions(core, id) {
            return;
        }
    }
}

/// Queues the sessions that are next to close. False when there is only to wait, or nothing is left.
fn next_sessions(core: &mut ManagerState, id: InstanceId) -> bool {
    let Some(instance) = core.inventory.instance(id) else { return false };
    if instance.stopping.plugs {
        // Its plugs' sessions were asked once. What it opened since, to finish its work, it closes.
        ask_to_end(core, id);
        return false;
    }
    let of = |incoming: bool| -> Vec<u64> {
        let is_of =
            |session: &u64| core.sessions.get(*session).is_some_and(|s| (s.destination == id) == incoming);
        instance.sessions.iter().copied().filter(is_of).collect()
    };
    let incoming = of(true);
    let askable: Vec<u64> = incoming.iter().copied().filter(|session| can_be_asked(core, *session)).collect();
    let (plugs, next) = match (incoming.is_empty(), askable.is_empty()) {
        (true, _) => (true, of(false)),
        // Promised ones are about to be acknowledged, others were asked already.
        (false, true) => return false,
        (false, false) => (false, askable),
    };
    core.inventory.change(id, |instance| {
        instance.stopping.plugs = plugs;
        instance.stopping.queue = next.into();
    });
    true
}

fn can_be_asked(core: &ManagerState, session: u64) -> bool {
    let is_open = core.sessions.get(session).is_some_and(|s| s.state == SessionState::Open);
    is_open && !core.closings.contains(session)
}

/// Asks an instance to end.
pub(crate) fn ask_to_end(core: &mut ManagerState, id: InstanceId) {
    let instance = core.inventory.instance(id).filter(|i| i.state == InstanceState::Stopping);
    let Some(instance) = instance.filter(|i| !i.stopping.asked_to_end && !i.stopping.by_force) else {
        return;
    };
    let (address, service_name) = (instance.address, instance.program.clone());
    let within = core.policy(instance.app.as_str(), instance.service.as_str()).stop_within;
    let request =
        GracefulShutdownRequest { message_id: core.message_id(), service_name, service_instance_id: id };
    core.inventory.change(id, |instance| instance.stopping.asked_to_end = true);
    core.at(core.now + within, Timer::Graceful(id));
    core.send_to(address, request, Some(Outstanding::Graceful(id)));
}

/// Ends an instance that did not end when it was asked to, or that does not answer: its peers close
/// its sessions first.
pub(crate) fn force_end(core: &mut ManagerState, id: InstanceId) {
    let Some(instance) = core.inventory.instance(id).filter(|i| i.state.is_alive()) else { return };
    if instance.stopping.by_force {
        return;
    }
    let within = core.policy(instance.app.as_str(), instance.service.as_str()).close_within;
    let sessions = instance.sessions.clone();
    core.inventory.change(id, |instance| {
        instance.state = InstanceState::Stopping;
        instance.stopping.by_force = true;
        instance.stopping.asked_to_end = false;
    });
    core.save(Key::Instance(id));
    core.at(core.now + within, Timer::Force(id));
    for session in sessions {
        closing::ask_to_close(core, session, Some(id));
    }
    core.touch_stopping(id);
}

/// Has an instance's agent end it, in a few tries.
pub(crate) fn send_hard(core: &mut ManagerState, id: InstanceId, tries: u32) {
    let instance = core.inventory.instance(id).filter(|i| i.state == InstanceState::Stopping);
    let Some(instance) = instance.filter(|i| i.stopping.asked_to_end == (tries > 0)) else { return };
    if tries >= HARD_TRIES {
        strangers::doubt(core, id);
        execution::instance_ended(core, id, "no answer to the hard shutdown", Vec::new());
        return;
    }
    let (address, service_name) = (instance.address, instance.program.clone());
    let within = core.policy(instance.app.as_str(), instance.service.as_str()).stop_within;
    core.inventory.change(id, |instance| instance.stopping.asked_to_end = true);
    let request =
        HardShutdownRequest { message_id: core.message_id(), service_name, service_instance_id: id };
    core.at(core.now + within, Timer::Hard(id, tries + 1));
    core.send_to(address, request, Some(Outstanding::Hard(id)));
}
