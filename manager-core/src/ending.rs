//! An agent announces its end (`x_ending`, docs/protocol.md): nothing is placed on its node from that moment,
//! what is needed is started elsewhere at once, and what runs there is shut down in order while its agent
//! still waits. An end that somebody asked for is never a failure: no budget of restarts is touched.

use ssmmp::extension::Ending;
use ssmmp::{Address, Envelope, InstanceId};

use super::execution::{Begun, Start};
use super::{Core, InstanceState, Millis, Timer};
use crate::graph::State;

/// Why its instances end.
pub(super) const WHY: &str = "its agent ends";
/// Longest time that an agent may say it waits, milliseconds.
const LONGEST: Millis = 3_600_000;

impl Core {
    /// An agent may say with any answer that it ends.
    pub(super) fn hear_ending(&mut self, address: Address, envelope: &Envelope) {
        if let Some(Ending(within)) = envelope.line() {
            self.node_ends(address, within.min(LONGEST));
        }
    }

    /// An agent ends after so many milliseconds at the latest.
    fn node_ends(&mut self, address: Address, within: Millis) {
        if !self.inventory.begin_end(address) {
            return;
        }
        let name = self.inventory.node(address).map(|node| node.name.clone()).unwrap_or_default();
        let text = format!(
            "its agent was told to end: what is needed is started elsewhere, then its instances end; {} ms at most",
            within
        );
        self.publish("node-ending", format!("node {name}"), text);
        // The second half is for shutting down.
        self.at(self.now + within / 2, Timer::NodeEnds(address));
        self.look_through_node(address);
        for id in self.living_on(address) {
            self.leave_ending_node(id);
        }
        self.stop_what_holds_state(address);
        self.settle_all();
    }

    /// An instance whose node ends: a replacement first where one is needed and has a place.
    fn leave_ending_node(&mut self, id: InstanceId) {
        let Some(instance) = self.inventory.instance(id) else { return };
        let (app, service, state) = (instance.app.to_string(), instance.service.to_string(), instance.state);
        let is_used = !instance.sessions.is_empty();
        let known = self.apps.get(&app).filter(|app| !app.stopped).and_then(|app| app.service(&service));
        match (state, known.map(|vertex| vertex.state)) {
            (InstanceState::Stopping, _) => {}
            // Those who need it end first.
            (InstanceState::Running, Some(State::Node)) => {}
            (InstanceState::Running, Some(State::Shared)) if is_used || self.is_short(&app, &service) => {
                let start = Start { replaces: Some(id), ..Start::default() };
                if self.start(&app, &service, start) != Begun::Yes {
                    self.stop_instance(id, WHY);
                }
            }
            _ => self.stop_instance(id, WHY),
        }
    }

    /// Whether a service has fewer instances than it should where no agent ends.
    fn is_short(&self, app: &str, service: &str) -> bool {
        let of_service = self.inventory.of_service(app, service);
        let stay = of_service.into_iter().flat_map(|of_service| &of_service.alive).filter(|id| {
            self.inventory.instance(**id).is_some_and(|instance| {
                instance.state != InstanceState::Stopping && !self.inventory.is_ending(instance.address)
            })
        });
        (stay.count() as u32) < self.bounds(app, service).0
    }

    /// Half of the time is over: what still runs there is shut down now, replaced or not.
    pub(super) fn end_node_now(&mut self, address: Address) {
        if self.inventory.is_ending(address) {
            for id in self.living_on(address) {
                self.stop_instance(id, WHY);
            }
        }
    }

    /// Stops the instances that hold their state on an ending node once no others run there.
    pub(super) fn stop_what_holds_state(&mut self, address: Address) {
        if !self.inventory.is_ending(address) {
            return;
        }
        let (holders, others): (Vec<InstanceId>, Vec<InstanceId>) =
            self.living_on(address).into_iter().partition(|id| self.holds_state_there(*id));
        if others.is_empty() {
            for id in holders {
                self.stop_instance(id, WHY);
            }
        }
    }

    fn holds_state_there(&self, id: InstanceId) -> bool {
        let Some(instance) = self.inventory.instance(id) else { return false };
        let app = self.apps.get(instance.app.as_str());
        app.and_then(|app| app.service(instance.service.as_str()))
            .is_some_and(|vertex| vertex.state == State::Node)
    }

    /// The connection of an agent that had announced its end is gone: it is over there, nobody is waited for.
    pub(super) fn node_ended(&mut self, address: Address) {
        let name = self.inventory.node(address).map(|node| node.name.clone()).unwrap_or_default();
        self.publish("node-ended", format!("node {name}"), "its agent has ended, as it was told to".into());
        let left = self.living_on(address);
        for id in &left {
            self.close_surviving_ends(*id);
        }
        self.lost_with_node(left, WHY);
    }
}
