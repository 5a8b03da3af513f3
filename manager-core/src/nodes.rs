//! Agents register, are lost and return (section 4, 1 and 2).

use std::collections::{BTreeMap, HashMap};

use ssmmp::extension::{
    self, Extension as _, Reason, Redirection, Running, RunningMore, Secret, Time, Unavailable,
    UnlimitedInstances, Version,
};
use ssmmp::{Address, Envelope, Hop, InitiationResponse, InstanceId, Message, MessageId, Name, Status};

use super::row::Key;
use super::{Connection, Core, Effect, Identity, Node, SecretHash, Timer};

/// Nodes that are known at once; a new one beyond is refused with 503.
pub const MAX_NODES: usize = 12_000;
/// Lost nodes without instances that stay known; of more, those are forgotten that are known for the shortest time.
pub const MAX_LOST: usize = 1_000;
/// What one agent may tell of its instances in parts before it registers, bytes; more is refused with 400.
const MAX_PARTS: usize = 512 * 1024;
/// What all agents may have told so, bytes; more is refused with 503, and comes again.
const MAX_PARTS_OF_ALL: usize = 128 * 1024 * 1024;
/// Services of which an agent may say why it can't execute them; further ones are just not there.
const MAX_UNAVAILABLE: usize = 16;
/// Longest name or reason of a node that is kept, in characters.
const LONGEST_TEXT: usize = 200;

/// Why a registration is refused.
type Refused = (Status, String);

/// What agents that are about to register have told of their instances so far (docs/protocol.md).
#[derive(Debug, Default)]
pub(crate) struct Parts {
    of: HashMap<Connection, String>,
    bytes: usize,
}

impl Parts {
    fn keep(&mut self, connection: Connection, items: &str) -> Result<(), Status> {
        let told = self.of.get(&connection).map_or(0, String::len);
        if told + items.len() > MAX_PARTS {
            return Err(Status::BAD_REQUEST);
        }
        if self.bytes + items.len() > MAX_PARTS_OF_ALL {
            return Err(Status::UNAVAILABLE);
        }
        let kept = self.of.entry(connection).or_default();
        kept.push_str(items);
        kept.push('&');
        self.bytes += items.len() + 1;
        Ok(())
    }

    /// Whether an agent has told parts, and what.
    fn of(&self, connection: Connection) -> &str {
        self.of.get(&connection).map_or("", String::as_str)
    }

    fn take(&mut self, connection: Connection) -> String {
        let told = self.of.remove(&connection).unwrap_or_default();
        self.bytes -= told.len();
        told
    }
}

impl Core {
    /// Whether an agent may speak for an instance: it must be on its node, and not over.
    pub(super) fn speaks_for(&self, connection: Connection, id: InstanceId) -> bool {
        let node = self.inventory.node_of(connection);
        self.inventory.instance(id).is_some_and(|i| Some(i.address) == node && i.state.is_alive())
    }

    /// A node whose instances were read back from disk is expected to return.
    pub(super) fn expect_node(&mut self, address: Address) {
        if self.inventory.node(address).is_none() {
            self.inventory.put_node(Node::lost(address, self.now));
            self.at(self.now + self.config.agent_grace, Timer::NodeGrace(address));
        }
    }

