//! A message with what travels around it: its hop and the lines nobody here knows.

use crate::error::{ParseError, Problem, quote};
use crate::extension::{Extension, Reason};
use crate::fields::{self, Fields};
use crate::message::Message;
use crate::*;

/// Who sends to whom; the wire's sub_type follows from it and the message's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hop {
    /// From an instance to its agent.
    InstanceToAgent,
    /// From an agent to the Manager.
    AgentToManager,
    /// From the Manager to an agent.
    ManagerToAgent,
    /// From an agent to an instance.
    AgentToInstance,
}

/// Lines beyond the type's own, in order: ours start with `x_`, a peer's may have any name.
pub type Extensions = Vec<(String, String)>;

/// A message on one hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The message.
    pub message: Message,
    /// The hop it is on. Of a received message this is what its sub_type says (advisory).
    pub hop: Hop,
    /// Unknown lines; kept and forwarded.
    pub extensions: Extensions,
}

impl Envelope {
    /// A message without extensions.
    pub fn new(message: impl Into<Message>, hop: Hop) -> Self {
        Self { message: message.into(), hop, extensions: Extensions::new() }
    }

    /// Adds an extension line behind the type's own. White space around the value is not kept; line
    /// ends become spaces, and a tilde becomes a hyphen, since the wire can't escape them.
    #[must_use]
    pub fn with<'a, E: Extension<'a>>(mut self, line: E) -> Self {
        debug_assert!(
            E::ON.contains(&self.message.message_type()),
            "{} on {}",
            E::NAME,
            self.message.message_type()
        );
        let mut value = String::new();
        line.write(&mut value);
        if memchr::memchr3(b'\n', b'\r', b'~', value.as_bytes()).is_some() {
            value = value.replace(['\n', '\r'], " ").replace('~', "-");
        }
        let trimmed = value.trim();
        if trimmed.len() < value.len() {
            value = trimmed.to_owned();
        }
        self.extensions.push((E::NAME.to_owned(), value));
        self
    }

    /// The same, if there is something to tell.
    #[must_use]
    pub fn with_some<'a, E: Extension<'a>>(self, line: Option<E>) -> Self {
        match line {
            Some(line) => self.with(line),
            None => self,
        }
    }

    /// An extension line, where it is there and makes sense.
    pub fn line<'a, E: Extension<'a>>(&'a self) -> Option<E> {
        self.extension(E::NAME).and_then(E::read)
    }

