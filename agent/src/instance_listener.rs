//! Instances' connections: who speaks is known from the socket's cgroup, not from what it says.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use ssmmp::{Envelope, InstanceId, Line, LineBuffer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, warn};

use crate::core::Event;
use crate::socket_table;

/// Connections of instances at once; further ones are closed.
const MAX_CONNECTIONS: usize = 4_096;
/// Messages that may wait for one instance; one that lets more wait is cut off.
const MAX_UNSENT: usize = 1_024;
/// Malformed messages in a row after which a connection is closed.
const MAX_MALFORMED: u32 = 100;
/// Bytes read at once.
const READ_BYTES: usize = 4_096;

/// Which instance has which cgroup, and the way to those that are connected.
#[derive(Debug, Clone, Default)]
pub struct Directory(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    by_cgroup: HashMap<u64, InstanceId>,
    cgroups: HashMap<InstanceId, u64>,
    senders: HashMap<InstanceId, mpsc::Sender<Envelope>>,
    /// What was sent before the instance connected.
    early: HashMap<InstanceId, Vec<Envelope>>,
}

impl Directory {
    fn with<T>(&self, change: impl FnOnce(&mut Entries) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// A new instance and its cgroup.
    pub fn add(&self, id: InstanceId, cgroup: u64) {
        self.with(|entries| {
            entries.by_cgroup.insert(cgroup, id);
            entries.cgroups.insert(id, cgroup);
        });
    }

    /// An instance that is gone.
    pub fn remove(&self, id: InstanceId) {
        self.with(|entries| {
            entries.senders.remove(&id);
            entries.early.remove(&id);
            if let Some(cgroup) = entries.cgroups.remove(&id) {
                entries.by_cgroup.remove(&cgroup);
            }
        });
    }

    /// An instance's cgroup.
    pub fn cgroup(&self, id: InstanceId) -> Option<u64> {
        self.with(|entries| entries.cgroups.get(&id).copied())
    }

    /// Sends to an instance, now or, for a new one, as soon as it connects.
    pub fn send(&self, id: InstanceId, envelope: Envelope) {
        self.with(|entries| {
            if let Some(sender) = entries.senders.get(&id) {
                if sender.try_send(envelope).is_err() {
                    warn!(instance = %id, "it does not read its messages; its connection is closed");
                    entries.senders.remove(&id);
                }
            } else if entries.cgroups.contains_key(&id) {
                let early = entries.early.entry(id).or_default();
                if early.len() < MAX_UNSENT {
                    early.push(envelope);
                }
            }
        });
    }

    fn connected(&self, cgroup: u64, sender: mpsc::Sender<Envelope>) -> Option<InstanceId> {
        self.with(|entries| {
            let id = *entries.by_cgroup.get(&cgroup)?;
            for envelope in entries.early.remove(&id).unwrap_or_default() {
                let _ = sender.try_send(envelope);
            }
            entries.senders.insert(id, sender);
            Some(id)
        })
    }
}

/// Accepts instances until the listener fails.
pub async fn serve(listener: TcpListener, directory: Directory, events: mpsc::Sender<Event>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            warn!(%peer, "{MAX_CONNECTIONS} instances are connected; this one is refused");
            continue;
        };
        let (directory, events) = (directory.clone(), events.clone());
        tokio::spawn(async move {
            serve_instance(stream, peer, &directory, &events).await;
            drop(place);
        });
    }
}

async fn serve_instance(
    stream: TcpStream,
    peer: SocketAddr,
    directory: &Directory,
    events: &mpsc::Sender<Event>,
) {
    let _ = stream.set_nodelay(true);
    let Ok(local) = stream.local_addr() else { return };
    let cgroup = match socket_table::cgroup_of(peer, local) {
        Ok(cgroup) => cgroup,
        Err(error) => {
            warn!(%peer, "refused: the process behind the connection is unknown: {error}");
            return;
        }
    };
    let (sender, mut outbound) = mpsc::channel(MAX_UNSENT);
    let weak = sender.downgrade();
    let Some(id) = directory.connected(cgroup, sender) else {
        warn!(%peer, cgroup, "refused: the process behind the connection is no instance of this node");
        return;
    };
    let (mut reader, mut writer) = stream.into_split();
    let writing = async {
        while let Some(envelope) = outbound.recv().await {
            if writer.write_all(Envelope::encode(&envelope).as_bytes()).await.is_err() {
                return;
            }
        }
    };
    let reading = async {
        let mut lines = LineBuffer::default();
        let mut bytes = vec![0; READ_BYTES];
        let mut malformed = 0;
        while let Ok(length @ 1..) = reader.read(&mut bytes).await {
            lines.push(&bytes[..length]);
            while let Some(line) = lines.next_line() {
                let parsed = match &line {
                    Line::Whole(bytes) => Envelope::parse_bytes(bytes),
                    Line::TooLong(beginning) => Err(Envelope::too_long(beginning, lines.limit())),
                };
                match parsed {
                    Ok(envelope) => {
                        malformed = 0;
                        if events.send(Event::FromInstance(id, envelope)).await.is_err() {
                            return;
                        }
                    }
                    Err(problem) => {
                        malformed += 1;
                        warn!(instance = %id, "refused: {problem}");
                        if let (Some(refusal), Some(sender)) = (problem.refusal, weak.upgrade()) {
                            let _ = sender.try_send(*refusal);
                        }
                        if malformed >= MAX_MALFORMED {
                            return;
                        }
                    }
                }
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
    debug!(instance = %id, "its connection ended");
}