    /// An agent registers, for the first time or again; an earlier connection is probed first.
    pub(super) fn register(&mut self, connection: Connection, envelope: &Envelope) {
        let Message::InitiationRequest(request) = &envelope.message else { return };
        let (address, message_id) = (request.agent_network_address, request.message_id);
        let name = envelope.line().map_or_else(|| address.to_string(), |extension::Node(name)| short(name));
        if let Some(owner) = self.ownership.of_node(&name, address) {
            let answer = owner.answer_to(message_id, &name);
            self.effect(Effect::Send(connection, answer));
            self.effect(Effect::Close(connection));
            return;
        }
        let running = envelope.extension(Running::NAME);
        if envelope.line::<RunningMore>().is_some() {
            match self.parts.keep(connection, running.unwrap_or_default()) {
                Ok(()) => self.accept(connection, message_id, Status::CONTINUE),
                Err(status) => {
                    let reason = "it tells more of its instances than is kept of one registration";
                    self.refuse_registration(connection, message_id, &name, (status, reason.into()));
                }
            }
            return;
        }
        let secret = envelope.line().map(|Secret(secret)| secret);
        let admitted = self.admit(address, &name, secret).and_then(|secret| {
            let told = [self.parts.of(connection), running.unwrap_or_default()];
            let strangers = self.strangers_in(address, &told);
            self.inventory.room_for(address, request.service_repository.0.len(), strangers)?;
            Ok(secret)
        });
        let secret = match admitted {
            Ok(secret) => secret,
            Err(refused) => {
                self.refuse_registration(connection, message_id, &name, refused);
                return;
            }
        };
        let earlier = self.inventory.node(address);
        if earlier.and_then(|node| node.connection).is_some_and(|earlier| earlier != connection) {
            self.probe(address, connection, envelope.clone());
            return;
        }
        // The agent tells of another repository; what is on its way to it is not lost.
        let again = earlier.is_some_and(|node| node.connection == Some(connection));
        let mut node = Node::lost(address, self.now);
        node.first = earlier.map_or(self.now, |node| node.first);
        node.ending = again && self.inventory.is_ending(address);
        node.name.clone_from(&name);
        node.connection = Some(connection);
        node.secret = secret;
        node.polls.healthy = self.now;
        node.repository = request.service_repository.0.iter().cloned().collect();
        node.redirection = envelope.line::<Redirection>().map_or("unknown".into(), |told| short(told.text()));
        node.version = envelope.line().map(|Version(version)| short(version)).unwrap_or_default();
        node.clock_ahead = self.clock_ahead(envelope);
        node.unavailable = unavailable(envelope);
        let services = node.repository.len();
        if !again {
            self.answers.forget(address);
        }
        self.inventory.put_node(node);
        self.save(Key::Node(address));
        self.plan_node_polls(address);
        self.accept(connection, message_id, Status::OK);
        let kind = if again { "node-changed" } else { "node-up" };
        self.publish(
            kind,
            format!("node {name}"),
            format!("registered from {address} with {services} services"),
        );
        if !again {
            self.expect_sessions(connection);
        }
        let parts = self.parts.take(connection);
        match running {
            Some(running) => self.reconcile(address, &(parts + running), again),
            None => self.reconcile_untold(address),
        }
        self.hear_unlimited(address, envelope);
        self.settle_all();
        self.retry_all_waiting();
    }

    /// How far the clock of who sent this is ahead, if it says its time.
    pub(super) fn clock_ahead(&self, envelope: &Envelope) -> Option<i64> {
        let Time(there) = envelope.line()?;
        there.checked_sub_unsigned(self.now)
    }

    /// Limits of instances that their agent could not apply; it speaks for its own.
    fn hear_unlimited(&mut self, address: Address, envelope: &Envelope) {
        let Some(UnlimitedInstances(told)) = envelope.line() else { return };
        for (id, text) in told {
            if self.inventory.instance(id).is_some_and(|instance| instance.address == address) {
                self.note_unlimited(id, &text);
            }
        }
    }

    fn accept(&mut self, connection: Connection, message_id: MessageId, status: Status) {
        let response = InitiationResponse { message_id, status };
        let envelope = Envelope::new(response, Hop::ManagerToAgent);
        self.effect(Effect::Send(connection, Identity::add(self.identity.as_ref(), envelope)));
    }

    /// Refuses a registration, says why to the agent and to people, and ends its connection: it comes again.
    pub(super) fn refuse_registration(
        &mut self,
        connection: Connection,
        message_id: MessageId,
        name: &str,
        (status, reason): Refused,
    ) {
        let response = InitiationResponse { message_id, status };
        let envelope = Envelope::new(response, Hop::ManagerToAgent).with(Reason(&reason));
        self.effect(Effect::Send(connection, Identity::add(self.identity.as_ref(), envelope)));
        self.effect(Effect::Close(connection));
        if self.may_publish_refusal() {
            self.publish("node-refused", format!("node {name}"), format!("{status}: {reason}"));
        }
    }

