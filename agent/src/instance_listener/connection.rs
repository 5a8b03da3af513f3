//! One instance's connection: read, understood, answered, ended.

use std::sync::Arc;
use std::time::Duration;

use patchbay_link::{Heard, Reader, Writer};
use ssmmp::{Conversation, Envelope, InstanceId, MAX_MESSAGE_BYTES, Name, ParseError, Speaker};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::timeout;
use tracing::debug;

use super::Said;

/// Messages of one instance that may wait for the core; it is not read meanwhile, so that a flood
/// waits for itself and others only wait for so many of it.
const MAX_WAITING: usize = 64;
/// How long messages to a new instance wait for its first one, which tells its dialect.
const DIALECT_WITHIN: Duration = Duration::from_secs(1);

/// An instance at the other end of a connection.
pub(super) struct Instance {
    id: InstanceId,
    service: Name,
    accepts_semi: bool,
    /// Its first message has come.
    begun: Notify,
    refusals: mpsc::WeakSender<Envelope>,
}

impl Instance {
    pub(super) fn new(
        id: InstanceId,
        service: Name,
        accepts_semi: bool,
        refusals: mpsc::WeakSender<Envelope>,
    ) -> Self {
        Self { id, service, accepts_semi, begun: Notify::new(), refusals }
    }

    /// Serves the connection until it ends; returns why.
    pub(super) async fn serve(
        &self,
        stream: tokio::net::TcpStream,
        outbound: mpsc::Receiver<Envelope>,
        said: &mpsc::Sender<Said>,
    ) -> String {
        let _ = stream.set_nodelay(true);
        let conversation =
            Conversation::new(Speaker::Instance(self.service.clone(), self.id), MAX_MESSAGE_BYTES)
                .accepting_semi(self.accepts_semi)
                .extended_on_request();
        let (reader, writer) =
            patchbay_link::over(stream.into_split(), conversation, format!("instance {}", self.id));
        tokio::select! {
            reason = self.write(writer, outbound, said) => reason,
            reason = self.read(reader, said) => reason,
        }
    }

    async fn write(
        &self,
        mut writer: Writer<impl AsyncWrite + Unpin>,
        mut outbound: mpsc::Receiver<Envelope>,
        said: &mpsc::Sender<Said>,
    ) -> String {
        if self.accepts_semi {
            let _ = timeout(DIALECT_WITHIN, self.begun.notified()).await;
        }
        while let Some(envelope) = outbound.recv().await {
            let answers = match writer.write(envelope, || outbound.try_recv().ok()).await {
                Ok(answers) => answers,
                Err(reason) => return reason,
            };
            for envelope in answers {
                if said.send(Said { id: self.id, envelope, _place: None }).await.is_err() {
                    return "the agent ends".into();
                }
            }
        }
        "another connection took its place, or the instance ended".into()
    }

    async fn read(&self, mut reader: Reader<impl AsyncRead + Unpin>, said: &mpsc::Sender<Said>) -> String {
        let mut unknown_fields = 0;
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        loop {
            let heard = reader.next().await;
            if reader.is_begun() {
                self.begun.notify_one();
            }
            match heard {
                Ok(Heard::Message(Ok(envelope))) => {
                    reader.understood();
                    self.count_unknown(&envelope, &mut unknown_fields);
                    // The semaphore is never closed.
                    let place = waiting.clone().acquire_owned().await.ok();
                    if said.send(Said { id: self.id, envelope, _place: place }).await.is_err() {
                        return "the agent ends".into();
                    }
                }
                Ok(Heard::Message(Err(problem))) => {
                    if let Err(reason) = self.refuse(&mut reader, problem) {
                        return reason;
                    }
                }
                Ok(Heard::All { .. }) => {}
                Err(reason) => return reason,
            }
        }
    }

    /// Answers a message that was not understood.
    ///
    /// # Errors
    /// Why the connection is to end.
    fn refuse(&self, reader: &mut Reader<impl AsyncRead + Unpin>, problem: ParseError) -> Result<(), String> {
        let (refusal, end) = reader.refuse(problem);
        if let (Some(refusal), Some(sender)) = (refusal, self.refusals.upgrade()) {
            // An instance that lets so much wait is cut off by the next message to it.
            let _ = sender.try_send(refusal);
        }
        end.map_or(Ok(()), Err)
    }

    fn count_unknown(&self, envelope: &Envelope, in_all: &mut usize) {
        if envelope.unknown_fields() > 0 {
            *in_all += envelope.unknown_fields();
            debug!(instance = %self.id, in_all, "a message has unknown fields; they are passed on");
        }
    }
}
