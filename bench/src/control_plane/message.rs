//! SSMMP's lines as a fleet writes and reads them: as cheaply as can be, so that the other side is measured.

use std::fmt::Write as _;

/// The value of a field; empty when the line has no such field.
pub fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let found = line.split(" ~ ").find_map(|field| field.strip_prefix(name)?.strip_prefix(": "));
    found.unwrap_or_default().trim_end()
}

/// An instance that asks for sessions.
#[derive(Debug, Clone)]
pub struct Asker {
    /// Its id.
    pub id: u64,
    /// Its service.
    pub service: String,
    /// Its node's address.
    pub address: String,
}

/// Who sends to whom.
#[derive(Debug, Clone, Copy)]
pub enum Hop {
    /// An instance to its agent.
    ToAgent,
    /// An agent to the Manager.
    ToManager,
}

impl Hop {
    fn sub_type(self) -> &'static str {
        match self {
            Self::ToAgent => "service_to_agent",
            Self::ToManager => "agent_to_Manager",
        }
    }
}

/// A session_request for the plug `out`.
pub fn request(out: &mut String, hop: Hop, number: u64, asker: &Asker, destination: &str) {
    let (sub_type, Asker { id, service, address }) = (hop.sub_type(), asker);
    let _ = writeln!(
        out,
        "type: session_request ~ message_id: {number} ~ sub_type: {sub_type} ~ source_service_name: {service} ~ \
         source_service_instance_id: {id} ~ source_service_instance_network_address: {address} ~ \
         source_plug_name: out ~ dest_service_name: {destination} ~ dest_socket_name: s"
    );
}

/// The acknowledgement of a session that was answered with `response`.
pub fn acknowledgement(out: &mut String, hop: Hop, response: &str, asker: &Asker, port: u16) {
    let (sub_type, number, at) =
        (hop.sub_type(), field(response, "message_id"), field(response, "dest_socket_port"));
    let Asker { id, service, .. } = asker;
    let _ = writeln!(
        out,
        "type: session_ack ~ message_id: {number} ~ sub_type: {sub_type} ~ source_service_name: {service} ~ \
         source_service_instance_id: {id} ~ source_plug_port: {port} ~ dest_socket_new_port: {at} ~ status: 200"
    );
}

/// The answer to a health request.
pub fn healthy(out: &mut String, hop: Hop, number: &str, id: &str) {
    let sub_type = match hop {
        Hop::ToAgent => "service_instance_to_agent",
        Hop::ToManager => "agent_to_Manager",
    };
    let _ = writeln!(
        out,
        "type: service_instance_health_response ~ message_id: {number} ~ sub_type: {sub_type} ~ \
         service_instance_id: {id} ~ status: 200"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let line = "type: x ~ dest_socket_port: 54000 ~ status: 200\n";
        assert_eq!((field(line, "dest_socket_port"), field(line, "status")), ("54000", "200"));
        assert_eq!((field(line, "socket_port"), field(line, "type")), ("", "x"));
    }
}
