//! Agents and instances are polled (section 4, 15). The polls of many are spread over the interval: those
//! of a node's instances go out a few together, at other times than another node's.

use ssmmp::{Address, AgentHealthControlRequest, InstanceId, ServiceInstanceHealthRequest, Status};

use super::{Core, Effect, InstanceState, Millis, Timer};
use crate::graph::policy::Policy;

/// Polls that may go unanswered before a party counts as down.
const MISSES_ALLOWED: u32 = 3;
/// Polls of instances a second at most; when that is too few for the interval, the interval grows.
const POLLS_A_SECOND: u64 = 5_000;
/// Polls wait for each other so long, to be sent together, milliseconds.
const TOGETHER: Millis = 50;
/// Instances of a node that are polled at the same time, about.
const IN_ONE_GO: usize = 64;

impl Core {
    /// Plans the first poll of a node that has registered.
    pub(super) fn plan_node_polls(&mut self, address: Address) {
        let at = next(self.now, self.config.health_interval, seed(address));
        self.plan_node_poll(address, at);
    }

    fn plan_node_poll(&mut self, address: Address, at: Millis) {
        let at = at.next_multiple_of(TOGETHER);
        if let Some(polls) = self.inventory.node_polls(address) {
            polls.next = at;
            self.at(at, Timer::PollNode(address));
        }
    }

    /// Plans the first poll of an instance that runs.
    pub(super) fn plan_instance_polls(&mut self, id: InstanceId) {
        self.plan_instance_polls_after(id, self.now);
    }

    fn plan_instance_polls_after(&mut self, id: InstanceId, after: Millis) {
        let Some(address) = self.inventory.instance(id).map(|instance| instance.address) else { return };
        let alive = self.inventory.on_node(address).map_or(0, |on_node| on_node.alive.len());
        let part = id.0 % alive.div_ceil(IN_ONE_GO).max(1) as u64;
        let at = next(after, self.instance_interval(id), seed(address).wrapping_add(part));
        self.plan_instance_poll(id, at);
    }

    fn plan_instance_poll(&mut self, id: InstanceId, at: Millis) {
        let at = at.next_multiple_of(TOGETHER);
        if self.inventory.change(id, |instance| instance.polls.next = at).is_some() {
            self.at(at, Timer::PollInstance(id));
        }
    }

    /// It grows in steps: polls that go out together stay together.
    fn instance_interval(&self, id: InstanceId) -> Millis {
        let every = self.instance_policy(id).health.every.max(1);
        every.max((self.inventory.running() as u64 * 1_000 / POLLS_A_SECOND).next_multiple_of(every))
    }

    fn instance_policy(&self, id: InstanceId) -> Policy {
        let instance = self.inventory.instance(id);
        instance.map_or_else(
            || self.config.policy(),
            |instance| self.policy(instance.app.as_str(), instance.service.as_str()),
        )
    }

    /// Asks an agent how it is; one that left too many polls unanswered is cut off.
    pub(super) fn poll_node(&mut self, address: Address, at: Millis) {
        let Some(node) = self.inventory.node(address).filter(|node| node.polls.next == at) else { return };
        let (Some(connection), misses) = (node.connection, node.polls.misses) else { return };
        if misses >= MISSES_ALLOWED {
            self.effect(Effect::Close(connection));
            self.connection_lost(connection);
            return;
        }
        if let Some(polls) = self.inventory.node_polls(address) {
            polls.misses += 1;
        }
        let request =
            AgentHealthControlRequest { message_id: self.message_id(), agent_network_address: address };
        self.send_to(address, request, None);
        self.end_strangers(address);
        self.plan_node_poll(address, self.now + self.config.health_interval);
    }

