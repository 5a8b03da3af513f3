//! Instances are executed on the best node, ended, and started again (section 4, 3 to 5).

use std::collections::BTreeSet;

use ssmmp::{
    Address, ExecutionRequest, InstanceId, Name, PlugConfiguration, PlugTarget, Port, SOCKET_PORTS,
    SocketConfiguration, SocketPort, Status,
};

use super::{Core, Effect, Instance, InstanceState, Millis, Node, Outstanding, Timer};
use crate::graph::Service;

/// First pause after a failed start, milliseconds; it doubles.
const FIRST_PAUSE: Millis = 1_000;
/// Longest pause between failed starts, milliseconds.
const LONGEST_PAUSE: Millis = 30_000;
/// An instance that ran so long was no failed start, milliseconds.
const STABLE_AFTER: Millis = 60_000;

impl Core {
    /// Requests the execution of one more instance, near a node if that is as good as another.
    /// False when no node can take it, which is published once.
    pub(super) fn start(&mut self, app: &str, service: &str, near: Option<Address>) -> bool {
        self.start_elsewhere(app, service, near, BTreeSet::new())
    }

    fn start_elsewhere(
        &mut self,
        app: &str,
        service: &str,
        near: Option<Address>,
        tried: BTreeSet<Address>,
    ) -> bool {
        let Some(vertex) = self.apps.get(app).and_then(|app| app.service(service)).cloned() else {
            return false;
        };
        let Ok(name) = Name::new(service) else { return false };
        let Some((address, sockets)) = self.place(&name, &vertex, near, &tried) else {
            self.unplaced(app, service);
            return false;
        };
        let id = self.instance_id();
        let node = self.nodes.get(&address).map(|node| node.name.clone()).unwrap_or_default();
        let mut instance = Instance::restored(
            id,
            app.to_owned(),
            name.clone(),
            address,
            node.clone(),
            sockets,
            InstanceState::Starting,
            self.now,
        );
        instance.tried = tried;
        instance.tried.insert(address);
        instance.restarts =
            self.apps.get(app).and_then(|app| app.failures.get(service)).map_or(0, |f| f.count);
        let request = ExecutionRequest {
            message_id: self.message_id(),
            agent_network_address: address,
            service_name: name,
            service_instance_id: id,
            socket_configuration: SocketConfiguration(
                instance
                    .sockets
                    .iter()
                    .map(|(socket, port)| SocketPort { socket: socket.clone(), port: *port })
                    .collect(),
            ),
            plug_configuration: PlugConfiguration(plugs(&vertex)),
        };
        self.instances.insert(id, instance);
        self.effect(Effect::SaveInstance(id));
        self.publish("instance-starting", format!("instance {id} ({service})"), format!("on node {node}"));
        self.at(self.now + self.config.start_timeout, Timer::Start(id));
        self.send_to(address, request, Some(Outstanding::Execution(id)));
        true
    }

    /// The node for an instance, and a port for each socket: the near one first, then the least loaded.
    fn place(
        &self,
        name: &Name,
        service: &Service,
        near: Option<Address>,
        tried: &BTreeSet<Address>,
    ) -> Option<(Address, Vec<(Name, Port)>)> {
        let mut candidates: Vec<&Node> = self
            .nodes
            .values()
            .filter(|node| node.connection.is_some() && node.repository.contains(name))
            .filter(|node| !tried.contains(&node.address))
            .collect();
        let load = |node: &Node| {
            self.instances.values().filter(|i| i.address == node.address && i.state.is_alive()).count()
        };
        candidates.sort_by_key(|node| (Some(node.address) != near, load(node), node.address));
        candidates.into_iter().find_map(|node| Some((node.address, self.ports(node.address, service)?)))
    }

    /// Free ports on a node; `None` when a fixed port is taken or the range is used up.
    fn ports(&self, node: Address, service: &Service) -> Option<Vec<(Name, Port)>> {
        let mut taken: BTreeSet<u16> = self
            .instances
            .values()
            .filter(|instance| instance.address == node && instance.state.is_alive())
            .flat_map(|instance| instance.sockets.iter().map(|(_, port)| port.0))
            .collect();
        service
            .sockets
            .iter()
            .map(|(socket, description)| {
                let port = match description.port {
                    Some(port) => (!taken.contains(&port)).then_some(port)?,
                    None => SOCKET_PORTS.clone().find(|port| !taken.contains(port))?,
                };
                taken.insert(port);
                Some((Name::new(socket).ok()?, Port(port)))
            })
            .collect()
    }

    fn unplaced(&mut self, app: &str, service: &str) {
        let problem = if self.nodes.values().all(|node| node.connection.is_none()) {
            "no agent is registered".to_owned()
        } else {
            format!(
                "no registered agent can take it: none has `{service}` in its repository with its ports free"
            )
        };
        let Some(app) = self.apps.get_mut(app) else { return };
        let failures = app.failures.entry(service.to_owned()).or_default();
        if failures.problem != problem {
            failures.problem.clone_from(&problem);
            self.publish("service-unplaced", format!("service {service}"), problem);
        }
    }

