//! What is kept for the Manager while it is away.

use std::collections::{HashMap, VecDeque};

use ssmmp::{Envelope, InstanceId};

/// Messages kept for the Manager while it is away; the oldest go first and are counted.
pub const MAX_UNSENT: usize = 10_000;
/// Those of one instance, so that none takes the others' places.
pub const MAX_UNSENT_OF_ONE: usize = 1_000;

/// Messages that wait for the Manager, in order.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    queue: VecDeque<(Option<InstanceId>, Envelope)>,
    /// How many of them an instance said.
    of: HashMap<InstanceId, usize>,
    dropped: u64,
}

impl Unsent {
    /// Keeps a message that an instance said, or the agent itself.
    pub(super) fn keep(&mut self, from: Option<InstanceId>, envelope: Envelope) {
        let own = from.and_then(|id| self.of.get(&id)).copied().unwrap_or(0);
        if own >= MAX_UNSENT_OF_ONE {
            self.drop_at(self.queue.iter().position(|(said, _)| *said == from));
        } else if self.queue.len() >= MAX_UNSENT {
            self.drop_at(Some(0));
        }
        if let Some(id) = from {
            *self.of.entry(id).or_default() += 1;
        }
        self.queue.push_back((from, envelope));
    }

    fn drop_at(&mut self, at: Option<usize>) {
        let Some((from, _)) = at.and_then(|at| self.queue.remove(at)) else { return };
        self.dropped += 1;
        if let Some(count) = from.and_then(|id| self.of.get_mut(&id)) {
            *count -= 1;
        }
    }

    /// Messages that were dropped because too many waited.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes everything.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Envelope> {
        self.of.clear();
        std::mem::take(&mut self.queue).into_iter().map(|(_, envelope)| envelope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: usize) -> Envelope {
        let line =
            format!("type: dest_service_session_close_response ~ message_id: {} ~ status: 200", id + 1);
        Envelope::parse(&line).expect("good")
    }

    #[test]
    fn one_instance_loses_its_own_oldest_and_nobody_elses() {
        let mut unsent = Unsent::default();
        unsent.keep(Some(InstanceId(1)), message(0));
        unsent.keep(None, message(1));
        for n in 0..3 * MAX_UNSENT_OF_ONE {
            unsent.keep(Some(InstanceId(2)), message(n));
        }
        assert_eq!(unsent.dropped(), 2 * MAX_UNSENT_OF_ONE as u64);
        let kept: Vec<_> = unsent.take().collect();
        assert_eq!(kept.len(), MAX_UNSENT_OF_ONE + 2);
        assert_eq!((&kept[0], &kept[1]), (&message(0), &message(1)));
        assert_eq!(kept.last(), Some(&message(3 * MAX_UNSENT_OF_ONE - 1)));
    }

    #[test]
    fn together_they_are_bounded_too() {
        let mut unsent = Unsent::default();
        for n in 0..MAX_UNSENT + 10 {
            unsent.keep(Some(InstanceId(n as u64 % 100)), message(n));
        }
        assert_eq!((unsent.queue.len(), unsent.dropped()), (MAX_UNSENT, 10));
        assert_eq!(unsent.of.values().sum::<usize>(), MAX_UNSENT);
    }
}
