//! Instances are replaced (section 4, 18; L3): one is moved, its node is drained, or the graph has
//! changed what it was executed with. The new one runs first; then the old one's sessions are closed, a
//! few at a time, and come back at the new one; then the old one ends. One at a time for each service.

use ssmmp::InstanceId;

use crate::execution::Begun;
use crate::graph::State;
use crate::placing::Start;
use crate::state::ManagerState;
use crate::state::instance::InstanceState;
use crate::state::timers::Timer;
use crate::{execution, shutdown, unwanted};

/// What is to be done next to replace what is unwanted of a service.
enum Step {
    /// Nothing, until what is under way is done.
    Wait,
    /// Nothing any more.
    Done,
    /// Stop one whose replacement runs.
    Stop(InstanceId, String),
    /// Start a replacement.
    Replace(InstanceId, String),
}

pub(crate) fn replace_unwanted(core: &mut ManagerState, app: &str, service: &str) {
    if !unwanted::replaces_some(core, app, service) {
        return;
    }
    match next_step(core, app, service) {
        Step::Wait => {}
        Step::Stop(id, why) => shutdown::stop_instance(core, id, &why),
        Step::Replace(id, why) => replace(core, id, &why),
        Step::Done => {
            if let Some(app) = core.apps.get_mut(app) {
                app.state_mut(service).replacing = false;
            }
        }
    }
}

fn next_step(core: &ManagerState, app: &str, service: &str) -> Step {
    let Some(vertex) = core.apps.get(app).and_then(|known| known.service(service)) else {
        return Step::Wait;
    };
    let recipe = vertex.recipe();
    let running = |id| core.inventory.instance(id).filter(|i| i.state == InstanceState::Running);
    let unwanted = |id| Some((id, unwanted::unwanted_by(core, running(id)?, vertex, &recipe)?));
    let Some(of_service) = core.inventory.of_service(app, service) else { return Step::Done };
    let mut replaced = of_service.replacements().filter(|(_, new)| running(*new).is_some());
    if let Some((id, why)) = replaced.find_map(|(old, _)| unwanted(old)) {
        return Step::Stop(id, why);
    }
    // All are looked through only when nothing is under way.
    if !of_service.all_run() || core.delayed.contains(app, service) {
        return Step::Wait;
    }
    let first = of_service.alive.iter().find_map(|id| unwanted(*id));
    first.map_or(Step::Done, |(id, why)| Step::Replace(id, why))
}

fn replace(core: &mut ManagerState, id: InstanceId, why: &str) {
    let Some(old) = core.inventory.instance(id) else { return };
    let (app, service, address) = (old.app.to_string(), old.service.to_string(), old.address);
    let only = old.leaving.as_ref().map(|leaving| leaving.to);
    let Some(vertex) = core.apps.get(&app).and_then(|app| app.service(&service)).cloned() else { return };
    let pausing = core.apps.get(&app).and_then(|app| app.state(&service));
    if let Some(at) = pausing.map(|state| state.failures.not_before).filter(|at| *at > core.now) {
        core.at(at, Timer::Settle(app, service));
        return;
    }
    if vertex.state == State::Node {
        // Two would share the state: the old one ends first, and those who ask wait for the new one.
        shutdown::stop_instance(core, id, &format!("{why}; its state is on its node, so it ends first"));
        return;
    }
    let start = Start { near: Some(address), only, replaces: Some(id), ..Start::default() };
    if execution::start(core, &app, &service, start) == Begun::Yes {
        core.publish("instance-leaving", format!("instance {id} ({service})"), why.to_owned());
        return;
    }
    if only.is_some() {
        unwanted::give_up_move(core, id, "the node can't take it any more");
        return;
    }
    let has_fixed_port = vertex.sockets.values().any(|socket| socket.port.is_some());
    let can_stay = !core.drained.contains(&address)
        && core.inventory.able(&vertex.program).any(|node| node.address == address);
    if has_fixed_port && can_stay {
        // Its port is taken by itself, and no other node can take it.
        shutdown::stop_instance(
            core,
            id,
            &format!("{why}; no other node has its port free, so it ends first"),
        );
    }
}
