//! What goes into the core and what comes out.

use patchbay_api as api;
use ssmmp::{Address, Envelope, InstanceId};

use super::commands::{Command, Refusal};
use super::outputs::OutputQuestion;
use super::state::Connection;
use crate::graph::Graph;

/// What happens to the Manager.
#[derive(Debug)]
pub enum Event {
    /// An agent's message.
    Message(Connection, Envelope),
    /// An agent's connection ended.
    Lost(Connection),
    /// Somebody applies a checked graph; its text is kept.
    Apply(Graph, String),
    /// Somebody changes what runs; answered by [`Effect::Answer`] with the same ticket.
    Command(u64, Command),
    /// Somebody wants fresh counters; answered by [`Effect::Refreshed`].
    Refresh(u64),
    /// Somebody wants lines of an instance's output; answered by [`Effect::Output`] with the same ticket.
    Output(u64, OutputQuestion),
    /// The time that [`super::Core::next_deadline`] asked for has come.
    Tick,
}

/// What the Manager does. Rows first, then everything else: the truth is on disk before it is spoken.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send a message to an agent.
    Send(Connection, Envelope),
    /// End an agent's connection.
    Close(Connection),
    /// Write an application's row, or remove it.
    SaveApp(String),
    /// Write an instance's row.
    SaveInstance(InstanceId),
    /// Write a session's row.
    SaveSession(u64),
    /// Write what is kept of a service besides its graph: application and service.
    SaveService(String, String),
    /// Write what is kept of a node.
    SaveNode(Address),
    /// Write which message ids may be in use.
    SaveMessageIds,
    /// Keep and publish an event; its sequence number is given when it is kept.
    Publish(api::Event),
    /// All agents have told their counters.
    Refreshed(u64),
    /// Lines of an output, or why there are none.
    Output(u64, Result<api::Log, Refusal>),
    /// A command was begun, or refused.
    Answer(u64, Result<api::Done, Refusal>),
}

impl Effect {
    /// Whether it is written to disk before anything is spoken.
    pub fn is_row(&self) -> bool {
        match self {
            Self::SaveApp(_)
            | Self::SaveInstance(_)
            | Self::SaveSession(_)
            | Self::SaveService(..)
            | Self::SaveNode(_)
            | Self::SaveMessageIds => true,
            Self::Send(..)
            | Self::Close(_)
            | Self::Publish(_)
            | Self::Refreshed(_)
            | Self::Output(..)
            | Self::Answer(..) => false,
        }
    }
}
