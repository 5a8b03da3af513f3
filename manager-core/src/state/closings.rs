//! Sessions that are being closed.

use std::collections::{HashMap, VecDeque};

use ssmmp::{Address, Envelope, InstanceId};

use crate::time::Millis;

/// The end of a session that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// Sessions that somebody was asked to close.
#[derive(Debug, Default)]
pub(crate) struct Closings {
    pub(crate) asked: HashMap<u64, Closing>,
    /// Surviving ends of lost instances that wait for their turn.
    pub(crate) surviving: VecDeque<CloseRequest>,
    /// When the next of them are asked at the earliest.
    pub(crate) surviving_at: Millis,
}

/// A close request and the node of who is asked.
#[derive(Debug)]
pub(crate) struct CloseRequest {
    pub(crate) node: Address,
    pub(crate) envelope: Envelope,
}

#[derive(Debug)]
pub(crate) struct Closing {
    pub(crate) tries: u32,
    /// This one is not asked: it does not answer.
    pub(crate) avoid: Option<InstanceId>,
    pub(crate) latest: Option<Side>,
}

impl Closings {
    /// Whether a session was asked to close.
    pub(crate) fn contains(&self, session: u64) -> bool {
        self.asked.contains_key(&session)
    }

    /// A session is over. Whether that was asked for.
    pub(crate) fn remove(&mut self, session: u64) -> bool {
        self.asked.remove(&session).is_some()
    }
}
