//! An agent's shell: events to the real core, effects one by one, any of which may be the last.

use std::rc::Rc;

use patchbay_agent_core::reports::report_messages;
use patchbay_agent_core::{Effect, Event, Start};
use ssmmp::{Envelope, InstanceId, Status};

use crate::node::REPORT_EVERY;
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
        let Some(agent) = &mut self.nodes[index].agent else { return };
        if agent.frozen {
            agent.waiting.push_back(event);
            return;
        }
        if let Event::Closed(report, _) = &event {
            agent.ended.push(report.clone());
        }
        let gone = match &event {
            Event::Exited(id, ..) | Event::StartFailed(id, ..) => Some(*id),
            _ => None,
        };
        if let Some(id) = gone {
            agent.watched.remove(&id);
        }
        let life = agent.life;
        let effects = agent.core.handle(self.schedule.now, event);
        for effect in effects {
            if self.agent_crashes_now(index) {
                return;
            }
            self.agent_performs(index, life, effect);
        }
        self.plan_agent_tick(index);
        if let (Some(id), Some(agent)) = (gone, &mut self.nodes[index].agent) {
            agent.connected.remove(&id);
            agent.early.remove(&id);
            agent.prepared.remove(&id);
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
        let Some(at) = agent.core.next_timeout().map(|due| due.max(now)) else { return };
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

    fn agent_performs(&mut self, index: usize, life: Life, effect: Effect) {
        match effect {
            // No instance is stopped here: those that hang are modelled as native ones that do not answer.
            Effect::ToManager(envelope) | Effect::ToManagerIfAwake(_, envelope, _) => {
                self.agent_sends(index, &envelope);
            }
            // Nobody asks for outputs here, and no byte goes any way.
            Effect::TellOutput(..) | Effect::Redirect(_) | Effect::Notice(_) => {}
            Effect::ReportThen(envelope) => {
                self.agent_reports(index);
                self.agent_sends(index, &envelope);
            }
            Effect::ToInstance(id, envelope) => self.agent_tells(index, id, &envelope),
            Effect::AskInstance(id, envelope, absent) => {
                let agent = self.nodes[index].agent.as_mut();
                match agent.filter(|agent| !agent.connected.contains_key(&id)) {
                    Some(agent) => {
                        agent.core.health_answered(id, absent.message.message_id());
                        self.agent_sends(index, &absent);
                    }
                    None => self.agent_tells(index, id, &envelope),
                }
            }
            Effect::Prepare(start) => self.prepare(index, start.id),
            Effect::Start(start) => self.execute(index, life, &start),
            Effect::Abandon(start) => {
                if let Some(agent) = &mut self.nodes[index].agent {
                    agent.prepared.remove(&start.id);
                }
            }
            Effect::End(id) => self.agent_ends(index, id),
            Effect::Declare(declare) => {
                let node = &mut self.nodes[index];
                if node.agent.as_ref().is_some_and(|agent| agent.prepared.contains(&declare.source)) {
                    node.declared.insert((declare.source, declare.at), declare.destination);
                }
            }
            Effect::Withdraw(id) => {
                self.nodes[index]
                    .declared
                    .retain(|(source, _), destination| *source != id && *destination != id);
            }
            Effect::Lead(id, plug, lead) => self.leads(index, id, plug, lead),
            Effect::HandPlug { instance, plug, waiting, at, tries } => {
                self.hands(index, instance, plug, at, Handed { waiting, tries });
            }
            Effect::RefusePlug(..) => {}
            Effect::ReserveMessages(next) => self.nodes[index].first_message = next,
            Effect::Destroy(local, remote) => self.destroy(local, remote),
            Effect::Keep => {
                if let Some(agent) = &mut self.nodes[index].agent {
                    self.nodes[index].profiles = agent.core.profiles().clone();
                }
            }
            Effect::Registered => self.note(Party::Agent(index), "is registered"),
            Effect::Refused(status) => {
                let text = format!("is refused ({status})");
                self.note(Party::Agent(index), &text);
            }
        }
    }

    fn prepare(&mut self, index: usize, id: InstanceId) {
        if let Some(agent) = &mut self.nodes[index].agent {
            agent.prepared.insert(id);
        }
    }

    fn execute(&mut self, index: usize, life: Life, start: &Start) {
        self.prepare(index, start.id);
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
    fn destroy(&mut self, local: std::net::SocketAddr, remote: std::net::SocketAddr) {
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
        let ready = self.nodes[index]
            .agent
            .as_ref()
            .is_some_and(|a| !a.frozen && a.core.is_registered() && a.core.is_extended());
        if ready {
            self.agent_reports(index);
        }
    }

    fn agent_reports(&mut self, index: usize) {
        let address = self.nodes[index].address;
        let Some(agent) = &mut self.nodes[index].agent else { return };
        let live: Vec<_> = self
            .connections
            .values()
            .filter(|c| c.nodes.0 == index && c.declared.is_some())
            .map(crate::network::Connection::report)
            .collect();
        let ended = std::mem::take(&mut agent.ended);
        let items = live
            .iter()
            .filter(|session| !agent.reported.contains(session))
            .map(|session| (session, true))
            .chain(ended.iter().map(|session| (session, false)));
        let core = &mut agent.core;
        let messages = report_messages(address, items, None, || core.message_id());
        let effects = agent.core.take_effects();
        agent.reported = live;
        let life = agent.life;
        for effect in effects {
            self.agent_performs(index, life, effect);
        }
        for message in messages {
            self.agent_sends(index, &message);
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
