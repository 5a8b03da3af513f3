//! SSMMP/1.1, the Simple Service Mesh Management Protocol (arXiv:2305.16329), as types.
//!
//! This crate turns lines of bytes into typed messages and back. It performs no I/O, reads no
//! clock and depends on no async runtime.
//!
//! The way through: bytes → [`LineBuffer`] → one line → [`Envelope::parse`] → [`Message`].
//! The way back: [`Envelope::encode`]. Strict in what is emitted, liberal in what is accepted.
//! Our own lines behind a message's fields are the types of [`extension`].
//! [`Conversation`] is both ways of one connection, in the dialect that the peer speaks.

mod closing;
mod configuration;
mod conversation;
mod envelope;
mod error;
mod execution;
pub mod extension;
mod fields;
mod framing;
mod gathered;
mod health;
mod malformed;
mod message;
mod node_name;
mod registration;
mod repeated;
mod semi;
mod session;
mod shutdown;
mod value;

pub use closing::{
    DestServiceSessionCloseInfo, DestServiceSessionCloseRequest, DestServiceSessionCloseResponse,
    SourceServiceSessionCloseInfo, SourceServiceSessionCloseRequest, SourceServiceSessionCloseResponse,
};
pub use configuration::{NameList, PlugConfiguration, PlugTarget, SocketConfiguration, SocketPort};
pub use conversation::Conversation;
pub use envelope::{Envelope, Extensions, Hop};
pub use error::{ParseError, Problem, is_unseen, printable};
pub use execution::{ExecutionRequest, ExecutionResponse};
pub use framing::{Line, LineBuffer, MAX_MESSAGE_BYTES};
pub use health::{
    AgentHealthControlRequest, AgentHealthControlResponse, ServiceInstanceHealthRequest,
    ServiceInstanceHealthResponse,
};
pub use malformed::{Malformed, Verdict};
pub use message::{Message, MessageType};
pub use node_name::NodeName;
pub use registration::{InitiationRequest, InitiationResponse};
pub use repeated::Repeated;
pub use semi::Speaker;
pub use session::{SessionAck, SessionRequest, SessionResponse};
pub use shutdown::{
    GracefulShutdownRequest, GracefulShutdownResponse, HardShutdownRequest, HardShutdownResponse,
    ServiceInstanceTerminationInfo,
};
pub use value::{Address, InstanceId, MessageId, Name, Port, Status};

/// TCP port on which the Manager listens for agents.
pub const MANAGER_PORT: u16 = 55555;
/// TCP port on which an agent listens, on loopback, for the instances of its node.
pub const AGENT_PORT: u16 = 55556;
/// Ports that the Manager gives to sockets of instances, counted for each agent separately.
pub const SOCKET_PORTS: std::ops::RangeInclusive<u16> = 54000..=55554;
