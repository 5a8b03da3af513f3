//! The `semi` dialect: what the public Java implementation sends (an older form of the protocol).
//!
//! Fields are joined by `;`, names and values by `:` without a blank, addresses carry a port
//! (`localhost_34011`), and the reader takes values by position. The dialect lacks fields and messages
//! that SSMMP/1.1 has; [`Semi`] keeps what is needed to fill them in, one for each connection.

mod write;

use std::collections::VecDeque;

use crate::error::ParseError;
use crate::{
    Envelope, GracefulShutdownResponse, HardShutdownResponse, InstanceId, Message, MessageId, Name, Status,
};

/// Requests of a connection whose acknowledgement, which names no instance, may still come.
const MAX_ASKED: usize = 1024;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Speaker {
    /// An agent, on a Manager's connection.
    Agent,
    /// An instance, on its agent's connection: who it is is known from its process.
    Instance(Name, InstanceId),
    /// The Manager or an agent, on a connection made to it.
    Server,
}

/// Whether a line is of this dialect: a `;` before any ` ~ `, no blank behind the first `:`.
pub(crate) fn is_semi(line: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(line) else { return false };
    let head = text.split(crate::fields::SEPARATOR).next().unwrap_or_default();
    let blank = text.split_once(':').is_none_or(|(_, value)| value.starts_with(char::is_whitespace));
    head.contains(';') && !blank
}

/// One connection in this dialect.
#[derive(Debug)]
pub(crate) struct Semi {
    speaker: Speaker,
    /// The agent's address as it said it, with its port.
    agent: String,
    /// Who asked for the sessions that are not acknowledged yet, the oldest first.
    asked: VecDeque<(MessageId, Name, InstanceId)>,
    /// Hard shutdowns that were sent as graceful ones.
    forced: VecDeque<(MessageId, InstanceId)>,
}

impl Semi {
    pub(crate) fn new(speaker: Speaker) -> Self {
        Self { speaker, agent: String::new(), asked: VecDeque::new(), forced: VecDeque::new() }
    }

    /// Reads a line. `None` for a message that SSMMP does not have and from which nothing follows.
    pub(crate) fn read(&mut self, line: &[u8]) -> Result<Option<Envelope>, ParseError> {
        let Ok(text) = std::str::from_utf8(line) else { return Envelope::parse_bytes(line).map(Some) };
        let fields: Vec<(&str, &str)> =
            text.split(';').map(str::trim).filter(|s| !s.is_empty()).map(split).collect();
        let is_type = |wanted: &str| fields.first().is_some_and(|(_, value)| *value == wanted);
        if is_type("connection_request") || (is_type("execution_response") && self.instance().is_some()) {
            // An instance says that it runs: its agent knows, from the kernel.
            return Ok(None);
        }
        let mut envelope = Envelope::parse(&self.canonical(&fields))?;
        if let Some((_, address)) = fields.iter().find(|(name, _)| name.starts_with("agent_n")) {
            (*address).clone_into(&mut self.agent);
        }
        self.complete(&mut envelope);
        Ok(Some(envelope))
    }

    fn instance(&self) -> Option<(&Name, InstanceId)> {
        match &self.speaker {
            Speaker::Instance(name, id) => Some((name, *id)),
            _ => None,
        }
    }

    /// The same fields in the canonical form, those that the dialect leaves out added.
    fn canonical(&self, fields: &[(&str, &str)]) -> String {
        let heartbeat = fields.first().is_some_and(|(_, value)| *value == "process_data");
        let mut line = String::new();
        for (name, value) in fields {
            let value = match (*name, heartbeat) {
                ("type", true) => "service_instance_health_response",
                _ => value,
            };
            if !line.is_empty() {
                line.push_str(crate::fields::SEPARATOR);
            }
            if !name.is_empty() {
                line.push_str(name);
                line.push_str(": ");
            }
            line.push_str(value);
        }
        let has_status = fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("status"));
        let message_type = fields.first().map_or("", |(_, value)| *value);
        let added = match message_type {
            "process_data" => Some(Status::OK),
            // Only one cause is ever reported.
            "source_service_session_close_info" | "dest_service_session_close_info" => Some(Status::CLOSED),
            _ => None,
        };
        if let Some(status) = added.filter(|_| !has_status) {
            line.push_str(&format!("{}status: {status}", crate::fields::SEPARATOR));
        }
        line
    }

    /// Adds who speaks: an instance by its connection, an agent's acknowledgement by its request.
    fn complete(&mut self, envelope: &mut Envelope) {
        if let Speaker::Instance(name, id) = &self.speaker {
            identify(&mut envelope.message, name, *id);
        }
        match &mut envelope.message {
            Message::SessionRequest(request) => {
                if self.asked.len() == MAX_ASKED {
                    self.asked.pop_front();
                }
                let asker = (request.source_service_name.clone(), request.source_service_instance_id);
                self.asked.push_back((request.message_id, asker.0, asker.1));
            }
            Message::SessionAck(ack) if !ack.source_service_instance_id.is_known() => {
                let at = self.asked.iter().rposition(|(id, ..)| *id == ack.message_id);
                if let Some((_, name, id)) = at.and_then(|at| self.asked.remove(at)) {
                    ack.source_service_name = name;
                    ack.source_service_instance_id = id;
                }
            }
            Message::GracefulShutdownResponse(GracefulShutdownResponse { message_id, status }) => {
                let at = self.forced.iter().position(|(id, _)| id == message_id);
                if let Some((message_id, service_instance_id)) = at.and_then(|at| self.forced.remove(at)) {
                    envelope.message =
                        HardShutdownResponse { message_id, service_instance_id, status: *status }.into();
                }
            }
            _ => {}
        }
    }
}

/// A segment without a `:` gets no name, which the canonical form refuses.
fn split(segment: &str) -> (&str, &str) {
    segment.split_once(':').map_or(("", segment), |(name, value)| (name.trim(), value.trim()))
}

/// An instance of this dialect numbers itself; who it is is known from its process.
fn identify(message: &mut Message, name: &Name, id: InstanceId) {
    match message {
        Message::SessionRequest(m) => {
            (m.source_service_name, m.source_service_instance_id) = (name.clone(), id);
        }
        Message::SessionAck(m) => {
            (m.source_service_name, m.source_service_instance_id) = (name.clone(), id);
        }
        Message::SourceServiceSessionCloseInfo(m) => {
            (m.source_service_name, m.source_service_instance_id) = (name.clone(), id);
        }
        Message::DestServiceSessionCloseInfo(m) => {
            (m.dest_service_name, m.dest_service_instance_id) = (name.clone(), id);
        }
        Message::ServiceInstanceTerminationInfo(m) => {
            (m.service_name, m.service_instance_id) = (name.clone(), id);
        }
        Message::ServiceInstanceHealthResponse(m) => m.service_instance_id = id,
        _ => {}
    }
}
