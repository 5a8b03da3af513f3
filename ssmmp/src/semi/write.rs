//! What is sent to a peer of the dialect: the observed messages, field by field, since it reads by
//! position.

use std::net::IpAddr;

use super::{MAX_ASKED, Semi};
use crate::{
    Address, AgentHealthControlResponse, DestServiceSessionCloseResponse, Envelope, ExecutionRequest, Hop,
    Message, Port, ServiceInstanceHealthResponse, SocketConfiguration, SourceServiceSessionCloseRequest,
    Status,
};

/// What the peer writes for the accepted socket's port, which it does not know.
const UNKNOWN_NEW_PORT: &str = "l";

impl Semi {
    /// Appends a message. What the dialect has no message for is not sent; the answer that stands for
    /// the peer's is returned.
    pub(crate) fn write(&mut self, envelope: &Envelope, out: &mut String) -> Option<Envelope> {
        let to_instance = self.instance().map(|(name, _)| name.clone());
        match &envelope.message {
            Message::ExecutionRequest(m) => out.push_str(&execution(m, &self.agent)),
            Message::SessionResponse(m) => {
                let hop = if to_instance.is_some() { "agent_to_service" } else { "Manager_to_agent" };
                let at = host_port(m.dest_service_instance_network_address, m.dest_socket_port);
                out.push_str(&format!(
                    "type:session_response;message_id:{};sub_type:{hop};status:{};\
                     dest_Service_instance_network_address:{at};dest_socket_port:{}",
                    m.message_id, m.status, m.dest_socket_port
                ));
            }
            Message::SourceServiceSessionCloseRequest(m) => {
                let hop = if to_instance.is_some() { "agent_to_source_Service" } else { "Manager_to_agent" };
                out.push_str(&close(m, hop));
            }
            Message::GracefulShutdownRequest(m) => {
                let hop =
                    if to_instance.is_some() { "agent_to_Service_instance" } else { "Manager_to_agent" };
                out.push_str(&format!(
                    "type:graceful_shutdown_request;message_id:{};sub_type:{hop};Service_name:{};Service_instance_id:{}",
                    m.message_id, m.service_name, m.service_instance_id
                ));
            }
            Message::HardShutdownRequest(m) => {
                // The peer reads the position of a hard shutdown's id as a port and its thread ends; it is
                // asked gracefully, and its answer is read as this one's.
                if self.forced.len() == MAX_ASKED {
                    self.forced.pop_front();
                }
                self.forced.push_back((m.message_id, m.service_instance_id));
                out.push_str(&format!(
                    "type:graceful_shutdown_request;message_id:{};sub_type:Manager_to_agent;Service_name:{};Service_instance_id:{}",
                    m.message_id, m.service_name, m.service_instance_id
                ));
            }
            Message::ServiceInstanceHealthRequest(m) => {
                let Some(name) = to_instance else {
                    // This dialect's agent watches its instances by itself; while it is connected and
                    // has said nothing else, they are well.
                    return Some(answer(ServiceInstanceHealthResponse {
                        message_id: m.message_id,
                        service_instance_id: m.service_instance_id,
                        status: Status::OK,
                    }));
                };
                out.push_str(&format!(
                    "type:health_control_request;message_id:{};sub_type:agent_to_service_instance;service_name:{name};service_instance_id:{}",
                    m.message_id, m.service_instance_id
                ));
            }
            Message::AgentHealthControlRequest(m) => {
                return Some(answer(AgentHealthControlResponse {
                    message_id: m.message_id,
                    agent_network_address: m.agent_network_address,
                    status: Status::OK,
                }));
            }
            Message::DestServiceSessionCloseRequest(m) => {
                return Some(answer(DestServiceSessionCloseResponse {
                    message_id: m.message_id,
                    status: Status::CONFLICT,
                }));
            }
            _ => out.push_str(&plain(envelope)),
        }
        out.push('\n');
        None
    }
}

fn answer(message: impl Into<Message>) -> Envelope {
    Envelope::new(message, Hop::AgentToManager)
}

/// The canonical form with this dialect's separators; the peer knows no extension lines.
fn plain(envelope: &Envelope) -> String {
    let bare = Envelope { extensions: Vec::new(), ..envelope.clone() };
    let fields = bare.encode();
    let field = |text: &str| match text.split_once(": ") {
        Some((name, value)) => format!("{name}:{value}"),
        None => text.to_owned(),
    };
    fields.trim_end().split(crate::fields::SEPARATOR).map(field).collect::<Vec<_>>().join(";")
}

fn execution(m: &ExecutionRequest, agent: &str) -> String {
    let SocketConfiguration(sockets) = &m.socket_configuration;
    let port = sockets.first().map_or(Port::UNKNOWN, |socket| socket.port);
    format!(
        "type:execution_request;message_id:{};agent_newtork_address:{agent};Service_name:{};Service_instance:{};\
         socket_configuration:{};plug_configuration:{}",
        m.message_id,
        m.service_name,
        m.service_instance_id,
        host_port(m.agent_network_address, port),
        m.plug_configuration.encode(),
    )
}

/// The peer finds the session by the port behind the source's address.
fn close(m: &SourceServiceSessionCloseRequest, hop: &str) -> String {
    format!(
        "type:source_service_session_close_request;message_id:{};sub_type:{hop};source_Service_name:{};\
         source_Service_instance_network_address:{};source_Service_instance_id:{};source_plug_name:{};\
         source_plug_port:{};dest_Service_name:{};dest_Service_instance_network_address:{};dest_socket_name:{};\
         dest_socket_port:{};dest_socket_new_port:{UNKNOWN_NEW_PORT}",
        m.message_id,
        m.source_service_name,
        host_port(m.source_service_instance_network_address, m.source_plug_port),
        m.source_service_instance_id,
        m.source_plug_name,
        m.source_plug_port,
        m.dest_service_name,
        host_port(m.dest_service_instance_network_address, m.dest_socket_port),
        m.dest_socket_name,
        m.dest_socket_port,
    )
}

fn host_port(Address(address): Address, port: Port) -> String {
    match address {
        IpAddr::V4(v4) if v4.is_loopback() => format!("localhost_{port}"),
        _ => format!("{address}_{port}"),
    }
}
