//! Instances are executed on the best node, ended, and started again (section 4, 3 to 5).

use std::collections::BTreeSet;

use ssmmp::extension::{self, App, Reason, Unlimited};
use ssmmp::{
    Envelope, ExecutionRequest, Hop, InstanceId, Name, PlugConfiguration, PlugTarget, SocketConfiguration,
    SocketPort, Status,
};

use crate::graph::policy::time;
use crate::graph::{Service, State};
use crate::placing::{Placed, Start};
use crate::row::{InstanceRow, Key};
use crate::state::ManagerState;
use crate::state::instance::{Instance, InstanceState};
use crate::state::node::ENDS_WITH_AGENT;
use crate::state::pending_requests::Outstanding;
use crate::state::timers::Timer;
use crate::text::{LONGEST_TEXT, first, output_of};
use crate::time::Millis;
use crate::{placing, polls, queued_requests, sessions, strangers, unwanted};

/// What came of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// The execution is requested.
    Yes,
    /// Nodes that could take it have too many starts under way.
    Later,
    /// No node can take it.
    No,
}

/// Requests the execution of one more instance. That no node can take it is published once.
pub(crate) fn start(core: &mut ManagerState, app: &str, service: &str, start: Start) -> Begun {
    let Some(vertex) = core.apps.get(app).and_then(|app| app.service(service)) else {
        return Begun::No;
    };
    let names = (Name::new(app), Name::new(service), Name::new(&vertex.program));
    let (Ok(app_name), Ok(name), Ok(program)) = names else { return Begun::No };
    let recipe = vertex.recipe();
    let (address, sockets) = match placing::place(core, app, service, vertex, &start) {
        Placed::At(address, sockets) => (address, sockets),
        Placed::Later => return Begun::Later,
        Placed::Nowhere => {
            placing::unplaced(core, app, service);
            return Begun::No;
        }
    };
    let id = core.instance_id();
    let node = core.inventory.node(address).map(|node| node.name.clone()).unwrap_or_default();
    let mut instance = Instance::from(InstanceRow {
        id,
        app: app_name,
        service: name,
        address,
        node: node.clone(),
        sockets,
        state: InstanceState::Starting,
        created: core.now,
        ended: None,
        reason: None,
        output: Vec::new(),
        program,
        recipe,
        leaving: None,
        replaces: start.replaces,
    });
    instance.tried = start.tried;
    instance.tried.insert(address);
    let known = core.apps.get(app).and_then(|app| app.state(service));
    instance.restarts = known.map_or(0, |state| state.failures.recent());
    core.inventory.add(instance);
    core.save(Key::Instance(id));
    core.publish("instance-starting", format!("instance {id} ({service})"), format!("on node {node}"));
    execute_again(core, id);
    Begun::Yes
}

/// Requests an instance's execution, or its answer once more: a repeated request starts nothing.
pub(crate) fn execute_again(core: &mut ManagerState, id: InstanceId) {
    let message_id = core.message_id();
    let Some(instance) = core.inventory.instance(id) else { return };
    let (app, service) = (instance.app.as_str(), instance.service.as_str());
    let vertex = core.apps.get(app).and_then(|app| app.service(service));
    let within = core.policy(app, service).start_within;
    let sockets = instance.sockets.iter();
    let (address, service_name) = (instance.address, instance.program.clone());
    let (app, vertex_name) = (instance.app.clone(), instance.service.clone());
    let request = ExecutionRequest {
        message_id,
        agent_network_address: address,
        service_name,
        service_instance_id: id,
        socket_configuration: SocketConfiguration(
            sockets.map(|(socket, port)| SocketPort { socket: socket.clone(), port: *port }).collect(),
        ),
        plug_configuration: PlugConfiguration(vertex.map(plugs).unwrap_or_default()),
    };
    core.at(core.now + within, Timer::Start(id));
    let envelope =
        Envelope::new(request, Hop::ManagerToAgent).with(App(app)).with(extension::Service(vertex_name));
    core.inventory.change(id, |instance| instance.execution = Some(message_id));
    core.send_with(address, envelope, Some(Outstanding::Execution(id)));
}

/// An agent answers an execution. The answer to an earlier request says nothing: the agent was asked
/// again since, and has started the instance again if it had failed.
pub(crate) fn execution_answered(
    core: &mut ManagerState,
    id: InstanceId,
    envelope: &Envelope,
    status: Status,
) {
    let latest = core.inventory.instance(id).and_then(|instance| instance.execution);
    if latest == Some(envelope.message.message_id()) {
        let Reason(reason) = envelope.line().unwrap_or(Reason("the agent gave no reason"));
        executed(core, id, status, &first(reason, LONGEST_TEXT), output_of(envelope));
        if let Some(Unlimited(text)) = envelope.line().filter(|_| status.is_success()) {
            note_unlimited(core, id, text);
        }
    }
}

