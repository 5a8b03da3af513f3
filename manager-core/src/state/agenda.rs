//! What an event has touched and is still to be looked at: handlers change the state and mark, one loop goes
//! through the marks ([`crate::Core::handle`]), so that nothing happens within something else.

use std::collections::BTreeSet;

use ssmmp::{Address, InstanceId};

use super::node::Connection;

/// What is to be looked at, in this order: who is gone, who ends, who asks, then what is missing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    /// A connection that was cut off is lost.
    Lost(Connection),
    /// A node's agent is gone: whoever waits for its place takes it.
    TakeOver(Address),
    /// The next step of an instance's shutdown.
    Stop(InstanceId),
    /// What holds its state on an ending node, once nobody else is there.
    EndingNode(Address),
    /// Requests that wait for a service of an application are answered anew.
    Serve(String, String),
    /// The load of a service has grown or was not looked at for a while.
    Weigh(String, String),
    /// A service may have other instances than it should.
    Settle(String, String),
}

/// Tasks, each once.
#[derive(Debug, Default)]
pub(crate) struct Agenda(BTreeSet<Task>);

impl Agenda {
    /// Something is to be looked at before the event is over.
    pub(crate) fn add(&mut self, task: Task) {
        self.0.insert(task);
    }

    /// Takes the next.
    pub(crate) fn next(&mut self) -> Option<Task> {
        self.0.pop_first()
    }
}
