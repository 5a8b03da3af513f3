//! What the core waits for: times and answers.

use std::collections::{BTreeSet, HashMap, VecDeque};

use ssmmp::{Address, InstanceId, MessageId};

use super::state::Millis;

/// How long an answer is waited for at most, milliseconds; what still comes then is ignored.
const ANSWER_WITHIN: Millis = 600_000;

/// What a timer is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    PollNode(Address),
    PollInstance(InstanceId),
    Start(InstanceId),
    Starts,
    Settle(String, String),
    Waiting(String, String),
    Close(u64),
    SurvivingEnds,
    NodeGrace(Address),
    Probe(Address),
    Drain(InstanceId),
    Graceful(InstanceId),
    Force(InstanceId),
    Hard(InstanceId, u32),
    Refresh(u64),
}

/// A request of ours that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Outstanding {
    Execution(InstanceId),
    CloseSession(u64),
    Graceful(InstanceId),
    Hard(InstanceId),
    Counters(u64),
    Probe(Address),
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

/// Requests that wait for their answers, for [`ANSWER_WITHIN`] at most.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    waiting: HashMap<MessageId, (Address, Outstanding)>,
    oldest: VecDeque<(Millis, MessageId)>,
}

impl Answers {
    pub(crate) fn expect(&mut self, now: Millis, id: MessageId, node: Address, what: Outstanding) {
        while let Some((asked, old)) = self.oldest.front() {
            if *asked + ANSWER_WITHIN > now && self.waiting.contains_key(old) {
                break;
            }
            self.waiting.remove(old);
            self.oldest.pop_front();
        }
        self.waiting.insert(id, (node, what));
        self.oldest.push_back((now, id));
    }

    /// What an answer is to; `None` unless the agent that was asked gives it: ids can be guessed.
    pub(crate) fn take(&mut self, id: MessageId, node: Address) -> Option<Outstanding> {
        self.waiting.get(&id).filter(|(asked, _)| *asked == node)?;
        self.waiting.remove(&id).map(|(_, what)| what)
    }
}
