//! The agent ends, or its repository changes: its Manager is told, and places nothing here any more, or
//! something else (docs/protocol.md).

use std::time::Duration;

use ssmmp::extension::{self, Unavailable, UnlimitedInstances};
use ssmmp::{AgentHealthControlResponse, Envelope, Hop, InstanceId, MessageId, NameList, Status};

use super::{Core, Effect, Stage};
use crate::repository::Repository;

/// What a registration tells at most of services that can't be executed, and of limits that are not applied, bytes each.
const UNAVAILABLE_BYTES: usize = 4 << 10;
/// Digits of an instance's id at most.
const LONGEST_ID: usize = 20;
/// Bytes between the parts of an item, and between two.
const SEPARATORS: usize = ", ".len() + " & ".len();
/// Why instances end then.
pub(super) const WHY: &str = "its agent ends";

impl Core {
    /// The agent is to end after a time at the latest. What waits for its plugs is given up; the Manager
    /// has the rest shut down in order.
    pub(super) fn end(&mut self, within: Duration) {
        self.ending = Some(within);
        self.tell_ending();
        let waiting: Vec<InstanceId> =
            self.instances.iter().filter(|(_, i)| i.stage() == Stage::Plugs).map(|(id, _)| *id).collect();
        for id in waiting {
            self.start_failed(id, Status::UNAVAILABLE, WHY, &[]);
        }
    }

    /// Tells the Manager that this agent ends, when it does.
    pub(super) fn tell_ending(&mut self) {
        if self.registered && self.ending.is_some() {
            let message_id = self.message_id();
            let health = self.own_health(message_id);
            self.effect(Effect::ToManager(health));
        }
    }

    /// How this agent is: 503 when it ends, also for a Manager that does not know [`extension::Ending`].
    pub(super) fn own_health(&self, message_id: MessageId) -> Envelope {
        let status = if self.ending.is_some() { Status::UNAVAILABLE } else { Status::OK };
        let response = AgentHealthControlResponse { message_id, agent_network_address: self.address, status };
        let envelope = Envelope::new(response, Hop::AgentToManager);
        let milliseconds = |within: Duration| u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        envelope.with_some(self.ending.map(|within| extension::Ending(milliseconds(within))))
    }

    /// What the Manager may have executed here; nothing, by an agent that ends.
    pub(super) fn offered(&self) -> NameList {
        let available = self.repository.iter().filter(|(_, entry)| entry.unavailable.is_none());
        let names = available.map(|(name, _)| name.clone());
        NameList(if self.ending.is_some() { Vec::new() } else { names.collect() })
    }

    /// What of its repository this machine can't execute, and why; as much as a message has room for.
    pub(super) fn unavailable(&self) -> Option<Unavailable> {
        let entries = self.repository.iter();
        let all = entries
            .filter_map(|(name, entry)| Some((name.clone(), entry.unavailable.as_ref()?.message.clone())));
        let told = fitting(all, |(name, reason)| name.as_str().len() + reason.len());
        (!told.is_empty()).then_some(Unavailable(told))
    }

    /// Which limits of its instances are not applied, and why; as much as a message has room for.
    pub(super) fn unlimited(&self) -> Option<UnlimitedInstances> {
        let limited = self.instances.iter().filter(|(_, instance)| !instance.unlimited.is_empty());
        let all = limited.map(|(id, instance)| (*id, instance.unlimited.clone()));
        let told = fitting(all, |(_, sentence)| LONGEST_ID + sentence.len());
        (!told.is_empty()).then_some(UnlimitedInstances(told))
    }

    /// Another repository: instances go on as they were started, and the Manager is told.
    pub(super) fn reload(&mut self, repository: Repository) {
        self.repository = repository;
        if self.registered {
            self.tell_repository();
        }
    }
}

/// The first items that together have no more than [`UNAVAILABLE_BYTES`], with what stands between them.
fn fitting<T>(items: impl Iterator<Item = T>, bytes: impl Fn(&T) -> usize) -> Vec<T> {
    let mut sum = 0;
    let fits = |item: &T| {
        sum += bytes(item) + SEPARATORS;
        sum <= UNAVAILABLE_BYTES
    };
    items.take_while(fits).collect()
}
