//! What must hold at every moment, and once everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use patchbay_manager_core::graph::Kind;
use patchbay_manager_core::{Core, InstanceState, SessionState};
use ssmmp::InstanceId;

use crate::network::Connection;
use crate::schedule::Millis;
use crate::world::World;

/// A request may wait so long for its answer once nothing goes wrong, milliseconds.
const ANSWER_WITHIN: Millis = 60_000;
/// A connection that its program does not acknowledge may stand so long, milliseconds.
const ACKNOWLEDGED_WITHIN: Millis = 15_000;
/// An instance may be idle so long beyond its time once nothing goes wrong, milliseconds.
const IDLE_SLACK: Millis = 120_000;

/// Belief at every moment.
///
/// # Errors
/// What does not hold.
pub fn at_every_moment(core: &Core) -> Result<(), String> {
    let mut ports = BTreeMap::new();
    let mut alive = BTreeMap::new();
    for instance in core.every_instance().filter(|instance| instance.state.is_alive()) {
        alive.insert(instance.id, instance);
        for (_, port) in &instance.sockets {
            if let Some(other) = ports.insert((instance.address, *port), instance.id) {
                return Err(format!("instances {other} and {} both have port {port}", instance.id));
            }
        }
    }
    let mut keys = BTreeMap::new();
    for session in core.every_session().filter(|session| session.state != SessionState::Closed) {
        for end in [session.source, session.destination] {
            if !alive.contains_key(&end) {
                return Err(format!(
                    "session {} is {:?}, its instance {end} is not alive",
                    session.id, session.state
                ));
            }
        }
        if let Some(key) = session.key()
            && let Some(other) = keys.insert(key, session.id)
        {
            return Err(format!("sessions {other} and {} are the same connection", session.id));
        }
    }
    Ok(())
}

impl World {
    /// Everything has come to rest: what is believed is real.
    ///
    /// # Errors
    /// What does not hold.
    pub fn at_rest(&self) -> Result<(), String> {
        let core = self.manager.core().ok_or("the Manager does not run")?;
        self.nodes_agree(core)?;
        self.sessions_agree(core)?;
        self.all_are_answered(core)?;
        minimums_are_met(core)?;
        self.idle_ones_end(core)
    }

    fn nodes_agree(&self, core: &Core) -> Result<(), String> {
        for (index, node) in self.nodes.iter().enumerate() {
            let agent = node.agent.as_ref().ok_or_else(|| format!("agent {index} does not run"))?;
            if !agent.core().is_registered() {
                return Err(format!("agent {index} is not registered"));
            }
            let real: BTreeSet<InstanceId> =
                self.processes.values().filter(|p| p.node == index).map(|p| p.start.id).collect();
            let known: BTreeSet<InstanceId> = agent.core().instance_ids().into_iter().collect();
            let believed: BTreeSet<InstanceId> = core
                .every_instance()
                .filter(|i| i.address == node.address && i.state.is_alive())
                .map(|i| i.id)
                .collect();
            if real != known {
                return Err(format!("node {index} runs {real:?}, its agent knows {known:?}"));
            }
            if real != believed {
                return Err(format!("node {index} runs {real:?}, the Manager believes {believed:?}"));
            }
        }
        let unsettled = core
            .every_instance()
            .find(|i| matches!(i.state, InstanceState::Starting | InstanceState::Stopping));
        match unsettled {
            Some(i) => Err(format!("instance {} ({}) is still {}", i.id, i.service, i.state.as_str())),
            None => Ok(()),
        }
    }

