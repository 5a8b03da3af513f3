//! The connection to the Manager: made, kept, made again with growing, jittered pauses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{setsockopt, sockopt};
use patchbay_agent_core::Event;
use patchbay_link::{Backoff, Heard};
use patchbay_trust::Inward;
use ssmmp::extension::{Epoch, Extension as _, Running, Secret, Time, Version};
use ssmmp::{Conversation, Envelope, MAX_MESSAGE_BYTES, Message, Repeated, Speaker};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tracing::{info, warn};

use crate::known_manager::KnownManager;
use crate::manager_route::Route;
use crate::secured::{Connected, Secured};

/// First pause after a failed connection.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A Manager whose host says nothing for so long is looked for again.
const SILENT_AFTER: Duration = Duration::from_secs(18);
/// A Manager that leaves a registration unanswered for so long is looked for again: it probes another agent for 2 s.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Messages that may wait for the Manager; further ones are lost until it reconciles.
pub const MAX_UNSENT: usize = 65_536;
/// Messages that may wait for the Manager before instances are read further.
pub const MAX_AHEAD: usize = 1_024;
/// How often the last messages are looked at.
const LEFT_CHECK: Duration = Duration::from_millis(5);
/// Connections to a Manager that this node's running instances do not belong to.
static STRANGERS: Repeated = Repeated::new();

/// Messages to the Manager on their way to its connection.
#[derive(Debug, Clone)]
pub struct Queue {
    sender: mpsc::Sender<Envelope>,
    room: Arc<Notify>,
}

/// The other end of a [`Queue`].
#[derive(Debug)]
pub struct Outbound {
    receiver: mpsc::Receiver<Envelope>,
    room: Arc<Notify>,
}

/// A queue for the Manager's messages.
pub fn queue() -> (Queue, Outbound) {
    let (sender, receiver) = mpsc::channel(MAX_UNSENT);
    let room = Arc::new(Notify::new());
    (Queue { sender, room: room.clone() }, Outbound { receiver, room })
}

impl Queue {
    /// Sends a message; false when [`MAX_UNSENT`] wait already.
    pub fn send(&self, envelope: Envelope) -> bool {
        self.sender.try_send(envelope).is_ok()
    }

    /// Whether so few messages wait that instances may be read further.
    pub fn has_room(&self) -> bool {
        self.sender.max_capacity() - self.sender.capacity() < MAX_AHEAD
    }

    /// Waits until messages have left the queue.
    pub async fn left(&self) {
        self.room.notified().await;
    }

    /// Waits until the connection has taken all messages. For ever, while there is none.
    pub async fn has_left(&self) {
        while self.sender.capacity() < self.sender.max_capacity() {
            tokio::time::sleep(LEFT_CHECK).await;
        }
    }
}