/// Which limits of an instance its agent could not apply, and why.
pub(crate) fn note_unlimited(core: &mut ManagerState, id: InstanceId, text: &str) {
    core.inventory.change(id, |instance| instance.unlimited = Some(first(text, LONGEST_TEXT).into()));
}

/// The agent has answered an execution_request.
pub(crate) fn executed(
    core: &mut ManagerState,
    id: InstanceId,
    status: Status,
    reason: &str,
    output: Vec<String>,
) {
    let instance = core.inventory.instance(id).filter(|i| i.state == InstanceState::Starting);
    let Some(instance) = instance else { return };
    let (app, service) = (instance.app.to_string(), instance.service.to_string());
    if status.is_success() {
        runs(core, id, &app, &service);
        return;
    }
    let old = instance.replaces.and_then(|old| core.inventory.instance(old));
    // One that has ended meanwhile is not moved: the new one was to stand in for it.
    let old = old.filter(|old| old.state == InstanceState::Running);
    let moved = old.filter(|old| old.leaving.is_some()).map(|old| old.id);
    let elsewhere =
        Start { tried: instance.tried.clone(), replaces: old.map(|old| old.id), ..Start::default() };
    let address = instance.address;
    end(core, id, InstanceState::Failed, &format!("could not be started ({status}): {reason}"), output);
    if let Some(old) = moved {
        unwanted::give_up_move(core, old, reason);
        core.touch(&app, &service);
    } else if core.inventory.is_ending(address) {
        core.touch(&app, &service);
    } else if status == Status::CONFLICT || start(core, &app, &service, elsewhere) != Begun::Yes {
        unplanned_end(core, &app, &service, None, status, reason);
    }
}

fn runs(core: &mut ManagerState, id: InstanceId, app: &str, service: &str) {
    let now = core.now;
    let running = core.inventory.change(id, |instance| {
        instance.state = InstanceState::Running;
        instance.idle_since = now;
        instance.polls.healthy = now;
        (instance.address, instance.node.clone())
    });
    let Some((address, node)) = running else { return };
    polls::plan_instance_polls(core, id);
    core.save(Key::Instance(id));
    core.publish("instance-running", format!("instance {id} ({service})"), format!("on node {node}"));
    if let Some(known) = core.apps.get_mut(app) {
        let is_bound = known.service(service).is_some_and(|vertex| vertex.state == State::Node);
        let state = known.state_mut(service);
        state.failures.recovered();
        if is_bound && state.home != Some(address) {
            state.home = Some(address);
            core.save(Key::Service(app.to_owned(), service.to_owned()));
        }
    }
    core.touch_waiting(app, service);
    core.touch(app, service);
    core.continue_later();
}

pub(crate) fn start_timed_out(core: &mut ManagerState, id: InstanceId) {
    if core.inventory.instance(id).is_none_or(|instance| instance.state != InstanceState::Starting) {
        return;
    }
    strangers::doubt(core, id);
    executed(core, id, Status::NO_ANSWER, "no answer from its agent in time", Vec::new());
}

/// Counts an unplanned end against the budget of restarts, and plans the next start. `ran`: how long
/// it had run, `None` for a failed start, which also answers who waits.
fn unplanned_end(
    core: &mut ManagerState,
    app_name: &str,
    service: &str,
    ran: Option<Millis>,
    status: Status,
    reason: &str,
) {
    let budget = core.policy(app_name, service).restarts;
    let now = core.now;
    let Some(app) = core.apps.get_mut(app_name) else { return };
    let failures = &mut app.state_mut(service).failures;
    let newly_failing = failures.count(now, ran, reason, budget);
    let (count, at) = (failures.recent(), failures.not_before);
    if ran.is_none() {
        let status = if status == Status::NO_ANSWER { status } else { Status::UNAVAILABLE };
        queued_requests::fail_waiting(core, app_name, service, status, reason);
    }
    if newly_failing {
        let text = format!(
            "{count} unplanned ends are more than its budget of {} within {}; it is retried with growing pauses, next in {}: {reason}",
            budget.tries,
            time(budget.within),
            time(at.saturating_sub(now).next_multiple_of(1_000))
        );
        core.publish("service-failing", format!("service {service}"), text);
    }
    if at > now {
        core.at(at, Timer::Settle(app_name.into(), service.into()));
    }
    core.touch(app_name, service);
}

