//! What runs on a node is compared with what should, when its agent has registered (section 4, 2; F7).

use std::collections::BTreeMap;

use ssmmp::{Address, HardShutdownRequest, InstanceId, Name, Port, Status};

use super::{Connection, Core, InstanceState, Outstanding};

/// Where an instance stands, as its agent says (`x_running`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Starting,
    Running,
    Ending,
}

/// One item of `x_running` (docs/protocol.md).
#[derive(Debug)]
struct Reported {
    service: Name,
    ports: Vec<Port>,
    stage: Stage,
}

impl Core {
    /// Compares what runs on a node with what should.
    pub(super) fn reconcile(&mut self, address: Address, running: &str) {
        let reported: BTreeMap<InstanceId, Reported> = running.split('&').filter_map(read).collect();
        let believed = self.living_on(address);
        // What nobody counts on any more still has its ports, until it is gone.
        self.inventory.forget_strangers(address);
        for (id, found) in &reported {
            if believed.binary_search(id).is_err() {
                self.end_stranger(address, *id, found.service.clone(), found.ports.clone());
            }
        }
        let mut gone = Vec::new();
        for id in believed {
            let Some(state) = self.inventory.instance(id).map(|instance| instance.state) else { continue };
            match (reported.get(&id).map(|found| found.stage), state) {
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
    /// agent says that it is gone. It is asked for again with every poll of its node.
    pub(super) fn end_stranger(&mut self, address: Address, id: InstanceId, service: Name, ports: Vec<Port>) {
        self.inventory.add_stranger(address, id, service.clone(), ports);
        let request = HardShutdownRequest {
            message_id: self.message_id(),
            service_name: service,
            service_instance_id: id,
        };
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
        for (id, service, ports) in self.inventory.strangers_on(address) {
            self.end_stranger(address, id, service, ports);
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

fn read(item: &str) -> Option<(InstanceId, Reported)> {
    let mut parts = item.split(',').map(str::trim);
    let service = Name::new(parts.next()?).ok()?;
    let id = InstanceId(parts.next()?.parse().ok()?);
    let sockets = parts.next().unwrap_or_default().split(';');
    let ports = sockets.filter_map(|socket| socket.rsplit('=').next()?.parse().ok().map(Port)).collect();
    let stage = match parts.next() {
        Some("starting") => Stage::Starting,
        Some("ending") => Stage::Ending,
        _ => Stage::Running,
    };
    Some((id, Reported { service, ports, stage }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(item: &str, id: u64, ports: &[u16], stage: Stage) {
        let (found, reported) = read(item).expect(item);
        let found_ports: Vec<u16> = reported.ports.iter().map(|port| port.0).collect();
        assert_eq!((found.0, &found_ports[..], reported.stage), (id, ports, stage));
    }

    #[test]
    fn items_with_and_without_a_stage() {
        check(" shop, 7, in=54000;out=54001, ending ", 7, &[54000, 54001], Stage::Ending);
        check("shop, 7, in=54000", 7, &[54000], Stage::Running);
        check("shop, 7, , starting", 7, &[], Stage::Starting);
        assert!(read("").is_none());
        assert!(read("shop, seven, in=1").is_none());
    }
}
