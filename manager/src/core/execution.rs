//! Instances are executed on the best node, ended, and started again (section 4, 3 to 5).

use std::collections::BTreeSet;

use ssmmp::{
    Address, Envelope, ExecutionRequest, Hop, InstanceId, Name, PlugConfiguration, PlugTarget, Port,
    SocketConfiguration, SocketPort, Status,
};

use super::inventory::OnNode;
use super::{Core, Effect, Instance, InstanceState, Millis, Outstanding, Timer};
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
        let (Ok(app_name), Ok(name)) = (Name::new(app), Name::new(service)) else { return false };
        let Some((address, sockets)) = self.place(&name, &vertex, near, &tried) else {
            self.unplaced(app, service);
            return false;
        };
        let id = self.instance_id();
        let node = self.inventory.node(address).map(|node| node.name.clone()).unwrap_or_default();
        let mut instance = Instance::restored(
            id,
            app_name,
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
        self.inventory.add(instance);
        self.effect(Effect::SaveInstance(id));
        self.publish("instance-starting", format!("instance {id} ({service})"), format!("on node {node}"));
        self.execute_again(id);
        true
    }

    /// Requests an instance's execution, or its answer once more: a repeated request starts nothing.
    pub(super) fn execute_again(&mut self, id: InstanceId) {
        let message_id = self.message_id();
        let Some(instance) = self.inventory.instance(id) else { return };
        let vertex =
            self.apps.get(instance.app.as_str()).and_then(|app| app.service(instance.service.as_str()));
        let sockets = instance.sockets.iter();
        let (address, service_name) = (instance.address, instance.service.clone());
        let app = instance.app.to_string();
        let request = ExecutionRequest {
            message_id,
            agent_network_address: address,
            service_name,
            service_instance_id: id,
            socket_configuration: SocketConfiguration(
                sockets.map(|(socket, port)| SocketPort { socket: socket.clone(), port: *port }).collect(),
            ),
            plug_configuration: PlugConfiguration(vertex.map(plugs).unwrap_or_default()),
        };
        self.at(self.now + self.config.start_timeout, Timer::Start(id));
        let envelope = Envelope::new(request, Hop::ManagerToAgent).with("x_app", &app);
        self.send_with(address, envelope, Some(Outstanding::Execution(id)));
    }

    /// The node for an instance, and a port for each socket: the near one first, then the least loaded.
    fn place(
        &self,
        name: &Name,
        service: &Service,
        near: Option<Address>,
        tried: &BTreeSet<Address>,
    ) -> Option<(Address, Vec<(Name, Port)>)> {
        let near = near
            .and_then(|near| self.inventory.node(near))
            .filter(|node| node.connection.is_some() && node.repository.contains(name));
        near.into_iter()
            .chain(self.inventory.able(name.as_str()))
            .filter(|node| !tried.contains(&node.address))
            .find_map(|node| Some((node.address, self.ports(node.address, service)?)))
    }

    /// Free ports on a node; `None` when a fixed port is taken or the range is used up.
    fn ports(&self, node: Address, service: &Service) -> Option<Vec<(Name, Port)>> {
        let none = OnNode::default();
        let on_node = self.inventory.on_node(node).unwrap_or(&none);
        let fixed: Vec<u16> = service.sockets.values().filter_map(|socket| socket.port).collect();
        let mut free = on_node.free_ports().filter(|port| !fixed.contains(&port.0));
        service
            .sockets
            .iter()
            .map(|(socket, description)| {
                let port = match description.port.map(Port) {
                    Some(port) => (!on_node.is_taken(port)).then_some(port)?,
                    None => free.next()?,
                };
                Some((Name::new(socket).ok()?, port))
            })
            .collect()
    }

    fn unplaced(&mut self, app: &str, service: &str) {
        let problem = if self.inventory.connected() == 0 {
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
        let Some(instance) = self.inventory.instance(id) else { return };
        if instance.state != InstanceState::Starting {
            return;
        }
        let (app, service) = (instance.app.clone(), instance.service.clone());
        let (node, tried) = (instance.node.clone(), instance.tried.clone());
        if status.is_success() {
            let now = self.now;
            self.inventory.change(id, |instance| {
                instance.state = InstanceState::Running;
                instance.idle_since = now;
            });
            self.plan_instance_polls(id);
            self.effect(Effect::SaveInstance(id));
            self.publish("instance-running", format!("instance {id} ({service})"), format!("on node {node}"));
            if let Some(failures) =
                self.apps.get_mut(app.as_str()).and_then(|app| app.failures.get_mut(service.as_str()))
            {
                failures.problem.clear();
            }
            self.serve_waiting(app.as_str(), service.as_str());
            return;
        }
        self.end(id, InstanceState::Failed, &format!("could not be started ({status}): {reason}"), output);
        let elsewhere =
            status != Status::CONFLICT && self.start_elsewhere(app.as_str(), service.as_str(), None, tried);
        if !elsewhere {
            self.start_failed(app.as_str(), service.as_str(), reason);
        }
    }

    pub(super) fn start_timed_out(&mut self, id: InstanceId) {
        let Some(instance) = self.inventory.instance(id) else { return };
        if instance.state != InstanceState::Starting {
            return;
        }
        self.doubt(id);
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
        let Some(instance) = self.inventory.instance(id) else { return };
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
            && let Some(app) = self.apps.get_mut(app.as_str())
        {
            app.failures.remove(service.as_str());
        }
        self.start_failed(app.as_str(), service.as_str(), reason);
    }

    /// Writes an instance's end down and closes its sessions.
    pub(super) fn end(&mut self, id: InstanceId, state: InstanceState, reason: &str, output: Vec<String>) {
        let now = self.now;
        let last_line = output.last().map(|line| format!("; last output: {line}")).unwrap_or_default();
        let ended = self.inventory.change(id, |instance| {
            instance.state = state;
            instance.ended = Some(now);
            instance.reason = Some(reason.to_owned());
            instance.output = output;
            (instance.service.clone(), instance.sessions.clone())
        });
        let Some((service, sessions)) = ended else { return };
        self.effect(Effect::SaveInstance(id));
        let kind = if state == InstanceState::Failed { "instance-failed" } else { "instance-ended" };
        self.publish(kind, format!("instance {id} ({service})"), format!("{reason}{last_line}"));
        for session in sessions {
            self.session_closed(session, Status::BROKEN);
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
