//! What of the Manager's state must survive it.

use std::collections::BTreeSet;
use std::path::Path;

use patchbay_manager::store::Store;
use patchbay_manager_core::{Core, Saved, SessionState};

use crate::manager::Manager;

/// Whether a Manager that starts with this database knows what this one knew.
///
/// # Errors
/// The first differences, for people.
pub fn same_after_restart(before: &Core, database: &Path) -> Result<(), String> {
    let store = Store::open(database).map_err(|problem| problem.to_string())?;
    let mut after = Core::new(Manager::config(), 1, 0);
    store.restore(&mut after).map_err(|problem| problem.to_string())?;
    compare(before, &after)
}

/// The same of a Manager that gets these rows.
///
/// # Errors
/// The first differences, for people.
pub fn same(before: &Core, saved: Saved) -> Result<(), String> {
    let mut after = Core::new(Manager::config(), 1, 0);
    after.restore(saved);
    compare(before, &after)
}

fn compare(before: &Core, after: &Core) -> Result<(), String> {
    let (before, after) = (lines(before), lines(after));
    let lost: Vec<_> = before.difference(&after).take(3).collect();
    let new: Vec<_> = after.difference(&before).take(3).collect();
    match lost.is_empty() && new.is_empty() {
        true => Ok(()),
        false => Err(format!("lost {lost:?}, instead {new:?}")),
    }
}

/// Applications, living instances and sessions that are not over, a line each.
fn lines(core: &Core) -> BTreeSet<String> {
    let apps = core
        .every_app()
        .filter(|(_, app)| !app.stopped)
        .map(|(name, app)| format!("app {name}, {} bytes", app.text.len()));
    let instances = core.every_instance().filter(|i| i.state.is_alive()).map(|i| {
        format!(
            "instance {} {}/{} at {} {:?} {}",
            i.id,
            i.app,
            i.service,
            i.address,
            i.sockets,
            i.state.as_str()
        )
    });
    let sessions = core.every_session().filter(|s| s.state != SessionState::Closed).map(|s| {
        format!(
            "session {} #{} {}.{} {:?} → {} {:?} {:?}",
            s.id,
            s.message_id,
            s.source,
            s.edge.plug,
            s.source_port,
            s.destination,
            s.destination_port,
            s.state
        )
    });
    apps.chain(instances).chain(sessions).collect()
}
