//! What goes into the core and what comes out.

use patchbay_api as api;
use ssmmp::{Envelope, InstanceId};

use crate::graph::Graph;
use crate::row::Row;
use crate::state::node::Connection;

/// The number of something that is to be answered, given by who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A graph to apply.
#[derive(Debug)]
pub struct Apply {
    /// The checked graph.
    pub graph: Graph,
    /// The file that it was read from, which is kept.
    pub text: String,
    /// What was found in it.
    pub warnings: Vec<api::Problem>,
    /// What the plan that is to be carried out had seen; without it whatever follows is meant.
    pub seen: Option<String>,
}

impl Apply {
    /// A graph file's text, whatever follows from it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_text(text: &str) -> Result<Self, Vec<api::Problem>> {
        let (graph, warnings) = Graph::read(text)?;
        Ok(Self { graph, text: text.to_owned(), warnings, seen: None })
    }
}

/// What happens to the Manager.
#[derive(Debug)]
pub enum Event {
    /// An agent's message.
    Message(Connection, Envelope),
    /// An agent's connection ended.
    Lost(Connection),
    /// Somebody applies a graph; answered by [`Effect::Applied`] with the same ticket.
    Apply(Ticket, Box<Apply>),
    /// Somebody changes what runs; answered by [`Effect::Answer`] with the same ticket.
    Command(Ticket, Command),
    /// Somebody wants fresh counters; answered by [`Effect::Refreshed`].
    Refresh(Ticket),
    /// Somebody wants lines of an instance's output; answered by [`Effect::Output`] with the same ticket.
    Output(Ticket, OutputQuestion),
    /// Something outside of the core that people should know: kind, subject and text of an event.
    Notice(&'static str, String, String),
    /// The time that [`super::Core::next_deadline`] asked for has come.
    Tick,
}

/// What the Manager does. Rows first, then everything else: the truth is on disk before it is spoken.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Write a row.
    Save(Row),
    /// Send a message to an agent.
    Send(Connection, Envelope),
    /// End an agent's connection.
    Close(Connection),
    /// Keep and publish an event; its sequence number is given when it is kept.
    Publish(api::Event),
    /// All agents have told their counters.
    Refreshed(Ticket),
    /// Lines of an output, or why there are none.
    Output(Ticket, Result<api::Log, Refusal>),
    /// A command was begun, or refused.
    Answer(Ticket, Result<api::Done, Refusal>),
    /// A graph was applied with what the plan says, or why not.
    Applied(Ticket, Result<api::Plan, String>),
}

/// A change of what runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Stop an application.
    StopApp(String),
    /// Stop an instance.
    StopInstance(InstanceId),
    /// Close a session.
    CloseSession(u64),
    /// Close all sessions of an abstract connection: application, and `service.plug`.
    CloseConnection(String, String),
    /// Close all sessions of an instance.
    CloseInstance(InstanceId),
    /// Move an instance to a node, by its name or address.
    Move(InstanceId, String),
    /// Move everything away from a node.
    Drain(String),
    /// Execute on a node again.
    Undrain(String),
    /// Forget a lost node and the secret that it is bound to.
    Forget(String),
    /// Send further messages over TCP, or through the kernel again.
    Redirect(Redirected, bool),
    /// Set how many instances a service of an application has; `None`: its load decides.
    Scale(String, String, Option<u32>),
}

/// Why a command is not carried out; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such thing.
    Unknown(String),
    /// It can't be so.
    Conflict(String),
}

/// What is switched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirected {
    /// A session.
    Session(u64),
    /// The open sessions of an abstract connection: application, and `service.plug`.
    Connection(String, String),
    /// All sessions of a node, also those that will be made.
    Node(String),
}

/// What is asked for of an instance's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputQuestion {
    /// The instance, ended or not.
    pub instance: InstanceId,
    /// Lines after this time only, microseconds since 1970; without it the last ones.
    pub after: Option<u64>,
    /// So many lines at most.
    pub lines: usize,
}