/// Keeps the connection until the agent ends; every registration tells the node's secret, and is to be answered within
/// a time ([`ANSWER_WITHIN`]). Messages sent while it is down are dropped: the core keeps what must not be lost.
pub async fn run(
    manager: String,
    secured: Secured,
    (secret, answer_within, known): (String, Duration, KnownManager),
    events: mpsc::Sender<Event>,
    mut outbound: Outbound,
) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut told = None;
    let mut route = Route::new(manager, known);
    loop {
        let manager = route.manager().to_owned();
        match connect(&manager, &secured).await {
            Ok(connected) => {
                if !route.has_met_stranger() {
                    info!(manager, "connected to the Manager");
                }
                told = None;
                outbound.clear();
                if events.send(Event::ManagerUp).await.is_err() {
                    return;
                }
                let said = (secret.as_str(), answer_within);
                let reason = match connected {
                    Connected::Plain(stream) => {
                        let (reader, writer) = stream.into_split();
                        let halves = (Inward::plain(reader, "the Manager"), writer);
                        talk(halves, said, &events, &mut outbound, &mut route).await
                    }
                    Connected::Tls(stream) => {
                        let (reader, writer) = tokio::io::split(stream);
                        let halves = (Inward::tls(reader, "the Manager"), writer);
                        talk(halves, said, &events, &mut outbound, &mut route).await
                    }
                };
                outbound.clear();
                if !route.has_met_stranger() {
                    warn!(manager, "the Manager's connection ended: {reason}");
                } else if let Some(times) = crate::again(&STRANGERS) {
                    warn!(manager, times, "{reason}");
                }
                if events.send(Event::ManagerLost).await.is_err() {
                    return;
                }
                // One that refused this agent is not tried again in a hurry.
                if route.has_registered() {
                    backoff.reset();
                }
            }
            Err(reason) => {
                if told.as_ref() != Some(&reason) {
                    warn!(manager, "the Manager can't be reached ({reason}); trying again, instances go on");
                    told = Some(reason);
                }
                route.unreachable();
            }
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

impl Outbound {
    fn clear(&mut self) {
        while self.receiver.try_recv().is_ok() {}
        self.room.notify_one();
    }
}

/// Connects, and proves both ends where there are certificates.
async fn connect(manager: &str, secured: &Secured) -> Result<Connected, String> {
    let stream = match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(manager)).await {
        Ok(connected) => connected.map_err(|error| error.to_string())?,
        Err(_) => return Err("no answer".into()),
    };
    let _ = stream.set_nodelay(true);
    notice_silence(&stream);
    secured.secure(stream).await
}

async fn talk(
    halves: (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    (secret, answer_within): (&str, Duration),
    events: &mpsc::Sender<Event>,
    outbound: &mut Outbound,
    route: &mut Route,
) -> String {
    let conversation = Conversation::new(Speaker::Server, MAX_MESSAGE_BYTES);
    let (mut reader, mut writer) = patchbay_link::over(halves, conversation, "the Manager");
    let answered = AtomicBool::new(false);
    let answering = async {
        tokio::time::sleep(answer_within).await;
        if answered.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        format!("it did not answer the registration within {} s", answer_within.as_secs())
    };
    // Peers that know no extension are told none.
    let is_extended = AtomicBool::new(false);
    let has_instances = AtomicBool::new(false);
    let told = |envelope: Envelope| {
        if envelope.extension(Running::NAME).is_some_and(|running| !running.trim().is_empty()) {
            has_instances.store(true, Ordering::Relaxed);
        }
        from_here(envelope, secret, is_extended.load(Ordering::Relaxed))
    };
    let Outbound { receiver, room } = outbound;
    let writing = async {
        while let Some(envelope) = receiver.recv().await {
            let waiting = || {
                room.notify_one();
                receiver.try_recv().ok().map(told)
            };
            if let Err(reason) = writer.write(told(envelope), waiting).await {
                return reason;
            }
        }
        "the agent ends".to_owned()
    };
    let reading = async {
        loop {
            let event = match reader.next().await {
                Ok(Heard::Message(Ok(envelope))) => {
                    reader.understood();
                    if envelope.line::<Epoch>().is_some() {
                        is_extended.store(true, Ordering::Relaxed);
                    }
                    let has_instances = has_instances.load(Ordering::Relaxed);
                    if let Err(elsewhere) = route.answered(&envelope, has_instances) {
                        return elsewhere;
                    }
                    if matches!(envelope.message, Message::InitiationResponse(_)) {
                        answered.store(true, Ordering::Relaxed);
                    }
                    Event::FromManager(envelope)
                }
                Ok(Heard::Message(Err(problem))) => match reader.refuse(problem) {
                    (_, Some(reason)) => return reason,
                    (Some(refusal), None) => Event::Refusal(refusal),
                    (None, None) => continue,
                },
                Ok(Heard::All { .. }) => continue,
                Err(reason) => return reason,
            };
            if events.send(event).await.is_err() {
                return "the agent ends".to_owned();
            }
        }
    };
    tokio::select! {
        reason = writing => reason,
        reason = reading => reason,
        reason = answering => reason,
    }
}

/// Adds what the core does not know: what this node proves with that it is the one that registered before, the
/// agent's version, and this machine's time.
fn from_here(envelope: Envelope, secret: &str, is_extended: bool) -> Envelope {
    let time = || {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time(i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX))
    };
    match envelope.message {
        Message::InitiationRequest(_) => {
            envelope.with(Secret(secret)).with(Version(env!("CARGO_PKG_VERSION"))).with(time())
        }
        Message::AgentHealthControlResponse(_) if is_extended => envelope.with(time()),
        _ => envelope,
    }
}

/// Has the kernel end a connection whose other end says nothing any more (TCP keepalive and
/// TCP_USER_TIMEOUT, Linux 2.6.37), so that a Manager that was cut off is looked for again.
fn notice_silence(stream: &TcpStream) {
    let set = || -> nix::Result<()> {
        setsockopt(stream, sockopt::KeepAlive, &true)?;
        setsockopt(stream, sockopt::TcpKeepIdle, &(SILENT_AFTER.as_secs() as u32 / 2))?;
        setsockopt(stream, sockopt::TcpKeepInterval, &(SILENT_AFTER.as_secs() as u32 / 6))?;
        setsockopt(stream, sockopt::TcpKeepCount, &3)?;
        setsockopt(stream, sockopt::TcpUserTimeout, &(SILENT_AFTER.as_millis() as u32))
    };
    if let Err(error) = set() {
        warn!("a Manager that was cut off will be noticed late: {error}");
    }
}

#[cfg(test)]
mod tests {
    use ssmmp::{Address, Hop, InitiationRequest, MessageId, NameList};
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    /// How long anything may take to come: bounded, not measured.
    const WITHIN: Duration = Duration::from_secs(30);

    /// The next connection and its registration; the agent's shell sends one whenever it is connected.
    async fn registration(listener: &TcpListener) -> BufReader<TcpStream> {
        let (stream, _) =
            timeout(WITHIN, listener.accept()).await.expect("it comes again").expect("accepted");
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        timeout(WITHIN, stream.read_line(&mut line)).await.expect("in time").expect("read");
        assert!(line.starts_with("type: initiation_request ~ message_id: 7 ~ "), "{line}");
        stream
    }

    /// 4.1: whatever the answer is, and whoever closes; no answer is none either.
    #[tokio::test]
    async fn whoever_is_not_accepted_comes_again_though_the_connection_was_left_open() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let at = listener.local_addr().expect("bound").to_string();
        let (sender, mut events) = mpsc::channel(64);
        let (queue, outbound) = queue();
        tokio::spawn(run(
            at,
            Secured::plain(),
            ("s".into(), Duration::from_secs(1), KnownManager::default()),
            sender,
            outbound,
        ));
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if matches!(event, Event::ManagerUp) {
                    let request = InitiationRequest {
                        message_id: MessageId::from(7),
                        agent_network_address: Address::UNKNOWN,
                        service_repository: NameList(Vec::new()),
                    };
                    assert!(queue.send(Envelope::new(request, Hop::AgentToManager)));
                }
            }
        });
        let mut open = Vec::new();
        for answer in ["7 ~ status: 503", "7 ~ status: 400", "0 ~ status: 400", ""] {
            let mut stream = registration(&listener).await;
            if !answer.is_empty() {
                let line = format!("type: initiation_response ~ message_id: {answer}\n");
                stream.get_mut().write_all(line.as_bytes()).await.expect("connected");
            }
            open.push(stream);
        }
        let mut stream = registration(&listener).await;
        let accepted = "type: initiation_response ~ message_id: 7 ~ status: 200\n";
        stream.get_mut().write_all(accepted.as_bytes()).await.expect("connected");
        let more = timeout(Duration::from_secs(2), listener.accept()).await;
        assert!(more.is_err(), "it was accepted and stays");
    }
}
