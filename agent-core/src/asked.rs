//! Session requests on their way, by who asked.

use std::collections::{HashMap, VecDeque};

use ssmmp::{Envelope, Hop, InstanceId, Message, MessageId, Name, Port, Status};

use super::{Core, Effect, Live};

/// Requests of one instance that may be unanswered or unacknowledged; further ones are refused with 429.
pub const MAX_ASKED: usize = 4_096;

/// A request on its way.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// The request as it goes to the Manager, told again when its link was lost before the answer came.
    request: Envelope,
    pub(super) plug: Name,
    /// The answer, once it is here.
    pub(super) answer: Option<Live>,
    /// It was made again after it was answered: it will be answered again.
    pub(super) again: bool,
    /// The port of its connection, which was ended because nobody acknowledged it.
    pub(super) ended: Option<Port>,
}

impl Asked {
    /// Whether an answer is to come.
    pub(super) fn waits(&self) -> bool {
        self.is_unanswered() || self.again
    }

    /// Whether it was never answered.
    pub(super) fn is_unanswered(&self) -> bool {
        self.answer.is_none()
    }
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

    /// Requests that were not answered, for a Manager that may not have heard of them; in a fixed order.
    pub(super) fn unanswered(&self) -> Vec<Envelope> {
        let mut askers: Vec<InstanceId> = self.0.keys().copied().collect();
        askers.sort();
        let all = askers.into_iter().flat_map(|asker| self.of(asker));
        all.filter(|(_, asked)| asked.waits()).map(|(_, asked)| asked.request.clone()).collect()
    }

    /// How many an instance has.
    #[cfg(test)]
    pub(super) fn count(&self, asker: InstanceId) -> usize {
        self.0.get(&asker).map_or(0, |of| of.by_id.len())
    }
}

impl Core {
    /// Asks the Manager, now or when it is back. The answer to a repeated request is that to the first.
    pub(super) fn ask(&mut self, id: InstanceId, envelope: Envelope) {
        let Message::SessionRequest(request) = &envelope.message else { return };
        let (message_id, plug) = (request.message_id, request.source_plug_name.clone());
        let earlier = self.asked.get(id, message_id);
        if earlier.is_some_and(Asked::waits) {
            return;
        }
        let to_manager = envelope.clone().forward(Hop::AgentToManager);
        // An acknowledgement of the first answer may be on its way.
        let answer = earlier.and_then(|earlier| earlier.answer.clone());
        let again = answer.is_some();
        let asked = Asked { request: to_manager.clone(), plug, answer, again, ended: None };
        if !self.asked.insert(id, message_id, asked) {
            let reason = "too many of its requests are unanswered or unacknowledged";
            self.refuse(id, request.clone(), Status::TOO_MANY, reason);
        } else if self.registered {
            self.effect(Effect::ToManager(to_manager));
        }
    }
}
