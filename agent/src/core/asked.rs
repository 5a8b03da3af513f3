//! Session requests on their way, by who asked.

use std::collections::{HashMap, VecDeque};

use ssmmp::{InstanceId, MessageId, Name, Port};

use super::Live;

/// Requests of one instance that may be unanswered or unacknowledged; further ones are refused with 429.
pub const MAX_ASKED: usize = 4_096;

/// A request on its way.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) plug: Name,
    /// The answer, once it is here.
    pub(super) answer: Option<Live>,
    /// The port of an adapted instance's connection that exists already.
    pub(super) port: Option<Port>,
}

/// All requests on their way.
#[derive(Debug, Default)]
pub(super) struct AskedTable(HashMap<InstanceId, OfInstance>);

#[derive(Debug, Default)]
struct OfInstance {
    by_id: HashMap<MessageId, Asked>,
    /// The order in which they came; those that are gone are passed over.
    order: VecDeque<MessageId>,
}

impl AskedTable {
    /// A new request, or a repeated one. False when too many wait for their answers; one that was
    /// answered long ago and never acknowledged makes room.
    pub(super) fn insert(&mut self, asker: InstanceId, id: MessageId, asked: Asked) -> bool {
        let of = self.0.entry(asker).or_default();
        if let Some(earlier) = of.by_id.get_mut(&id) {
            *earlier = asked;
            return true;
        }
        if of.by_id.len() >= MAX_ASKED {
            let answered = |id: &MessageId| of.by_id.get(id).is_none_or(|asked| asked.answer.is_some());
            let Some(at) = of.order.iter().position(answered) else { return false };
            if let Some(old) = of.order.remove(at) {
                of.by_id.remove(&old);
            }
        }
        if of.order.len() >= 2 * MAX_ASKED {
            of.order.retain(|id| of.by_id.contains_key(id));
        }
        of.order.push_back(id);
        of.by_id.insert(id, asked);
        true
    }

    pub(super) fn get(&self, asker: InstanceId, id: MessageId) -> Option<&Asked> {
        self.0.get(&asker)?.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, asker: InstanceId, id: MessageId) -> Option<&mut Asked> {
        self.0.get_mut(&asker)?.by_id.get_mut(&id)
    }

    pub(super) fn remove(&mut self, asker: InstanceId, id: MessageId) -> Option<Asked> {
        self.0.get_mut(&asker)?.by_id.remove(&id)
    }

    /// An instance is gone.
    pub(super) fn forget(&mut self, asker: InstanceId) {
        self.0.remove(&asker);
    }

    /// An instance's requests, in the order in which they were made.
    pub(super) fn of(&self, asker: InstanceId) -> impl Iterator<Item = (MessageId, &Asked)> {
        let of = self.0.get(&asker);
        of.into_iter().flat_map(|of| of.order.iter().filter_map(|id| Some((*id, of.by_id.get(id)?))))
    }

    /// How many an instance has.
    #[cfg(test)]
    pub(super) fn count(&self, asker: InstanceId) -> usize {
        self.0.get(&asker).map_or(0, |of| of.by_id.len())
    }
}
