//! What may run on a node though nobody counts on it: it keeps its ports until it is gone (G10).

use ssmmp::{Address, HardShutdownRequest, InstanceId, Name, Port};

use crate::inventory::on_node::Stranger;
use crate::state::ManagerState;
use crate::state::node::Connection;
use crate::state::pending_requests::Outstanding;

/// Hard shutdown requests before an instance counts as ended.
pub(crate) const HARD_TRIES: u32 = 3;

/// An instance that may run and should not: nobody counts on it, but its ports are taken until its
/// agent says that it is gone. Its agent is asked to end it, [`HARD_TRIES`] times (G10).
pub(crate) fn end_stranger(
    core: &mut ManagerState,
    address: Address,
    id: InstanceId,
    program: Name,
    ports: Vec<Port>,
) {
    core.inventory.add_stranger(address, id, Stranger { program, ports, asked: 0 });
    ask_for_end(core, address, id);
}

fn ask_for_end(core: &mut ManagerState, address: Address, id: InstanceId) {
    let is_connected = core.inventory.node(address).is_some_and(|node| node.connection.is_some());
    let stranger = core.inventory.stranger(address, id).filter(|_| is_connected);
    let Some(stranger) = stranger.filter(|stranger| stranger.asked < HARD_TRIES) else { return };
    stranger.asked += 1;
    let service_name = stranger.program.clone();
    let request =
        HardShutdownRequest { message_id: core.message_id(), service_name, service_instance_id: id };
    core.send_to(address, request, Some(Outstanding::Hard(id)));
}

/// An instance that is given up though nobody said that its process is gone.
pub(crate) fn doubt(core: &mut ManagerState, id: InstanceId) {
    let Some(instance) = core.inventory.instance(id) else { return };
    let ports = instance.sockets.iter().map(|(_, port)| *port).collect();
    end_stranger(core, instance.address, id, instance.program.clone(), ports);
}

/// Asks again for the end of what should not run on a node.
pub(crate) fn end_strangers(core: &mut ManagerState, address: Address) {
    let all: Vec<InstanceId> = core.inventory.strangers_on(address).map(|(id, _)| id).collect();
    for id in all {
        ask_for_end(core, address, id);
    }
}

/// An agent says that an instance is gone: its ports are free, which somebody may wait for.
pub(crate) fn stranger_gone(core: &mut ManagerState, connection: Connection, id: InstanceId) {
    let Some(address) = core.inventory.node_of(connection) else { return };
    if core.inventory.remove_stranger(address, id) {
        core.touch_all();
    }
}
