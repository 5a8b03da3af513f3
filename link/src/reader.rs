use ssmmp::{Envelope, Malformed, ParseError};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tracing::warn;

use crate::Shared;

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// What comes from a peer.
#[derive(Debug)]
pub enum Heard {
    /// A message, or what is wrong with one ([`Reader::refuse`]).
    Message(Result<Envelope, ParseError>),
    /// All that was read at once was handed out; whether more is likely to be there already.
    All {
        /// As much was read as is at most.
        more: bool,
    },
}

/// The direction from a peer.
#[derive(Debug)]
pub struct Reader<R> {
    half: R,
    shared: Shared,
    peer: String,
    bytes: Vec<u8>,
    /// How much was read, while its messages are handed out.
    read: Option<usize>,
    malformed: Malformed,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads from a stream; the peer is called so for people.
    pub fn new(half: R, shared: Shared, peer: impl Into<String>) -> Self {
        let (peer, bytes) = (peer.into(), vec![0; READ_BYTES]);
        Self { half, shared, peer, bytes, read: None, malformed: Malformed::default() }
    }

    /// What comes next. Safe to cancel: nothing that was read is lost.
    ///
    /// # Errors
    /// Why the connection has ended.
    pub async fn next(&mut self) -> Result<Heard, String> {
        if self.read.is_none() {
            let read = self.half.read(&mut self.bytes).await;
            let length = read.map_err(|error| format!("reading failed: {error}"))?;
            // None are the end, behind which a last message without a newline may wait.
            self.shared.lock().push(&self.bytes[..length]);
            self.read = Some(length);
        }
        if let Some(message) = self.shared.lock().next_message() {
            return Ok(Heard::Message(message));
        }
        match self.read.take() {
            Some(0) => Err(format!("{} closed it", self.peer)),
            length => Ok(Heard::All { more: length == Some(self.bytes.len()) }),
        }
    }

    /// Whether the peer's first message has come, so that its dialect is known.
    pub fn is_begun(&self) -> bool {
        self.shared.lock().is_begun()
    }

    /// Messages that the peer's dialect has and SSMMP does not; nothing came of them.
    pub fn ignored(&self) -> u64 {
        self.shared.lock().ignored()
    }

    /// A message made sense.
    pub fn understood(&mut self) {
        self.malformed.understood();
    }

    /// A message did not: people are told, of the first ones. Returns the answer, where its type has one, and why the
    /// connection is to end behind it, if this was one too many.
    pub fn refuse(&mut self, problem: ParseError) -> (Option<Envelope>, Option<String>) {
        let (peer, verdict) = (&self.peer, self.malformed.count());
        if verdict.is_logged {
            warn!(peer, "refused: {problem}");
        }
        if verdict.is_last_logged {
            warn!(peer, "further malformed messages of this connection are only counted");
        }
        (problem.refusal.map(|refusal| *refusal), verdict.end)
    }
}

#[cfg(test)]
mod tests {
    use ssmmp::{Conversation, MAX_MESSAGE_BYTES, Speaker};

    use super::*;

    const MESSAGE: &str = "type: dest_service_session_close_response ~ message_id: 7 ~ status: 200";

    #[tokio::test]
    async fn messages_are_handed_out_one_by_one_then_the_end_is_told() {
        let stream = format!("{MESSAGE}\nnonsense\n{MESSAGE}");
        let shared = Shared::new(Conversation::new(Speaker::Server, MAX_MESSAGE_BYTES));
        let mut reader = Reader::new(stream.as_bytes(), shared, "the peer");
        assert!(!reader.is_begun());
        let mut heard = Vec::new();
        let ended = loop {
            match reader.next().await {
                Ok(Heard::Message(Ok(_))) => heard.push("message"),
                Ok(Heard::Message(Err(problem))) => {
                    heard.push("nonsense");
                    assert_eq!(reader.refuse(problem), (None, None));
                }
                Ok(Heard::All { more }) => heard.push(if more { "more" } else { "all" }),
                Err(ended) => break ended,
            }
        };
        assert_eq!(heard, ["message", "nonsense", "all", "message"]);
        assert_eq!(ended, "the peer closed it");
    }

    #[tokio::test]
    async fn a_hundred_messages_in_a_row_that_make_no_sense_are_the_end() {
        let stream = "nonsense\n".repeat(100);
        let shared = Shared::new(Conversation::new(Speaker::Server, MAX_MESSAGE_BYTES));
        let mut reader = Reader::new(stream.as_bytes(), shared, "the peer");
        for number in 1..=100 {
            let Ok(Heard::Message(Err(problem))) = reader.next().await else { panic!("{number}") };
            assert_eq!(reader.refuse(problem).1.is_some(), number == 100, "{number}");
        }
    }
}
