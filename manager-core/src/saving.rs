//! What an event has changed is written as it stands at the event's end, each row once.

use crate::events::Effect;
use crate::row::{AppRow, InstanceRow, Key, NodeRow, Row, ServiceRow};
use crate::state::ManagerState;

/// The rows of what has changed.
pub(crate) fn take_rows(core: &mut ManagerState) -> Vec<Effect> {
    let mut changed = std::mem::take(&mut core.changed);
    changed.sort_unstable();
    changed.dedup();
    changed.iter().filter_map(|key| row(core, key)).map(Effect::Save).collect()
}

fn row(core: &ManagerState, key: &Key) -> Option<Row> {
    Some(match key {
        Key::App(name) => {
            let app = core.apps.get(name)?;
            let (text, applied, stopped) = (app.text.clone(), app.applied, app.stopped);
            Row::App(AppRow { name: name.clone(), text, applied, stopped })
        }
        Key::Service(app, service) => {
            let state = core.apps.get(app).and_then(|app| app.state(service));
            let (scaled, home) = state.map_or((None, None), |state| (state.scaled, state.home));
            Row::Service(ServiceRow { app: app.clone(), service: service.clone(), scaled, home })
        }
        Key::Node(address) => {
            let known = core.inventory.node(*address).map(|node| NodeRow {
                address: *address,
                name: node.name.clone(),
                secret: node.secret,
                first: node.first,
            });
            Row::Node(*address, known, core.drained.contains(address))
        }
        Key::MessageIds => Row::MessageIds(core.message_ids.reserved()),
        Key::Instance(id) => {
            let of = core.inventory.instance(*id)?;
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
            Row::Instance(Box::new(row), core.now)
        }
        Key::Session(id) => Row::Session(core.sessions.row(*id)?),
    })
}
