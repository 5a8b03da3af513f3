//! The one connection to the agent, kept for the instance's lifetime.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ssmmp::extension::{Extensions, Reason};
use ssmmp::{
    Conversation, Envelope, Hop, InstanceId, MAX_MESSAGE_BYTES, Message, MessageId,
    ServiceInstanceHealthResponse, Speaker, Status,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tracing::warn;

use crate::registry::{Registry, lock};

/// First pause after the connection was lost; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a session may go on after it was asked to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);
/// Bytes read at once.
const READ_BYTES: usize = 4_096;

/// Keeps the connection; sessions go on while it is away.
pub async fn run(
    agent: String,
    id: InstanceId,
    registry: Arc<Registry>,
    mut outbound: mpsc::Receiver<Envelope>,
) {
    let mut pause = FIRST_PAUSE;
    let mut unsent = None;
    loop {
        match TcpStream::connect(&agent).await {
            Ok(stream) => {
                pause = FIRST_PAUSE;
                talk(stream, id, &registry, &mut outbound, &mut unsent).await;
                if registry.to_agent.is_closed() {
                    return;
                }
                warn!(agent, "the agent's connection ended; sessions go on");
            }
            Err(error) => warn!(agent, "the agent can't be reached: {error}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn talk(
    stream: TcpStream,
    id: InstanceId,
    registry: &Arc<Registry>,
    outbound: &mut mpsc::Receiver<Envelope>,
    unsent: &mut Option<Envelope>,
) {
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.into_split();
    // The first message, so that the agent can reach an instance that never asks for a session.
    let mut first = health(registry, MessageId::from(1), id).with(Extensions).encode();
    for waiting in lock(&registry.waiting).values() {
        first.push_str(&waiting.request.encode());
    }
    // After a lost connection: the agent may be another one, which did not see these sessions begin.
    for acknowledgement in registry.acknowledgements() {
        first.push_str(&acknowledgement.encode());
    }
    let writing = async {
        if writer.write_all(first.as_bytes()).await.is_err() {
            return;
        }
        loop {
            if unsent.is_none() {
                *unsent = outbound.recv().await;
            }
            // What could not be written is written to the next connection; agents take repetitions.
            let Some(envelope) = &*unsent else { return };
            if writer.write_all(envelope.encode().as_bytes()).await.is_err() {
                return;
            }
            *unsent = None;
        }
    };
    let reading = async {
        let mut conversation = Conversation::new(Speaker::Server, MAX_MESSAGE_BYTES);
        let mut bytes = vec![0; READ_BYTES];
        while let Ok(length @ 1..) = reader.read(&mut bytes).await {
            conversation.push(&bytes[..length]);
            while let Some(message) = conversation.next_message() {
                match message {
                    Ok(envelope) => take(envelope, id, registry),
                    Err(problem) => warn!("refused a message of the agent: {problem}"),
                }
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
}

fn health(registry: &Registry, message_id: MessageId, id: InstanceId) -> Envelope {
    let status = if registry.overloaded.load(Ordering::Relaxed) { Status::OVERLOADED } else { Status::OK };
    let response = ServiceInstanceHealthResponse { message_id, service_instance_id: id, status };
    Envelope::new(response, Hop::InstanceToAgent)
}

fn take(envelope: Envelope, id: InstanceId, registry: &Arc<Registry>) {
    let Reason(reason) = envelope.line().unwrap_or(Reason("no reason given"));
    let reason = reason.to_owned();
    match envelope.message {
        // What only informs is not the answer yet.
        Message::SessionResponse(response) if !response.status.is_final() => {}
        Message::SessionResponse(response) => {
            if let Some(waiting) = lock(&registry.waiting).remove(&response.message_id) {
                let _ = waiting.answer.send((response, reason));
            }
        }
        Message::SourceServiceSessionCloseRequest(request) => {
            let source = (request.source_service_instance_network_address, request.source_plug_port);
            let destination = (request.dest_service_instance_network_address, request.dest_socket_port);
            close(registry, registry.find(true, source, destination), request.into());
        }
        Message::DestServiceSessionCloseRequest(request) => {
            let source = (request.source_service_instance_network_address, request.source_plug_port);
            let destination = (request.dest_service_instance_network_address, request.dest_socket_port);
            close(registry, registry.find(false, source, destination), request.into());
        }
        Message::GracefulShutdownRequest(request) => {
            *lock(&registry.shutdown_request) = Some(request.message_id);
            registry.shutdown.cancel();
        }
        Message::ServiceInstanceHealthRequest(request) => {
            let _ = registry.to_agent.try_send(health(registry, request.message_id, id));
        }
        _ => {}
    }
}

fn close(registry: &Arc<Registry>, session: Result<u64, Status>, request: Message) {
    let session = match session {
        Ok(session) => session,
        Err(status) => {
            registry.answer_close(&request, status);
            return;
        }
    };
    registry.ask_to_close(session, request);
    let registry = registry.clone();
    tokio::spawn(async move {
        tokio::time::sleep(CLOSE_WITHIN).await;
        registry.force_close(session);
    });
}
