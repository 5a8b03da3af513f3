//! What ends tell of their sessions: acknowledgements and ends (section 4, 8 to 10).

use ssmmp::extension::Live;
use ssmmp::{Message, SessionAck};

use crate::state::ManagerState;
use crate::state::node::Connection;
use crate::{resync, sessions};

/// The source has connected, or could not.
pub(crate) fn session_acknowledged(
    core: &mut ManagerState,
    connection: Connection,
    ack: SessionAck,
    live: Option<Live>,
) {
    let source = ack.source_service_instance_id;
    if !core.speaks_for(connection, source) {
        return;
    }
    let Some(id) = core.sessions.pending(source, ack.message_id) else {
        // Given up meanwhile, or by an earlier Manager (S9).
        match live {
            _ if !ack.status.is_success() => {}
            Some(Live(told)) => resync::late_session_lives(core, connection, &told),
            None => resync::acknowledged_late(core, connection, &ack),
        }
        return;
    };
    if !ack.status.is_success() {
        sessions::session_closed(core, id, ack.status);
        return;
    }
    sessions::open_session(core, id, ack.source_plug_port, ack.dest_socket_new_port);
}

/// Either end tells that a session ended; the second report of one finds nothing.
pub(crate) fn session_close_told(core: &mut ManagerState, connection: Connection, message: &Message) {
    let (key, source, status) = match message {
        Message::SourceServiceSessionCloseInfo(info) => (
            (
                info.source_service_instance_network_address,
                info.source_plug_port,
                info.dest_service_instance_network_address,
                info.dest_socket_port,
            ),
            Some(info.source_service_instance_id),
            info.status,
        ),
        Message::DestServiceSessionCloseInfo(info) => (
            (
                info.source_service_instance_network_address,
                info.source_plug_port,
                info.dest_service_instance_network_address,
                info.dest_socket_port,
            ),
            None,
            info.status,
        ),
        _ => return,
    };
    // Loopback or translated addresses hide the key: then the source and its port m decide, when
    // only one session has them. Nobody ends what has no end on its node.
    let found = core.sessions.by_key(key).or_else(|| core.sessions.by_source(source?, key.1));
    let node = core.inventory.node_of(connection);
    if let Some(id) = found.filter(|id| node.is_some_and(|node| sessions::has_end_on(core, node, *id))) {
        sessions::session_closed(core, id, status);
    }
}
