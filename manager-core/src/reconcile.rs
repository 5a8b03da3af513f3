//! What runs on a node is compared with what should, when its agent has registered (section 4, 2; F7).

use std::collections::{BTreeMap, BTreeSet};

use ssmmp::extension::{Extension as _, Running, RunningInstance, Stage};
use ssmmp::{Address, InstanceId, Status};

use crate::state::ManagerState;
use crate::state::instance::InstanceState;
use crate::{execution, health, shutdown, strangers};

/// How many instances a registration tells of that nobody counts on.
pub(crate) fn strangers_in(core: &ManagerState, address: Address, told: &[&str]) -> usize {
    let believed = core.inventory.living_on(address);
    let ids = told.iter().flat_map(|items| read(items)).map(|found| found.id);
    let strangers: BTreeSet<InstanceId> = ids.filter(|id| believed.binary_search(id).is_err()).collect();
    strangers.len()
}

/// An agent that does not say what runs on its node has registered again: its instances are asked how they
/// are, and count as lost when they don't answer (section 4, 2).
pub(crate) fn reconcile_untold(core: &mut ManagerState, address: Address) {
    for id in core.inventory.living_on(address) {
        let Some(state) = core.inventory.instance(id).map(|instance| instance.state) else { continue };
        match state {
            InstanceState::Starting => execution::execute_again(core, id),
            InstanceState::Stopping => shutdown::resume_stop(core, id),
            _ => health::ask_health_now(core, id),
        }
    }
    strangers::end_strangers(core, address);
}

/// Compares what runs on a node with what should. `again`: the agent was connected all the time, and may
/// not have read yet what it was asked to execute.
pub(crate) fn reconcile(core: &mut ManagerState, address: Address, running: &str, again: bool) {
    let reported: BTreeMap<InstanceId, RunningInstance> =
        read(running).into_iter().map(|found| (found.id, found)).collect();
    let believed = core.inventory.living_on(address);
    // What nobody counts on any more still has its ports, until it is gone.
    core.inventory.forget_strangers(address);
    for (id, found) in &reported {
        if believed.binary_search(id).is_err() {
            let ports = found.sockets.iter().map(|socket| socket.port).collect();
            strangers::end_stranger(core, address, *id, found.service.clone(), ports);
        }
    }
    let mut gone = Vec::new();
    for id in believed {
        let Some(state) = core.inventory.instance(id).map(|instance| instance.state) else { continue };
        match (reported.get(&id).map(|found| found.stage), state) {
            (None, InstanceState::Starting) if again => execution::execute_again(core, id),
            (None, _) => gone.push(id),
            (Some(Stage::Running), InstanceState::Starting) => {
                execution::executed(core, id, Status::OK, "", Vec::new());
            }
            (Some(Stage::Starting), InstanceState::Starting) => execution::execute_again(core, id),
            (Some(_), InstanceState::Stopping) => shutdown::resume_stop(core, id),
            (Some(Stage::Ending), _) => shutdown::force_end(core, id),
            _ => drop(core.inventory.change(id, |instance| instance.polls.misses = 0)),
        }
    }
    execution::lost_with_node(core, gone, "it was not running when its agent returned");
}

fn read(items: &str) -> Vec<RunningInstance> {
    Running::read(items).map(|Running(instances)| instances).unwrap_or_default()
}
