//! What the SDK's parts share: the way to the agent, requests that wait, open sessions.

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ssmmp::{Address, Envelope, Hop, Message, MessageId, Port, SessionResponse, Status};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::configuration::Managed;
use crate::memory::Memory;

/// First message id of an instance, as in SSMMP's sketch.
const FIRST_MESSAGE: u64 = 1_000;

/// An answer with its reason, if it is a refusal.
pub type Answer = (SessionResponse, String);

/// A request that waits for its answer; it is sent again after the agent's connection was lost.
pub struct Waiting {
    pub request: Envelope,
    pub answer: oneshot::Sender<Answer>,
}

/// An open session, as the agent's messages reach it.
pub struct Open {
    /// Source and destination.
    pub ends: (SocketAddr, SocketAddr),
    pub is_source: bool,
    pub close_requested: CancellationToken,
    /// For a source, its acknowledgement with all that an agent must know of the session.
    pub acknowledgement: Option<Envelope>,
    /// A second descriptor, to shut the connection down from here.
    pub connection: std::net::TcpStream,
    /// Close requests to answer when the session is gone.
    pub asked: Vec<Message>,
}

pub struct Registry {
    /// `None` for a service that runs alone.
    pub managed: Option<Managed>,
    pub to_agent: mpsc::Sender<Envelope>,
    /// Where sessions ask for memory, if the agent hands it out.
    pub memory: OnceLock<Arc<Memory>>,
    pub waiting: Mutex<HashMap<MessageId, Waiting>>,
    pub open: Mutex<HashMap<u64, Open>>,
    pub shutdown: CancellationToken,
    pub shutdown_request: Mutex<Option<MessageId>>,
    /// When the sockets of an instance that ends stop listening at the latest.
    pub stop_listening_at: Mutex<Option<Instant>>,
    pub overloaded: AtomicBool,
    /// Somebody was asked to close, or a session has gone.
    pub changed: Notify,
    next_message: AtomicU64,
    next_session: AtomicU64,
}

impl Registry {
    pub fn new(managed: Option<Managed>, to_agent: mpsc::Sender<Envelope>) -> Arc<Self> {
        Arc::new(Self {
            managed,
            to_agent,
            memory: OnceLock::new(),
            waiting: Mutex::default(),
            open: Mutex::default(),
            shutdown: CancellationToken::new(),
            shutdown_request: Mutex::default(),
            stop_listening_at: Mutex::default(),
            overloaded: AtomicBool::new(false),
            changed: Notify::new(),
            next_message: AtomicU64::new(FIRST_MESSAGE),
            next_session: AtomicU64::new(1),
        })
    }

