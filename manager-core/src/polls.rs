//! When agents and instances are polled: the polls of many are spread over the interval; those of a node's
//! instances go out a few together, at other times than another node's.

use ssmmp::{Address, InstanceId};

use crate::graph::policy::Policy;
use crate::state::ManagerState;
use crate::state::timers::Timer;
use crate::time::Millis;

/// Polls of instances a second at most; when that is too few for the interval, the interval grows.
const POLLS_A_SECOND: u64 = 5_000;
/// Polls wait for each other so long, to be sent together, milliseconds.
const TOGETHER: Millis = 50;
/// Instances of a node that are polled at the same time, about.
const IN_ONE_GO: usize = 64;

/// Plans the first poll of a node that has registered.
pub(crate) fn plan_node_polls(core: &mut ManagerState, address: Address) {
    let at = next(core.now, core.config.health_interval, seed(address));
    plan_node_poll(core, address, at);
}

pub(crate) fn plan_node_poll(core: &mut ManagerState, address: Address, at: Millis) {
    let at = at.next_multiple_of(TOGETHER);
    if let Some(polls) = core.inventory.node_polls(address) {
        polls.next = at;
        core.at(at, Timer::PollNode(address));
    }
}

/// Plans the first poll of an instance that runs.
pub(crate) fn plan_instance_polls(core: &mut ManagerState, id: InstanceId) {
    plan_instance_polls_after(core, id, core.now);
}

pub(crate) fn plan_instance_polls_after(core: &mut ManagerState, id: InstanceId, after: Millis) {
    let Some(address) = core.inventory.instance(id).map(|instance| instance.address) else { return };
    let alive = core.inventory.on_node(address).map_or(0, |on_node| on_node.alive.len());
    let part = id.0 % alive.div_ceil(IN_ONE_GO).max(1) as u64;
    let at = next(after, instance_interval(core, id), seed(address).wrapping_add(part));
    plan_instance_poll(core, id, at);
}

fn plan_instance_poll(core: &mut ManagerState, id: InstanceId, at: Millis) {
    let at = at.next_multiple_of(TOGETHER);
    if core.inventory.change(id, |instance| instance.polls.next = at).is_some() {
        core.at(at, Timer::PollInstance(id));
    }
}

/// It grows in steps: polls that go out together stay together.
pub(crate) fn instance_interval(core: &ManagerState, id: InstanceId) -> Millis {
    let every = instance_policy(core, id).health.every.max(1);
    every.max((core.inventory.running() as u64 * 1_000 / POLLS_A_SECOND).next_multiple_of(every))
}

fn instance_policy(core: &ManagerState, id: InstanceId) -> Policy {
    let instance = core.inventory.instance(id);
    instance.map_or_else(
        || core.config.policy(),
        |instance| core.policy(instance.app.as_str(), instance.service.as_str()),
    )
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