/// An instance says that it ends, or its agent that it is gone.
pub(crate) fn instance_told_end(core: &mut ManagerState, id: InstanceId, envelope: &Envelope) {
    let Some(instance) = core.inventory.instance(id) else { return };
    let (app, service) = (instance.app.clone(), instance.service.clone());
    let now = core.now;
    let by_agent = envelope.line().map(|Reason(reason)| first(reason, LONGEST_TEXT));
    if by_agent.is_none()
        && let Some(app) = core.apps.get_mut(app.as_str())
    {
        app.state_mut(service.as_str()).failures.wait_for_exit(now);
    }
    instance_ended(core, id, by_agent.as_deref().unwrap_or("ended by itself"), output_of(envelope));
}

/// An instance has ended, however it did.
pub(crate) fn instance_ended(core: &mut ManagerState, id: InstanceId, reason: &str, output: Vec<String>) {
    let Some(instance) = core.inventory.instance(id).filter(|i| i.state.is_alive()) else { return };
    let (app, service, state) = (instance.app.to_string(), instance.service.to_string(), instance.state);
    let lived = core.now.saturating_sub(instance.created);
    if state == InstanceState::Starting {
        // Its agent may have been asked to start it again meanwhile.
        strangers::doubt(core, id);
    }
    let Some(instance) = core.inventory.instance(id) else { return };
    // Who ends with its agent was asked to, whatever it looks like.
    let is_asked = core.inventory.is_ending(instance.address);
    if is_asked || (state == InstanceState::Stopping && !instance.stopping.failed) {
        let usual = if is_asked { ENDS_WITH_AGENT } else { reason };
        let planned = instance.reason.clone().unwrap_or_else(|| usual.to_owned());
        end(core, id, InstanceState::Ended, &planned, Vec::new());
        core.touch(&app, &service);
        return;
    }
    let reason = match state {
        InstanceState::Stopping => instance.reason.clone().unwrap_or_else(|| reason.to_owned()),
        _ => reason.to_owned(),
    };
    end(core, id, InstanceState::Ended, &reason, output);
    let ran = (state != InstanceState::Starting).then_some(lived);
    unplanned_end(core, &app, &service, ran, Status::UNAVAILABLE, &reason);
}

/// Instances are gone with their node or its agent: no failure of theirs, so the budget of restarts
/// is not touched.
pub(crate) fn lost_with_node(core: &mut ManagerState, ids: Vec<InstanceId>, reason: &str) {
    let mut services = BTreeSet::new();
    for id in ids {
        let Some(instance) = core.inventory.instance(id).filter(|i| i.state.is_alive()) else { continue };
        services.insert((instance.app.to_string(), instance.service.to_string()));
        let planned = instance.reason.clone().unwrap_or_else(|| reason.to_owned());
        end(core, id, InstanceState::Ended, &planned, Vec::new());
    }
    for (app, service) in services {
        core.touch(&app, &service);
    }
}

/// Writes an instance's end down and closes its sessions.
fn end(core: &mut ManagerState, id: InstanceId, state: InstanceState, reason: &str, output: Vec<String>) {
    let now = core.now;
    let last_line = output.last().map(|line| format!("; last output: {line}")).unwrap_or_default();
    let ended = core.inventory.change(id, |instance| {
        instance.state = state;
        instance.ended = Some(now);
        instance.reason = Some(reason.to_owned());
        instance.output = output;
        let of = (instance.app.clone(), instance.service.clone(), instance.address);
        (of, instance.sessions.clone())
    });
    let Some(((app, service, address), sessions)) = ended else { return };
    core.continue_later();
    core.save(Key::Instance(id));
    let kind = if state == InstanceState::Failed { "instance-failed" } else { "instance-ended" };
    core.publish(kind, format!("instance {id} ({service})"), format!("{reason}{last_line}"));
    for session in sessions {
        sessions::session_closed(core, session, Status::BROKEN);
    }
    queued_requests::withdraw_waiting(core, app.as_str(), id);
    core.touch_ending_node(address);
}

fn plugs(service: &Service) -> Vec<PlugTarget> {
    service
        .plugs
        .iter()
        .filter_map(|(plug, target)| {
            Some(PlugTarget {
                plug: Name::new(plug).ok()?,
                socket: Some(Name::new(&target.socket).ok()?),
                service: Name::new(&target.service).ok()?,
            })
        })
        .collect()
}
