//! Virtual time: what happens next, in an order that the seed alone decides.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;

use patchbay_agent_core::Event as AgentEvent;

use crate::network::{Attempt, End};

/// Milliseconds since the simulation began.
pub type Millis = u64;

/// One life of a program: a crash ends it, a start begins the next.
pub type Life = u64;

/// What can happen.
pub enum Happening {
    /// A line reaches the Manager's end of a link.
    AtManager(u64, Rc<str>),
    /// A line reaches the agent's end of a link.
    AtAgent(u64, Rc<str>),
    /// The Manager learns that a link is gone.
    LostAtManager(u64),
    /// The agent learns that a link is gone.
    LostAtAgent(u64),
    /// The Manager handles what waits.
    ManagerWorks(Life),
    /// The Manager's next deadline, as it was planned.
    ManagerTick(Life, Millis),
    /// The Manager's disk has room again.
    DiskHasRoom,
    /// The Manager is started again.
    ManagerStarts,
    /// The Manager is continued (SIGCONT).
    ManagerThaws(Life),
    /// A node's agent tries to connect to the Manager.
    AgentConnects(usize, Life),
    /// Something of the agent's own tasks or of the kernel.
    AgentEvent(usize, Life, Box<AgentEvent>),
    /// The next timeout of the agent's core, as it was planned.
    AgentTick(usize, Life, Millis),
    /// The agent tells changed counters.
    AgentReports(usize, Life),
    /// A node's agent is started.
    AgentStarts(usize),
    /// The agent is continued.
    AgentThaws(usize, Life),
    /// A node boots.
    NodeBoots(usize),
    /// A line reaches an agent from a process.
    FromProcess(u64, Life, Rc<str>),
    /// A line reaches a process from an agent.
    ToProcess(u64, Life, Rc<str>),
    /// A native process connects to its agent.
    ProcessConnects(u64),
    /// A process's sockets listen.
    Listens(u64),
    /// A process ends, with how it ended.
    Exits(u64, &'static str),
    /// A process is continued.
    ProcessThaws(u64),
    /// A process does some of its own work.
    Acts(u64),
    /// A connection attempt reaches its destination.
    Arrives(Attempt),
    /// A process closes its end of a connection, perhaps because it was asked to by a message.
    Closes(u64, End, Option<Rc<str>>),
    /// An end learns that the other end is gone; whether it was broken.
    PeerGone(u64, End, bool),
    /// The next fault.
    Fault,
    /// Somebody uses the Manager's API.
    ApiCall,
    /// Faults end here.
    Quiet,
    /// Drains and other decisions of people are lifted.
    Lifted,
    /// The invariants of every moment are looked at.
    Look,
}

struct Entry {
    at: Millis,
    order: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest, since the heap gives out the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// The clock and what is planned.
#[derive(Default)]
pub struct Schedule {
    /// Virtual time.
    pub now: Millis,
    next: u64,
    planned: BinaryHeap<Entry>,
}

impl Schedule {
    /// Plans something; what is planned first for a moment happens first.
    pub fn at(&mut self, at: Millis, what: Happening) {
        self.next += 1;
        self.planned.push(Entry { at: at.max(self.now), order: self.next, what });
    }

    /// The next thing until `end`; the clock moves on to it.
    pub fn next(&mut self, end: Millis) -> Option<Happening> {
        if self.planned.peek()?.at > end {
            return None;
        }
        let entry = self.planned.pop()?;
        self.now = entry.at;
        Some(entry.what)
    }
}
