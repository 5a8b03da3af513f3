//! What an earlier run had on disk is taken back.

use std::collections::HashMap;

use ssmmp::{Address, InstanceId};

use crate::polls;
use crate::row::Saved;
use crate::state::ManagerState;
use crate::state::app::App;
use crate::state::instance::{Instance, InstanceState};
use crate::state::node::Node;
use crate::state::session::SessionState;
use crate::state::timers::Timer;
use crate::time::Millis;

/// A node whose instances were read back from disk is expected to return.
fn expect_node(core: &mut ManagerState, address: Address) {
    if core.inventory.node(address).is_none() {
        core.inventory.put_node(Node::lost(address, core.now));
        core.at(core.now + core.config.agent_grace, Timer::NodeGrace(address));
    }
}

/// Takes back what an earlier run had on disk: instances wait for their agents to return; moves,
/// drains and shutdowns that had begun go on then.
pub(crate) fn restore(core: &mut ManagerState, saved: Saved) {
    core.next_instance = saved.last_instance + 1;
    core.next_session = saved.last_session + 1;
    for (graph, text, applied) in saved.apps {
        let mut app = App::new(graph, text, applied);
        let services: Vec<String> = app.graph.services.keys().cloned().collect();
        for service in services {
            app.state_mut(&service).replacing = true;
        }
        core.apps.insert(app.graph.app.clone(), app);
    }
    for row in saved.services {
        if let Some(app) = core.apps.get_mut(&row.app) {
            let state = app.state_mut(&row.service);
            (state.scaled, state.home, state.replacing) = (row.scaled, row.home, true);
        }
    }
    if let Some(reserved) = saved.message_ids {
        core.message_ids.resume(reserved);
    }
    for row in saved.nodes {
        let mut node = Node::lost(row.address, row.first);
        (node.name, node.secret) = (row.name, row.secret);
        core.inventory.put_node(node);
    }
    core.drained = saved.drained.into_iter().collect();
    let mut of_instance: HashMap<InstanceId, Vec<u64>> = HashMap::new();
    let mut accepted: HashMap<InstanceId, u32> = HashMap::new();
    for session in &saved.sessions {
        *accepted.entry(session.destination).or_default() += 1;
        for end in [session.source, session.destination] {
            of_instance.entry(end).or_default().push(session.id);
        }
    }
    let mut instances: Vec<Instance> = saved.instances.into_iter().map(Instance::from).collect();
    // The old before the new, as they were started.
    instances.sort_by_key(|instance| instance.id);
    for mut instance in instances {
        if instance.ended.is_some() {
            core.inventory.add_ended(instance);
            continue;
        }
        instance.idle_since = core.now;
        instance.sessions = of_instance.remove(&instance.id).into_iter().flatten().collect();
        instance.accepted = accepted.get(&instance.id).copied().unwrap_or(0);
        let (id, runs) = (instance.id, instance.state == InstanceState::Running);
        expect_node(core, instance.address);
        core.inventory.add(instance);
        if runs {
            polls::plan_instance_polls(core, id);
        }
    }
    core.inventory.forget_ended();
    let now = core.now;
    core.sessions.restore(saved.sessions.into_iter().map(|mut session| {
        if session.state == SessionState::Pending {
            // Its time begins again: while the Manager was away nobody could acknowledge.
            session.opened = now;
        }
        session
    }));
}

/// Agents can connect from now on: the time for which those of restored instances are waited for
/// begins.
pub(crate) fn ready(core: &mut ManagerState, now: Millis) {
    core.now = core.now.max(now);
    let lost: Vec<Address> =
        core.inventory.nodes().filter(|node| node.connection.is_none()).map(|n| n.address).collect();
    for address in lost {
        core.inventory.disconnect(address, core.now);
        core.at(core.now + core.config.agent_grace, Timer::NodeGrace(address));
    }
}