    /// Whether an agent may be the one of an address and a name: it knows the secret that they are bound to, if
    /// they are. Returns what the node is bound to from now on.
    fn admit(
        &mut self,
        address: Address,
        name: &str,
        told: Option<&str>,
    ) -> Result<Option<SecretHash>, Refused> {
        if !address.is_known() {
            return Err((
                Status::BAD_REQUEST,
                "a node needs an address that its instances can be reached at".into(),
            ));
        }
        let secret = told.and_then(SecretHash::of);
        if told.is_some() && secret.is_none() {
            return Err((Status::BAD_REQUEST, "x_secret must be 32 to 128 letters and digits".into()));
        }
        if name.parse::<std::net::IpAddr>().is_ok_and(|other| Address::from(other) != address) {
            let text = format!("the name {name} is another node's address; choose another with --node");
            return Err((Status::BAD_REQUEST, text));
        }
        if self.inventory.node(address).is_none() && self.inventory.known() >= MAX_NODES {
            self.forget_lost_nodes();
        }
        let node = self.inventory.node(address);
        if node.is_none() && self.inventory.known() >= MAX_NODES {
            return Err((Status::UNAVAILABLE, format!("{MAX_NODES} nodes are known already")));
        }
        let bound = node.and_then(|node| node.secret);
        if let Some(node) = node.filter(|_| bound.is_some() && bound != secret) {
            let text = format!(
                "{address} is node {}'s, whose agent keeps its secret in its state folder, and this is another one: start it with that folder, or, where that is lost, have `patchbay forget {}` done first",
                node.name, node.name
            );
            return Err((Status::FORBIDDEN, text));
        }
        let owner = self
            .inventory
            .nodes()
            .find(|node| node.address != address && node.name == name && node.secret.is_some());
        let Some(owner) = owner else { return Ok(secret) };
        let elsewhere = owner.address;
        if owner.secret != secret {
            let text =
                format!("the name {name} belongs to the node at {elsewhere}; choose another with --node");
            return Err((Status::FORBIDDEN, text));
        }
        if owner.connection.is_some() {
            let text = format!(
                "the agent of node {name} is connected, with the address {elsewhere}: two agents have one state folder"
            );
            return Err((Status::CONFLICT, text));
        }
        // It has another address now: the earlier one is nobody's.
        self.inventory.unbind(elsewhere);
        self.save(Key::Node(elsewhere));
        Ok(secret)
    }

    /// Forgets a lost node, its secret too: whoever registers with its address or name next is it.
    pub(super) fn forget_node(&mut self, address: Address) {
        let lost = self.living_on(address);
        self.lost_with_node(lost, "its node was forgotten on request");
        self.inventory.forget_node(address);
        self.drained.remove(&address);
        self.save(Key::Node(address));
    }

    /// Lost nodes are remembered for people, so many of them.
    pub(super) fn forget_lost_nodes(&mut self) {
        for address in self.inventory.forget_lost(MAX_LOST) {
            self.save(Key::Node(address));
        }
    }

    /// An agent's connection ended; its instances go on, for now.
    pub(super) fn connection_lost(&mut self, connection: Connection) {
        self.candidate_lost(connection);
        self.parts.take(connection);
        let Some(address) = self.inventory.node_of(connection) else { return };
        let now = self.now;
        self.told.remove(&connection);
        self.answers.forget(address);
        self.inventory.disconnect(address, now);
        if self.inventory.is_ending(address) {
            self.node_ended(address);
            self.take_over(address);
            return;
        }
        let name = self.inventory.node(address).map(|node| node.name.clone()).unwrap_or_default();
        self.publish("node-lost", format!("node {name}"), "its connection ended; its instances go on".into());
        self.at(now + self.config.agent_grace, Timer::NodeGrace(address));
        self.take_over(address);
    }

    /// A lost agent has not come back in time: its instances count as lost.
    pub(super) fn grace_ended(&mut self, address: Address) {
        let Some(node) = self.inventory.node(address) else { return };
        if node.connection.is_some() || self.now < node.since + self.config.agent_grace {
            return;
        }
        let lost = self.living_on(address);
        for id in &lost {
            self.close_surviving_ends(*id);
        }
        self.lost_with_node(lost, "its node was lost");
        self.inventory.forget_told(address);
        self.forget_lost_nodes();
    }
}

/// An agent's text, no longer than is kept.
fn short(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}

/// What an agent can't execute of its repository, and why.
fn unavailable(envelope: &Envelope) -> BTreeMap<Name, String> {
    let told = envelope.line().map(|Unavailable(told)| told).unwrap_or_default();
    told.into_iter().take(MAX_UNAVAILABLE).map(|(name, reason)| (name, short(&reason))).collect()
}
