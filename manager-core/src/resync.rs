//! Agents tell every living session of their instances again when they have registered, so that none is
//! half known, whoever was away or restarted (section 4, 2 and 17; F6 to F8, S9).

use ssmmp::extension::LiveSession;
use ssmmp::{MessageId, Name, SessionAck, SourceServiceSessionCloseRequest, Status};

use crate::graph::connects;
use crate::state::ManagerState;
use crate::state::node::Connection;
use crate::state::session::{Edge, Session, SessionState};
use crate::{scaling, sessions};

/// Sessions live, an agent says.
pub(crate) fn sessions_live(core: &mut ManagerState, connection: Connection, sessions: &[LiveSession]) {
    for told in sessions {
        if let Some(id) = session_lives(core, connection, told)
            && let Some(confirmed) = core.told.get_mut(&connection)
        {
            confirmed.insert(id);
        }
    }
}

/// An agent has told all living sessions: the others of its node's instances are over.
pub(crate) fn all_sessions_told(core: &mut ManagerState, connection: Connection) {
    let Some(confirmed) = core.told.remove(&connection) else { return };
    let Some(address) = core.inventory.node_of(connection) else { return };
    let over: Vec<u64> = core
        .inventory
        .living_on(address)
        .into_iter()
        .filter_map(|id| core.inventory.instance(id))
        .flat_map(|instance| instance.sessions.iter().map(|session| (instance.id, *session)))
        .filter(|(source, id)| {
            core.sessions
                .get(*id)
                .is_some_and(|session| session.source == *source && session.state == SessionState::Open)
                && !confirmed.contains(id)
        })
        .map(|(_, id)| id)
        .collect();
    for id in over {
        sessions::session_closed(core, id, Status::BROKEN);
    }
}

/// A session whose acknowledgement finds nothing that waits for it.
pub(crate) fn late_session_lives(core: &mut ManagerState, connection: Connection, told: &[LiveSession]) {
    if let [told] = told {
        session_lives(core, connection, told);
    }
}

/// A session whose time to be acknowledged was over, acknowledged by an agent that tells no more of it: what
/// was answered to its request is remembered for a while.
pub(crate) fn acknowledged_late(core: &mut ManagerState, connection: Connection, ack: &SessionAck) {
    let source = ack.source_service_instance_id;
    let Some(given_up) = core.sessions.given_up(source, ack.message_id) else { return };
    let told = LiveSession {
        source,
        port: ack.source_plug_port,
        destination: given_up.destination,
        at: (given_up.destination_address, given_up.destination_port),
        message_id: Some(ack.message_id),
        plug: Some(given_up.edge.plug.clone()),
    };
    session_lives(core, connection, &told);
}

/// The session that is told of: known, waiting for its acknowledgement, or adopted.
fn session_lives(core: &mut ManagerState, connection: Connection, told: &LiveSession) -> Option<u64> {
    if !core.speaks_for(connection, told.source) {
        return None;
    }
    let source = core.inventory.instance(told.source)?;
    let key = (source.address, told.port, told.at.0, told.at.1);
    let known = core.sessions.by_key(key).filter(|id| {
        core.sessions
            .get(*id)
            .is_some_and(|session| session.state == SessionState::Open && session.source == told.source)
    });
    if known.is_some() {
        return known;
    }
    let pending = told.message_id.and_then(|request| core.sessions.pending(told.source, request));
    let pending = pending.filter(|id| leads_there(core, *id, told)).or_else(|| {
        source.sessions.iter().copied().find(|id| told.plug.is_none() && leads_there(core, *id, told))
    });
    let id = match pending {
        Some(id) => id,
        None => adopt_session(core, told).or_else(|| {
            close_unknown(core, told);
            None
        })?,
    };
    let edge = core.sessions.get(id).filter(|_| pending.is_none()).map(|session| session.edge.clone());
    sessions::open_session(core, id, told.port, told.at.1);
    if let Some(edge) = edge {
        // It loads its destination like one that was asked for.
        scaling::weigh_after_session(core, edge.app.as_str(), edge.destination.as_str());
    }
    Some(id)
}

/// Whether a session that waits for its acknowledgement goes where the living one does.
fn leads_there(core: &ManagerState, id: u64, told: &LiveSession) -> bool {
    core.sessions.get(id).is_some_and(|session| {
        session.state == SessionState::Pending
            && session.source == told.source
            && session.destination == told.destination
            && (session.destination_address, session.destination_port) == told.at
    })
}

/// A living session that was given up, or never known: it is known from now on.
fn adopt_session(core: &mut ManagerState, told: &LiveSession) -> Option<u64> {
    let source = core.inventory.instance(told.source)?;
    let target = core.inventory.instance(told.destination).filter(|target| target.state.is_alive())?;
    if target.address != told.at.0 || sessions::sessions_full(core, source).is_some() {
        return None;
    }
    let socket = target.sockets.iter().find(|(_, port)| *port == told.at.1).map(|(name, _)| name.clone())?;
    let plugs = || {
        let vertex = core.apps.get(source.app.as_str())?.service(source.service.as_str())?;
        vertex
            .plugs
            .iter()
            .find(|(_, to)| to.service == target.service.as_str() && to.socket == socket.as_str())
    };
    let told_plug = told.plug.clone().filter(|plug| {
        let wanted = |(name, to): &(&String, &crate::graph::Target)| {
            name.as_str() == plug.as_str()
                && to.service == target.service.as_str()
                && to.socket == socket.as_str()
        };
        let vertex = core.apps.get(source.app.as_str()).and_then(|app| app.service(source.service.as_str()));
        vertex.is_some_and(|vertex| vertex.plugs.iter().any(|plug| wanted(&plug)))
            || connects(&source.recipe, plug.as_str(), target.service.as_str(), socket.as_str())
    });
    let plug = told_plug.or_else(|| Name::new(plugs()?.0).ok())?;
    let edge = Edge {
        app: source.app.clone(),
        source: source.service.clone(),
        plug,
        socket,
        destination: target.service.clone(),
    };
    let message_id = told.message_id.unwrap_or(MessageId::from(0));
    let (from, to) = ((told.source, source.address), (told.destination, told.at.0, told.at.1));
    let session = Session::pending(edge, message_id, from, to, core.now);
    let id = core.session_id();
    sessions::add_session(core, Session { id, ..session });
    Some(id)
}

/// A living session with an end that nobody knows: its source is asked to close it.
fn close_unknown(core: &mut ManagerState, told: &LiveSession) {
    let Some(source) = core.inventory.instance(told.source) else { return };
    let Ok(unknown) = Name::new("-") else { return };
    let (address, service) = (source.address, source.service.clone());
    let request = SourceServiceSessionCloseRequest {
        message_id: core.message_id(),
        source_service_name: service,
        source_service_instance_id: told.source,
        source_service_instance_network_address: address,
        source_plug_name: told.plug.clone().unwrap_or_else(|| unknown.clone()),
        source_plug_port: told.port,
        dest_service_name: unknown.clone(),
        dest_service_instance_network_address: told.at.0,
        dest_socket_name: unknown,
        dest_socket_port: told.at.1,
        dest_socket_new_port: told.at.1,
    };
    core.send_to(address, request, None);
}
