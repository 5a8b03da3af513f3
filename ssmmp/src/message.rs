//! The 22 messages as one type, and the table of their types and sub_types.

use std::fmt;

use crate::envelope::Hop;
use crate::error::Problem;
use crate::fields::Fields;
use crate::*;

/// A message's own fields: how they are taken from a line and put on one.
pub(crate) trait Body: Sized {
    /// The fields' names in wire order.
    const FIELDS: &'static [&'static str];
    fn take(message_id: MessageId, fields: &mut Fields<'_>) -> Result<Self, Problem>;
    fn put(&self, out: &mut String);
}

/// Declares a message: its struct, and its fields in wire order.
///
/// `field: Type,` is mandatory; `field: Type = optional,` may be left out by a peer; aliases that
/// peers use stand in brackets behind.
macro_rules! message {
    (
        $(#[$doc:meta])*
        $name:ident {
            $( $(#[$field_doc:meta])* $field:ident : $kind:ty $(= $optional:ident)? $([$($alias:literal),+])?, )*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            /// Chosen by the originator; a response repeats its request's.
            pub message_id: $crate::MessageId,
            $( $(#[$field_doc])* pub $field: $kind, )*
        }

        impl $crate::message::Body for $name {
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),*];

            fn take(
                message_id: $crate::MessageId,
                fields: &mut $crate::fields::Fields<'_>,
            ) -> Result<Self, $crate::Problem> {
                Ok(Self {
                    message_id,
                    $( $field: message!(@take fields, $field $(, $optional)?; $($($alias),+)?), )*
                })
            }

            fn put(&self, out: &mut String) {
                $( $crate::fields::put(out, stringify!($field), &self.$field); )*
            }
        }
    };
    (@take $fields:ident, $field:ident; $($alias:literal),*) => {
        $fields.take(stringify!($field), &[$($alias),*])?
    };
    (@take $fields:ident, $field:ident, optional; $($alias:literal),*) => {
        $fields.take_optional(stringify!($field), &[$($alias),*])?
    };
}
pub(crate) use message;

/// Declares the enum over all messages and the table of types.
macro_rules! messages {
    ( $( $name:ident = $text:literal [$($alias:literal),*] : $sub_types:expr, )* ) => {
        /// Any message of SSMMP/1.1.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each variant is the message of its name")]
        pub enum Message { $( $name($name), )* }

        /// The type of a message, as its first line says it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "each variant is the message of its name")]
        pub enum MessageType { $( $name, )* }

        impl MessageType {
            /// Every type, in the catalogue's order.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];

            /// The type's name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }

            pub(crate) fn find(text: &str) -> Option<Self> {
                match text { $( $text $( | $alias )* => Some(Self::$name), )* _ => None }
            }

            /// The name of the type's last field.
            pub(crate) fn last_field(self) -> Option<&'static str> {
                match self { $( Self::$name => $name::FIELDS.last().copied(), )* }
            }

            pub(crate) fn sub_types(self) -> SubTypes {
                match self { $( Self::$name => $sub_types, )* }
            }

            pub(crate) fn take(self, id: MessageId, fields: &mut Fields<'_>) -> Result<Message, Problem> {
                match self { $( Self::$name => $name::take(id, fields).map(Message::$name), )* }
            }
        }

        impl Message {
            /// The message's type.
            pub fn message_type(&self) -> MessageType {
                match self { $( Self::$name(_) => MessageType::$name, )* }
            }

            /// The message's id.
            pub fn message_id(&self) -> MessageId {
                match self { $( Self::$name(message) => message.message_id, )* }
            }

            pub(crate) fn put(&self, out: &mut String) {
                match self { $( Self::$name(message) => message.put(out), )* }
            }
        }

        $( impl From<$name> for Message { fn from(message: $name) -> Self { Self::$name(message) } } )*
    };
}

/// The sub_types of a message: from an instance to its agent and on to the Manager, or from the
/// Manager to an agent and on to an instance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SubTypes {
    /// Which hop it is when no sub_type says so.
    pub default_hop: Hop,
    /// The sub_type towards or from an instance.
    pub instance: Option<&'static str>,
    /// Whether the hop between agent and Manager carries a sub_type.
    pub manager: bool,
}

const fn up(instance: &'static str) -> SubTypes {
    SubTypes { default_hop: Hop::InstanceToAgent, instance: Some(instance), manager: true }
}

const fn down(instance: &'static str) -> SubTypes {
    SubTypes { default_hop: Hop::ManagerToAgent, instance: Some(instance), manager: true }
}

const fn between(default_hop: Hop, manager: bool) -> SubTypes {
    SubTypes { default_hop, instance: None, manager }
}

messages! {
    InitiationRequest = "initiation_request" []: between(Hop::AgentToManager, false),
    InitiationResponse = "initiation_response" []: between(Hop::ManagerToAgent, false),
    ExecutionRequest = "execution_request" []: between(Hop::ManagerToAgent, false),
    ExecutionResponse = "execution_response" []: between(Hop::AgentToManager, false),
    SessionRequest = "session_request" []: up("service_to_agent"),
    SessionResponse = "session_response" []: down("agent_to_service"),
    SessionAck = "session_ack" []: up("service_to_agent"),
    SourceServiceSessionCloseInfo = "source_service_session_close_info" []: up("source_service_to_agent"),
    DestServiceSessionCloseInfo = "dest_service_session_close_info" []: up("dest_service_to_agent"),
    SourceServiceSessionCloseRequest = "source_service_session_close_request" []: down("agent_to_source_service"),
    SourceServiceSessionCloseResponse = "source_service_session_close_response" []: up("source_service_to_agent"),
    DestServiceSessionCloseRequest = "dest_service_session_close_request" []: down("agent_to_dest_service"),
    DestServiceSessionCloseResponse = "dest_service_session_close_response" []: up("dest_service_to_agent"),
    GracefulShutdownRequest = "graceful_shutdown_request" []: down("agent_to_service_instance"),
    GracefulShutdownResponse = "graceful_shutdown_response" []: up("service_instance_to_agent"),
    HardShutdownRequest = "hard_shutdown_request" []: between(Hop::ManagerToAgent, true),
    HardShutdownResponse = "hard_shutdown_response" []: between(Hop::AgentToManager, true),
    ServiceInstanceTerminationInfo = "service_instance_termination_info" []: up("service_instance_to_agent"),
    ServiceInstanceHealthRequest = "service_instance_health_request" []: down("agent_to_service_instance"),
    ServiceInstanceHealthResponse = "service_instance_health_response" []: up("service_instance_to_agent"),
    AgentHealthControlRequest = "agent_health_control_request" ["health_control_request"]: between(Hop::ManagerToAgent, true),
    AgentHealthControlResponse = "agent_health_control_response" ["health_control_response"]: between(Hop::AgentToManager, true),
}

impl Message {
    /// The status of a message that carries one.
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::InitiationResponse(m) => Some(m.status),
            Self::ExecutionResponse(m) => Some(m.status),
            Self::SessionResponse(m) => Some(m.status),
            Self::SessionAck(m) => Some(m.status),
            Self::SourceServiceSessionCloseInfo(m) => Some(m.status),
            Self::DestServiceSessionCloseInfo(m) => Some(m.status),
            Self::SourceServiceSessionCloseResponse(m) => Some(m.status),
            Self::DestServiceSessionCloseResponse(m) => Some(m.status),
            Self::GracefulShutdownResponse(m) => Some(m.status),
            Self::HardShutdownResponse(m) => Some(m.status),
            Self::ServiceInstanceHealthResponse(m) => Some(m.status),
            Self::AgentHealthControlResponse(m) => Some(m.status),
            _ => None,
        }
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
