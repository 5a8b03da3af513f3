//! Agents and instances are polled (section 4, 15), and what their answers and their silence mean.

use ssmmp::{Address, AgentHealthControlRequest, InstanceId, ServiceInstanceHealthRequest, Status};

use crate::state::ManagerState;
use crate::state::instance::InstanceState;
use crate::time::Millis;
use crate::{polls, scaling, shutdown, strangers};

/// Polls that may go unanswered before a party counts as down.
const MISSES_ALLOWED: u32 = 3;

/// Asks an agent how it is; one that left too many polls unanswered is cut off.
pub(crate) fn poll_node(core: &mut ManagerState, address: Address, at: Millis) {
    let Some(node) = core.inventory.node(address).filter(|node| node.polls.next == at) else { return };
    let (Some(connection), misses) = (node.connection, node.polls.misses) else { return };
    if misses >= MISSES_ALLOWED {
        core.cut_off(connection);
        return;
    }
    if let Some(polls) = core.inventory.node_polls(address) {
        polls.misses += 1;
    }
    let request = AgentHealthControlRequest { message_id: core.message_id(), agent_network_address: address };
    core.send_to(address, request, None);
    strangers::end_strangers(core, address);
    polls::plan_node_poll(core, address, core.now + core.config.health_interval);
}

/// Asks an instance how it is, ends one that left too many polls unanswered, or that is idle.
pub(crate) fn poll_instance(core: &mut ManagerState, id: InstanceId, at: Millis) {
    let instance = core.inventory.instance(id).filter(|instance| instance.polls.next == at);
    let Some(instance) = instance.filter(|instance| instance.state == InstanceState::Running) else {
        return;
    };
    let (address, misses) = (instance.address, instance.polls.misses);
    let (app, service) = (instance.app.to_string(), instance.service.to_string());
    // Not sooner than that, though the interval may have changed: a poll gets time for its answer.
    polls::plan_instance_polls_after(core, id, core.now + polls::instance_interval(core, id) / 2);
    if core.inventory.node(address).is_some_and(|node| node.connection.is_some()) {
        if misses >= core.policy(&app, &service).health.misses {
            silent(core, id, misses);
            return;
        }
        core.inventory.change(id, |instance| instance.polls.misses += 1);
        let request = ServiceInstanceHealthRequest {
            message_id: core.message_id(),
            service_instance_id: id,
            service_instance_network_address: address,
        };
        core.send_to(address, request, None);
    }
    scaling::weigh_now_and_then(core, &app, &service);
}

/// Asks an instance how it is before its poll is due: its agent has come back and said nothing of it.
pub(crate) fn ask_health_now(core: &mut ManagerState, id: InstanceId) {
    let Some(address) = core.inventory.change(id, |instance| {
        instance.polls.misses = 0;
        instance.address
    }) else {
        return;
    };
    let request = ServiceInstanceHealthRequest {
        message_id: core.message_id(),
        service_instance_id: id,
        service_instance_network_address: address,
    };
    core.send_to(address, request, None);
}

/// An instance left too many polls unanswered: it counts as failed (M6).
fn silent(core: &mut ManagerState, id: InstanceId, misses: u32) {
    let text = format!("it left {misses} health polls unanswered ({})", Status::NO_ANSWER);
    let service = core.inventory.change(id, |instance| {
        instance.stopping.failed = true;
        instance.reason = Some(text.clone());
        instance.service.clone()
    });
    let Some(service) = service else { return };
    core.publish("instance-silent", format!("instance {id} ({service})"), text);
    shutdown::force_end(core, id);
}

/// An instance has answered, whichever poll it was.
pub(crate) fn instance_health(core: &mut ManagerState, id: InstanceId, status: Status) {
    if !status.is_success() && status != Status::OVERLOADED {
        return;
    }
    let (now, is_overloaded) = (core.now, status == Status::OVERLOADED);
    let before = core.inventory.change(id, |instance| {
        instance.polls.misses = 0;
        instance.polls.healthy = now;
        instance.overloads = if is_overloaded { instance.overloads.saturating_add(1) } else { 0 };
        let was = std::mem::replace(&mut instance.overloaded, is_overloaded);
        (was, instance.overloads, instance.app.to_string(), instance.service.to_string())
    });
    let Some((was_overloaded, overloads, app, service)) = before else { return };
    if is_overloaded && !was_overloaded {
        let text = "it answers 199 and gets no new sessions while another can take them";
        core.publish("instance-overloaded", format!("instance {id} ({service})"), text.into());
    }
    if is_overloaded {
        scaling::weigh_after_overload(core, &app, &service, overloads);
    }
}
