//! An agent's shell: the real engine does what its core decides, and any of it may be the last.

use std::net::SocketAddr;
use std::rc::Rc;

use patchbay_agent_core::engine::{Engine, Shell};
use patchbay_agent_core::profiles::Profiles;
use patchbay_agent_core::reports::Reports;
use patchbay_agent_core::repository::Entry;
use patchbay_agent_core::session_report::SessionReport;
use patchbay_agent_core::{Declare, Event, Lead, Notice, Start, Waiting};
use ssmmp::extension::{Log, Switch};
use ssmmp::{Envelope, InstanceId, Name, Status};

use crate::node::{Agent, REPORT_EVERY};
use crate::plugs::Handed;
use crate::schedule::{Happening, Life, Millis};
use crate::trace::Party;
use crate::world::World;

impl World {
    /// Something of an agent's own tasks, if it is still that agent.
    pub fn agent_event(&mut self, index: usize, life: Life, event: Event) {
        if self.nodes[index].agent.as_ref().is_none_or(|agent| agent.life != life) {
            return;
        }
        self.agent_handles(index, event);
    }

    /// An agent handles an event now, or when it is continued.
    pub fn agent_handles(&mut self, index: usize, event: Event) {
        let now = self.schedule.now;
        let Some(agent) = &mut self.nodes[index].agent else { return };
        if agent.frozen {
            agent.waiting.push_back(event);
            return;
        }
        if let Event::Exited(id, ..) | Event::StartFailed(id, ..) = &event {
            agent.watched.remove(id);
        }
        self.with_engine(index, |engine, shell| engine.handle(now, event, shell));
        self.plan_agent_tick(index);
    }

