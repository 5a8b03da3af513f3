//! One agent's connection: read, understood, answered, ended.

use std::net::SocketAddr;
use std::sync::Arc;

use patchbay_link::{Heard, Reader, Shared};
use patchbay_trust::Inward;
use ssmmp::extension::{Node, Reason, RunningMore};
use ssmmp::{
    Address, Conversation, Envelope, Hop, InitiationRequest, InitiationResponse, MAX_MESSAGE_BYTES, Message,
    MessageId, ParseError, Problem, Speaker, Status,
};
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::server::TlsStream;
use tracing::{debug, info};

use super::admission::Place;
use super::outbound::{Outward, WeakWay, Written, way};
use super::{COUNTERS, Counter, Options};
use crate::certificates::Peer;
use crate::shell::{Handle, Input};
use patchbay_manager_core::Connection;

/// Messages of one connection that may wait for the core; it is not read meanwhile, so that a flood
/// waits for itself and others only wait for so many of it.
const MAX_WAITING: usize = 256;

/// What is read of an agent.
type Inside = Inward<Box<dyn AsyncRead + Send + Unpin>>;

/// A connection's two directions.
pub(super) struct Halves {
    reader: Inside,
    outward: Outward,
}

impl Halves {
    /// Without TLS.
    pub(super) fn of_tcp(stream: TcpStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: Inward::plain(Box::new(reader), "the agent"), outward: Outward::Tcp(writer) }
    }

    /// Over TLS, whose handshake is done.
    pub(super) fn of_tls(stream: TlsStream<TcpStream>) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader: Inward::tls(Box::new(reader), "the agent"), outward: Outward::Tls(writer) }
    }
}

/// Whose connection is served, and how.
pub(super) struct Served<'a> {
    pub(super) peer: SocketAddr,
    /// Who it has proven to be; none without TLS.
    pub(super) known: Option<&'a Peer>,
    pub(super) connection: Connection,
    pub(super) handle: &'a Handle,
    pub(super) options: &'a Options,
}

/// Serves a connection until it ends; returns why.
pub(super) async fn serve(halves: Halves, served: Served<'_>, place: &mut Place) -> String {
    let conversation = Conversation::new(Speaker::Agent, MAX_MESSAGE_BYTES)
        .accepting_semi(served.options.accept_semi)
        .extended_on_request();
    let shared = Shared::new(conversation);
    let (way, written) = way(halves.outward, shared.clone());
    let reader = Reader::new(halves.reader, shared, format!("the peer {}", served.peer));
    let refusals = way.downgrade();
    if served.handle.deliver(Input::Connected(served.connection, way)).await.is_err() {
        return "the Manager is shutting down".into();
    }
    let agent = Agent { served, refusals };
    tokio::select! {
        reason = agent.write(written) => reason,
        reason = agent.read(reader, place) => reason,
    }
}

struct Agent<'a> {
    served: Served<'a>,
    refusals: WeakWay,
}

/// What the messages of one connection have shown so far.
#[derive(Default)]
struct Record {
    address: Option<Address>,
    ignored: u64,
}

