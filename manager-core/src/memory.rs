//! A store in memory: for tests of what is known after a restart, and for whoever needs no disk.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use ssmmp::{Address, InstanceId};

use crate::engine::Store;
use crate::events::Effect;
use crate::graph::Graph;
use crate::row::{AppRow, InstanceRow, NodeRow, Row, Saved, ServiceRow};
use crate::state::session::{Session, SessionState};

/// The rows of one Manager after another, and how many events were kept.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    apps: BTreeMap<String, AppRow>,
    services: BTreeMap<(String, String), ServiceRow>,
    message_ids: Option<u64>,
    nodes: BTreeMap<Address, NodeRow>,
    drained: BTreeSet<Address>,
    instances: BTreeMap<InstanceId, InstanceRow>,
    sessions: BTreeMap<u64, Session>,
    events: u64,
}

impl Store for Memory {
    type Error = Infallible;

    fn commit(&mut self, effects: &mut [Effect]) -> Result<(), Infallible> {
        self.keep(effects);
        for effect in effects {
            if let Effect::Publish(event) = effect {
                self.events += 1;
                event.sequence = self.events;
            }
        }
        Ok(())
    }
}

impl Memory {
    /// Keeps the rows among effects.
    pub fn keep(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Save(row) = effect {
                self.put(row.clone());
            }
        }
    }

    fn put(&mut self, row: Row) {
        match row {
            Row::App(app) => drop(self.apps.insert(app.name.clone(), app)),
            Row::Service(service) => {
                self.services.insert((service.app.clone(), service.service.clone()), service);
            }
            Row::Node(address, known, drained) => {
                match drained {
                    true => self.drained.insert(address),
                    false => self.drained.remove(&address),
                };
                match known {
                    Some(node) => self.nodes.insert(address, node),
                    None => self.nodes.remove(&address),
                };
            }
            Row::MessageIds(reserved) => self.message_ids = Some(reserved),
            Row::Instance(row, _) => drop(self.instances.insert(row.id, *row)),
            Row::Session(session) => {
                let kept = Session { details: None, ..Session::clone(&session) };
                self.sessions.insert(session.id, kept);
            }
        }
    }

    /// What a Manager that starts gets.
    pub fn saved(&self) -> Saved {
        let apps = self.apps.values().filter(|app| !app.stopped);
        Saved {
            apps: apps
                .filter_map(|app| Some((Graph::read(&app.text).ok()?.0, app.text.clone(), app.applied)))
                .collect(),
            services: self.services.values().cloned().collect(),
            message_ids: self.message_ids,
            nodes: self.nodes.values().cloned().collect(),
            drained: self.drained.iter().copied().collect(),
            instances: self.instances.values().cloned().collect(),
            sessions: self.sessions.values().filter(|s| s.state != SessionState::Closed).cloned().collect(),
            last_instance: self.instances.keys().last().map_or(0, |id| id.0),
            last_session: self.sessions.keys().last().copied().unwrap_or(0),
        }
    }
}
