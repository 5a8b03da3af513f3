//! Sessions are closed on request (section 4, 11; C4, C9): asked for at the source, or at the destination
//! when the source's side is gone; every request has a deadline, and there are few tries.

use ssmmp::extension::Within;
use ssmmp::{
    DestServiceSessionCloseRequest, Envelope, Hop, InstanceId, Message, Name,
    SourceServiceSessionCloseRequest, Status,
};

use crate::sessions;
use crate::state::ManagerState;
use crate::state::closings::{CloseRequest, Closing, Side};
use crate::state::pending_requests::Outstanding;
use crate::state::session::{Session, SessionState};
use crate::state::timers::Timer;
use crate::text::{LONGEST_TEXT, first};
use crate::time::Millis;

/// Requests for the end of one session, at one end or the other, before it counts as broken.
const TRIES: u32 = 3;
/// Surviving ends of lost instances that are asked to close at once; the others follow.
pub const MAX_ENDS_AT_ONCE: usize = 64;
/// The pause between so many and the next, milliseconds.
const ENDS_PAUSE: Millis = 100;
/// How much longer than the instance may take its agent's answer is waited for, milliseconds.
const SLACK: Millis = 2_000;

/// Has an open session closed; one of its ends may be left out. Asking again changes nothing.
pub(crate) fn ask_to_close(core: &mut ManagerState, id: u64, avoid: Option<InstanceId>) {
    let is_open = core.sessions.get(id).is_some_and(|session| session.state == SessionState::Open);
    if is_open && !core.closings.contains(id) {
        core.closings.asked.insert(id, Closing { tries: 0, avoid, latest: None });
        ask_an_end(core, id);
    }
}

/// Asks the end that can be reached; after a try without an answer the other one.
fn ask_an_end(core: &mut ManagerState, id: u64) {
    let (Some(closing), Some(session)) = (core.closings.asked.get(&id), core.sessions.get(id)) else {
        return;
    };
    if closing.tries >= TRIES {
        core.publish(
            "session-forced",
            format!("session {id}"),
            "no end of it answers; it counts as broken".into(),
        );
        sessions::session_closed(core, id, Status::BROKEN);
        return;
    }
    let mut sides = [Side::Source, Side::Destination];
    if closing.latest == Some(Side::Source) || closing.avoid == Some(session.source) {
        sides.reverse();
    }
    let reachable = sides.into_iter().filter(|side| is_reachable(core, session, *side));
    let other_than_avoided = |side: &Side| closing.avoid.is_none_or(|avoid| end(session, *side).0 != avoid);
    let side = reachable.clone().find(other_than_avoided).or_else(|| reachable.clone().next());
    let asked = end(session, side.unwrap_or(Side::Source)).1.clone();
    let within = core.policy(session.edge.app.as_str(), asked.as_str()).close_within;
    if let Some(side) = side {
        send_close(core, id, side, within);
    }
    // With both agents away nobody is asked: what their return or the end of their grace says counts.
    if let Some(closing) = core.closings.asked.get_mut(&id).filter(|_| side.is_some()) {
        closing.tries += 1;
        closing.latest = side;
    }
    core.at(core.now + within + SLACK, Timer::Close(id));
}

fn is_reachable(core: &ManagerState, session: &Session, side: Side) -> bool {
    let instance = core.inventory.instance(end(session, side).0).filter(|i| i.state.is_alive());
    let node = instance.and_then(|instance| core.inventory.node(instance.address));
    node.is_some_and(|node| node.connection.is_some())
}

fn send_close(core: &mut ManagerState, id: u64, side: Side, within: Millis) {
    if let Some(request) = close_request(core, id, side, within) {
        core.send_with(request.node, request.envelope, Some(Outstanding::CloseSession(id)));
    }
}

