//! Sessions are acknowledged and closed (section 4, 8 to 11).

use ssmmp::{Address, Port, Status};

use crate::row::Key;
use crate::state::ManagerState;
use crate::state::instance::Instance;
use crate::state::session::{Session, SessionState};

/// Sessions that one instance may have opened and not closed; further requests are refused with 429.
pub const MAX_SESSIONS_OF_ONE: usize = 65_536;
/// Sessions that all instances may have; further requests are refused with 503.
pub const MAX_SESSIONS: usize = 4_000_000;

/// Why an instance can't have one more session as a source, if it can't.
pub(crate) fn sessions_full(core: &ManagerState, source: &Instance) -> Option<(Status, &'static str)> {
    if source.sessions.len().saturating_sub(source.accepted as usize) >= MAX_SESSIONS_OF_ONE {
        return Some((Status::TOO_MANY, "it has too many sessions"));
    }
    (core.sessions.living() >= MAX_SESSIONS).then_some((Status::UNAVAILABLE, "there are too many sessions"))
}

/// A session that is new: both its instances have it from now on.
pub(crate) fn add_session(core: &mut ManagerState, session: Session) {
    core.inventory.change(session.source, |instance| instance.sessions.insert(session.id));
    core.inventory.change(session.destination, |instance| {
        instance.sessions.insert(session.id);
        instance.accepted += 1;
    });
    core.sessions.add(session);
}

/// A session stands, from a source's port m to a destination's l.
pub(crate) fn open_session(core: &mut ManagerState, id: u64, port: Port, new_port: Port) {
    // Another one with these ends is over, or was taken for this one while its request was unknown.
    let key =
        core.sessions.get(id).map(|s| (s.source_address, port, s.destination_address, s.destination_port));
    let other = key.filter(|_| port.is_known()).and_then(|key| core.sessions.by_key(key));
    let source = core.sessions.get(id).map(|s| s.source);
    let is_its = |other: &u64| *other != id && core.sessions.get(*other).map(|s| s.source) == source;
    if let Some(other) = other.filter(is_its) {
        session_closed(core, other, Status::CLOSED);
    }
    let acknowledged = core.sessions.acknowledge(id, core.now, port, new_port);
    let Some(session) = acknowledged else { return };
    let edge = &session.edge;
    let text = format!(
        "{}/{}.{} → {}/{}.{}",
        edge.source, session.source, edge.plug, edge.destination, session.destination, edge.socket
    );
    let ends = [session.source, session.destination];
    core.save(Key::Session(id));
    core.publish("session-opened", format!("session {id}"), text);
    // It was promised before its end was decided.
    for end in ends {
        core.touch_stopping(end);
    }
}

/// Whether one of a session's ends is on a node.
pub(crate) fn has_end_on(core: &ManagerState, node: Address, id: u64) -> bool {
    let session = core.sessions.get(id);
    session.is_some_and(|s| s.source_address == node || s.destination_address == node)
}

/// A session is over. Closing it again changes nothing.
pub(crate) fn session_closed(core: &mut ManagerState, id: u64, status: Status) {
    let now = core.now;
    let Some(before) = core.sessions.close(id, now, status) else { return };
    let was_asked_for = core.closings.remove(id);
    let Some(ends) = core.sessions.get(id).map(|session| [session.source, session.destination]) else {
        return;
    };
    for (end, accepted) in [(ends[0], 0), (ends[1], 1)] {
        core.inventory.change(end, |instance| {
            instance.sessions.remove(&id);
            instance.stopping.asked.remove(&id);
            instance.accepted = instance.accepted.saturating_sub(accepted);
            if instance.sessions.is_empty() {
                instance.idle_since = now;
            }
        });
    }
    core.save(Key::Session(id));
    if before == SessionState::Open {
        // Broken is what an end sees of a close that was asked for: no failure (C9).
        let why = if was_asked_for { ", as it was asked to" } else { "" };
        core.publish("session-closed", format!("session {id}"), format!("status {status}{why}"));
    }
    for end in ends {
        core.touch_stopping(end);
    }
}