    /// Has an agent's engine work, after which the agent may be gone.
    fn with_engine(&mut self, index: usize, work: impl FnOnce(&mut Engine, &mut AgentShell<'_>)) {
        let Some(agent) = &mut self.nodes[index].agent else { return };
        let life = agent.life;
        let mut engine = agent.engine.take().expect("an agent does one thing at a time");
        work(&mut engine, &mut AgentShell { world: self, index, life });
        if let Some(agent) = self.nodes[index].agent.as_mut().filter(|agent| agent.life == life) {
            agent.engine = Some(engine);
        }
    }

    /// A time that an agent's core waited for has come; a stopped agent finds it so when it is continued.
    pub fn agent_ticks(&mut self, index: usize, life: Life, planned: Millis) {
        let Some(agent) = self.nodes[index].agent.as_mut().filter(|agent| agent.life == life) else { return };
        if agent.tick == Some(planned) && !agent.frozen {
            agent.tick = None;
            self.agent_handles(index, Event::Tick);
        }
    }

    fn plan_agent_tick(&mut self, index: usize) {
        let now = self.schedule.now;
        let Some(agent) = self.nodes[index].agent.as_mut().filter(|agent| !agent.frozen) else { return };
        let Some(at) = agent.core().next_timeout().map(|due| due.max(now)) else { return };
        if agent.tick.is_none_or(|planned| planned > at) {
            agent.tick = Some(at);
            self.schedule.at(at, Happening::AgentTick(index, agent.life, at));
        }
    }

    fn agent_crashes_now(&mut self, index: usize) -> bool {
        let Some(left) = self.nodes[index].agent.as_mut().and_then(|agent| agent.crash_in.as_mut()) else {
            return false;
        };
        if let Some(fewer) = left.checked_sub(1) {
            *left = fewer;
            return false;
        }
        self.agent_crashes(index);
        true
    }

    fn execute(&mut self, index: usize, life: Life, start: &Start) {
        match self.process_starts(index, start) {
            Some(process) => {
                if let Some(agent) = &mut self.nodes[index].agent {
                    agent.watched.insert(start.id, process);
                }
            }
            None => {
                let delay = self.random(1, 50);
                let event =
                    Event::StartFailed(start.id, Status::INTERNAL, "it can't be started".into(), Vec::new());
                self.after(delay, Happening::AgentEvent(index, life, Box::new(event)));
            }
        }
    }

    /// Politely first, then by force.
    fn agent_ends(&mut self, index: usize, id: InstanceId) {
        let watched = self.nodes[index].agent.as_ref().and_then(|agent| agent.watched.get(&id).copied());
        if let Some(process) = watched {
            let delay = self.random(1, 1_100);
            self.after(delay, Happening::Exits(process, "signal 15"));
        }
    }

    /// A connection is ended from outside its processes: both ends see it broken.
    fn destroy(&mut self, local: SocketAddr, remote: SocketAddr) {
        let found = self
            .connections
            .iter()
            .find(|(_, c)| (c.from, c.at) == (local, remote) || (c.at, c.from) == (local, remote))
            .map(|(number, connection)| (*number, connection.from == local));
        if let Some((number, at_source)) = found {
            let end = if at_source { crate::network::End::Source } else { crate::network::End::Destination };
            self.schedule.at(self.schedule.now, Happening::PeerGone(number, end, true));
        }
    }

    /// Once a second: changed counters, as the shell does.
    pub fn agent_reports_regularly(&mut self, index: usize, life: Life) {
        if self.nodes[index].agent.as_ref().is_none_or(|agent| agent.life != life) {
            return;
        }
        self.after(REPORT_EVERY, Happening::AgentReports(index, life));
        if self.nodes[index].agent.as_ref().is_some_and(|agent| !agent.frozen) {
            self.with_engine(index, |engine, shell| engine.report_regularly(shell));
        }
    }

    fn agent_sends(&mut self, index: usize, envelope: &Envelope) {
        let Some(link) = self.nodes[index].agent.as_ref().and_then(|agent| agent.link) else { return };
        self.send_up(link, Rc::from(envelope.encode()));
    }

    /// Sends to an instance, now or, for a new one, as soon as it connects.
    fn agent_tells(&mut self, index: usize, id: InstanceId, envelope: &Envelope) {
        let line: Rc<str> = Rc::from(envelope.encode());
        let Some(agent) = &mut self.nodes[index].agent else { return };
        let life = agent.life;
        match agent.connected.get(&id).copied() {
            Some(process) => self.line_to_process(process, life, line),
            None if agent.prepared.contains(&id) => agent.early.entry(id).or_default().push(line),
            None => {}
        }
    }

    /// A line to a process, in order behind earlier ones.
    pub fn line_to_process(&mut self, process: u64, life: Life, line: Rc<str>) {
        let delay = self.short_delay();
        let now = self.schedule.now;
        let Some(found) = self.processes.get_mut(&process) else { return };
        found.told = found.told.max(now + delay);
        let at = found.told;
        self.schedule.at(at, Happening::ToProcess(process, life, line));
    }

    /// An agent is stopped for a while.
    pub fn agent_freezes(&mut self, index: usize) {
        let Some(agent) = &mut self.nodes[index].agent else { return };
        agent.frozen = true;
        let life = agent.life;
        self.note(Party::Agent(index), "is stopped");
        let pause = self.random(100, 25_000);
        self.after(pause, Happening::AgentThaws(index, life));
    }

    /// An agent is continued and handles what waited.
    pub fn agent_thaws(&mut self, index: usize, life: Life) {
        let Some(agent) = &mut self.nodes[index].agent else { return };
        if agent.life != life || !agent.frozen {
            return;
        }
        agent.frozen = false;
        let waiting: Vec<Event> = agent.waiting.drain(..).collect();
        self.note(Party::Agent(index), "is continued");
        for event in waiting {
            self.agent_event(index, life, event);
        }
        if let Some(agent) = self.nodes[index].agent.as_mut().filter(|agent| agent.life == life) {
            agent.tick = None;
            self.plan_agent_tick(index);
        }
    }
}

/// A node's agent, doing what its core decides.
struct AgentShell<'w> {
    world: &'w mut World,
    index: usize,
    life: Life,
}

