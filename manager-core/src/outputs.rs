//! People ask for an instance's output: its node's agent reads it (`x_log`, docs/protocol.md).

use patchbay_api as api;
use ssmmp::extension::{Extension as _, Log, LogLines, LogMore, Reason};
use ssmmp::{AgentHealthControlRequest, Envelope, Hop, InstanceId};

use super::{Core, Effect, Millis, Outstanding, Refusal, Ticket, Timer};

/// How long an agent may take to answer, milliseconds.
const ANSWER_WITHIN: Millis = 5_000;
/// Questions that may wait for their agents; further ones are refused.
pub const MAX_ASKING: usize = 1_024;

/// What is asked for of an instance's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputQuestion {
    /// The instance, ended or not.
    pub instance: InstanceId,
    /// Lines after this time only, microseconds since 1970; without it the last ones.
    pub after: Option<u64>,
    /// So many lines at most.
    pub lines: usize,
}

impl Core {
    /// Somebody asks for an instance's output.
    pub(super) fn ask_output(&mut self, ticket: Ticket, question: OutputQuestion) {
        if let Err(refusal) = self.begin_to_ask(ticket, question) {
            self.effect(Effect::Output(ticket, Err(refusal)));
        }
    }

    fn begin_to_ask(&mut self, ticket: Ticket, question: OutputQuestion) -> Result<(), Refusal> {
        let OutputQuestion { instance: id, after, lines } = question;
        let instance = self.inventory.instance(id).ok_or_else(|| {
            Refusal::Unknown(format!(
                "instance {id} is not known, or has ended long ago; see its node's state folder"
            ))
        })?;
        let (address, node) = (instance.address, instance.node.clone());
        if self.inventory.node(address).is_none_or(|node| node.connection.is_none()) {
            return Err(Refusal::Conflict(format!(
                "node {node}, which has the output of instance {id}, is not connected"
            )));
        }
        if self.asking.len() >= MAX_ASKING {
            return Err(Refusal::Conflict(format!(
                "{MAX_ASKING} questions for outputs are under way: try again"
            )));
        }
        self.asking.insert(ticket);
        self.at(self.now + ANSWER_WITHIN, Timer::Output(ticket));
        let request =
            AgentHealthControlRequest { message_id: self.message_id(), agent_network_address: address };
        let envelope = Envelope::new(request, Hop::ManagerToAgent).with(Log { instance: id, after, lines });
        self.send_with(address, envelope, Some(Outstanding::Output(ticket)));
        Ok(())
    }

    /// An agent has answered.
    pub(super) fn output_told(&mut self, ticket: Ticket, envelope: &Envelope) {
        if !self.asking.remove(&ticket) {
            return;
        }
        let answer = match envelope.line() {
            Some(LogLines(lines)) => {
                let lines = lines.into_iter().map(|(at_us, text)| api::LogLine { at_us, text }).collect();
                Ok(api::Log { lines, more: envelope.line::<LogMore>().is_some() })
            }
            None if envelope.extension(LogLines::NAME).is_some() => {
                Err(Refusal::Conflict("its agent's answer makes no sense".into()))
            }
            None => {
                let Reason(reason) = envelope.line().unwrap_or(Reason("its agent keeps no outputs"));
                Err(Refusal::Unknown(reason.to_owned()))
            }
        };
        self.effect(Effect::Output(ticket, answer));
    }

    /// An agent has not answered in time, or is gone.
    pub(super) fn output_overdue(&mut self, ticket: Ticket) {
        if self.asking.remove(&ticket) {
            let text = format!("its agent has not answered within {} s", ANSWER_WITHIN / 1_000);
            self.effect(Effect::Output(ticket, Err(Refusal::Conflict(text))));
        }
    }
}
