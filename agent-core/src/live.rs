//! A session of an instance here as its source.

use std::net::SocketAddr;

use ssmmp::{InstanceId, MessageId, Name, Port, SessionAck, Status};

/// A session that lives, by its ends ([`super::SessionEnds`]).
///
/// ```text
///   session_request                        its source or its agent says that it
///        │                                 ended; its instance is gone
///        ▼          2xx                              ┌──────────────▶ gone
///   ┌─────────┐  from the Manager  ┌──────────┐      │                  ▲
///   │ waits   │───────────────────▶│ answered │      │                  │ the same
///   └─────────┘                    └──────────┘      │                  │
///        │ any other                    │ session_ack│ ┌──────────┐     │
///        ▼ final answer           2xx   ▼            │ │   over   │─────┘
///       gone                       ┌──────────┐──────┘ └──────────┘
///                                  │   live   │             ▲
///   told whole by its source   ───▶│          │─────────────┘
///   (x_session), adopted, or       └──────────┘  the kernel saw it end
///   acknowledged by the agent           ▲               │
///   for an adapted source               └───────────────┘
///                                    acknowledged (again): its port has
///                                    another connection
/// ```
///
/// The first two are [`super::asked::Asked`], with or without an answer.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) message_id: MessageId,
    pub(super) service: Name,
    pub(super) plug: Name,
    pub(super) dest_service: Name,
    pub(super) destination: InstanceId,
    pub(super) socket: Name,
    pub(super) at: SocketAddr,
    /// The kernel saw it end, its source has not said so yet: it is told no more.
    pub(super) over: bool,
}

/// What its source, or the agent for it, tells of a session that lives.
pub(super) fn acknowledgement(source: InstanceId, port: Port, live: &Live) -> SessionAck {
    SessionAck {
        message_id: live.message_id,
        source_service_name: live.service.clone(),
        source_service_instance_id: source,
        source_plug_port: port,
        dest_socket_new_port: Port(live.at.port()),
        status: Status::OK,
    }
}
