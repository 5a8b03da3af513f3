//! How this agent speaks with its Manager: what waits while it is away, what it is numbered with, and that a Manager
//! which has shown no extension line gets none but those of the registration, which announces them (5.38).

use ssmmp::{Envelope, Hop, InstanceId, Message, MessageId};

use super::{Core, Effect};

/// The least message id of an agent: far from the ids that instances count, so that people can tell them apart.
pub const FIRST_MESSAGE: u64 = 1_000_000_000;
/// The largest one, which a peer may read into 32 bits; behind it they begin again.
pub const LAST_MESSAGE: u64 = 2_147_483_647;
/// Message ids that are reserved at once: so often something is written down.
const RESERVED_AT_ONCE: u64 = 10_000;

impl Core {
    /// Message ids begin here: no agent before this one on its node has used those behind it lately
    /// ([`Effect::ReserveMessages`]).
    pub fn number_messages_from(&mut self, start: u64) {
        let start = if (FIRST_MESSAGE..LAST_MESSAGE).contains(&start) { start } else { FIRST_MESSAGE };
        (self.next_message, self.reserved) = (start, start);
    }

    /// A message id that this agent has not used.
    pub fn message_id(&mut self) -> MessageId {
        if self.next_message >= LAST_MESSAGE {
            (self.next_message, self.reserved) = (FIRST_MESSAGE, FIRST_MESSAGE);
        }
        if self.next_message >= self.reserved {
            self.reserved = (self.next_message + RESERVED_AT_ONCE).min(LAST_MESSAGE);
            self.effect(Effect::ReserveMessages(self.reserved));
        }
        self.next_message += 1;
        MessageId::from(self.next_message)
    }

    /// Whether the Manager knows our extension lines: without them there is nothing to tell of sessions' bytes.
    pub fn is_extended(&self) -> bool {
        self.extended
    }

    /// What is to be done; [`Self::handle`] gives it back, and has to be asked for behind [`Self::message_id`] only.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        let mut effects = std::mem::take(&mut self.effects);
        if !self.extended {
            effects.iter_mut().for_each(plain);
        }
        effects
    }

    /// Sends to the Manager, or keeps it until the Manager is back.
    pub(super) fn send_to_manager(&mut self, envelope: Envelope) {
        self.send_for(None, envelope);
    }

    /// The same for a message that an instance said.
    pub(super) fn send_for(&mut self, from: Option<InstanceId>, envelope: Envelope) {
        let envelope = envelope.forward(Hop::AgentToManager);
        match self.registered {
            true => self.effect(Effect::ToManager(envelope)),
            false => self.unsent.keep(from, envelope),
        }
    }

    pub(super) fn tell_manager(&mut self, message: impl Into<Message>) {
        self.send_to_manager(Envelope::new(message, Hop::AgentToManager));
    }
}

/// Takes our extension lines from what goes to the Manager, except from registrations.
fn plain(effect: &mut Effect) {
    if let Effect::ReportThen(envelope) = effect {
        *effect = Effect::ToManager(envelope.clone());
    }
    let envelopes = match effect {
        Effect::ToManager(envelope) => [Some(envelope), None],
        Effect::AskInstance(_, _, answer) => [Some(answer), None],
        Effect::ToManagerIfAwake(_, awake, stopped) => [Some(awake), Some(stopped)],
        _ => return,
    };
    for envelope in envelopes.into_iter().flatten() {
        if !matches!(envelope.message, Message::InitiationRequest(_)) {
            envelope.extensions.retain(|(name, _)| !name.starts_with("x_"));
        }
    }
}
