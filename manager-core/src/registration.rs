//! Agents register, are lost and return (section 4, 1 and 2).

use std::collections::{BTreeMap, HashSet};

use ssmmp::extension::{
    self, Extension as _, Redirection, Running, RunningMore, Secret, Time, Unavailable, UnlimitedInstances,
    Version,
};
use ssmmp::{Address, Envelope, Message, Name, NodeName, Status};

use crate::events::Effect;
use crate::row::Key;
use crate::state::ManagerState;
use crate::state::node::{Connection, Node};
use crate::state::ownership::Identity;
use crate::state::timers::Timer;
use crate::{admission, closing, ending, execution, polls, probing, queued_requests, reconcile};

/// Services of which an agent may say why it can't execute them; further ones are just not there.
const MAX_UNAVAILABLE: usize = 16;
/// Longest name or reason of a node that is kept, in characters.
const LONGEST_TEXT: usize = 200;

/// An agent registers, for the first time or again; an earlier connection is probed first.
pub(crate) fn register(core: &mut ManagerState, connection: Connection, envelope: &Envelope) {
    let Message::InitiationRequest(request) = &envelope.message else { return };
    let (address, message_id) = (request.agent_network_address, request.message_id);
    let name = envelope.line().map_or_else(|| address.to_string(), |extension::Node(name)| short(name));
    if let Some(owner) = core.ownership.of_node(&name, address) {
        let answer = Identity::add(core.identity.as_ref(), owner.answer_to(message_id, &name));
        core.effect(Effect::Send(connection, answer));
        core.effect(Effect::Close(connection));
        return;
    }
    if let Some(extension::Node(said)) = envelope.line()
        && let Err(why) = NodeName::new(said)
    {
        // What it says is quoted to nobody.
        let refused = (Status::BAD_REQUEST, why);
        admission::refuse_registration(core, connection, message_id, &address.to_string(), refused);
        return;
    }
    let running = envelope.extension(Running::NAME);
    if envelope.line::<RunningMore>().is_some() {
        match core.parts.keep(connection, running.unwrap_or_default()) {
            Ok(()) => admission::accept(core, connection, message_id, Status::CONTINUE),
            Err(status) => {
                let reason = "it tells more of its instances than is kept of one registration";
                admission::refuse_registration(core, connection, message_id, &name, (status, reason.into()));
            }
        }
        return;
    }
    let secret = envelope.line().map(|Secret(secret)| secret);
    let admitted = admission::admit(core, address, &name, secret).and_then(|secret| {
        let told = [core.parts.of(connection), running.unwrap_or_default()];
        let strangers = reconcile::strangers_in(core, address, &told);
        core.inventory.room_for(address, request.service_repository.0.len(), strangers)?;
        Ok(secret)
    });
    let secret = match admitted {
        Ok(secret) => secret,
        Err(refused) => {
            admission::refuse_registration(core, connection, message_id, &name, refused);
            return;
        }
    };
    let earlier = core.inventory.node(address);
    if earlier.and_then(|node| node.connection).is_some_and(|earlier| earlier != connection) {
        probing::probe(core, address, connection, envelope.clone());
        return;
    }
    // The agent tells of another repository; what is on its way to it is not lost.
    let again = earlier.is_some_and(|node| node.connection == Some(connection));
    let mut node = Node::lost(address, core.now);
    node.first = earlier.map_or(core.now, |node| node.first);
    node.ending = again && core.inventory.is_ending(address);
    node.name.clone_from(&name);
    node.connection = Some(connection);
    node.secret = secret;
    node.polls.healthy = core.now;
    node.repository = request.service_repository.0.iter().cloned().collect();
    node.redirection = envelope.line::<Redirection>().map_or("unknown".into(), |told| short(told.text()));
    node.version = envelope.line().map(|Version(version)| short(version)).unwrap_or_default();
    node.clock_ahead = clock_ahead(core, envelope);
    node.unavailable = unavailable(envelope);
    let services = node.repository.len();
    if !again {
        core.answers.forget(address);
    }
    core.inventory.put_node(node);
    core.save(Key::Node(address));
    polls::plan_node_polls(core, address);
    admission::accept(core, connection, message_id, Status::OK);
    let kind = if again { "node-changed" } else { "node-up" };
    core.publish(kind, format!("node {name}"), format!("registered from {address} with {services} services"));
    if !again {
        core.told.insert(connection, HashSet::new());
    }
    let parts = core.parts.take(connection);
    match running {
        Some(running) => reconcile::reconcile(core, address, &(parts + running), again),
        None => reconcile::reconcile_untold(core, address),
    }
    hear_unlimited(core, address, envelope);
    core.touch_all();
    queued_requests::retry_all_waiting(core);
}