    /// The text of an extension line.
    pub fn extension(&self, name: &str) -> Option<&str> {
        self.extensions.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Whether it has an extension line (`x_…`): its sender knows extensions.
    pub fn has_extensions(&self) -> bool {
        self.extensions.iter().any(|(name, _)| name.starts_with("x_"))
    }

    /// How many of the lines nobody here knows are no extensions: a peer's own, ignored and counted.
    pub fn unknown_fields(&self) -> usize {
        self.extensions.iter().filter(|(name, _)| !name.starts_with("x_")).count()
    }

    /// The same message on the next hop: only its sub_type changes.
    #[must_use]
    pub fn forward(mut self, hop: Hop) -> Self {
        self.hop = hop;
        self
    }

    /// Reads a line without its newline.
    ///
    /// # Errors
    /// Says what is wrong, with the answer for the sender where the type has a response.
    pub fn parse_bytes(line: &[u8]) -> Result<Self, ParseError> {
        match std::str::from_utf8(line) {
            Ok(text) => Self::parse(text),
            Err(_) => {
                let text = String::from_utf8_lossy(line);
                Err(Self::problem(Fields::split(&text).ok().as_ref(), Problem::NotUtf8))
            }
        }
    }

    /// The error for a line over `limit` bytes, of which the beginning was kept.
    pub fn too_long(beginning: &[u8], limit: usize) -> ParseError {
        let text = String::from_utf8_lossy(beginning);
        Self::problem(Fields::split(&text).ok().as_ref(), Problem::TooLong { limit })
    }

    /// Reads a line without its newline.
    ///
    /// # Errors
    /// Says what is wrong, with the answer for the sender where the type has a response.
    pub fn parse(line: &str) -> Result<Self, ParseError> {
        let mut fields = Fields::split(line).map_err(|problem| {
            let head: Vec<&str> = line.split(fields::SEPARATOR).take(3).collect();
            Self::problem(Fields::split(&head.join(fields::SEPARATOR)).ok().as_ref(), problem)
        })?;
        Self::take(&mut fields)
            .map_err(|problem| {
                // A taken field is gone; the answer is made from the whole line again.
                Self::problem(Fields::split(line).ok().as_ref(), problem)
            })
            .map(|(message, hop)| Self { message, hop, extensions: fields.into_rest() })
    }

    fn take(fields: &mut Fields<'_>) -> Result<(Message, Hop), Problem> {
        let (name, type_text) = fields.first();
        if !name.eq_ignore_ascii_case("type") {
            return Err(Problem::TypeNotFirst { found: quote(name) });
        }
        let message_type = MessageType::find(type_text).ok_or_else(|| unknown_type(type_text))?;
        let message_type = instance_health_by_fields(message_type, type_text, fields);
        fields.take_text("type", &[])?;
        let message_id = fields.take("message_id", &[])?;
        let sub_type = fields.take_text("sub_type", &[])?;
        let hop = hop(message_type, sub_type);
        Ok((message_type.take(message_id, fields)?, hop))
    }

    fn problem(fields: Option<&Fields<'_>>, problem: Problem) -> ParseError {
        let message_type = fields.and_then(|f| f.peek("type")).and_then(MessageType::find);
        let message_id = fields
            .and_then(|f| f.peek("message_id"))
            .and_then(|text| <MessageId as crate::value::Value>::read(text).ok());
        // An id that can't be read can't be repeated either: its answer has the one that nobody uses.
        let answers = message_id.unwrap_or_else(|| MessageId::from(0));
        let refusal = match (fields, message_type) {
            (Some(fields), Some(message_type)) => refusal(fields, message_type, answers).map(|message| {
                let hop = match message_type.sub_types().default_hop {
                    Hop::InstanceToAgent => Hop::AgentToInstance,
                    Hop::AgentToManager => Hop::ManagerToAgent,
                    Hop::ManagerToAgent => Hop::AgentToManager,
                    Hop::AgentToInstance => Hop::InstanceToAgent,
                };
                Box::new(Self::new(message, hop).with(Reason(&problem.to_string())))
            }),
            _ => None,
        };
        ParseError { problem, message_type, message_id, refusal }
    }

    /// The wire form, ended by one newline.
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(256);
        self.encode_into(&mut out);
        out
    }

    /// Appends the wire form, ended by one newline.
    pub fn encode_into(&self, out: &mut String) {
        self.put(out, true);
    }

    /// The same without extension lines, for a peer that has shown none.
    pub fn encode_plain_into(&self, out: &mut String) {
        self.put(out, false);
    }

    fn put(&self, out: &mut String, extended: bool) {
        let message_type = self.message.message_type();
        fields::put_first(out, message_type.as_str());
        fields::put(out, "message_id", &self.message.message_id());
        if let Some(sub_type) = sub_type(message_type, self.hop) {
            fields::put_text(out, "sub_type", sub_type);
        }
        self.message.put(out);
        for (name, value) in self.extensions.iter().filter(|(name, _)| extended || !name.starts_with("x_")) {
            fields::put_text(out, name, value);
        }
        out.push('\n');
    }
}

fn unknown_type(text: &str) -> Problem {
    match text.contains(";message_id:") {
        true => Problem::DialectNotAccepted,
        false => Problem::UnknownType(quote(text)),
    }
}

