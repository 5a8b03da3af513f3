//! Instances are asked how they are (section 4, 15): one that says nothing is spoken for.

use std::collections::BTreeSet;
use std::time::Duration;

use ssmmp::{Envelope, Hop, InstanceId, MessageId, ServiceInstanceHealthResponse, Status};

use super::timers::Timer;
use super::{Core, Effect};
use crate::repository::Kind;

/// How long an instance may take to say how it is; then its agent answers 504 for it. What it says later is passed on.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Questions that may wait for their instances; further ones are passed on, and only the Manager waits for them.
const MAX_ASKED: usize = 10_000;

/// Questions that wait for their instances.
pub(super) type Asked = BTreeSet<(InstanceId, MessageId)>;

impl Core {
    /// The Manager asks how an instance is.
    pub(super) fn health_asked(&mut self, id: InstanceId, envelope: Envelope) {
        let question = envelope.message.message_id();
        let answer = |status| health(id, question, status);
        match self.instances.get(&id).map(|instance| instance.kind) {
            None => self.send_to_manager(answer(Status::NOT_FOUND)),
            Some(Kind::Native) => {
                if self.health.len() < MAX_ASKED && self.health.insert((id, question)) {
                    self.after(ANSWER_WITHIN, Timer::Health(id, question));
                }
                let absent = answer(Status::NOT_FOUND);
                self.effect(Effect::AskInstance(id, envelope.forward(Hop::AgentToInstance), absent));
            }
            // A program that is not asked itself is fine as long as it could do something.
            Some(Kind::Adapted) => {
                self.effect(Effect::ToManagerIfAwake(id, answer(Status::OK), answer(Status::NO_ANSWER)));
            }
        }
    }

    /// An instance has said how it is, or could not be asked.
    pub fn health_answered(&mut self, id: InstanceId, question: MessageId) {
        self.health.remove(&(id, question));
        self.timers.stop(Timer::Health(id, question));
    }

    /// An instance has not said how it is.
    pub(super) fn health_overdue(&mut self, id: InstanceId, question: MessageId) {
        if self.health.remove(&(id, question)) {
            let status = if self.instances.contains_key(&id) { Status::NO_ANSWER } else { Status::NOT_FOUND };
            self.send_to_manager(health(id, question, status));
        }
    }
}

fn health(service_instance_id: InstanceId, message_id: MessageId, status: Status) -> Envelope {
    Envelope::new(
        ServiceInstanceHealthResponse { message_id, service_instance_id, status },
        Hop::AgentToManager,
    )
}
