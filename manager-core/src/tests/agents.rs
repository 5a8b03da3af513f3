//! Agents and instances that follow the protocol: they do as they are asked, and an instance whose session
//! was closed asks for it again.

use std::collections::{BTreeMap, BTreeSet};

use ssmmp::Status;

use super::*;

/// What runs at the agents, and how it behaves.
#[derive(Default)]
pub(super) struct Agents {
    /// Messages of the Manager that were dealt with.
    seen: usize,
    /// What runs, by id: program, agent, arguments.
    pub(super) running: BTreeMap<InstanceId, Process>,
    /// Programs that can't be started.
    pub(super) broken: BTreeSet<String>,
    /// Instances that answer nothing.
    pub(super) deaf: BTreeSet<InstanceId>,
    /// Instances that answer 199.
    pub(super) overloaded: BTreeSet<InstanceId>,
    /// Agents that answer nothing.
    pub(super) frozen: BTreeSet<u64>,
    /// Requests that were answered with a failure: status.
    pub(super) failed: Vec<u16>,
    /// Sessions that were closed on request.
    pub(super) closed: usize,
    /// Requests by who asked, with their ids.
    asked: BTreeMap<(InstanceId, u64), Wanted>,
    next_id: u64,
    next_port: u16,
}

pub(super) struct Process {
    pub(super) program: String,
    pub(super) agent: u64,
    pub(super) sockets: String,
}

#[derive(Clone)]
struct Wanted {
    plug: String,
    service: String,
    socket: String,
}

impl Agents {
    /// What was on its way is lost.
    pub(super) fn forget_unseen(&mut self, sent: usize) {
        self.seen = sent;
    }
}

impl Cluster {
    /// Nodes 10.0.0.1 and on, whose agents have these programs.
    pub(super) fn with_nodes(programs: &[&str]) -> Self {
        let mut cluster = Self::new();
        for (programs, number) in programs.iter().zip(1..) {
            cluster.register(number, &format!("10.0.0.{number}"), programs);
        }
        cluster
    }

    /// Lets everybody answer until nobody has anything to say.
    pub(super) fn obey(&mut self) {
        let enough = self.agents.seen + 5_000;
        while let Some((connection, envelope)) = self.sent.get(self.agents.seen).cloned() {
            assert!(
                self.agents.seen < enough,
                "it never ends: {}",
                self.sent[self.sent.len() - 1].1.encode()
            );
            self.agents.seen += 1;
            if !self.agents.frozen.contains(&connection.0) {
                self.obey_one(connection.0, &envelope.message);
            }
        }
    }

