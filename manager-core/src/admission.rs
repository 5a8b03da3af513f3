//! Whether an agent may be the one of a node, and how it is told (section 4, 1; docs/protocol.md).

use ssmmp::extension::Reason;
use ssmmp::{Address, Envelope, Hop, InitiationResponse, MessageId, Status};

use crate::events::Effect;
use crate::row::Key;
use crate::state::ManagerState;
use crate::state::node::Connection;
use crate::state::ownership::Identity;
use crate::state::secret::SecretHash;

/// Nodes that are known at once; a new one beyond is refused with 503.
pub const MAX_NODES: usize = 12_000;
/// Lost nodes without instances that stay known; of more, those are forgotten that are known for the shortest time.
pub const MAX_LOST: usize = 1_000;

/// Why a registration is refused.
pub(crate) type Refused = (Status, String);

pub(crate) fn accept(core: &mut ManagerState, connection: Connection, message_id: MessageId, status: Status) {
    let response = InitiationResponse { message_id, status };
    let envelope = Envelope::new(response, Hop::ManagerToAgent);
    core.effect(Effect::Send(connection, Identity::add(core.identity.as_ref(), envelope)));
}

/// Refuses a registration, says why to the agent and to people, and ends its connection: it comes again.
pub(crate) fn refuse_registration(
    core: &mut ManagerState,
    connection: Connection,
    message_id: MessageId,
    name: &str,
    (status, reason): Refused,
) {
    let response = InitiationResponse { message_id, status };
    let envelope = Envelope::new(response, Hop::ManagerToAgent).with(Reason(&reason));
    core.effect(Effect::Send(connection, Identity::add(core.identity.as_ref(), envelope)));
    core.effect(Effect::Close(connection));
    if core.may_publish_refusal() {
        core.publish("node-refused", format!("node {name}"), format!("{status}: {reason}"));
    }
}

/// Whether an agent may be the one of an address and a name: it knows the secret that they are bound to, if
/// they are. Returns what the node is bound to from now on.
pub(crate) fn admit(
    core: &mut ManagerState,
    address: Address,
    name: &str,
    told: Option<&str>,
) -> Result<Option<SecretHash>, Refused> {
    if !address.is_known() || address.0.is_multicast() {
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
    if core.inventory.node(address).is_none() && core.inventory.known() >= MAX_NODES {
        forget_lost_nodes(core);
    }
    let node = core.inventory.node(address);
    if node.is_none() && core.inventory.known() >= MAX_NODES {
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
    let owner = core
        .inventory
        .nodes()
        .find(|node| node.address != address && node.name == name && node.secret.is_some());
    let Some(owner) = owner else { return Ok(secret) };
    let elsewhere = owner.address;
    if owner.secret != secret {
        let text = format!("the name {name} belongs to the node at {elsewhere}; choose another with --node");
        return Err((Status::FORBIDDEN, text));
    }
    if owner.connection.is_some() {
        let text = format!(
            "the agent of node {name} is connected, with the address {elsewhere}: two agents have one state folder"
        );
        return Err((Status::CONFLICT, text));
    }
    // It has another address now: the earlier one is nobody's.
    core.inventory.unbind(elsewhere);
    core.save(Key::Node(elsewhere));
    Ok(secret)
}

/// Lost nodes are remembered for people, so many of them.
pub(crate) fn forget_lost_nodes(core: &mut ManagerState) {
    for address in core.inventory.forget_lost(MAX_LOST) {
        core.save(Key::Node(address));
    }
}
