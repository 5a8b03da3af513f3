//! The connection to the Manager: made, kept, made again with growing, jittered pauses.

use std::time::Duration;

use ssmmp::{Envelope, Line, LineBuffer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::core::Event;

/// First pause after a failed connection; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// Keeps the connection until the agent ends. Messages sent while it is down are dropped: the core
/// keeps what must not be lost.
pub async fn run(manager: String, events: mpsc::Sender<Event>, mut outbound: mpsc::Receiver<Envelope>) {
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(&manager)).await {
            Ok(Ok(stream)) => {
                info!(manager, "connected to the Manager");
                (pause, told) = (FIRST_PAUSE, false);
                while outbound.try_recv().is_ok() {}
                if events.send(Event::ManagerUp).await.is_err() {
                    return;
                }
                let reason = talk(stream, &events, &mut outbound).await;
                warn!(manager, "the Manager's connection ended: {reason}");
                if events.send(Event::ManagerLost).await.is_err() {
                    return;
                }
            }
            failed if !told => {
                let reason = failed.map_or_else(
                    |_| "no answer".to_owned(),
                    |r| r.err().map_or_else(String::new, |e| e.to_string()),
                );
                warn!(manager, "the Manager can't be reached ({reason}); trying again, instances go on");
                told = true;
            }
            _ => {}
        }
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn talk(
    stream: TcpStream,
    events: &mpsc::Sender<Event>,
    outbound: &mut mpsc::Receiver<Envelope>,
) -> String {
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.into_split();
    let writing = async {
        let mut text = String::new();
        while let Some(envelope) = outbound.recv().await {
            text.clear();
            text.push_str(&envelope.encode());
            while let Ok(more) = outbound.try_recv() {
                text.push_str(&more.encode());
            }
            if let Err(error) = writer.write_all(text.as_bytes()).await {
                return format!("writing failed: {error}");
            }
        }
        "the agent ends".to_owned()
    };
    let reading = async {
        let mut lines = LineBuffer::default();
        let mut bytes = vec![0; READ_BYTES];
        loop {
            match reader.read(&mut bytes).await {
                Ok(0) => return "the Manager closed it".to_owned(),
                Ok(length) => lines.push(&bytes[..length]),
                Err(error) => return format!("reading failed: {error}"),
            }
            while let Some(line) = lines.next_line() {
                let parsed = match &line {
                    Line::Whole(bytes) => Envelope::parse_bytes(bytes),
                    Line::TooLong(beginning) => Err(Envelope::too_long(beginning, lines.limit())),
                };
                match parsed {
                    Ok(envelope) => {
                        if events.send(Event::FromManager(envelope)).await.is_err() {
                            return "the agent ends".to_owned();
                        }
                    }
                    Err(problem) => {
                        warn!("refused a message of the Manager: {problem}");
                        if let Some(refusal) = problem.refusal
                            && events.send(Event::Refusal(*refusal)).await.is_err()
                        {
                            return "the agent ends".to_owned();
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