    /// Asks an instance how it is, ends one that left too many polls unanswered, or that is idle.
    pub(super) fn poll_instance(&mut self, id: InstanceId, at: Millis) {
        let instance = self.inventory.instance(id).filter(|instance| instance.polls.next == at);
        let Some(instance) = instance.filter(|instance| instance.state == InstanceState::Running) else {
            return;
        };
        let (address, misses) = (instance.address, instance.polls.misses);
        let (app, service) = (instance.app.to_string(), instance.service.to_string());
        // Not sooner than that, though the interval may have changed: a poll gets time for its answer.
        self.plan_instance_polls_after(id, self.now + self.instance_interval(id) / 2);
        if self.inventory.node(address).is_some_and(|node| node.connection.is_some()) {
            if misses >= self.policy(&app, &service).health.misses {
                self.silent(id, misses);
                return;
            }
            self.inventory.change(id, |instance| instance.polls.misses += 1);
            let request = ServiceInstanceHealthRequest {
                message_id: self.message_id(),
                service_instance_id: id,
                service_instance_network_address: address,
            };
            self.send_to(address, request, None);
        }
        self.weigh_now_and_then(&app, &service);
    }

    /// Asks an instance how it is before its poll is due: its agent has come back and said nothing of it.
    pub(super) fn ask_health_now(&mut self, id: InstanceId) {
        let Some(address) = self.inventory.change(id, |instance| {
            instance.polls.misses = 0;
            instance.address
        }) else {
            return;
        };
        let request = ServiceInstanceHealthRequest {
            message_id: self.message_id(),
            service_instance_id: id,
            service_instance_network_address: address,
        };
        self.send_to(address, request, None);
    }

    /// An instance left too many polls unanswered: it counts as failed (M6).
    fn silent(&mut self, id: InstanceId, misses: u32) {
        let text = format!("it left {misses} health polls unanswered ({})", Status::NO_ANSWER);
        let service = self.inventory.change(id, |instance| {
            instance.stopping.failed = true;
            instance.reason = Some(text.clone());
            instance.service.clone()
        });
        let Some(service) = service else { return };
        self.publish("instance-silent", format!("instance {id} ({service})"), text);
        self.force_end(id);
    }

    /// An instance has answered, whichever poll it was.
    pub(super) fn instance_health(&mut self, id: InstanceId, status: Status) {
        if !status.is_success() && status != Status::OVERLOADED {
            return;
        }
        let (now, is_overloaded) = (self.now, status == Status::OVERLOADED);
        let before = self.inventory.change(id, |instance| {
            instance.polls.misses = 0;
            instance.polls.healthy = now;
            instance.overloads = if is_overloaded { instance.overloads.saturating_add(1) } else { 0 };
            let was = std::mem::replace(&mut instance.overloaded, is_overloaded);
            (was, instance.overloads, instance.app.to_string(), instance.service.to_string())
        });
        let Some((was_overloaded, overloads, app, service)) = before else { return };
        if is_overloaded && !was_overloaded {
            let text = "it answers 199 and gets no new sessions while another can take them";
            self.publish("instance-overloaded", format!("instance {id} ({service})"), text.into());
        }
        if is_overloaded {
            self.weigh_after_overload(&app, &service, overloads);
        }
    }
}

fn seed(address: Address) -> u64 {
    match address.0 {
        std::net::IpAddr::V4(v4) => u64::from(v4.to_bits()),
        std::net::IpAddr::V6(v6) => v6.to_bits() as u64,
    }
}

/// The next time for who has a seed, an interval from now at most: the same for all with the same seed
/// and interval.
fn next(now: Millis, interval: Millis, seed: u64) -> Millis {
    let interval = interval.max(1);
    // Fibonacci hashing: neighbours come to lie far apart.
    let phase = ((seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) * interval) >> 32;
    (now + 1).saturating_sub(phase).div_ceil(interval) * interval + phase
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn polls_keep_their_distance_whatever_becomes_of_the_interval(
            begin in 0u64..1_000_000_000,
            intervals in prop::collection::vec(1u64..60_000, 1..20),
            seed in any::<u64>(),
        ) {
            let mut now = begin;
            for interval in intervals {
                let at = next(now + interval / 2, interval, seed);
                prop_assert!(at > now + interval / 2 && at <= now + interval / 2 + interval, "{now} {interval} {at}");
                prop_assert_eq!(next(at + interval / 2, interval, seed), at + interval, "the same phase");
                now = at;
            }
        }
    }
}