/// How far the clock of who sent this is ahead, if it says its time.
pub(crate) fn clock_ahead(core: &ManagerState, envelope: &Envelope) -> Option<i64> {
    let Time(there) = envelope.line()?;
    there.checked_sub_unsigned(core.now)
}

/// Limits of instances that their agent could not apply; it speaks for its own.
fn hear_unlimited(core: &mut ManagerState, address: Address, envelope: &Envelope) {
    let Some(UnlimitedInstances(told)) = envelope.line() else { return };
    for (id, text) in told {
        if core.inventory.instance(id).is_some_and(|instance| instance.address == address) {
            execution::note_unlimited(core, id, &text);
        }
    }
}

/// Forgets a lost node, its secret too: whoever registers with its address or name next is it.
pub(crate) fn forget_node(core: &mut ManagerState, address: Address) {
    let lost = core.inventory.living_on(address);
    execution::lost_with_node(core, lost, "its node was forgotten on request");
    core.inventory.forget_node(address);
    core.drained.remove(&address);
    core.save(Key::Node(address));
}

/// An agent's connection ended; its instances go on, for now.
pub(crate) fn connection_lost(core: &mut ManagerState, connection: Connection) {
    probing::candidate_lost(core, connection);
    core.parts.take(connection);
    let Some(address) = core.inventory.node_of(connection) else { return };
    let now = core.now;
    core.told.remove(&connection);
    core.answers.forget(address);
    core.inventory.disconnect(address, now);
    if core.inventory.is_ending(address) {
        ending::node_ended(core, address);
        core.touch_candidate(address);
        return;
    }
    let name = core.inventory.node(address).map(|node| node.name.clone()).unwrap_or_default();
    core.publish("node-lost", format!("node {name}"), "its connection ended; its instances go on".into());
    core.at(now + core.config.agent_grace, Timer::NodeGrace(address));
    core.touch_candidate(address);
}

/// A lost agent has not come back in time: its instances count as lost.
pub(crate) fn grace_ended(core: &mut ManagerState, address: Address) {
    let Some(node) = core.inventory.node(address) else { return };
    if node.connection.is_some() || core.now < node.since + core.config.agent_grace {
        return;
    }
    let lost = core.inventory.living_on(address);
    for id in &lost {
        closing::close_surviving_ends(core, *id);
    }
    execution::lost_with_node(core, lost, "its node was lost");
    core.inventory.forget_told(address);
    admission::forget_lost_nodes(core);
}

/// The agent of a node is gone: who waited takes its place.
pub(crate) fn take_over(core: &mut ManagerState, address: Address) {
    if let Some(candidate) = core.candidates.remove(&address) {
        register(core, candidate.connection, &candidate.registration);
    }
}

/// An agent's text, no longer than is kept.
fn short(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}

/// What an agent can't execute of its repository, and why.
fn unavailable(envelope: &Envelope) -> BTreeMap<Name, String> {
    let told = envelope.line().map(|Unavailable(told)| told).unwrap_or_default();
    told.into_iter().take(MAX_UNAVAILABLE).map(|(name, reason)| (name, short(&reason))).collect()
}
