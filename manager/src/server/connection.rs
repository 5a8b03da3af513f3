//! One agent's connection: read, understood, answered, ended.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ssmmp::extension::{Reason, RunningMore};
use ssmmp::{
    Address, Conversation, Envelope, Hop, InitiationRequest, InitiationResponse, MAX_MESSAGE_BYTES,
    Malformed, Message, ParseError, Problem, Speaker, Status,
};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use super::places::Place;
use super::way::{WeakWay, Written, way};
use super::{COUNTERS, Counter, Options};
use crate::shell::{Handle, Input};
use patchbay_manager_core::{Connection, Event};

/// Messages of one connection that may wait for the core; it is not read meanwhile, so that a flood
/// waits for itself and others only wait for so many of it.
const MAX_WAITING: usize = 256;
/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// Serves a connection until it ends; returns why.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    connection: Connection,
    handle: &Handle,
    place: &mut Place,
    options: &Options,
) -> String {
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let conversation = Conversation::new(Speaker::Agent, MAX_MESSAGE_BYTES)
        .accepting_semi(options.accept_semi)
        .extended_on_request();
    let conversation = Arc::new(Mutex::new(conversation));
    let (way, written) = way(writer, conversation.clone());
    let refusals = way.downgrade();
    if handle.deliver(Input::Connected(connection, way)).await.is_err() {
        return "the Manager is shutting down".into();
    }
    let agent = Agent { peer, connection, handle, options, conversation, refusals };
    tokio::select! {
        reason = agent.write(written) => reason,
        reason = agent.read(reader, place) => reason,
    }
}

struct Agent<'a> {
    peer: SocketAddr,
    connection: Connection,
    handle: &'a Handle,
    options: &'a Options,
    conversation: Arc<Mutex<Conversation>>,
    refusals: WeakWay,
}

/// What the messages of one connection have shown so far.
#[derive(Default)]
struct Record {
    address: Option<Address>,
    malformed: Malformed,
    ignored: u64,
}

impl Agent<'_> {
    fn conversation(&self) -> MutexGuard<'_, Conversation> {
        self.conversation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, mut written: Written) -> String {
        loop {
            let answers = match written.write(self.options.write_within).await {
                Ok(answers) => answers,
                Err(reason) => return reason,
            };
            for answer in answers {
                let input = Input::Event(Event::Message(self.connection, answer));
                if self.handle.deliver(input).await.is_err() {
                    return "the Manager is shutting down".into();
                }
                self.handle.turn();
            }
        }
    }

    /// A place among the messages of this connection that may wait.
    async fn wait(&self, waiting: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = waiting.clone().try_acquire_owned() {
            return Some(permit);
        }
        self.handle.turn();
        waiting.clone().acquire_owned().await.ok()
    }

    async fn read(&self, mut reader: OwnedReadHalf, place: &mut Place) -> String {
        let mut bytes = vec![0; READ_BYTES];
        let mut record = Record::default();
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        let register_until = Instant::now() + self.options.register_within;
        loop {
            let read = match place.is_registered() {
                true => reader.read(&mut bytes).await,
                false => match timeout_at(register_until, reader.read(&mut bytes)).await {
                    Ok(read) => read,
                    Err(_) => return "it did not register in time".into(),
                },
            };
            let length = match read {
                Ok(length) => length,
                Err(error) => return format!("reading failed: {error}"),
            };
            self.conversation().push(&bytes[..length]);
            while let Some(message) = self.next() {
                let envelope = match message.and_then(|envelope| self.check(envelope, &mut record)) {
                    Ok(envelope) => envelope,
                    Err(problem) => match self.refuse(problem, &mut record) {
                        Some(reason) => return reason,
                        None => continue,
                    },
                };
                let is_whole = envelope.line::<RunningMore>().is_none();
                if is_whole && matches!(envelope.message, Message::InitiationRequest(_)) {
                    place.register();
                }
                let Some(permit) = self.wait(&waiting).await else { break };
                if self.handle.deliver(Input::Message(self.connection, envelope, permit)).await.is_err() {
                    return "the Manager is shutting down".into();
                }
            }
            // All that was read is one transaction.
            self.handle.turn();
            if length == bytes.len() {
                // It says more than is read at once: others come first.
                tokio::task::yield_now().await;
            }
            if length == 0 {
                return "the peer closed it".into();
            }
        }
    }

    fn next(&self) -> Option<Result<Envelope, ParseError>> {
        self.conversation().next_message()
    }

    /// What the connection itself says about a message.
    fn check(&self, mut envelope: Envelope, record: &mut Record) -> Result<Envelope, ParseError> {
        if let Message::InitiationRequest(request) = &mut envelope.message {
            self.check_address(request, record)?;
        }
        record.malformed.understood();
        COUNTERS.add_message(envelope.message.message_type());
        let unknown = envelope.unknown_fields();
        if unknown > 0 {
            COUNTERS.add_many(Counter::UnknownFields, unknown as u64);
        }
        if envelope.hop != Hop::AgentToManager {
            COUNTERS.add(Counter::OtherHop);
            debug!(peer = %self.peer, hop = ?envelope.hop, "a message names another hop");
        }
        let ignored = self.conversation().ignored();
        COUNTERS.add_many(Counter::Ignored, ignored - record.ignored);
        record.ignored = ignored;
        Ok(envelope)
    }

    /// One connection is one agent; where it says a host's name or nothing, its address is the peer's.
    fn check_address(&self, request: &mut InitiationRequest, record: &mut Record) -> Result<(), ParseError> {
        let peer = Address::from(self.peer.ip());
        if !request.agent_network_address.is_known() {
            request.agent_network_address = peer;
        }
        let address = request.agent_network_address;
        let refused = |status, reason: &str| {
            let response = InitiationResponse { message_id: request.message_id, status };
            let envelope = Envelope::new(response, Hop::ManagerToAgent).with(Reason(reason));
            ParseError {
                problem: Problem::Invalid {
                    field: "agent_network_address",
                    value: address.to_string(),
                    reason: reason.into(),
                },
                message_type: Some(ssmmp::MessageType::InitiationRequest),
                message_id: Some(request.message_id),
                refusal: Some(Box::new(envelope)),
            }
        };
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
            info!(peer = %self.peer, %address, "an agent's address is not the one it connects from");
        }
        record.address = Some(address);
        Ok(())
    }

    /// Answers a message that was not understood; says why the connection is to end, if it is.
    fn refuse(&self, problem: ParseError, record: &mut Record) -> Option<String> {
        let verdict = record.malformed.count();
        COUNTERS.add(if problem.refusal.is_some() { Counter::Refused } else { Counter::Dropped });
        if verdict.is_logged {
            warn!(peer = %self.peer, "refused: {problem}");
        }
        if verdict.is_last_logged {
            warn!(peer = %self.peer, "further malformed messages of this connection are only counted");
        }
        if let Some(refusal) = problem.refusal {
            self.refusals.send(*refusal);
        }
        verdict.end
    }
}
