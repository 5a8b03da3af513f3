//! Agents register, are lost, return and are polled (section 4, 1, 2 and 15).

use std::collections::BTreeSet;

use patchbay_api::Traffic;
use ssmmp::{
    Address, AgentHealthControlRequest, Envelope, Hop, InitiationResponse, InstanceId, Message, Port,
    ServiceInstanceHealthRequest, Status,
};

use super::{Connection, Core, Effect, InstanceState, Millis, Node, Outstanding, Timer};

/// Polls that may go unanswered before a party counts as down.
const MISSES_ALLOWED: u32 = 3;
/// How long fresh counters are waited for, milliseconds.
const REFRESH_WAIT: Millis = 1_000;

impl Core {
    pub(super) fn node_of(&self, connection: Connection) -> Option<Address> {
        self.nodes.values().find(|node| node.connection == Some(connection)).map(|node| node.address)
    }

    /// Whether an agent may speak for an instance: it must be on its node.
    pub(super) fn speaks_for(&self, connection: Connection, id: InstanceId) -> bool {
        let node = self.node_of(connection);
        self.instances.get(&id).is_some_and(|instance| Some(instance.address) == node)
    }

    /// An agent registers, for the first time or again; the newer connection takes over.
    pub(super) fn register(&mut self, connection: Connection, envelope: &Envelope) {
        let Message::InitiationRequest(request) = &envelope.message else { return };
        let address = request.agent_network_address;
        let answer = |status| {
            let response = InitiationResponse { message_id: request.message_id, status };
            Effect::Send(connection, Envelope::new(response, Hop::ManagerToAgent))
        };
        if !address.is_known() {
            self.effect(answer(Status::BAD_REQUEST));
            return;
        }
        let earlier = self.nodes.get(&address).and_then(|node| node.connection);
        if let Some(earlier) = earlier.filter(|earlier| *earlier != connection) {
            self.effect(Effect::Close(earlier));
        }
        let name = envelope.extension("x_node").map_or_else(|| address.to_string(), str::to_owned);
        let mut node = Node::lost(address, self.now);
        node.name.clone_from(&name);
        node.connection = Some(connection);
        node.repository = request.service_repository.0.iter().cloned().collect();
        node.redirection = envelope.extension("x_redirection").unwrap_or("unknown").to_owned();
        let services = node.repository.len();
        self.nodes.insert(address, node);
        self.effect(answer(Status::OK));
        self.publish(
            "node-up",
            format!("node {name}"),
            format!("registered from {address} with {services} services"),
        );
        self.reconcile(address, envelope.extension("x_running").unwrap_or_default());
        self.keep_all_minimums();
        self.retry_waiting();
    }

    /// Compares what runs on a node with what should.
    fn reconcile(&mut self, address: Address, running: &str) {
        let reported: BTreeSet<InstanceId> = running
            .split('&')
            .filter_map(|item| item.split(',').nth(1)?.trim().parse().ok().map(InstanceId))
            .collect();
        let believed: Vec<(InstanceId, InstanceState)> = self
            .instances
            .values()
            .filter(|instance| instance.address == address && instance.state.is_alive())
            .map(|instance| (instance.id, instance.state))
            .collect();
        for (id, state) in &believed {
            match (reported.contains(id), state) {
                (true, InstanceState::Starting) => self.executed(*id, Status::OK, "", Vec::new()),
                (true, _) => {}
                (false, _) => {
                    self.instance_ended(*id, "it was not running when its agent returned", Vec::new())
                }
            }
        }
        for id in reported {
            if !believed.iter().any(|(known, _)| *known == id) {
                self.end_stranger(address, id, running);
            }
        }
    }

    /// An instance that runs and should not: nobody counts on it any more.
    fn end_stranger(&mut self, address: Address, id: InstanceId, running: &str) {
        let service = running.split('&').find_map(|item| {
            let mut parts = item.split(',').map(str::trim);
            let service = parts.next()?;
            (parts.next()?.parse() == Ok(id.0)).then(|| service.to_owned())
        });
        let Some(Ok(service_name)) = service.map(|name| ssmmp::Name::new(&name)) else { return };
        let request = ssmmp::HardShutdownRequest {
            message_id: self.message_id(),
            service_name,
            service_instance_id: id,
        };
        self.send_to(address, request, None);
    }

