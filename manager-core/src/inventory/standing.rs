//! The part of an instance that indexes are made of.

use crate::state::instance::{Instance, InstanceState};

/// The part of an instance that changes and that indexes are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) state: InstanceState,
    pub(super) overloaded: bool,
    pub(super) sessions: u32,
    pub(super) accepted: u32,
}

impl Standing {
    pub(super) fn of(instance: &Instance) -> Self {
        Self {
            state: instance.state,
            overloaded: instance.overloaded,
            sessions: instance.sessions.len() as u32,
            accepted: instance.accepted,
        }
    }
}
