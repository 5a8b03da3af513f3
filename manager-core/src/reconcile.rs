//! What runs on a node is compared with what should, when its agent has registered (section 4, 2; F7).

use std::collections::{BTreeMap, BTreeSet};

use ssmmp::extension::{Extension as _, Running, RunningInstance, Stage};
use ssmmp::{Address, HardShutdownRequest, InstanceId, Name, Port, Status};

use super::inventory::Stranger;
use super::shutdown::HARD_TRIES;
use super::{Connection, Core, InstanceState, Outstanding};

impl Core {
    /// How many instances a registration tells of that nobody counts on.
    pub(super) fn strangers_in(&self, address: Address, told: &[&str]) -> usize {
        let believed = self.living_on(address);
        let ids = told.iter().flat_map(|items| read(items)).map(|found| found.id);
        let strangers: BTreeSet<InstanceId> = ids.filter(|id| believed.binary_search(id).is_err()).collect();
        strangers.len()
    }

    /// An agent that does not say what runs on its node has registered again: its instances are asked how they
    /// are, and count as lost when they don't answer (section 4, 2).
    pub(super) fn reconcile_untold(&mut self, address: Address) {
        for id in self.living_on(address) {
            let Some(state) = self.inventory.instance(id).map(|instance| instance.state) else { continue };
            match state {
                InstanceState::Starting => self.execute_again(id),
                InstanceState::Stopping => self.resume_stop(id),
                _ => self.ask_health_now(id),
            }
        }
        self.end_strangers(address);
    }

    /// Compares what runs on a node with what should. `again`: the agent was connected all the time, and may
    /// not have read yet what it was asked to execute.
    pub(super) fn reconcile(&mut self, address: Address, running: &str, again: bool) {
        let reported: BTreeMap<InstanceId, RunningInstance> =
            read(running).into_iter().map(|found| (found.id, found)).collect();
        let believed = self.living_on(address);
        // What nobody counts on any more still has its ports, until it is gone.
        self.inventory.forget_strangers(address);
        for (id, found) in &reported {
            if believed.binary_search(id).is_err() {
                let ports = found.sockets.iter().map(|socket| socket.port).collect();
                self.end_stranger(address, *id, found.service.clone(), ports);
            }
        }
        let mut gone = Vec::new();
        for id in believed {
            let Some(state) = self.inventory.instance(id).map(|instance| instance.state) else { continue };
            match (reported.get(&id).map(|found| found.stage), state) {
                (None, InstanceState::Starting) if again => self.execute_again(id),
                (None, _) => gone.push(id),
                (Some(Stage::Running), InstanceState::Starting) => {
                    self.executed(id, Status::OK, "", Vec::new());
                }
                (Some(Stage::Starting), InstanceState::Starting) => self.execute_again(id),
                (Some(_), InstanceState::Stopping) => self.resume_stop(id),
                (Some(Stage::Ending), _) => self.force_end(id),
                _ => drop(self.inventory.change(id, |instance| instance.polls.misses = 0)),
            }
        }
        self.lost_with_node(gone, "it was not running when its agent returned");
    }

    /// An instance that may run and should not: nobody counts on it, but its ports are taken until its
    /// agent says that it is gone. Its agent is asked to end it, [`HARD_TRIES`] times (G10).
    pub(super) fn end_stranger(&mut self, address: Address, id: InstanceId, program: Name, ports: Vec<Port>) {
        self.inventory.add_stranger(address, id, Stranger { program, ports, asked: 0 });
        self.ask_for_end(address, id);
    }

    fn ask_for_end(&mut self, address: Address, id: InstanceId) {
        let is_connected = self.inventory.node(address).is_some_and(|node| node.connection.is_some());
        let stranger = self.inventory.stranger(address, id).filter(|_| is_connected);
        let Some(stranger) = stranger.filter(|stranger| stranger.asked < HARD_TRIES) else { return };
        stranger.asked += 1;
        let service_name = stranger.program.clone();
        let request =
            HardShutdownRequest { message_id: self.message_id(), service_name, service_instance_id: id };
        self.send_to(address, request, Some(Outstanding::Hard(id)));
    }

    /// An instance that is given up though nobody said that its process is gone.
    pub(super) fn doubt(&mut self, id: InstanceId) {
        let Some(instance) = self.inventory.instance(id) else { return };
        let ports = instance.sockets.iter().map(|(_, port)| *port).collect();
        self.end_stranger(instance.address, id, instance.program.clone(), ports);
    }

    /// Asks again for the end of what should not run on a node.
    pub(super) fn end_strangers(&mut self, address: Address) {
        let all: Vec<InstanceId> = self.inventory.strangers_on(address).map(|(id, _)| id).collect();
        for id in all {
            self.ask_for_end(address, id);
        }
    }

    /// An agent says that an instance is gone: its ports are free, which somebody may wait for.
    pub(super) fn stranger_gone(&mut self, connection: Connection, id: InstanceId) {
        let Some(address) = self.inventory.node_of(connection) else { return };
        if self.inventory.remove_stranger(address, id) {
            self.settle_all();
        }
    }

    pub(super) fn living_on(&self, address: Address) -> Vec<InstanceId> {
        self.inventory.on_node(address).map(|node| node.alive.iter().copied().collect()).unwrap_or_default()
    }
}

fn read(items: &str) -> Vec<RunningInstance> {
    Running::read(items).map(|Running(instances)| instances).unwrap_or_default()
}
