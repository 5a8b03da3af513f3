//! The one connection to the agent, kept for the instance's lifetime.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use patchbay_link::{Backoff, Heard};
use ssmmp::extension::{Extensions, Reason};
use ssmmp::{
    Conversation, Envelope, Hop, InstanceId, MAX_MESSAGE_BYTES, Message, MessageId,
    ServiceInstanceHealthResponse, Speaker, Status,
};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tracing::warn;

use crate::registry::{Registry, lock};

/// First pause after the connection was lost.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a session may go on after it was asked to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// Keeps the connection; sessions go on while it is away.
pub async fn run(
    agent: String,
    id: InstanceId,
    registry: Arc<Registry>,
    mut outbound: mpsc::Receiver<Envelope>,
) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut unsent = None;
    loop {
        match TcpStream::connect(&agent).await {
            Ok(stream) => {
                backoff.reset();
                talk(stream, id, &registry, &mut outbound, &mut unsent).await;
                if registry.to_agent.is_closed() {
                    return;
                }
                warn!(agent, "the agent's connection ended; sessions go on");
            }
            Err(error) => warn!(agent, "the agent can't be reached: {error}"),
        }
        tokio::time::sleep(backoff.pause()).await;
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
    let conversation = Conversation::new(Speaker::Server, MAX_MESSAGE_BYTES);
    let (mut reader, mut writer) = patchbay_link::over(stream.into_split(), conversation, "the agent");
    // The first message, so that the agent can reach an instance that never asks for a session.
    let first = health(registry, MessageId::from(1), id).with(Extensions);
    let requests =
        lock(&registry.waiting).values().map(|waiting| waiting.request.clone()).collect::<Vec<_>>();
    // After a lost connection: the agent may be another one, which did not see these sessions begin.
    let mut again = requests.into_iter().chain(registry.acknowledgements());
    let writing = async {
        let mut next = Some(first);
        while let Some(envelope) = next {
            if writer.write(envelope, || again.next()).await.is_err() {
                return;
            }
            next = again.next();
        }
        loop {
            if unsent.is_none() {
                *unsent = outbound.recv().await;
            }
            // What could not be written is written to the next connection; agents take repetitions.
            let Some(envelope) = unsent.clone() else { return };
            if writer.write(envelope, || None).await.is_err() {
                return;
            }
            *unsent = None;
        }
    };
    let reading = async {
        loop {
            match reader.next().await {
                Ok(Heard::Message(Ok(envelope))) => {
                    reader.understood();
                    take(envelope, id, registry);
                }
                // An agent gets no refusals.
                Ok(Heard::Message(Err(problem))) => {
                    if reader.refuse(problem).1.is_some() {
                        return;
                    }
                }
                Ok(Heard::All { .. }) => {}
                Err(_) => return,
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