impl AgentShell<'_> {
    fn agent(&mut self) -> Option<&mut Agent> {
        self.world.nodes[self.index].agent.as_mut()
    }
}

impl Shell for AgentShell<'_> {
    fn lives(&mut self) -> bool {
        let life = self.life;
        self.agent().is_some_and(|agent| agent.life == life) && !self.world.agent_crashes_now(self.index)
    }

    fn reserve_messages(&mut self, next: u64) {
        self.world.nodes[self.index].first_message = next;
    }

    fn keep(&mut self, profiles: &Profiles) {
        self.world.nodes[self.index].profiles = profiles.clone();
    }

    fn notice(&mut self, _: Notice) {}

    fn to_manager(&mut self, envelope: Envelope) {
        self.world.agent_sends(self.index, &envelope);
    }

    fn registered(&mut self) {
        self.world.note(Party::Agent(self.index), "is registered");
    }

    fn refused(&mut self, status: Status) {
        self.world.note(Party::Agent(self.index), &format!("is refused ({status})"));
    }

    fn to_instance(&mut self, id: InstanceId, envelope: Envelope) {
        self.world.agent_tells(self.index, id, &envelope);
    }

    fn is_connected(&self, id: InstanceId) -> bool {
        self.world.nodes[self.index].agent.as_ref().is_some_and(|agent| agent.connected.contains_key(&id))
    }

    /// No instance is stopped here: those that hang are modelled as native ones that do not answer.
    fn is_awake(&self, _: InstanceId) -> bool {
        true
    }

    fn sessions(&mut self, _: &Reports) -> Option<Vec<SessionReport>> {
        let live = self.world.connections.values();
        let live = live.filter(|c| c.nodes.0 == self.index && c.declared.is_some());
        Some(live.map(crate::network::Connection::report).collect())
    }

    fn monotonic_time(&self) -> Option<u64> {
        None
    }

    /// Nobody asks for outputs here.
    fn tell_output(&mut self, _: Log, _: Envelope) {}

    /// No byte goes any way here.
    fn switch(&mut self, _: &Switch) {}

    fn prepare(&mut self, start: &Start, _: &Entry) {
        let id = start.id;
        if let Some(agent) = self.agent() {
            agent.prepared.insert(id);
        }
    }

    fn start(&mut self, start: &Start, entry: &Entry) -> String {
        self.prepare(start, entry);
        self.world.execute(self.index, self.life, start);
        String::new()
    }

    fn abandon(&mut self, start: &Start) {
        let id = start.id;
        if let Some(agent) = self.agent() {
            agent.prepared.remove(&id);
        }
    }

    fn end(&mut self, id: InstanceId) {
        self.world.agent_ends(self.index, id);
    }

    fn forget(&mut self, id: InstanceId) {
        if let Some(agent) = self.agent() {
            agent.connected.remove(&id);
            agent.early.remove(&id);
            agent.prepared.remove(&id);
        }
    }

    fn declare(&mut self, declare: &Declare) {
        let node = &mut self.world.nodes[self.index];
        if node.agent.as_ref().is_some_and(|agent| agent.prepared.contains(&declare.source)) {
            node.declared.insert((declare.source, declare.at), declare.destination);
        }
    }

    fn withdraw(&mut self, id: InstanceId) {
        let declared = &mut self.world.nodes[self.index].declared;
        declared.retain(|(source, _), destination| *source != id && *destination != id);
    }

    fn lead(&mut self, id: InstanceId, plug: Name, lead: Option<Lead>) {
        self.world.leads(self.index, id, plug, lead);
    }

    fn hand_plug(&mut self, (id, plug): (InstanceId, Name), waiting: Waiting, at: SocketAddr, tries: u8) {
        self.world.hands(self.index, id, plug, at, Handed { waiting, tries });
    }

    fn refuse_plug(&mut self, _: Waiting, _: String) {}

    fn destroy(&mut self, local: SocketAddr, remote: SocketAddr) {
        self.world.destroy(local, remote);
    }
}
