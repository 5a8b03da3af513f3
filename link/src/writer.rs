use std::time::Duration;

use ssmmp::Envelope;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::Shared;

/// A peer that takes none of what is written for so long is cut off.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

/// The direction to a peer.
#[derive(Debug)]
pub struct Writer<W> {
    half: W,
    shared: Shared,
    text: String,
    within: Duration,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes to a stream.
    pub fn new(half: W, shared: Shared) -> Self {
        Self { half, shared, text: String::new(), within: WRITE_WITHIN }
    }

    /// Writes a message, and those that wait behind it, as many as are well written at once. Returns what stands for the
    /// peer's answers to messages that its dialect does not have. Not safe to cancel, but with the connection.
    ///
    /// # Errors
    /// Why the connection is to end.
    pub async fn write(
        &mut self,
        first: Envelope,
        waiting: impl FnMut() -> Option<Envelope>,
    ) -> Result<Vec<Envelope>, String> {
        self.text.clear();
        let answers = self.shared.lock().encode_all(first, waiting, &mut self.text);
        let written = async {
            self.half.write_all(self.text.as_bytes()).await?;
            // Streams that encrypt keep what is written until then.
            self.half.flush().await
        };
        match timeout(self.within, written).await {
            Ok(Ok(())) => Ok(answers),
            Ok(Err(error)) => Err(format!("writing failed: {error}")),
            Err(_) => Err("it does not read its messages".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use ssmmp::{Conversation, MAX_MESSAGE_BYTES, Speaker};

    use super::*;

    fn message() -> Envelope {
        let line = "type: dest_service_session_close_response ~ message_id: 7 ~ status: 200";
        Envelope::parse(line).expect("a message")
    }

    fn shared() -> Shared {
        Shared::new(Conversation::new(Speaker::Server, MAX_MESSAGE_BYTES))
    }

    #[tokio::test]
    async fn what_waits_is_written_at_once() {
        let mut written = Vec::new();
        let mut waiting = vec![message(), message()];
        let answers = Writer::new(&mut written, shared()).write(message(), || waiting.pop()).await;
        assert_eq!(answers, Ok(Vec::new()));
        assert_eq!(String::from_utf8(written).expect("text"), message().encode().repeat(3));
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_cut_off() {
        let (end, _other) = tokio::io::duplex(16);
        let within = Duration::from_millis(20);
        let mut writer = Writer { within, ..Writer::new(end, shared()) };
        assert_eq!(writer.write(message(), || None).await, Err("it does not read its messages".into()));
    }
}
