//! Which Manager owns what, when there are several (P1, P3): declared, the same for all of them. An
//! application and a node belong to one Manager; what nobody is named for belongs to whoever gets it.

use std::net::{IpAddr, SocketAddr};

use ssmmp::extension::{Epoch, Manager, ManagerAddress, Reason};
use ssmmp::{Address, Envelope, Hop, InitiationResponse, MessageId, Status};

/// Who a Manager is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Made at the database's first start; a restored backup keeps it.
    pub id: String,
    /// Larger at every start: an agent that has registered with a later start of a Manager refuses an
    /// earlier one, which may still run somewhere.
    pub epoch: u64,
}

impl Identity {
    /// Adds the lines that say who answers, when that is known.
    pub fn add(identity: Option<&Self>, answer: Envelope) -> Envelope {
        let Some(Self { id, epoch }) = identity else { return answer };
        answer.with(Manager(id)).with(Epoch(*epoch))
    }
}

/// Another Manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Where its agents connect.
    pub agents: SocketAddr,
    /// Where its HTTP API is, without a slash at the end.
    pub http: String,
    /// Applications it owns.
    pub apps: Vec<String>,
    /// Nodes it owns, by name or address.
    pub nodes: Vec<String>,
}

impl Peer {
    /// The answer to the registration of one of its nodes.
    pub fn answer_to(&self, message_id: MessageId, node: &str) -> Envelope {
        let response = InitiationResponse { message_id, status: Status::OTHER_MANAGER };
        Envelope::new(response, Hop::ManagerToAgent)
            .with(ManagerAddress(self.agents))
            .with(Reason(&format!("the node {node} belongs to the Manager {}", self.name)))
    }
}

/// What the other Managers own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ownership {
    /// All but this one.
    pub others: Vec<Peer>,
}

impl Ownership {
    /// The other Manager that owns an application.
    pub fn of_app(&self, app: &str) -> Option<&Peer> {
        self.others.iter().find(|peer| peer.apps.iter().any(|owned| owned == app))
    }

    /// The other Manager that owns a node.
    pub fn of_node(&self, name: &str, address: Address) -> Option<&Peer> {
        let is = |owned: &String| {
            owned == name || owned.parse::<IpAddr>().is_ok_and(|owned| Address::from(owned) == address)
        };
        self.others.iter().find(|peer| peer.nodes.iter().any(is))
    }
}