    /// An agent's connection ended; its instances go on, for now.
    pub(super) fn connection_lost(&mut self, connection: Connection) {
        let Some(address) = self.node_of(connection) else { return };
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&address) else { return };
        node.connection = None;
        node.since = now;
        let name = node.name.clone();
        self.publish("node-lost", format!("node {name}"), "its connection ended; its instances go on".into());
        self.at(now + self.config.agent_grace, Timer::NodeGrace(address));
    }

    /// A lost agent has not come back in time: its instances count as lost.
    pub(super) fn grace_ended(&mut self, address: Address) {
        let Some(node) = self.nodes.get(&address) else { return };
        if node.connection.is_some() || self.now < node.since + self.config.agent_grace {
            return;
        }
        let lost: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|instance| instance.address == address && instance.state.is_alive())
            .map(|instance| instance.id)
            .collect();
        for id in lost {
            self.instance_ended(id, "its node was lost", Vec::new());
        }
    }

    /// Asks every agent and every instance how it is.
    pub(super) fn poll_health(&mut self) {
        self.at(self.now + self.config.health_interval, Timer::Health);
        let nodes: Vec<Address> =
            self.nodes.values().filter(|n| n.connection.is_some()).map(|n| n.address).collect();
        for address in nodes {
            let Some(node) = self.nodes.get_mut(&address) else { continue };
            node.misses += 1;
            if node.misses > MISSES_ALLOWED
                && let Some(connection) = node.connection
            {
                self.effect(Effect::Close(connection));
                self.connection_lost(connection);
                continue;
            }
            let request =
                AgentHealthControlRequest { message_id: self.message_id(), agent_network_address: address };
            self.send_to(address, request, Some(Outstanding::AgentHealth(address, None)));
        }
        let running: Vec<InstanceId> =
            self.instances.values().filter(|i| i.state == InstanceState::Running).map(|i| i.id).collect();
        for id in running {
            self.poll_instance(id);
        }
        self.end_idle();
    }

    fn poll_instance(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        if self.nodes.get(&instance.address).is_none_or(|node| node.connection.is_none()) {
            return;
        }
        instance.misses += 1;
        let (address, misses) = (instance.address, instance.misses);
        if misses > MISSES_ALLOWED {
            self.publish(
                "instance-failed",
                format!("instance {id}"),
                "it does not answer; it is ended".into(),
            );
            self.force_end(id);
            return;
        }
        let request = ServiceInstanceHealthRequest {
            message_id: self.message_id(),
            service_instance_id: id,
            service_instance_network_address: address,
        };
        self.send_to(address, request, Some(Outstanding::InstanceHealth(id)));
    }

    pub(super) fn instance_health(&mut self, id: InstanceId, status: Status) {
        if let Some(instance) = self.instances.get_mut(&id)
            && (status.is_success() || status == Status::OVERLOADED)
        {
            instance.misses = 0;
            instance.overloaded = status == Status::OVERLOADED;
        }
    }

    /// An agent's answer, or its counters sent unasked.
    pub(super) fn agent_health(&mut self, connection: Connection, envelope: &Envelope) {
        let Some(address) = self.node_of(connection) else { return };
        if let Some(node) = self.nodes.get_mut(&address) {
            node.misses = 0;
        }
        for item in envelope.extension("x_sessions").unwrap_or_default().split('&') {
            self.session_counters(item);
        }
        let waits = self.outstanding.remove(&envelope.message.message_id());
        if let Some(Outstanding::AgentHealth(_, Some(ticket))) = waits
            && let Some(left) = self.refreshing.get_mut(&ticket)
        {
            *left -= 1;
            if *left == 0 {
                self.refreshed(ticket);
            }
        }
    }

    /// Asks all agents for fresh counters.
    pub(super) fn refresh(&mut self, ticket: u64) {
        let nodes: Vec<Address> =
            self.nodes.values().filter(|n| n.connection.is_some()).map(|n| n.address).collect();
        self.refreshing.insert(ticket, nodes.len());
        self.at(self.now + REFRESH_WAIT, Timer::Refresh(ticket));
        if nodes.is_empty() {
            self.refreshed(ticket);
        }
        for address in nodes {
            let request =
                AgentHealthControlRequest { message_id: self.message_id(), agent_network_address: address };
            self.send_to(address, request, Some(Outstanding::AgentHealth(address, Some(ticket))));
        }
    }

    pub(super) fn refreshed(&mut self, ticket: u64) {
        if self.refreshing.remove(&ticket).is_some() {
            self.effect(Effect::Refreshed(ticket));
        }
    }

    /// One item of `x_sessions` (docs/protocol.md).
    fn session_counters(&mut self, item: &str) {
        let parts: Vec<&str> = item.split(',').map(str::trim).collect();
        let [source, source_port, destination, destination_port, path, reason, counters @ .., state] =
            &parts[..]
        else {
            return;
        };
        let key = || {
            let address = |text: &str| text.parse().ok().map(|ip: std::net::IpAddr| Address::from(ip));
            let port = |text: &str| text.parse().ok().map(Port);
            Some((address(source)?, port(source_port)?, address(destination)?, port(destination_port)?))
        };
        let numbers: Vec<u64> = counters.iter().filter_map(|text| text.parse().ok()).collect();
        let (Some(key), [sk, st, rk, rt, smk, smt, rmk, rmt]) = (key(), &numbers[..]) else { return };
        let Some(session) = self.find_by_key(key) else { return };
        session.path = (*path).to_owned();
        session.reason = (*reason != "-").then(|| (*reason).to_owned());
        session.sent =
            Traffic { kernel_bytes: *sk, tcp_bytes: *st, kernel_messages: *smk, tcp_messages: *smt };
        session.received =
            Traffic { kernel_bytes: *rk, tcp_bytes: *rt, kernel_messages: *rmk, tcp_messages: *rmt };
        let id = session.id;
        self.effect(Effect::SaveSession(id));
        if *state == "closed" {
            self.session_closed(id, Status::CLOSED);
        }
    }
}
