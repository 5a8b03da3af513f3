//! An agent announces its end (`x_ending`, docs/protocol.md): nothing is placed on its node from that moment,
//! what is needed is started elsewhere at once, and what runs there is shut down in order while its agent
//! still waits. An end that somebody asked for is never a failure: no budget of restarts is touched.

use ssmmp::extension::Ending;
use ssmmp::{Address, Envelope, InstanceId};

use crate::execution::Begun;
use crate::graph::State;
use crate::placing::Start;
use crate::state::ManagerState;
use crate::state::instance::InstanceState;
use crate::state::node::ENDS_WITH_AGENT;
use crate::state::timers::Timer;
use crate::time::Millis;
use crate::{closing, execution, replicas, shutdown, unwanted};

/// Longest time that an agent may say it waits, milliseconds.
const LONGEST: Millis = 3_600_000;

/// An agent may say with any answer that it ends.
pub(crate) fn hear_ending(core: &mut ManagerState, address: Address, envelope: &Envelope) {
    if let Some(Ending(within)) = envelope.line() {
        node_ends(core, address, within.min(LONGEST));
    }
}

/// An agent ends after so many milliseconds at the latest.
fn node_ends(core: &mut ManagerState, address: Address, within: Millis) {
    if !core.inventory.begin_end(address) {
        return;
    }
    let name = core.inventory.node(address).map(|node| node.name.clone()).unwrap_or_default();
    let text = format!(
        "its agent was told to end: what is needed is started elsewhere, then its instances end; {} ms at most",
        within
    );
    core.publish("node-ending", format!("node {name}"), text);
    // The second half is for shutting down.
    core.at(core.now + within / 2, Timer::NodeEnds(address));
    unwanted::look_through_node(core, address);
    for id in core.inventory.living_on(address) {
        leave_ending_node(core, id);
    }
    core.touch_ending_node(address);
    core.touch_all();
}

/// An instance whose node ends: a replacement first where one is needed and has a place.
fn leave_ending_node(core: &mut ManagerState, id: InstanceId) {
    let Some(instance) = core.inventory.instance(id) else { return };
    let (app, service, state) = (instance.app.to_string(), instance.service.to_string(), instance.state);
    let is_used = !instance.sessions.is_empty();
    let known = core.apps.get(&app).filter(|app| !app.stopped).and_then(|app| app.service(&service));
    match (state, known.map(|vertex| vertex.state)) {
        (InstanceState::Stopping, _) => {}
        // Those who need it end first.
        (InstanceState::Running, Some(State::Node)) => {}
        (InstanceState::Running, Some(State::Shared)) if is_used || is_short(core, &app, &service) => {
            let start = Start { replaces: Some(id), ..Start::default() };
            if execution::start(core, &app, &service, start) != Begun::Yes {
                shutdown::stop_instance(core, id, ENDS_WITH_AGENT);
            }
        }
        _ => shutdown::stop_instance(core, id, ENDS_WITH_AGENT),
    }
}

/// Whether a service has fewer instances than it should where no agent ends.
fn is_short(core: &ManagerState, app: &str, service: &str) -> bool {
    let of_service = core.inventory.of_service(app, service);
    let stay = of_service.into_iter().flat_map(|of_service| &of_service.alive).filter(|id| {
        core.inventory.instance(**id).is_some_and(|instance| {
            instance.state != InstanceState::Stopping && !core.inventory.is_ending(instance.address)
        })
    });
    (stay.count() as u32) < replicas::bounds(core, app, service).0
}

/// Half of the time is over: what still runs there is shut down now, replaced or not.
pub(crate) fn end_node_now(core: &mut ManagerState, address: Address) {
    if core.inventory.is_ending(address) {
        for id in core.inventory.living_on(address) {
            shutdown::stop_instance(core, id, ENDS_WITH_AGENT);
        }
    }
}

/// Stops the instances that hold their state on an ending node once no others run there.
pub(crate) fn stop_what_holds_state(core: &mut ManagerState, address: Address) {
    if !core.inventory.is_ending(address) {
        return;
    }
    let (holders, others): (Vec<InstanceId>, Vec<InstanceId>) =
        core.inventory.living_on(address).into_iter().partition(|id| holds_state_there(core, *id));
    if others.is_empty() {
        for id in holders {
            shutdown::stop_instance(core, id, ENDS_WITH_AGENT);
        }
    }
}

fn holds_state_there(core: &ManagerState, id: InstanceId) -> bool {
    let Some(instance) = core.inventory.instance(id) else { return false };
    let app = core.apps.get(instance.app.as_str());
    app.and_then(|app| app.service(instance.service.as_str()))
        .is_some_and(|vertex| vertex.state == State::Node)
}

/// The connection of an agent that had announced its end is gone: it is over there, nobody is waited for.
pub(crate) fn node_ended(core: &mut ManagerState, address: Address) {
    let name = core.inventory.node(address).map(|node| node.name.clone()).unwrap_or_default();
    core.publish("node-ended", format!("node {name}"), "its agent has ended, as it was told to".into());
    let left = core.inventory.living_on(address);
    for id in &left {
        closing::close_surviving_ends(core, *id);
    }
    execution::lost_with_node(core, left, ENDS_WITH_AGENT);
}
