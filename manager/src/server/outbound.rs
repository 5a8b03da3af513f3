//! The way out to one agent: what is said is written at once by whoever says it, without waking a task for
//! it, while nothing waits before it; what the kernel does not take waits for the connection's writing task.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use patchbay_link::Shared;
use ssmmp::Envelope;
use tokio::io::{AsyncWriteExt as _, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

/// Messages that may wait to be sent to one agent; one that lets more wait is cut off.
const MAX_UNSENT: usize = 65_536;
/// Messages written at once by whoever says them; more are left to the writing task, so that the core is
/// not kept by them.
const AT_ONCE: usize = 8;
/// Bytes that the writing task writes at once, about.
const WRITE_BYTES: usize = 64 * 1024;

/// What messages are written to.
pub(super) enum Outward {
    /// A connection without TLS.
    Tcp(OwnedWriteHalf),
    /// One with TLS: its writing task writes everything.
    Tls(WriteHalf<TlsStream<TcpStream>>),
}

/// Where messages to an agent go; when it is dropped the connection ends behind what waits.
#[derive(Debug)]
pub struct Way {
    out: Arc<Out>,
    queue: mpsc::Sender<Item>,
}

/// The same for who must not keep the connection open.
#[derive(Debug)]
pub(super) struct WeakWay {
    out: Arc<Out>,
    queue: mpsc::WeakSender<Item>,
}

/// The writing task's end.
#[derive(Debug)]
pub(super) struct Written {
    out: Arc<Out>,
    tls: Option<WriteHalf<TlsStream<TcpStream>>>,
    queue: mpsc::Receiver<Item>,
}

/// Too much waits for an agent that does not read.
#[derive(Debug)]
pub struct Unread;

#[derive(Debug)]
struct Out {
    /// What is written to at once; none over TLS.
    half: Option<OwnedWriteHalf>,
    conversation: Shared,
    /// Items that wait or are being written. Held while something is written past the queue, so that nothing
    /// gets between.
    waiting: Mutex<usize>,
}

#[derive(Debug)]
enum Item {
    Message(Envelope),
    /// What is left of something begun.
    Rest(Vec<u8>),
}

/// The way to a connection in its dialect, and its end for the task that writes.
pub(super) fn way(outward: Outward, conversation: Shared) -> (Way, Written) {
    let (sender, queue) = mpsc::channel(MAX_UNSENT);
    let (half, tls) = match outward {
        Outward::Tcp(half) => (Some(half), None),
        Outward::Tls(half) => (None, Some(half)),
    };
    let out = Arc::new(Out { half, conversation, waiting: Mutex::new(0) });
    (Way { out: out.clone(), queue: sender }, Written { out, tls, queue })
}

impl Way {
    /// Sends messages in their order; `text` is scratch space. Returns the answers that the connection's
    /// dialect has no message for.
    ///
    /// # Errors
    /// The agent lets too much wait; the way is to be dropped.
    pub fn send(&self, envelopes: Vec<Envelope>, text: &mut String) -> Result<Vec<Envelope>, Unread> {
        let mut answers = Vec::new();
        if envelopes.is_empty() {
            return Ok(answers);
        }
        let mut waiting = lock(&self.out.waiting);
        if *waiting > 0 || envelopes.len() > AT_ONCE {
            for envelope in envelopes {
                self.queue.try_send(Item::Message(envelope)).map_err(|_| Unread)?;
                *waiting += 1;
            }
            return Ok(answers);
        }
        text.clear();
        let mut conversation = self.out.conversation.lock();
        answers.extend(envelopes.iter().filter_map(|envelope| conversation.encode(envelope, text)));
        drop(conversation);
        // What goes wrong is found again, and told, by the writing task.
        let written = self.out.half.as_ref().map_or(0, |half| half.try_write(text.as_bytes()).unwrap_or(0));
        if written < text.len() {
            let rest = Item::Rest(text.as_bytes()[written..].to_vec());
            self.queue.try_send(rest).map_err(|_| Unread)?;
            *waiting += 1;
        }
        Ok(answers)
    }

    pub(super) fn downgrade(&self) -> WeakWay {
        WeakWay { out: self.out.clone(), queue: self.queue.downgrade() }
    }
}

impl WeakWay {
    /// Sends a message. One that finds too much waiting is lost: such an agent is cut off by the next one.
    pub(super) fn send(&self, envelope: Envelope) {
        if let Some(queue) = self.queue.upgrade() {
            let mut waiting = lock(&self.out.waiting);
            *waiting += usize::from(queue.try_send(Item::Message(envelope)).is_ok());
        }
    }
}

impl Written {
    /// Waits for what is to be written, and writes it; returns the answers that the dialect has no message for.
    ///
    /// # Errors
    /// Why the connection is to end.
    pub(super) async fn write(&mut self, within: Duration) -> Result<Vec<Envelope>, String> {
        let Some(first) = self.queue.recv().await else { return Err("closed by the Manager".into()) };
        let (mut bytes, mut count, mut answers) = (Vec::new(), 0, Vec::new());
        let mut next = Some(first);
        while let Some(item) = next {
            count += 1;
            match item {
                Item::Rest(rest) => bytes.extend(rest),
                Item::Message(envelope) => {
                    let mut text = String::new();
                    answers.extend(self.out.conversation.lock().encode(&envelope, &mut text));
                    bytes.extend(text.into_bytes());
                }
            }
            next = if bytes.len() < WRITE_BYTES { self.queue.try_recv().ok() } else { None };
        }
        let written = async {
            match (&mut self.tls, &self.out.half) {
                (Some(tls), _) => {
                    tls.write_all(&bytes).await?;
                    tls.flush().await
                }
                (None, Some(half)) => write_all(half, &bytes).await,
                (None, None) => Ok(()),
            }
        };
        match timeout(within, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("writing failed: {error}")),
            Err(_) => return Err("it does not read its messages".into()),
        }
        *lock(&self.out.waiting) -= count;
        Ok(answers)
    }
}

async fn write_all(half: &OwnedWriteHalf, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        half.writable().await?;
        match half.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
