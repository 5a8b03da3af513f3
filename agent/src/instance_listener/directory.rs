use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ssmmp::{Envelope, InstanceId, Name};
use tokio::sync::mpsc;
use tracing::warn;

use super::MAX_UNSENT;

/// Which instance has which cgroup, and the way to those that are connected.
#[derive(Debug, Clone, Default)]
pub struct Directory(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    by_cgroup: HashMap<u64, InstanceId>,
    known: HashMap<InstanceId, (Name, u64)>,
    senders: HashMap<InstanceId, mpsc::Sender<Envelope>>,
    /// What was sent before the instance connected.
    early: HashMap<InstanceId, Vec<Envelope>>,
}

impl Directory {
    fn with<T>(&self, change: impl FnOnce(&mut Entries) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// A new instance, its service and its cgroup.
    pub fn add(&self, id: InstanceId, service: &Name, cgroup: u64) {
        self.with(|entries| {
            entries.by_cgroup.insert(cgroup, id);
            entries.known.insert(id, (service.clone(), cgroup));
        });
    }

    /// An instance that is gone.
    pub fn remove(&self, id: InstanceId) {
        self.with(|entries| {
            entries.senders.remove(&id);
            entries.early.remove(&id);
            if let Some((_, cgroup)) = entries.known.remove(&id) {
                entries.by_cgroup.remove(&cgroup);
            }
        });
    }

    /// An instance's cgroup.
    pub fn cgroup(&self, id: InstanceId) -> Option<u64> {
        self.with(|entries| entries.known.get(&id).map(|(_, cgroup)| *cgroup))
    }

    /// The instance of a cgroup, and its service.
    pub fn instance(&self, cgroup: u64) -> Option<(InstanceId, Name)> {
        self.with(|entries| {
            let id = *entries.by_cgroup.get(&cgroup)?;
            entries.known.get(&id).map(|(service, _)| (id, service.clone()))
        })
    }

    /// Whether an instance has a connection to this agent.
    pub fn is_connected(&self, id: InstanceId) -> bool {
        self.with(|entries| entries.senders.get(&id).is_some_and(|sender| !sender.is_closed()))
    }

    /// Sends to an instance, now or, for a new one, as soon as it connects.
    pub fn send(&self, id: InstanceId, envelope: Envelope) {
        self.with(|entries| {
            if let Some(sender) = entries.senders.get(&id) {
                if sender.try_send(envelope).is_err() {
                    warn!(instance = %id, "it does not read its messages; its connection is closed");
                    entries.senders.remove(&id);
                }
            } else if entries.known.contains_key(&id) {
                let early = entries.early.entry(id).or_default();
                if early.len() < MAX_UNSENT {
                    early.push(envelope);
                }
            }
        });
    }

    /// An instance has connected; its earlier connection, if it has one, ends.
    pub(super) fn connected(&self, id: InstanceId, sender: mpsc::Sender<Envelope>) {
        self.with(|entries| {
            for envelope in entries.early.remove(&id).unwrap_or_default() {
                let _ = sender.try_send(envelope);
            }
            entries.senders.insert(id, sender);
        });
    }
}
