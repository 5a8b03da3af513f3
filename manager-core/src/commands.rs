//! What people ask for besides applying a graph: checked first, then begun. What is begun is on disk
//! before it is answered, and goes on after a crash; asking again changes nothing.

use std::collections::BTreeSet;

use patchbay_api::Done;
use ssmmp::InstanceId;

use crate::events::{Command, Refusal};
use crate::graph::{Kind, State};
use crate::naming::{called, conflict, counted, done, unknown};
use crate::row::Key;
use crate::state::ManagerState;
use crate::state::instance::{Instance, InstanceState, Leaving};
use crate::state::session::SessionState;
use crate::{
    apps, closing, naming, placing, queued_requests, redirecting, registration, replicas, shutdown, unwanted,
};

type Answer = Result<Done, Refusal>;

/// Checks a command and says what it would do.
///
/// # Errors
/// It names what is not there, or what can't be done.
pub(crate) fn preview(core: &ManagerState, command: &Command) -> Answer {
    match command {
        Command::StopApp(app) => preview_stop_app(core, app),
        Command::StopInstance(id) => {
            let instance = naming::living(core, *id)?;
            Ok(done(format!("stop {}", called(instance)), 1, instance.sessions.len()))
        }
        Command::CloseSession(id) => match is_open(core, *id) {
            true => Ok(done(format!("close session {id}"), 0, 1)),
            false => Err(unknown(format!("no session {id} is open"))),
        },
        Command::CloseConnection(app, plug) => {
            let sessions = naming::sessions_of_connection(core, app, plug)?;
            Ok(done(format!("close {} of {plug}", counted(sessions.len(), "session")), 0, sessions.len()))
        }
        Command::CloseInstance(id) => {
            let instance = naming::living(core, *id)?;
            let count = instance.sessions.len();
            Ok(done(format!("close {} of {}", counted(count, "session"), called(instance)), 0, count))
        }
        Command::Move(id, node) => preview_move(core, *id, node),
        Command::Drain(node) => preview_drain(core, node),
        Command::Undrain(node) => {
            let address = naming::drained_node(core, node)?;
            let was = core.drained.contains(&address);
            Ok(done(format!("execute on node {node} {}", if was { "again" } else { "as before" }), 0, 0))
        }
        Command::Forget(node) => preview_forget(core, node),
        Command::Redirect(what, on) => redirecting::preview_redirect(core, what, *on),
        Command::Scale(app, service, replicas) => preview_scale(core, app, service, *replicas),
    }
}

/// Checks a command and begins it.
pub(crate) fn command(core: &mut ManagerState, command: &Command) -> Answer {
    let answer = preview(core, command)?;
    match command {
        Command::StopApp(app) => apps::stop_app(core, app),
        Command::StopInstance(id) => shutdown::stop_instance(core, *id, "stopped on request"),
        Command::CloseSession(id) => closing::ask_to_close(core, *id, None),
        Command::CloseConnection(app, plug) => {
            for session in naming::sessions_of_connection(core, app, plug)? {
                closing::ask_to_close(core, session, None);
            }
        }
        Command::CloseInstance(id) => {
            for session in naming::living(core, *id)?.sessions.clone() {
                closing::ask_to_close(core, session, None);
            }
        }
        Command::Move(id, node) => begin_move(core, *id, node)?,
        Command::Drain(node) => begin_drain(core, node)?,
        Command::Undrain(node) => {
            let address = naming::drained_node(core, node)?;
            if core.drained.remove(&address) {
                core.save(Key::Node(address));
                core.publish("node-undrained", format!("node {node}"), "it may execute again".into());
                let now = core.now;
                let services = core.apps.values_mut().flat_map(|app| app.services.values_mut());
                services.for_each(|service| service.failures.retry(now));
                core.touch_all();
                queued_requests::retry_all_waiting(core);
            }
        }
        Command::Forget(node) => {
            let address = naming::known_node(core, node)?;
            core.publish("node-forgotten", format!("node {node}"), "forgotten on request".into());
            registration::forget_node(core, address);
        }
        Command::Redirect(what, on) => redirecting::redirect(core, what, *on)?,
        Command::Scale(app, service, replicas) => begin_scale(core, app, service, *replicas),
    }
    Ok(answer)
}

