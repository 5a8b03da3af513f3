//! One instance's connection: read, understood, answered, ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ssmmp::{Conversation, Envelope, InstanceId, MAX_MESSAGE_BYTES, Malformed, Name, ParseError, Speaker};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::Said;

/// Messages of one instance that may wait for the core; it is not read meanwhile, so that a flood
/// waits for itself and others only wait for so many of it.
const MAX_WAITING: usize = 64;
/// An instance that takes none of what is written for so long is cut off.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// How long messages to a new instance wait for its first one, which tells its dialect.
const DIALECT_WITHIN: Duration = Duration::from_secs(1);
/// Bytes read at once.
const READ_BYTES: usize = 4_096;

/// An instance at the other end of a connection.
pub(super) struct Instance {
    id: InstanceId,
    conversation: Mutex<Conversation>,
    accepts_semi: bool,
    /// Its first message has come.
    begun: Notify,
    refusals: mpsc::WeakSender<Envelope>,
}

/// What the messages of one connection have shown so far.
#[derive(Default)]
struct Record {
    malformed: Malformed,
    unknown_fields: usize,
}

impl Instance {
    pub(super) fn new(
        id: InstanceId,
        service: Name,
        accepts_semi: bool,
        refusals: mpsc::WeakSender<Envelope>,
    ) -> Self {
        let conversation =
            Conversation::new(Speaker::Instance(service, id), MAX_MESSAGE_BYTES).accepting_semi(accepts_semi);
        let conversation = conversation.extended_on_request();
        Self { id, conversation: Mutex::new(conversation), accepts_semi, begun: Notify::new(), refusals }
    }

    /// Serves the connection until it ends; returns why.
    pub(super) async fn serve(
        &self,
        stream: tokio::net::TcpStream,
        outbound: mpsc::Receiver<Envelope>,
        said: &mpsc::Sender<Said>,
    ) -> String {
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        self.talk(reader, writer, outbound, said).await
    }

    async fn talk(
        &self,
        reader: impl AsyncRead + Unpin,
        writer: impl AsyncWrite + Unpin,
        outbound: mpsc::Receiver<Envelope>,
        said: &mpsc::Sender<Said>,
    ) -> String {
        tokio::select! {
            reason = self.write(writer, outbound, said) => reason,
            reason = self.read(reader, said) => reason,
        }
    }

    fn conversation(&self) -> MutexGuard<'_, Conversation> {
        self.conversation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(
        &self,
        mut writer: impl AsyncWrite + Unpin,
        mut outbound: mpsc::Receiver<Envelope>,
        said: &mpsc::Sender<Said>,
    ) -> String {
        if self.accepts_semi {
            let _ = timeout(DIALECT_WITHIN, self.begun.notified()).await;
        }
        let mut text = String::new();
        while let Some(envelope) = outbound.recv().await {
            text.clear();
            let waiting = || outbound.try_recv().ok();
            let answers = self.conversation().encode_all(envelope, waiting, &mut text);
            match timeout(WRITE_WITHIN, writer.write_all(text.as_bytes())).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return format!("writing failed: {error}"),
                Err(_) => return "it does not read its messages".into(),
            }
            for envelope in answers {
                if said.send(Said { id: self.id, envelope, _place: None }).await.is_err() {
                    return "the agent ends".into();
                }
            }
        }
        "another connection took its place, or the instance ended".into()
    }

    async fn read(&self, mut reader: impl AsyncRead + Unpin, said: &mpsc::Sender<Said>) -> String {
        let mut bytes = vec![0; READ_BYTES];
        let mut record = Record::default();
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        loop {
            let length = match reader.read(&mut bytes).await {
                Ok(length) => length,
                Err(error) => return format!("reading failed: {error}"),
            };
            self.conversation().push(&bytes[..length]);
            while let Some(message) = self.next() {
                match message {
                    Ok(envelope) => {
                        record.note(self.id, &envelope);
                        let Ok(place) = waiting.clone().acquire_owned().await else { break };
                        let said_now = Said { id: self.id, envelope, _place: Some(place) };
                        if said.send(said_now).await.is_err() {
                            return "the agent ends".into();
                        }
                    }
                    Err(problem) => {
                        if let Some(reason) = self.refuse(problem, &mut record) {
                            return reason;
                        }
                    }
                }
            }
            if length == 0 {
                return "the instance closed it".into();
            }
        }
    }

    fn next(&self) -> Option<Result<Envelope, ParseError>> {
        let mut conversation = self.conversation();
        let next = conversation.next_message();
        if conversation.is_begun() {
            self.begun.notify_one();
        }
        next
    }

    /// Answers a message that was not understood; says why the connection is to end, if it is.
    fn refuse(&self, problem: ParseError, record: &mut Record) -> Option<String> {
        let verdict = record.malformed.count();
        if verdict.is_logged {
            warn!(instance = %self.id, "refused: {problem}");
        }
        if verdict.is_last_logged {
            warn!(instance = %self.id, "further malformed messages of this connection are only counted");
        }
        if let (Some(refusal), Some(sender)) = (problem.refusal, self.refusals.upgrade()) {
            // An instance that lets so much wait is cut off by the next message to it.
            let _ = sender.try_send(*refusal);
        }
        verdict.end
    }
}

impl Record {
    fn note(&mut self, id: InstanceId, envelope: &Envelope) {
        self.malformed.understood();
        if envelope.unknown_fields() > 0 {
            self.unknown_fields += envelope.unknown_fields();
            debug!(instance = %id, in_all = self.unknown_fields, "a message has unknown fields; they are passed on");
        }
    }
}