fn close_request(core: &mut ManagerState, id: u64, side: Side, within: Millis) -> Option<CloseRequest> {
    let message_id = core.message_id();
    let session = core.sessions.get(id)?;
    let edge = &session.edge;
    let (node, message): (_, Message) = match side {
        Side::Source => (
            session.source_address,
            SourceServiceSessionCloseRequest {
                message_id,
                source_service_name: edge.source.clone(),
                source_service_instance_id: session.source,
                source_service_instance_network_address: session.source_address,
                source_plug_name: edge.plug.clone(),
                source_plug_port: session.source_port,
                dest_service_name: edge.destination.clone(),
                dest_service_instance_network_address: session.destination_address,
                dest_socket_name: edge.socket.clone(),
                dest_socket_port: session.destination_port,
                dest_socket_new_port: session.new_port,
            }
            .into(),
        ),
        Side::Destination => (
            session.destination_address,
            DestServiceSessionCloseRequest {
                message_id,
                dest_service_name: edge.destination.clone(),
                dest_service_instance_id: session.destination,
                dest_service_instance_network_address: session.destination_address,
                source_service_instance_network_address: session.source_address,
                source_plug_name: edge.plug.clone(),
                source_plug_port: session.source_port,
                dest_socket_name: edge.socket.clone(),
                dest_socket_port: session.destination_port,
                dest_socket_new_port: session.new_port,
            }
            .into(),
        ),
    };
    let envelope = Envelope::new(message, Hop::ManagerToAgent).with(Within(within));
    Some(CloseRequest { node, envelope })
}

/// An instance is gone without its connections having ended: the ends that live are asked to close
/// (F2, F3), a few at a time. What they answer changes nothing.
pub(crate) fn close_surviving_ends(core: &mut ManagerState, id: InstanceId) {
    let sessions = core.inventory.instance(id).map(|instance| instance.sessions.clone());
    for session in sessions.into_iter().flatten() {
        let Some(known) = core.sessions.get(session).filter(|s| s.state == SessionState::Open) else {
            continue;
        };
        let side = if known.source == id { Side::Destination } else { Side::Source };
        let (other, service) = end(known, side);
        if other != id && is_reachable(core, known, side) {
            let within = core.policy(known.edge.app.as_str(), service.as_str()).close_within;
            let request = close_request(core, session, side, within);
            core.closings.surviving.extend(request);
        }
    }
    if core.closings.surviving_at <= core.now {
        close_next_ends(core);
    }
}

/// Asks the next of the surviving ends to close.
pub(crate) fn close_next_ends(core: &mut ManagerState) {
    if core.closings.surviving.is_empty() {
        return;
    }
    let count = core.closings.surviving.len().min(MAX_ENDS_AT_ONCE);
    let next: Vec<CloseRequest> = core.closings.surviving.drain(..count).collect();
    for request in next {
        core.send_with(request.node, request.envelope, None);
    }
    core.closings.surviving_at = core.now + ENDS_PAUSE;
    core.at(core.closings.surviving_at, Timer::SurvivingEnds);
}

/// An end has answered a close request, or its agent for it.
pub(crate) fn close_answered(core: &mut ManagerState, id: u64, status: Status, forced: Option<&str>) {
    if let Some(why) = forced {
        core.publish("session-forced", format!("session {id}"), first(why, LONGEST_TEXT));
    }
    // Whoever knows no such session has none open.
    if status.is_success() || status == Status::NOT_FOUND {
        let status = if forced.is_some() { Status::BROKEN } else { Status::CLOSED };
        sessions::session_closed(core, id, status);
    }
}

/// Nobody has answered a close request in time.
pub(crate) fn close_overdue(core: &mut ManagerState, id: u64) {
    if core.closings.contains(id) {
        ask_an_end(core, id);
    }
}

fn end(session: &Session, side: Side) -> (InstanceId, &Name) {
    match side {
        Side::Source => (session.source, &session.edge.source),
        Side::Destination => (session.destination, &session.edge.destination),
    }
}