fn preview_stop_app(core: &ManagerState, app: &str) -> Answer {
    if !core.apps.contains_key(app) {
        return Err(unknown(format!("there is no application `{app}`")));
    }
    let instances: Vec<&Instance> = core
        .inventory
        .of_app(app)
        .flat_map(|(_, of_service)| &of_service.alive)
        .filter_map(|id| core.inventory.instance(*id))
        .collect();
    let sessions: BTreeSet<u64> = instances.iter().flat_map(|i| i.sessions.iter().copied()).collect();
    let text = format!(
        "stop {app}: {}, {}",
        counted(instances.len(), "instance"),
        counted(sessions.len(), "session")
    );
    Ok(done(text, instances.len(), sessions.len()))
}

fn preview_move(core: &ManagerState, id: InstanceId, node: &str) -> Answer {
    let instance = naming::living(core, id)?;
    let to = naming::known_node(core, node)?;
    let name = called(instance);
    if instance.state != InstanceState::Running {
        return Err(conflict(format!("{name} is {}, not running", instance.state.as_str())));
    }
    if instance.address == to {
        return Ok(done(format!("leave {name} where it is"), 0, 0));
    }
    let app = core.apps.get(instance.app.as_str());
    let vertex = app.and_then(|app| app.service(instance.service.as_str()));
    let Some(vertex) = vertex else {
        return Err(conflict(format!("{name} is being stopped: its service is not in the graph any more")));
    };
    if vertex.state == State::Node {
        return Err(conflict(format!(
            "{name} holds its state on node {}; say `state = \"shared\"` in the graph if it is elsewhere",
            instance.node
        )));
    }
    if core.drained.contains(&to) {
        return Err(conflict(format!("node {node} is drained; `patchbay undrain {node}` ends that")));
    }
    if !core.inventory.able(&vertex.program).any(|able| able.address == to) {
        let program = &vertex.program;
        return Err(conflict(format!(
            "node {node} is not connected, or has no `{program}` in its repository"
        )));
    }
    if placing::ports(core, to, vertex).is_none() {
        return Err(conflict(format!("a port of {name} is taken on node {node}")));
    }
    let count = instance.sessions.len();
    let text = format!(
        "move {name} from {} to {node}: a new one first, then its {}, a few at a time",
        instance.node,
        counted(count, "session")
    );
    Ok(done(text, 1, count))
}

fn preview_drain(core: &ManagerState, node: &str) -> Answer {
    let address = naming::known_node(core, node)?;
    let on_node = core.inventory.on_node(address).map(|on_node| &on_node.alive);
    let instances: Vec<&Instance> =
        on_node.into_iter().flatten().filter_map(|id| core.inventory.instance(*id)).collect();
    let (stay, go): (Vec<&Instance>, Vec<&Instance>) =
        instances.into_iter().partition(|instance| holds_state(core, instance));
    let sessions: BTreeSet<u64> = go.iter().flat_map(|i| i.sessions.iter().copied()).collect();
    let mut text = format!(
        "drain {node}: move {} with {}",
        counted(go.len(), "instance"),
        counted(sessions.len(), "session")
    );
    if !stay.is_empty() {
        let names: Vec<String> = stay.into_iter().map(called).collect();
        text.push_str(&format!("; these hold their state there and stay: {}", names.join(", ")));
    }
    Ok(done(text, go.len(), sessions.len()))
}

