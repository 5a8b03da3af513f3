//! What an event has changed is written as it stands at the event's end, each row once.

use super::row::{AppRow, InstanceRow, Key, NodeRow, Row, ServiceRow};
use super::{Core, Effect};

impl Core {
    /// Something has changed that is kept on disk.
    pub(crate) fn save(&mut self, key: Key) {
        self.changed.push(key);
    }

    /// The rows of what has changed.
    pub(super) fn take_rows(&mut self) -> Vec<Effect> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        changed.iter().filter_map(|key| self.row(key)).map(Effect::Save).collect()
    }

    fn row(&self, key: &Key) -> Option<Row> {
        Some(match key {
            Key::App(name) => {
                let app = self.apps.get(name)?;
                let (text, applied, stopped) = (app.text.clone(), app.applied, app.stopped);
                Row::App(AppRow { name: name.clone(), text, applied, stopped })
            }
            Key::Service(app, service) => {
                let state = self.apps.get(app).and_then(|app| app.state(service));
                let (scaled, home) = state.map_or((None, None), |state| (state.scaled, state.home));
                Row::Service(ServiceRow { app: app.clone(), service: service.clone(), scaled, home })
            }
            Key::Node(address) => {
                let known = self.inventory.node(*address).map(|node| NodeRow {
                    address: *address,
                    name: node.name.clone(),
                    secret: node.secret,
                    first: node.first,
                });
                Row::Node(*address, known, self.drained.contains(address))
            }
            Key::MessageIds => Row::MessageIds(self.message_ids.reserved()),
            Key::Instance(id) => {
                let of = self.inventory.instance(*id)?;
                let row = InstanceRow {
                    id: of.id,
                    app: of.app.clone(),
                    service: of.service.clone(),
                    address: of.address,
                    node: of.node.clone(),
                    sockets: of.sockets.clone(),
                    state: of.state,
                    created: of.created,
                    ended: of.ended,
                    reason: of.reason.clone(),
                    output: of.output.clone(),
                    program: of.program.clone(),
                    recipe: of.recipe.clone(),
                    leaving: of.leaving.clone(),
                    replaces: of.replaces,
                };
                Row::Instance(Box::new(row), self.now)
            }
            Key::Session(id) => Row::Session(Box::new(self.sessions.get(*id)?.without_details())),
        })
    }
}
