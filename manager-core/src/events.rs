//! What goes into the core and what comes out.

use patchbay_api as api;
use ssmmp::Envelope;

use super::commands::{Command, Refusal};
use super::outputs::OutputQuestion;
use super::row::Row;
use super::state::Connection;
use crate::graph::Graph;

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
