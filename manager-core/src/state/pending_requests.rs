//! Requests of ours that wait for their answers.

use std::collections::{HashMap, VecDeque};

use ssmmp::{Address, InstanceId, MessageId};

use crate::events::Ticket;
use crate::time::Millis;

/// How long an answer is waited for at most, milliseconds; what still comes then is ignored.
const ANSWER_WITHIN: Millis = 600_000;
/// Requests to one agent that may wait for their answers; the answers to further ones are not looked at: what
/// they were for is asked again.
const MAX_OUTSTANDING: usize = 65_536;

/// A request of ours that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Outstanding {
    Execution(InstanceId),
    CloseSession(u64),
    Graceful(InstanceId),
    Hard(InstanceId),
    Counters(Ticket),
    Output(Ticket),
    Probe(Address),
}

/// Requests that wait for their answers, for [`ANSWER_WITHIN`] at most.
#[derive(Debug, Default)]
pub(crate) struct PendingRequests {
    waiting: HashMap<Address, HashMap<MessageId, Outstanding>>,
    oldest: VecDeque<(Millis, Address, MessageId)>,
}

impl PendingRequests {
    pub(crate) fn expect(&mut self, now: Millis, id: MessageId, node: Address, what: Outstanding) {
        while let Some((asked, of, old)) = self.oldest.front() {
            let waits = self.waiting.get(of).is_some_and(|waiting| waiting.contains_key(old));
            if *asked + ANSWER_WITHIN > now && waits {
                break;
            }
            let (of, old) = (*of, *old);
            self.take(old, of);
            self.oldest.pop_front();
        }
        let waiting = self.waiting.entry(node).or_default();
        if waiting.len() < MAX_OUTSTANDING {
            waiting.insert(id, what);
            self.oldest.push_back((now, node, id));
        }
    }

    /// A node's agent is gone, or another one is there: of what it was asked only that still counts which it may
    /// answer late, once for each instance and session.
    pub(crate) fn forget(&mut self, node: Address) {
        if let Some(waiting) = self.waiting.get_mut(&node) {
            waiting.retain(|_, what| {
                matches!(
                    what,
                    Outstanding::Execution(_) | Outstanding::CloseSession(_) | Outstanding::Graceful(_)
                )
            });
            if waiting.is_empty() {
                self.waiting.remove(&node);
            }
        }
    }

    /// What an answer is to; `None` unless the agent that was asked gives it: ids can be guessed.
    pub(crate) fn take(&mut self, id: MessageId, node: Address) -> Option<Outstanding> {
        let waiting = self.waiting.get_mut(&node)?;
        let what = waiting.remove(&id);
        if waiting.is_empty() {
            self.waiting.remove(&node);
        }
        what
    }
}