impl Agent<'_> {
    async fn write(&self, mut written: Written) -> String {
        loop {
            let answers = match written.write(self.served.options.write_within).await {
                Ok(answers) => answers,
                Err(reason) => return reason,
            };
            for answer in answers {
                let input = Input::Answer(self.served.connection, answer);
                if self.served.handle.deliver(input).await.is_err() {
                    return "the Manager is shutting down".into();
                }
                self.served.handle.turn();
            }
        }
    }

    /// A place among the messages of this connection that may wait.
    async fn wait(&self, waiting: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = waiting.clone().try_acquire_owned() {
            return Some(permit);
        }
        self.served.handle.turn();
        waiting.clone().acquire_owned().await.ok()
    }

    async fn read(&self, mut reader: Reader<Inside>, place: &mut Place) -> String {
        let mut record = Record::default();
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        let register_until = Instant::now() + self.served.options.register_within;
        loop {
            let heard = match place.is_registered() {
                true => reader.next().await,
                false => match timeout_at(register_until, reader.next()).await {
                    Ok(heard) => heard,
                    Err(_) => return "it did not register in time".into(),
                },
            };
            let message = match heard {
                Ok(Heard::Message(message)) => message,
                Ok(Heard::All { more }) => {
                    // All that was read is one transaction.
                    self.served.handle.turn();
                    if more {
                        // It says more than is read at once: others come first.
                        tokio::task::yield_now().await;
                    }
                    continue;
                }
                Err(reason) => {
                    self.served.handle.turn();
                    return reason;
                }
            };
            let envelope = match message.and_then(|envelope| self.check(envelope, &mut record)) {
                Ok(envelope) => envelope,
                Err(problem) => match self.refuse(problem, &mut reader) {
                    Ok(()) => continue,
                    Err(reason) => return reason,
                },
            };
            reader.understood();
            COUNTERS.add_many(Counter::Ignored, reader.ignored() - record.ignored);
            record.ignored = reader.ignored();
            let is_whole = envelope.line::<RunningMore>().is_none();
            if is_whole && matches!(envelope.message, Message::InitiationRequest(_)) {
                place.register();
            }
            // The semaphore is never closed.
            let Some(permit) = self.wait(&waiting).await else {
                return "the Manager is shutting down".into();
            };
            if self
                .served
                .handle
                .deliver(Input::Message(self.served.connection, envelope, permit))
                .await
                .is_err()
            {
                return "the Manager is shutting down".into();
            }
        }
    }

    /// What the connection itself says about a message.
    fn check(&self, mut envelope: Envelope, record: &mut Record) -> Result<Envelope, ParseError> {
        self.check_name(&envelope)?;
        if let Message::InitiationRequest(request) = &mut envelope.message {
            self.check_address(request, record)?;
        }
        COUNTERS.add_message(envelope.message.message_type());
        let unknown = envelope.unknown_fields();
        if unknown > 0 {
            COUNTERS.add_many(Counter::UnknownFields, unknown as u64);
        }
        if envelope.hop != Hop::AgentToManager {
            COUNTERS.add(Counter::OtherHop);
            debug!(peer = %self.served.peer, hop = ?envelope.hop, "a message names another hop");
        }
        Ok(envelope)
    }

    /// An agent registers as the node that its certificate names, and as no other.
    fn check_name(&self, envelope: &Envelope) -> Result<(), ParseError> {
        let (Some(known), Message::InitiationRequest(request)) = (self.served.known, &envelope.message)
        else {
            return Ok(());
        };
        // As the core takes it.
        let told = Some(request.agent_network_address).filter(|address| address.is_known());
        let address = told.unwrap_or_else(|| self.served.peer.ip().into()).to_string();
        let name = envelope.line().map_or(address.as_str(), |Node(name)| name);
        match known.may_not_be(name) {
            None => Ok(()),
            Some(reason) => {
                let said = ("x_node", name.to_owned());
                Err(refused(request.message_id, said, Status::FORBIDDEN, &reason))
            }
        }
    }

    /// One connection is one agent; where it says a host's name or nothing, its address is the peer's.
    fn check_address(&self, request: &mut InitiationRequest, record: &mut Record) -> Result<(), ParseError> {
        let peer = Address::from(self.served.peer.ip());
        if !request.agent_network_address.is_known() {
            request.agent_network_address = peer;
        }
        let address = request.agent_network_address;
        let id = request.message_id;
        let refused =
            |status, reason| refused(id, ("agent_network_address", address.to_string()), status, reason);
        // An agent elsewhere can't have a loopback address: its instances could not be reached.
        if address.0.is_loopback() && !peer.0.is_loopback() {
            let reason = "a loopback address can't be reached from other nodes";
            return Err(refused(Status::BAD_REQUEST, reason));
        }
        if record.address.is_some_and(|earlier| earlier != address) {
            let reason = "this connection has registered another address";
            return Err(refused(Status::CONFLICT, reason));
        }
        if address != peer && record.address.is_none() {
            info!(peer = %self.served.peer, %address, "an agent's address is not the one it connects from");
        }
        record.address = Some(address);
        Ok(())
    }

    /// Answers a message that was not understood.
    ///
    /// # Errors
    /// Why the connection is to end.
    fn refuse(&self, problem: ParseError, reader: &mut Reader<Inside>) -> Result<(), String> {
        COUNTERS.add(if problem.refusal.is_some() { Counter::Refused } else { Counter::Dropped });
        let (refusal, end) = reader.refuse(problem);
        if let Some(refusal) = refusal {
            self.refusals.send(refusal);
        }
        end.map_or(Ok(()), Err)
    }
}

/// A registration that the connection itself refuses: what was said in a field, and why that can't be.
fn refused(
    id: MessageId,
    (field, value): (&'static str, String),
    status: Status,
    reason: &str,
) -> ParseError {
    let response = InitiationResponse { message_id: id, status };
    let envelope = Envelope::new(response, Hop::ManagerToAgent).with(Reason(reason));
    ParseError {
        problem: Problem::Invalid { field, value, reason: reason.into() },
        message_type: Some(ssmmp::MessageType::InitiationRequest),
        message_id: Some(id),
        refusal: Some(Box::new(envelope)),
    }
}
