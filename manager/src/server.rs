//! Agents' connections: bytes to messages and back, with bounds on everything a peer can do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ssmmp::{Address, Envelope, Line, LineBuffer, Message, ParseError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tracing::{info, warn};

use crate::core::{Connection, Event};
use crate::shell::{Handle, Input};

/// Agents connected at once; further connections are closed.
const MAX_CONNECTIONS: usize = 10_000;
/// Messages that may wait to be sent to one agent; one that lets more wait is cut off.
const MAX_UNSENT: usize = 65_536;
/// A connection must register within this time.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);
/// Malformed messages in a row after which a connection is closed.
const MAX_MALFORMED: u32 = 100;
/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Accepts agents until the listener fails.
pub async fn serve(listener: TcpListener, handle: Handle) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!("accepting an agent failed: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            warn!(%peer, "{MAX_CONNECTIONS} agents are connected; this one is refused");
            continue;
        };
        let handle = handle.clone();
        tokio::spawn(async move {
            let connection = Connection(NEXT.fetch_add(1, Ordering::Relaxed));
            let reason = serve_agent(stream, peer, connection, &handle).await;
            info!(%peer, "agent's connection ended: {reason}");
            let _ = handle.deliver(Input::Event(Event::Lost(connection))).await;
            drop(place);
        });
    }
}

async fn serve_agent(stream: TcpStream, peer: SocketAddr, connection: Connection, handle: &Handle) -> String {
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.into_split();
    let (sender, mut outbound) = mpsc::channel::<Envelope>(MAX_UNSENT);
    let refusals = sender.clone().downgrade();
    if handle.deliver(Input::Connected(connection, sender)).await.is_err() {
        return "the Manager is shutting down".into();
    }
    let writing = async {
        let mut bytes = Vec::new();
        while let Some(envelope) = outbound.recv().await {
            bytes.clear();
            bytes.extend_from_slice(envelope.encode().as_bytes());
            while let Ok(more) = outbound.try_recv() {
                bytes.extend_from_slice(more.encode().as_bytes());
            }
            if let Err(error) = writer.write_all(&bytes).await {
                return format!("writing failed: {error}");
            }
        }
        "closed by the Manager".to_owned()
    };
    let reading = async {
        let mut lines = LineBuffer::default();
        let mut bytes = vec![0; READ_BYTES];
        let mut registered = false;
        let mut malformed = 0;
        loop {
            let read = match registered {
                true => reader.read(&mut bytes).await,
                false => match tokio::time::timeout(REGISTER_WITHIN, reader.read(&mut bytes)).await {
                    Ok(read) => read,
                    Err(_) => return "it did not register in time".to_owned(),
                },
            };
            match read {
                Ok(0) => return "the peer closed it".to_owned(),
                Ok(length) => lines.push(&bytes[..length]),
                Err(error) => return format!("reading failed: {error}"),
            }
            while let Some(line) = lines.next_line() {
                match parse(&line, lines.limit()).and_then(|envelope| check(envelope, peer)) {
                    Ok(envelope) => {
                        malformed = 0;
                        registered |= matches!(envelope.message, Message::InitiationRequest(_));
                        if handle.deliver(Input::Event(Event::Message(connection, envelope))).await.is_err() {
                            return "the Manager is shutting down".to_owned();
                        }
                    }
                    Err(problem) => {
                        malformed += 1;
                        warn!(%peer, "refused: {problem}");
                        if let (Some(refusal), Some(sender)) = (problem.refusal, refusals.upgrade()) {
                            let _ = sender.try_send(*refusal);
                        }
                        if malformed >= MAX_MALFORMED {
                            return format!("{malformed} malformed messages in a row");
                        }
                    }
                }
            }
        }
    };
    tokio::select! {
        reason = writing => reason,
        reason = reading => reason,
    }
}

fn parse(line: &Line, limit: usize) -> Result<Envelope, ParseError> {
    match line {
        Line::Whole(bytes) => Envelope::parse_bytes(bytes),
        Line::TooLong(beginning) => Err(Envelope::too_long(beginning, limit)),
    }
}

/// An agent elsewhere can't have a loopback address: its instances could not be reached.
fn check(envelope: Envelope, peer: SocketAddr) -> Result<Envelope, ParseError> {
    if let Message::InitiationRequest(request) = &envelope.message
        && request.agent_network_address.0.is_loopback()
        && !peer.ip().to_canonical().is_loopback()
    {
        let Address(found) = request.agent_network_address;
        let problem = ssmmp::Problem::Invalid {
            field: "agent_network_address",
            value: found.to_string(),
            reason: "a loopback address can't be reached from other nodes".into(),
        };
        let refusal =
            ssmmp::InitiationResponse { message_id: request.message_id, status: ssmmp::Status::BAD_REQUEST };
        return Err(ParseError {
            problem,
            message_type: Some(envelope.message.message_type()),
            message_id: Some(request.message_id),
            refusal: Some(Box::new(Envelope::new(refusal, ssmmp::Hop::ManagerToAgent))),
        });
    }
    Ok(envelope)
}
