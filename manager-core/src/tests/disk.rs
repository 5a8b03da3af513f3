//! What a database keeps, in memory: for Managers that are killed and start again.

use std::collections::{BTreeMap, BTreeSet};

use ssmmp::{Address, InstanceId};

use crate::{App, Core, Effect, Instance, Node, Saved, ServiceState, Session, SessionState};

/// The rows of one Manager after another.
#[derive(Default)]
pub struct Disk {
    epoch: u64,
    apps: BTreeMap<String, App>,
    services: BTreeMap<(String, String), ServiceState>,
    message_ids: Option<u64>,
    nodes: BTreeMap<Address, Node>,
    drained: BTreeSet<Address>,
    instances: BTreeMap<InstanceId, Instance>,
    sessions: BTreeMap<u64, Session>,
}

impl Disk {
    /// One more start.
    pub fn next_epoch(&mut self) -> u64 {
        self.epoch += 1;
        self.epoch
    }

    /// Writes the rows of effects, of what a database has columns for.
    pub fn write(&mut self, core: &Core, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::SaveApp(name) => {
                    self.apps.extend(core.app(name).map(|app| (name.clone(), app.clone())));
                }
                Effect::SaveService(app, service) => {
                    let state = core.app(app).and_then(|app| app.state(service));
                    let (scaled, home) = state.map_or((None, None), |state| (state.scaled, state.home));
                    self.services
                        .insert((app.clone(), service.clone()), ServiceState::restored(scaled, home));
                }
                Effect::SaveMessageIds => self.message_ids = Some(core.reserved_message_ids()),
                Effect::SaveNode(address) => {
                    match core.is_drained(*address) {
                        true => self.drained.insert(*address),
                        false => self.drained.remove(address),
                    };
                    self.nodes.remove(address);
                    if let Some(node) = core.node(*address) {
                        let mut lost = Node::lost(*address, node.first);
                        (lost.name, lost.secret) = (node.name.clone(), node.secret);
                        self.nodes.insert(*address, lost);
                    }
                }
                Effect::SaveInstance(id) => {
                    self.instances.extend(core.instance(id.0).map(|instance| (*id, row(instance))));
                }
                Effect::SaveSession(id) => {
                    let session = core.session(*id).cloned();
                    self.sessions.extend(session.map(|session| (*id, Session { details: None, ..session })));
                }
                _ => {}
            }
        }
    }

    /// Gives a new core what is kept.
    pub fn restore(&self, core: &mut Core) {
        let apps = self.apps.values().filter(|app| !app.stopped);
        let services = self.services.iter();
        core.restore(Saved {
            apps: apps.map(|app| (app.graph.clone(), app.text.clone(), app.applied)).collect(),
            services: services.map(|((app, name), s)| (app.clone(), name.clone(), s.clone())).collect(),
            message_ids: self.message_ids,
            nodes: self.nodes.values().cloned().collect(),
            drained: self.drained.iter().copied().collect(),
            instances: self.instances.values().cloned().collect(),
            sessions: self.sessions.values().filter(|s| s.state != SessionState::Closed).cloned().collect(),
            last_instance: self.instances.keys().last().map_or(0, |id| id.0),
            last_session: self.sessions.keys().last().copied().unwrap_or(0),
        });
    }
}

fn row(of: &Instance) -> Instance {
    let mut row = Instance::restored(
        of.id,
        of.app.clone(),
        of.service.clone(),
        of.address,
        of.node.clone(),
        of.sockets.clone(),
        of.state,
        of.created,
    );
    (row.program, row.recipe) = (of.program.clone(), of.recipe.clone());
    (row.leaving, row.replaces) = (of.leaving.clone(), of.replaces);
    (row.ended, row.reason, row.output) = (of.ended, of.reason.clone(), of.output.clone());
    row
}
