//! People ask for an instance's output: its node's agent reads it (`x_log`, docs/protocol.md).

use patchbay_api::{self as api};
use ssmmp::extension::{Extension as _, Log, LogLines, LogMore, Reason};
use ssmmp::{AgentHealthControlRequest, Envelope, Hop};

use crate::events::{Effect, OutputQuestion, Refusal, Ticket};
use crate::state::ManagerState;
use crate::state::pending_requests::Outstanding;
use crate::state::timers::Timer;
use crate::time::Millis;

/// How long an agent may take to answer, milliseconds.
const ANSWER_WITHIN: Millis = 5_000;
/// Questions that may wait for their agents; further ones are refused.
pub const MAX_ASKING: usize = 1_024;

/// Somebody asks for an instance's output.
pub(crate) fn ask_output(core: &mut ManagerState, ticket: Ticket, question: OutputQuestion) {
    if let Err(refusal) = begin_to_ask(core, ticket, question) {
        core.effect(Effect::Output(ticket, Err(refusal)));
    }
}

fn begin_to_ask(core: &mut ManagerState, ticket: Ticket, question: OutputQuestion) -> Result<(), Refusal> {
    let OutputQuestion { instance: id, after, lines } = question;
    let instance = core.inventory.instance(id).ok_or_else(|| {
        Refusal::Unknown(format!(
            "instance {id} is not known, or has ended long ago; see its node's state folder"
        ))
    })?;
    let (address, node) = (instance.address, instance.node.clone());
    if core.inventory.node(address).is_none_or(|node| node.connection.is_none()) {
        return Err(Refusal::Conflict(format!(
            "node {node}, which has the output of instance {id}, is not connected"
        )));
    }
    if core.asking.len() >= MAX_ASKING {
        return Err(Refusal::Conflict(format!(
            "{MAX_ASKING} questions for outputs are under way: try again"
        )));
    }
    core.asking.insert(ticket);
    core.at(core.now + ANSWER_WITHIN, Timer::Output(ticket));
    let request = AgentHealthControlRequest { message_id: core.message_id(), agent_network_address: address };
    let envelope = Envelope::new(request, Hop::ManagerToAgent).with(Log { instance: id, after, lines });
    core.send_with(address, envelope, Some(Outstanding::Output(ticket)));
    Ok(())
}

/// An agent has answered.
pub(crate) fn output_told(core: &mut ManagerState, ticket: Ticket, envelope: &Envelope) {
    if !core.asking.remove(&ticket) {
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
    core.effect(Effect::Output(ticket, answer));
}

/// An agent has not answered in time, or is gone.
pub(crate) fn output_overdue(core: &mut ManagerState, ticket: Ticket) {
    if core.asking.remove(&ticket) {
        let text = format!("its agent has not answered within {} s", ANSWER_WITHIN / 1_000);
        core.effect(Effect::Output(ticket, Err(Refusal::Conflict(text))));
    }
}
