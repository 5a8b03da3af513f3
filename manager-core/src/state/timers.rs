//! What the core waits for by time.

use std::collections::BTreeSet;

use ssmmp::{Address, InstanceId};

use crate::events::Ticket;
use crate::time::Millis;

/// What a timer is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// An agent is asked how it is, once an interval.
    PollNode(Address),
    /// An instance is asked how it is, once an interval of its service.
    PollInstance(InstanceId),
    /// An execution was requested and must be answered by now.
    Start(InstanceId),
    /// Starts of minimums that were delayed go on.
    Starts,
    /// A service whose starts failed may start again.
    Settle(String, String),
    /// The request that waits longest for a service has waited long enough.
    Waiting(String, String),
    /// An end was asked to close a session and must have answered by now.
    Close(u64),
    /// The next of the surviving ends of lost instances are asked to close.
    SurvivingEnds,
    /// A lost agent must be back by now.
    NodeGrace(Address),
    /// Half of an ending agent's time is over.
    NodeEnds(Address),
    /// A connected agent must have said by now that it lives.
    Probe(Address),
    /// The sessions of a stopping instance must be closed by now.
    Drain(InstanceId),
    /// An instance was asked to end and must have by now.
    Graceful(InstanceId),
    /// The sessions of an instance that is ended by force must be closed by now.
    Force(InstanceId),
    /// An agent was asked so often to end an instance and must have answered by now.
    Hard(InstanceId, u32),
    /// Whoever wants fresh counters has waited long enough for them.
    Refresh(Ticket),
    /// Whoever wants an output has waited long enough for it.
    Output(Ticket),
}

/// Timers, the earliest first.
#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeSet<(Millis, Timer)>);

impl Timers {
    pub(crate) fn add(&mut self, at: Millis, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub(crate) fn earliest(&self) -> Option<Millis> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes a timer whose time has come.
    pub(crate) fn due(&mut self, now: Millis) -> Option<(Millis, Timer)> {
        if self.earliest()? > now {
            return None;
        }
        self.0.pop_first()
    }
}