    fn sessions_agree(&self, core: &Core) -> Result<(), String> {
        let real: BTreeSet<_> = self
            .connections
            .values()
            .filter(|c| c.acknowledged)
            .map(|c| (c.from.to_string(), c.at.to_string(), c.instances))
            .collect();
        let believed: BTreeSet<_> = core
            .every_session()
            .filter(|s| s.state == SessionState::Open)
            .map(|s| {
                let at = |address: ssmmp::Address, port: ssmmp::Port| {
                    std::net::SocketAddr::new(address.0, port.0).to_string()
                };
                let (from, to) =
                    (at(s.source_address, s.source_port), at(s.destination_address, s.destination_port));
                (from, to, (s.source, s.destination))
            })
            .collect();
        if let Some(unknown) = real.difference(&believed).next() {
            return Err(format!("the Manager does not know the session {unknown:?}"));
        }
        let late = self.schedule.now.saturating_sub(ACKNOWLEDGED_WITHIN);
        let nobodys = |c: &&Connection| {
            let key = (c.from.to_string(), c.at.to_string(), c.instances);
            c.declared.is_some() && !c.acknowledged && c.made < late && !believed.contains(&key)
        };
        if let Some(c) = self.connections.values().find(nobodys) {
            return Err(format!(
                "the connection from {} to {} is never acknowledged and stays",
                c.from, c.at
            ));
        }
        let acknowledged_or_not: BTreeSet<_> =
            self.connections.values().map(|c| (c.from.to_string(), c.at.to_string(), c.instances)).collect();
        if let Some(over) = believed.difference(&acknowledged_or_not).next() {
            return Err(format!("the Manager believes in the session {over:?}, which is over"));
        }
        match core.every_session().find(|s| s.state == SessionState::Pending) {
            Some(session) => Err(format!("session {} is still pending", session.id)),
            None => Ok(()),
        }
    }

    fn all_are_answered(&self, core: &Core) -> Result<(), String> {
        for process in self.processes.values() {
            let forgotten = process.asked.iter().find(|(_, asked)| {
                asked.answered == 0 && self.schedule.now > asked.at.max(self.quiet_since) + ANSWER_WITHIN
            });
            if let Some((id, asked)) = forgotten {
                return Err(format!(
                    "instance {} was never answered to its request {id} for its plug {} of {} ms",
                    process.start.id, asked.plug, asked.at
                ));
            }
        }
        match core.waiting_requests() {
            0 => Ok(()),
            waiting => Err(format!("{waiting} requests still wait in the Manager")),
        }
    }

    fn idle_ones_end(&self, core: &Core) -> Result<(), String> {
        if self.plan.instances > 100 {
            return Ok(());
        }
        let config = crate::manager::Manager::config();
        let since = self.quiet_since + config.idle_timeout + IDLE_SLACK;
        for (name, app) in core.every_app() {
            for (service, vertex) in app.graph.services.iter().filter(|(_, v)| v.kind == Kind::Regular) {
                let all: Vec<_> = core
                    .every_instance()
                    .filter(|i| i.app.as_str() == name && i.service.as_str() == service && i.state.is_alive())
                    .collect();
                let idle =
                    all.iter().find(|i| !self.sessions_touch(core, i.id, since) && self.schedule.now > since);
                if let Some(idle) = idle
                    && all.len() > vertex.least as usize
                {
                    return Err(format!("instance {} ({service}) is idle and does not end", idle.id));
                }
            }
        }
        Ok(())
    }

    fn sessions_touch(&self, core: &Core, id: InstanceId, since: Millis) -> bool {
        let since = self.manager.clock(since) - crate::manager::Manager::config().idle_timeout;
        core.every_session()
            .filter(|s| s.source == id || s.destination == id)
            .any(|s| s.state != SessionState::Closed || s.closed.is_some_and(|closed| closed > since))
    }
}

fn minimums_are_met(core: &Core) -> Result<(), String> {
    for (name, app) in core.every_app().filter(|(_, app)| !app.stopped) {
        for (service, vertex) in &app.graph.services {
            let least = if vertex.kind == Kind::Gateway { vertex.least.max(1) } else { vertex.least };
            let running = core
                .every_instance()
                .filter(|i| i.app.as_str() == name && i.service.as_str() == service)
                .filter(|i| i.state == InstanceState::Running)
                .count();
            if running < least as usize {
                return Err(format!("{name}/{service} has {running} instances, at least {least} are wanted"));
            }
        }
    }
    Ok(())
}