    /// The agent has answered an execution_request.
    pub(super) fn executed(&mut self, id: InstanceId, status: Status, reason: &str, output: Vec<String>) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        if instance.state != InstanceState::Starting {
            return;
        }
        let (app, service) = (instance.app.clone(), instance.service.clone());
        if status.is_success() {
            instance.state = InstanceState::Running;
            instance.idle_since = self.now;
            let node = instance.node.clone();
            self.effect(Effect::SaveInstance(id));
            self.publish("instance-running", format!("instance {id} ({service})"), format!("on node {node}"));
            if let Some(failures) =
                self.apps.get_mut(&app).and_then(|app| app.failures.get_mut(service.as_str()))
            {
                failures.problem.clear();
            }
            self.serve_waiting(&app, service.as_str());
            return;
        }
        let tried = instance.tried.clone();
        self.end(id, InstanceState::Failed, &format!("could not be started ({status}): {reason}"), output);
        let elsewhere =
            status != Status::CONFLICT && self.start_elsewhere(&app, service.as_str(), None, tried);
        if !elsewhere {
            self.start_failed(&app, service.as_str(), reason);
        }
    }

    pub(super) fn start_timed_out(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(&id) else { return };
        if instance.state != InstanceState::Starting {
            return;
        }
        let (address, service) = (instance.address, instance.service.clone());
        let request = ssmmp::HardShutdownRequest {
            message_id: self.message_id(),
            service_name: service,
            service_instance_id: id,
        };
        self.send_to(address, request, None);
        self.executed(id, Status::NO_ANSWER, "no answer from its agent in time", Vec::new());
    }

    /// Counts a failed start, answers who waits, and plans the next try.
    fn start_failed(&mut self, app_name: &str, service: &str, reason: &str) {
        let now = self.now;
        let Some(app) = self.apps.get_mut(app_name) else { return };
        let failures = app.failures.entry(service.to_owned()).or_default();
        failures.count += 1;
        failures.problem = reason.to_owned();
        failures.not_before = now + pause(failures.count);
        let (count, at) = (failures.count, failures.not_before);
        self.fail_waiting(app_name, service, reason);
        if count == super::FAILING_AFTER {
            self.publish(
                "service-failing",
                format!("service {service}"),
                format!("{count} starts failed in a row; retried every {} s: {reason}", LONGEST_PAUSE / 1000),
            );
        }
        self.at(at, Timer::Restart(app_name.into(), service.into()));
    }

    /// An instance has ended, however it did.
    pub(super) fn instance_ended(&mut self, id: InstanceId, reason: &str, output: Vec<String>) {
        let Some(instance) = self.instances.get(&id) else { return };
        if !instance.state.is_alive() {
            return;
        }
        let (app, service, state) = (instance.app.clone(), instance.service.clone(), instance.state);
        let lived = self.now.saturating_sub(instance.created);
        if state == InstanceState::Stopping {
            let planned = instance.reason.clone().unwrap_or_else(|| reason.to_owned());
            self.end(id, InstanceState::Ended, &planned, Vec::new());
            return;
        }
        self.end(id, InstanceState::Ended, reason, output);
        if lived >= STABLE_AFTER
            && let Some(app) = self.apps.get_mut(&app)
        {
            app.failures.remove(service.as_str());
        }
        self.start_failed(&app, service.as_str(), reason);
    }

    /// Writes an instance's end down and closes its sessions.
    pub(super) fn end(&mut self, id: InstanceId, state: InstanceState, reason: &str, output: Vec<String>) {
        let now = self.now;
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.state = state;
        instance.ended = Some(now);
        instance.reason = Some(reason.to_owned());
        instance.output = output;
        let last_line =
            instance.output.last().map(|line| format!("; last output: {line}")).unwrap_or_default();
        let (service, sessions) = (instance.service.clone(), instance.sessions.clone());
        self.effect(Effect::SaveInstance(id));
        let kind = if state == InstanceState::Failed { "instance-failed" } else { "instance-ended" };
        self.publish(kind, format!("instance {id} ({service})"), format!("{reason}{last_line}"));
        for session in sessions {
            self.session_closed(session, Status::BROKEN);
        }
        self.forget_old_instances();
    }

    fn forget_old_instances(&mut self) {
        let ended: Vec<_> = self.instances.values().filter(|i| !i.state.is_alive()).map(|i| i.id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(super::ENDED_KEPT)) {
            self.instances.remove(id);
        }
    }
}

fn plugs(service: &Service) -> Vec<PlugTarget> {
    service
        .plugs
        .iter()
        .filter_map(|(plug, target)| {
            Some(PlugTarget {
                plug: Name::new(plug).ok()?,
                socket: Some(Name::new(&target.socket).ok()?),
                service: Name::new(&target.service).ok()?,
            })
        })
        .collect()
}

fn pause(failures: u32) -> Millis {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST_PAUSE)
}