    /// Lets time pass, everybody answering at once.
    pub(super) fn live(&mut self, time: Millis) {
        let end = self.now + time;
        self.obey();
        while let Some(at) = self.engine.core.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.handle(Event::Tick);
            self.obey();
        }
        self.now = end;
    }

    fn obey_one(&mut self, agent: u64, message: &Message) {
        let id = message.message_id();
        match message {
            Message::ExecutionRequest(request) => {
                let program = request.service_name.to_string();
                let status = if self.agents.broken.contains(&program) { 500 } else { 200 };
                if status == 200 {
                    let sockets = request.socket_configuration.0.iter();
                    let sockets: Vec<String> = sockets.map(|s| format!("{}={}", s.socket, s.port)).collect();
                    let process = Process { program, agent, sockets: sockets.join(";") };
                    self.agents.running.insert(request.service_instance_id, process);
                }
                self.message(
                    agent,
                    &format!("type: execution_response ~ message_id: {id} ~ status: {status}"),
                );
            }
            Message::SessionResponse(response) => {
                let source = response.source_service_instance_id;
                let number: u64 = id.as_str().parse().expect("our own number");
                if !self.agents.asked.contains_key(&(source, number)) {
                    return;
                }
                if response.status != Status::OK && !self.agents.running.contains_key(&source) {
                    // It has ended since it asked.
                    return;
                }
                if response.status != Status::OK {
                    self.agents.failed.push(response.status.code());
                    return;
                }
                self.agents.next_port += 1;
                let port = 30_000 + self.agents.next_port;
                self.message(agent, &format!("type: session_ack ~ message_id: {id} ~ source_service_name: x ~ source_service_instance_id: {source} ~ source_plug_port: {port} ~ status: 200"));
            }
            Message::SourceServiceSessionCloseRequest(request) => {
                let source = request.source_service_instance_id;
                if self.agents.deaf.contains(&source) {
                    return;
                }
                self.agents.closed += 1;
                self.message(
                    agent,
                    &format!("type: source_service_session_close_response ~ message_id: {id} ~ status: 200"),
                );
                let plug = request.source_plug_name.as_str();
                self.want(
                    source,
                    plug,
                    request.dest_service_name.as_str(),
                    request.dest_socket_name.as_str(),
                );
            }
            Message::DestServiceSessionCloseRequest(request) => {
                if self.agents.deaf.contains(&request.dest_service_instance_id) {
                    return;
                }
                self.agents.closed += 1;
                self.message(
                    agent,
                    &format!("type: dest_service_session_close_response ~ message_id: {id} ~ status: 200"),
                );
            }
            Message::GracefulShutdownRequest(request) => {
                if self.agents.deaf.contains(&request.service_instance_id) {
                    return;
                }
                self.agents.running.remove(&request.service_instance_id);
                self.message(
                    agent,
                    &format!("type: graceful_shutdown_response ~ message_id: {id} ~ status: 200"),
                );
            }
            Message::HardShutdownRequest(request) => {
                let instance = request.service_instance_id;
                self.agents.running.remove(&instance);
                self.message(agent, &format!("type: hard_shutdown_response ~ message_id: {id} ~ service_instance_id: {instance} ~ status: 200"));
            }
            Message::ServiceInstanceHealthRequest(request) => {
                let instance = request.service_instance_id;
                if !self.agents.deaf.contains(&instance) {
                    let status = if self.agents.overloaded.contains(&instance) { 199 } else { 200 };
                    self.message(agent, &format!("type: service_instance_health_response ~ message_id: {id} ~ service_instance_id: {instance} ~ status: {status}"));
                }
            }
            Message::AgentHealthControlRequest(_) => {
                self.message(agent, &format!("type: agent_health_control_response ~ message_id: {id} ~ agent_network_address: 10.0.0.{agent} ~ status: 200"));
            }
            _ => {}
        }
    }

    /// An instance asks for a session; it is acknowledged when everybody has obeyed.
    pub(super) fn want(&mut self, source: InstanceId, plug: &str, service: &str, socket: &str) {
        let Some(agent) = self.agents.running.get(&source).map(|process| process.agent) else { return };
        self.agents.next_id += 1;
        let id = 1_000 + self.agents.next_id;
        let wanted = Wanted { plug: plug.into(), service: service.into(), socket: socket.into() };
        self.agents.asked.insert((source, id), wanted.clone());
        let Wanted { plug, service, socket } = wanted;
        let of = self.engine.core.instance(source.0).map_or_else(|| "gate".into(), |i| i.service.to_string());
        self.message(agent, &format!(
            "type: session_request ~ message_id: {id} ~ sub_type: agent_to_Manager ~ source_service_name: {of} ~ source_service_instance_id: {source} ~ source_service_instance_network_address: 10.0.0.{agent} ~ source_plug_name: {plug} ~ dest_service_name: {service} ~ dest_socket_name: {socket}"
        ));
    }

    /// Some sessions, acknowledged.
    pub(super) fn sessions(
        &mut self,
        count: usize,
        source: InstanceId,
        plug: &str,
        service: &str,
        socket: &str,
    ) {
        for _ in 0..count {
            self.want(source, plug, service, socket);
            self.obey();
        }
    }

    /// An agent's connection is lost, and it registers again with what runs there.
    pub(super) fn reconnect(&mut self, old: u64, new: u64, services: &str) {
        self.handle(Event::Lost(Connection(old)));
        let mut running = Vec::new();
        for (id, process) in &mut self.agents.running {
            if process.agent == old {
                process.agent = new;
                running.push(format!("{}, {id}, {}", process.program, process.sockets));
            }
        }
        let running = running.join(" & ");
        self.message(new, &format!(
            "type: initiation_request ~ message_id: 1 ~ agent_network_address: 10.0.0.{old} ~ service_repository: ({services}) ~ x_node: n{old} ~ x_running: {running}"
        ));
    }

    /// Running instances of a service: id and node, in order.
    pub(super) fn of(&self, service: &str) -> Vec<(u64, String)> {
        let instances = self.engine.core.instances(None, false, Page::ALL).into_iter();
        instances.filter(|i| i.service == service && i.state == "running").map(|i| (i.id, i.node)).collect()
    }

    /// Open sessions to an instance's sockets.
    pub(super) fn accepted(&self, id: u64) -> usize {
        self.engine
            .core
            .sessions(None, false, Page::ALL)
            .iter()
            .filter(|session| session.destination.instance == id)
            .count()
    }

    pub(super) fn command(&mut self, command: Command) -> Result<patchbay_api::Done, Refusal> {
        self.handle(Event::Command(Ticket(7), command));
        self.answers.pop().expect("every command is answered")
    }

    pub(super) fn has_event(&self, kind: &str, text: &str) -> bool {
        self.events.iter().any(|(found, said)| found == kind && said.contains(text))
    }
}

impl Cluster {
    /// The next message that nobody has dealt with.
    pub(super) fn next(&mut self) -> Option<(Connection, Envelope)> {
        let next = self.sent.get(self.agents.seen).cloned();
        self.agents.seen += usize::from(next.is_some());
        next
    }

    pub(super) fn deal_with(&mut self, connection: Connection, envelope: &Envelope) {
        self.obey_one(connection.0, &envelope.message);
    }
}
