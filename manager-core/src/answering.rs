//! Session requests are answered (section 4, 7): with a destination, or why not.

use ssmmp::extension::{self, Allow, NoMemory};
use ssmmp::{Address, Envelope, Hop, InstanceId, Port, SessionResponse, Status};

use crate::events::Effect;
use crate::graph::Target;
use crate::state::ManagerState;
use crate::state::app::Waiting;
use crate::state::session::Session;

pub(crate) fn answer(core: &mut ManagerState, waiting: &Waiting, id: u64) {
    if let Some(session) = core.sessions.get(id).cloned() {
        answer_with(core, waiting, &session);
    }
}

pub(crate) fn answer_with(core: &mut ManagerState, waiting: &Waiting, session: &Session) {
    let response = SessionResponse {
        message_id: waiting.request.message_id,
        source_service_name: waiting.request.source_service_name.clone(),
        source_service_instance_id: waiting.request.source_service_instance_id,
        dest_service_name: session.edge.destination.clone(),
        dest_service_instance_id: session.destination,
        dest_socket_name: session.edge.socket.clone(),
        dest_service_instance_network_address: session.destination_address,
        dest_socket_port: session.destination_port,
        status: Status::OK,
    };
    let target = core
        .apps
        .get(session.edge.app.as_str())
        .and_then(|app| app.service(session.edge.source.as_str())?.plugs.get(session.edge.plug.as_str()));
    let redirect = target.map_or(extension::Redirect::Never, |target| target.redirect.to_wire());
    let allow = target.map(Target::allowances_to_wire).filter(|Allow(allowances)| !allowances.is_empty());
    let memory = target.filter(|target| !target.memory).map(|_| NoMemory);
    let envelope =
        Envelope::new(response, Hop::ManagerToAgent).with(redirect).with_some(allow).with_some(memory);
    core.effect(Effect::Send(waiting.connection, envelope));
}

/// Answers with a failure; the unknown values keep their places.
pub(crate) fn refuse(core: &mut ManagerState, waiting: &Waiting, status: Status, reason: &str) {
    let request = &waiting.request;
    let response = SessionResponse {
        message_id: request.message_id,
        source_service_name: request.source_service_name.clone(),
        source_service_instance_id: request.source_service_instance_id,
        dest_service_name: request.dest_service_name.clone(),
        dest_service_instance_id: InstanceId::UNKNOWN,
        dest_socket_name: request.dest_socket_name.clone(),
        dest_service_instance_network_address: Address::UNKNOWN,
        dest_socket_port: Port::UNKNOWN,
        status,
    };
    let envelope = Envelope::new(response, Hop::ManagerToAgent).with(extension::Reason(reason));
    core.effect(Effect::Send(waiting.connection, envelope));
}

/// The same, told to people.
pub(crate) fn refuse_request(core: &mut ManagerState, waiting: &Waiting, status: Status, reason: &str) {
    refuse(core, waiting, status, reason);
    let request = &waiting.request;
    if !core.may_publish_refusal() {
        return;
    }
    core.publish(
        "session-refused",
        format!(
            "{}/{}.{}",
            request.source_service_name, request.source_service_instance_id, request.source_plug_name
        ),
        format!("{status} {reason}"),
    );
}