fn preview_forget(core: &ManagerState, name: &str) -> Answer {
    let address = naming::known_node(core, name)?;
    if core.inventory.node(address).is_some_and(|node| node.connection.is_some()) {
        let text =
            format!("node {name} is connected; end its agent first, or drain it to have nothing run there");
        return Err(conflict(text));
    }
    let lost = core.inventory.living_on(address).len();
    let text = format!(
        "forget node {name}: whoever registers with its name or address next is it, with {} that count as lost",
        counted(lost, "instance")
    );
    Ok(done(text, lost, 0))
}

fn preview_scale(core: &ManagerState, app: &str, service: &str, replicas: Option<u32>) -> Answer {
    let known = core.apps.get(app).ok_or_else(|| unknown(format!("there is no application `{app}`")))?;
    let vertex =
        known.service(service).ok_or_else(|| unknown(format!("`{app}` has no service `{service}`")))?;
    let (least, most) = (vertex.fewest(), vertex.most.max(vertex.fewest()));
    let Some(replicas) = replicas else {
        return Ok(done(format!("leave {service} to its load: {least} to {most} instances"), 0, 0));
    };
    // With none, every request would start one and every start would be one too many.
    if !(least.max(1)..=most).contains(&replicas) {
        let least = least.max(1);
        let text = format!(
            "the graph gives {service} {least} to {most} replicas, not {replicas}; apply another graph"
        );
        return Err(conflict(text));
    }
    let mut running = replicas::replicas(core, app, service);
    running.sort_by_key(|replica| (replica.sessions, std::cmp::Reverse(replica.id)));
    let surplus = running.len().saturating_sub(replicas as usize);
    let sessions = running.iter().take(surplus).map(|replica| replica.sessions as usize).sum();
    let text = format!(
        "have {} of {service}; there are {} now",
        counted(replicas as usize, "instance"),
        running.len()
    );
    Ok(done(text, surplus, sessions))
}

fn begin_move(core: &mut ManagerState, id: InstanceId, node: &str) -> Result<(), Refusal> {
    let to = naming::known_node(core, node)?;
    if naming::living(core, id)?.address == to {
        return Ok(());
    }
    let leaving = Leaving { to, why: format!("moved to {node} on request") };
    let of = core.inventory.change(id, |instance| {
        instance.leaving = Some(leaving);
        (instance.app.to_string(), instance.service.to_string())
    });
    if let Some((app, service)) = of {
        core.save(Key::Instance(id));
        unwanted::look_through(core, &app, &service);
        core.touch(&app, &service);
    }
    Ok(())
}

fn begin_drain(core: &mut ManagerState, node: &str) -> Result<(), Refusal> {
    let address = naming::known_node(core, node)?;
    if core.drained.insert(address) {
        core.save(Key::Node(address));
        core.publish("node-draining", format!("node {node}"), "what runs there moves away".into());
        unwanted::look_through_node(core, address);
        core.touch_all();
    }
    Ok(())
}

fn begin_scale(core: &mut ManagerState, app: &str, service: &str, replicas: Option<u32>) {
    let now = core.now;
    let Some(known) = core.apps.get_mut(app) else { return };
    let state = known.state_mut(service);
    if state.scaled == replicas {
        return;
    }
    state.scaled = replicas;
    state.changed = now;
    core.save(Key::Service(app.to_owned(), service.to_owned()));
    let text = replicas.map_or_else(|| "its load decides".into(), |number| format!("{number} on request"));
    core.publish("service-scaled", format!("service {service}"), text);
    core.touch(app, service);
}

fn holds_state(core: &ManagerState, instance: &Instance) -> bool {
    let app = core.apps.get(instance.app.as_str());
    let vertex = app.and_then(|app| app.service(instance.service.as_str()));
    vertex.is_some_and(|vertex| vertex.kind == Kind::Baas && vertex.state == State::Node)
}

fn is_open(core: &ManagerState, id: u64) -> bool {
    core.sessions.get(id).is_some_and(|session| session.state == SessionState::Open)
}
