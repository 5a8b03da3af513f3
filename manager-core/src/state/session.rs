//! A session as the Manager knows it, kept small: there may be a million.

use std::sync::Arc;

use patchbay_api::Traffic;
use ssmmp::{Address, InstanceId, MessageId, Name, Port, Status};

use crate::time::Millis;

/// What tells sessions apart (section 5): source address, m, destination address, k.
pub type SessionKey = (Address, Port, Address, Port);

/// An abstract connection of an application's graph: (C, (P, S), D).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// The application.
    pub app: Name,
    /// C, the source's service.
    pub source: Name,
    /// P, its plug.
    pub plug: Name,
    /// S, the destination's socket.
    pub socket: Name,
    /// D, the destination's service.
    pub destination: Name,
}

/// The states of a session.
///
/// ```text
///  session_response 200      session_ack 2xx, or its agent tells that it lives
///         └─────▶ Pending ───────────────────────────────────────────────────▶ Open
///                   │                                                           │
///                   │ session_ack not 2xx, none in time, an end has ended       │ either end tells, an end has ended,
///                   ▼                                                           │ nobody answers close requests,
///                 Closed ◀──────────────────────────────────────────────────────┘ its agent tells of it no more
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Answered, not yet acknowledged.
    Pending,
    /// Acknowledged.
    Open,
    /// Over.
    Closed,
}

/// A session.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// The Manager's number.
    pub id: u64,
    /// The abstract connection that it realises, shared by all that do.
    pub edge: Arc<Edge>,
    /// The request's id.
    pub message_id: MessageId,
    /// The source.
    pub source: InstanceId,
    /// Its address.
    pub source_address: Address,
    /// m; unknown until it is acknowledged.
    pub source_port: Port,
    /// The destination.
    pub destination: InstanceId,
    /// Its address.
    pub destination_address: Address,
    /// k.
    pub destination_port: Port,
    /// l.
    pub new_port: Port,
    /// Where it stands.
    pub state: SessionState,
    /// When it was answered, then acknowledged.
    pub opened: Millis,
    /// When it ended.
    pub closed: Option<Millis>,
    /// The status it ended with.
    pub status: Option<Status>,
    /// `kernel`, `tcp` or `unknown`.
    pub path: Arc<str>,
    /// Why not in the kernel.
    pub reason: Option<Arc<str>>,
    /// From source to destination.
    pub sent: Traffic,
    /// Back.
    pub received: Traffic,
    /// What the kernel says of each direction, once it has told.
    pub details: Option<Box<Details>>,
}

impl Session {
    /// A session of which nobody has told yet that it is connected; it gets its id when it is added.
    pub fn pending(
        edge: Edge,
        message_id: MessageId,
        (source, source_address): (InstanceId, Address),
        (destination, destination_address, destination_port): (InstanceId, Address, Port),
        opened: Millis,
    ) -> Self {
        Self {
            id: 0,
            edge: edge.into(),
            message_id,
            source,
            source_address,
            source_port: Port::UNKNOWN,
            destination,
            destination_address,
            destination_port,
            new_port: Port::UNKNOWN,
            state: SessionState::Pending,
            opened,
            closed: None,
            status: None,
            path: "unknown".into(),
            reason: None,
            sent: Traffic::default(),
            received: Traffic::default(),
            details: None,
        }
    }
}

/// The directions of a session, as the kernel saw them last; there and back.
#[derive(Debug, Clone, PartialEq)]
pub struct Details {
    /// The path of the latest message.
    pub paths: [Arc<str>; 2],
    /// How often it changed.
    pub switches: [u32; 2],
    /// Redirected bytes that are not read yet.
    pub in_flight: [u32; 2],
    /// When something was last sent.
    pub last_activity: Option<Millis>,
}

impl Session {
    /// Its key, once it is acknowledged.
    pub fn key(&self) -> Option<SessionKey> {
        self.source_port.is_known().then_some((
            self.source_address,
            self.source_port,
            self.destination_address,
            self.destination_port,
        ))
    }
}