    pub fn message_id(&self) -> MessageId {
        MessageId::from(self.next_message.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends to the agent; a message that finds no room is dropped, the agent sees the connection itself.
    pub fn tell(&self, message: impl Into<Message>) {
        if self.managed.is_some() {
            let _ = self.to_agent.try_send(Envelope::new(message, Hop::InstanceToAgent));
        }
    }

    pub fn add(&self, open: Open) -> u64 {
        let id = self.next_session.fetch_add(1, Ordering::Relaxed);
        lock(&self.open).insert(id, open);
        id
    }

    /// Forgets a session and answers who asked for its end.
    pub fn remove(&self, id: u64) {
        let Some(open) = lock(&self.open).remove(&id) else { return };
        self.changed.notify_waiters();
        for request in open.asked {
            self.answer_close(&request, Status::OK);
        }
    }

    pub fn answer_close(&self, request: &Message, status: Status) {
        let message_id = request.message_id();
        match request {
            Message::SourceServiceSessionCloseRequest(_) => {
                self.tell(ssmmp::SourceServiceSessionCloseResponse { message_id, status });
            }
            _ => self.tell(ssmmp::DestServiceSessionCloseResponse { message_id, status }),
        }
    }

    /// The session that a close request means: by the whole connection, else by m where only one has it.
    ///
    /// # Errors
    /// 404 when there is none, 409 when it could be several: the wrong one is never closed.
    pub fn find(
        &self,
        is_source: bool,
        source: (Address, Port),
        destination: (Address, Port),
    ) -> Result<u64, Status> {
        let open = lock(&self.open);
        let same = |at: SocketAddr, (address, port): (Address, Port)| {
            Address::from(at.ip()) == address && at.port() == port.0
        };
        let whole = open
            .iter()
            .find(|(_, o)| o.is_source == is_source && same(o.ends.0, source) && same(o.ends.1, destination));
        if let Some((id, _)) = whole {
            return Ok(*id);
        }
        let mut by_port =
            open.iter().filter(|(_, o)| o.is_source == is_source && o.ends.0.port() == source.1.0);
        match (by_port.next(), by_port.next()) {
            (Some((id, _)), None) => Ok(*id),
            (Some(_), Some(_)) => Err(Status::CONFLICT),
            (None, _) => Err(Status::NOT_FOUND),
        }
    }

    /// Tells a session that it shall end.
    pub fn ask_to_close(&self, id: u64, request: Message) {
        if let Some(open) = lock(&self.open).get_mut(&id) {
            open.asked.push(request);
            open.close_requested.cancel();
        }
        self.changed.notify_waiters();
    }

    /// Tells all sessions of one side that they shall end: the instance ends.
    pub fn ask_all_to_close(&self, is_source: bool) {
        for open in lock(&self.open).values().filter(|open| open.is_source == is_source) {
            open.close_requested.cancel();
        }
        self.changed.notify_waiters();
    }

    /// Waits until no session of one side is open.
    pub async fn all_closed(&self, is_source: bool) {
        loop {
            let changed = self.changed.notified();
            if lock(&self.open).values().all(|open| open.is_source != is_source) {
                return;
            }
            changed.await;
        }
    }

    /// What a new agent must know of the sessions that were open before it: their acknowledgements.
    pub fn acknowledgements(&self) -> Vec<Envelope> {
        lock(&self.open).values().filter_map(|open| open.acknowledgement.clone()).collect()
    }

    /// Ends a session that did not end when it was asked to.
    pub fn force_close(&self, id: u64) {
        let mut open = lock(&self.open);
        let Some(session) = open.get_mut(&id) else { return };
        let _ = session.connection.shutdown(Shutdown::Both);
        let asked = std::mem::take(&mut session.asked);
        drop(open);
        for request in asked {
            self.answer_close(&request, Status::OK);
        }
    }
}

/// A lock that a panic elsewhere does not take away.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn open(ends: [&str; 2]) -> Open {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let connection = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let ends = ends.map(|end| end.parse().expect("an address"));
        Open {
            ends: (ends[0], ends[1]),
            is_source: false,
            close_requested: CancellationToken::new(),
            acknowledgement: None,
            connection,
            asked: Vec::new(),
        }
    }

    #[test]
    fn a_close_request_finds_its_session_and_never_another() {
        let registry = Registry::new(None, mpsc::channel(1).0);
        let first = registry.add(open(["10.0.0.1:40000", "10.0.0.9:54000"]));
        let second = registry.add(open(["10.0.0.2:40000", "10.0.0.9:54000"]));
        let third = registry.add(open(["10.0.0.2:40001", "10.0.0.9:54000"]));
        let find = |source: &str, port| {
            let address = |text: &str| Address::from(text.parse::<std::net::IpAddr>().expect("an address"));
            registry.find(false, (address(source), Port(port)), (address("10.0.0.9"), Port(54000)))
        };
        assert_eq!(find("10.0.0.1", 40000), Ok(first));
        assert_eq!(find("10.0.0.2", 40000), Ok(second));
        assert_eq!(find("192.0.2.1", 40001), Ok(third), "behind a translated address m alone decides");
        assert_eq!(find("192.0.2.1", 40000), Err(Status::CONFLICT), "if only one has it");
        assert_eq!(find("10.0.0.1", 40002), Err(Status::NOT_FOUND));
    }
}
