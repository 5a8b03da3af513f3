//! The state as tests and simulations see it.

use ssmmp::Address;

use crate::Core;
use crate::state::app::App;
use crate::state::instance::Instance;
use crate::state::node::Node;
use crate::state::session::Session;

impl Core {
    /// Every application, by name.
    pub fn every_app(&self) -> impl Iterator<Item = (&String, &App)> {
        self.state.apps.iter()
    }

    /// Every node that has ever registered or has instances.
    pub fn every_node(&self) -> impl Iterator<Item = &Node> {
        self.state.inventory.nodes()
    }

    /// A node, connected or lost.
    pub fn node(&self, address: Address) -> Option<&Node> {
        self.state.inventory.node(address)
    }

    /// Whether nothing is executed on a node.
    pub fn is_drained(&self, address: Address) -> bool {
        self.state.drained.contains(&address)
    }

    /// Every instance, the remembered ones too.
    pub fn every_instance(&self) -> impl Iterator<Item = &Instance> {
        self.state.inventory.instances()
    }

    /// Every session, the remembered ones too.
    pub fn every_session(&self) -> impl Iterator<Item = &Session> {
        self.state.sessions.iter()
    }

    /// Session requests that wait for an instance to start.
    pub fn waiting_requests(&self) -> usize {
        self.state.apps.values().flat_map(|app| app.services.values()).map(|state| state.waiting.len()).sum()
    }
}