/// The older name `health_control_*` means an instance when it carries an instance's id.
fn instance_health_by_fields(found: MessageType, text: &str, fields: &Fields<'_>) -> MessageType {
    let names_instance = ["service_instance_id", "service_instance", "service_name"]
        .iter()
        .any(|field| fields.peek(field).is_some());
    match text {
        "health_control_request" if names_instance => MessageType::ServiceInstanceHealthRequest,
        "health_control_response" if names_instance => MessageType::ServiceInstanceHealthResponse,
        _ => found,
    }
}

fn sub_type(message_type: MessageType, hop: Hop) -> Option<&'static str> {
    let sub_types = message_type.sub_types();
    match hop {
        Hop::InstanceToAgent | Hop::AgentToInstance => sub_types.instance,
        Hop::AgentToManager => sub_types.manager.then_some("agent_to_Manager"),
        Hop::ManagerToAgent => sub_types.manager.then_some("Manager_to_agent"),
    }
}

fn hop(message_type: MessageType, sub_type: Option<&str>) -> Hop {
    let default_hop = message_type.sub_types().default_hop;
    let upward = matches!(default_hop, Hop::InstanceToAgent | Hop::AgentToManager);
    let Some(text) = sub_type else { return default_hop };
    match text.to_ascii_lowercase().as_str() {
        "agent_to_manager" | "source_agent_to_manager" | "dest_agent_to_manager" => Hop::AgentToManager,
        "manager_to_agent" => Hop::ManagerToAgent,
        "service_to_agent"
        | "source_service_to_agent"
        | "dest_service_to_agent"
        | "service_instance_to_agent" => Hop::InstanceToAgent,
        "agent_to_service"
        | "agent_to_source_service"
        | "agent_to_dest_service"
        | "agent_to_service_instance" => Hop::AgentToInstance,
        _ if upward => Hop::InstanceToAgent,
        _ => default_hop,
    }
}

/// The 400 answer in the message's own response type, as far as the line could be understood.
fn refusal(fields: &Fields<'_>, message_type: MessageType, message_id: MessageId) -> Option<Message> {
    use crate::value::Value;
    let status = Status::BAD_REQUEST;
    let name =
        |field: &str| fields.peek(field).and_then(|text| Name::read(text).ok()).unwrap_or_else(Name::unnamed);
    let instance = |field: &str| {
        fields.peek(field).and_then(|text| InstanceId::read(text).ok()).unwrap_or(InstanceId::UNKNOWN)
    };
    let address = |field: &str| {
        fields.peek(field).and_then(|text| Address::read(text).ok()).unwrap_or(Address::UNKNOWN)
    };
    Some(match message_type {
        MessageType::InitiationRequest => InitiationResponse { message_id, status }.into(),
        MessageType::ExecutionRequest => ExecutionResponse { message_id, status }.into(),
        MessageType::SessionRequest => SessionResponse {
            message_id,
            source_service_name: name("source_service_name"),
            source_service_instance_id: instance("source_service_instance_id"),
            dest_service_name: name("dest_service_name"),
            dest_service_instance_id: InstanceId::UNKNOWN,
            dest_socket_name: name("dest_socket_name"),
            dest_service_instance_network_address: Address::UNKNOWN,
            dest_socket_port: Port::UNKNOWN,
            status,
        }
        .into(),
        MessageType::SourceServiceSessionCloseRequest => {
            SourceServiceSessionCloseResponse { message_id, status }.into()
        }
        MessageType::DestServiceSessionCloseRequest => {
            DestServiceSessionCloseResponse { message_id, status }.into()
        }
        MessageType::GracefulShutdownRequest => GracefulShutdownResponse { message_id, status }.into(),
        MessageType::HardShutdownRequest => {
            HardShutdownResponse { message_id, service_instance_id: instance("service_instance_id"), status }
                .into()
        }
        MessageType::ServiceInstanceHealthRequest => ServiceInstanceHealthResponse {
            message_id,
            service_instance_id: instance("service_instance_id"),
            status,
        }
        .into(),
        MessageType::AgentHealthControlRequest => AgentHealthControlResponse {
            message_id,
            agent_network_address: address("agent_network_address"),
            status,
        }
        .into(),
        _ => return None,
    })
}
