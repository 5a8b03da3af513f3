//! One end of an SSMMP connection, over any stream: what is read becomes messages, messages are written as many at once
//! as wait, and a lost connection is made again after growing pauses. Who is at the other end, and what its messages
//! mean, is its user's.

mod backoff;
mod reader;
mod writer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use backoff::Backoff;
pub use reader::{Heard, Reader};
use ssmmp::Conversation;
use tokio::io::{AsyncRead, AsyncWrite};
pub use writer::Writer;

/// A connection's dialect and what of its messages has come, for both its directions.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Mutex<Conversation>>);

impl Shared {
    /// The conversation of a new connection.
    pub fn new(conversation: Conversation) -> Self {
        Self(Arc::new(Mutex::new(conversation)))
    }

    /// Takes it for a moment; nobody keeps it over a wait.
    pub fn lock(&self) -> MutexGuard<'_, Conversation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both directions of a connection, from the halves of its stream; the peer is called so for people.
pub fn over<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    (reader, writer): (R, W),
    conversation: Conversation,
    peer: impl Into<String>,
) -> (Reader<R>, Writer<W>) {
    let shared = Shared::new(conversation);
    (Reader::new(reader, shared.clone(), peer), Writer::new(writer, shared))
}
