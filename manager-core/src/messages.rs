//! What an agent's message means, and who deals with it.

use ssmmp::extension::{Ahead, Exiting, Forced};
use ssmmp::{Envelope, Message, Status};

use crate::events::Effect;
use crate::state::ManagerState;
use crate::state::app::Waiting;
use crate::state::node::Connection;
use crate::state::pending_requests::Outstanding;
use crate::{
    answering, closing, counters, execution, health, registration, requests, session_reports, shutdown,
    strangers,
};

pub(crate) fn message(core: &mut ManagerState, connection: Connection, envelope: Envelope) {
    match &envelope.message {
        Message::InitiationRequest(_) => registration::register(core, connection, &envelope),
        message if core.inventory.node_of(connection).is_none() => {
            // Nothing is done for an agent that has not registered, and nobody is told what it says.
            if let Message::SessionRequest(request) = message {
                let waiting = Waiting { connection, request: request.clone(), since: core.now };
                answering::refuse(core, &waiting, Status::FORBIDDEN, "this agent has not registered");
            }
            core.effect(Effect::Close(connection));
        }
        Message::SessionRequest(request) if envelope.line::<Ahead>().is_some() => {
            requests::choice_requested(core, connection, request.clone());
        }
        Message::SessionRequest(request) => requests::session_requested(core, connection, request.clone()),
        Message::SessionAck(ack) => {
            session_reports::session_acknowledged(core, connection, ack.clone(), envelope.line());
        }
        Message::SourceServiceSessionCloseInfo(_) | Message::DestServiceSessionCloseInfo(_) => {
            session_reports::session_close_told(core, connection, &envelope.message);
        }
        Message::ServiceInstanceTerminationInfo(_) if is_exiting(&envelope) => {}
        Message::ServiceInstanceTerminationInfo(info) => {
            strangers::stranger_gone(core, connection, info.service_instance_id);
            if core.speaks_for(connection, info.service_instance_id) {
                execution::instance_told_end(core, info.service_instance_id, &envelope);
            }
        }
        Message::ServiceInstanceHealthResponse(response) => {
            if core.speaks_for(connection, response.service_instance_id) {
                health::instance_health(core, response.service_instance_id, response.status);
            }
        }
        Message::AgentHealthControlResponse(_) => counters::agent_health(core, connection, &envelope),
        _ => answered(core, connection, &envelope),
    }
}

fn answered(core: &mut ManagerState, connection: Connection, envelope: &Envelope) {
    // What only informs is not the answer yet.
    if envelope.message.status().is_some_and(|status| !status.is_final()) {
        return;
    }
    let Some(node) = core.inventory.node_of(connection) else { return };
    let Some(outstanding) = core.answers.take(envelope.message.message_id(), node) else { return };
    match (outstanding, &envelope.message) {
        (Outstanding::Execution(id), Message::ExecutionResponse(response)) => {
            execution::execution_answered(core, id, envelope, response.status);
        }
        (Outstanding::CloseSession(id), message) => {
            if let Some(status) = close_status(message) {
                closing::close_answered(core, id, status, envelope.line().map(|Forced(why)| why));
            }
        }
        (Outstanding::Graceful(id), Message::GracefulShutdownResponse(response)) => {
            if is_exiting(envelope) && response.status.is_success() {
                // Its agent says when its process is gone.
            } else if response.status.is_success() {
                execution::instance_ended(core, id, "shut down", Vec::new());
            } else {
                shutdown::force_end(core, id);
            }
        }
        (Outstanding::Hard(id), _) => {
            execution::instance_ended(core, id, "shut down hard", Vec::new());
            strangers::stranger_gone(core, connection, id);
        }
        _ => {}
    }
}

fn close_status(message: &Message) -> Option<ssmmp::Status> {
    match message {
        Message::SourceServiceSessionCloseResponse(response) => Some(response.status),
        Message::DestServiceSessionCloseResponse(response) => Some(response.status),
        _ => None,
    }
}

/// Whether an instance has said itself that it ends, and its agent will say when its process is gone.
fn is_exiting(envelope: &Envelope) -> bool {
    envelope.line::<Exiting>().is_some()
}
