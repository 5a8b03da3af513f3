//! Links between agents and the Manager: messages in order within one, lost with it.

use std::rc::Rc;

use patchbay_agent_core::Event as AgentEvent;
use patchbay_manager_core::{Connection, Event as ManagerEvent};
use ssmmp::Envelope;

use crate::plan::FaultKind;
use crate::schedule::{Happening, Life, Millis};
use crate::trace::Party;
use crate::world::World;

/// First pause before an agent connects again, milliseconds; it doubles.
const FIRST_PAUSE: Millis = 100;
/// Longest pause, milliseconds.
const LONGEST_PAUSE: Millis = 10_000;

/// A link.
pub struct Link {
    /// The agent's node.
    pub node: usize,
    /// Which of the node's agents made it.
    pub life: Life,
    /// Whether the agent's end is open.
    pub at_agent: bool,
    /// Whether the Manager's end is open.
    pub at_manager: bool,
    /// Whether more waits to be read by the agent than may: the next message cuts it off.
    pub unread: bool,
    /// When the last line reaches the Manager.
    up: Millis,
    /// When the last line reaches the agent.
    down: Millis,
}

impl World {
    /// An agent tries to connect.
    pub fn agent_connects(&mut self, index: usize, life: Life) {
        let node = &self.nodes[index];
        let parted = node.parted_until > self.schedule.now;
        let reachable = self.manager.runs && !parted;
        let Some(agent) = self.nodes[index].agent.as_mut().filter(|agent| agent.life == life) else { return };
        if agent.link.is_some() {
            return;
        }
        if agent.frozen || !reachable {
            agent.tries += 1;
            let pause = (FIRST_PAUSE << agent.tries.min(7)).min(LONGEST_PAUSE);
            let pause = self.random(pause / 2, pause);
            self.after(pause, Happening::AgentConnects(index, life));
            return;
        }
        agent.tries = 0;
        self.links_made += 1;
        let number = self.links_made;
        agent.link = Some(number);
        let now = self.schedule.now;
        self.links.insert(
            number,
            Link { node: index, life, at_agent: true, at_manager: true, unread: false, up: now, down: now },
        );
        self.agent_handles(index, AgentEvent::ManagerUp);
    }

    /// A line from an agent to the Manager.
    pub fn send_up(&mut self, number: u64, line: Rc<str>) {
        let delay = self.link_delay();
        let Some(link) = self.links.get_mut(&number).filter(|link| link.at_agent) else { return };
        let healed = self.nodes[link.node].parted_until;
        link.up = link.up.max(self.schedule.now + delay).max(healed);
        let at = link.up;
        self.schedule.at(at, Happening::AtManager(number, line));
    }

    /// A line from the Manager to an agent.
    pub fn send_down(&mut self, number: u64, line: Rc<str>) {
        let delay = self.link_delay();
        let Some(link) = self.links.get_mut(&number).filter(|link| link.at_manager) else { return };
        let healed = self.nodes[link.node].parted_until;
        link.down = link.down.max(self.schedule.now + delay).max(healed);
        let at = link.down;
        self.schedule.at(at, Happening::AtAgent(number, line));
    }

    fn link_delay(&mut self) -> Millis {
        let slow = self.plan.has(FaultKind::Delays) && self.chance(0.02);
        if slow { self.random(50, 4_000) } else { self.random(0, 3) }
    }

    /// A line has reached the Manager's end.
    pub fn at_manager(&mut self, number: u64, line: &Rc<str>) {
        let Some(link) = self.links.get(&number).filter(|link| link.at_manager) else { return };
        let node = link.node;
        self.trace.add(self.schedule.now, Party::Agent(node), Party::Manager, line);
        match Envelope::parse(line.trim_end()) {
            Ok(envelope) => self.manager_gets(ManagerEvent::Message(Connection(number), envelope)),
            Err(problem) => {
                if let Some(refusal) = problem.refusal {
                    self.send_down(number, Rc::from(refusal.encode()));
                }
            }
        }
    }

    /// A line has reached the agent's end.
    pub fn at_agent(&mut self, number: u64, line: &Rc<str>) {
        let Some(link) = self.links.get(&number).filter(|link| link.at_agent) else { return };
        let (node, life) = (link.node, link.life);
        self.trace.add(self.schedule.now, Party::Manager, Party::Agent(node), line);
        match Envelope::parse(line.trim_end()) {
            Ok(envelope) => self.agent_event(node, life, AgentEvent::FromManager(envelope)),
            Err(problem) => {
                if let Some(refusal) = problem.refusal {
                    self.agent_event(node, life, AgentEvent::Refusal(*refusal));
                }
            }
        }
    }

    /// The Manager learns that a link is gone, behind what still reached it.
    pub fn lost_at_manager(&mut self, number: u64) {
        let Some(link) = self.links.get_mut(&number) else { return };
        link.at_manager = false;
        let gone = !link.at_agent;
        if gone {
            self.links.remove(&number);
        }
        self.manager_gets(ManagerEvent::Lost(Connection(number)));
    }

    /// An agent learns that its link is gone and will connect again.
    pub fn lost_at_agent(&mut self, number: u64) {
        let Some(link) = self.links.get_mut(&number) else { return };
        link.at_agent = false;
        let (node, life, gone) = (link.node, link.life, !link.at_manager);
        if gone {
            self.links.remove(&number);
        }
        let Some(agent) = self.nodes[node].agent.as_mut().filter(|agent| agent.life == life) else { return };
        if agent.link != Some(number) {
            return;
        }
        agent.link = None;
        self.agent_event(node, life, AgentEvent::ManagerLost);
        let pause = self.random(FIRST_PAUSE / 2, FIRST_PAUSE);
        self.after(pause, Happening::AgentConnects(node, life));
    }

    /// A link is reset: each end learns of it, and what is on its way may be lost.
    pub fn cut(&mut self, number: u64) {
        let Some(link) = self.links.get(&number) else { return };
        let (node, up, down) = (link.node, link.up, link.down);
        self.note(Party::Agent(node), "its link to the Manager is cut");
        for (drained, to_manager) in [(up, true), (down, false)] {
            let delay = self.random(0, 100);
            let mut at = self.schedule.now + delay;
            if self.chance(0.5) {
                at = at.max(drained);
            }
            let lost = match to_manager {
                true => Happening::LostAtManager(number),
                false => Happening::LostAtAgent(number),
            };
            self.schedule.at(at, lost);
        }
    }

    /// The agent's end is closed: the agent is gone.
    pub fn link_ends_at_agent(&mut self, number: u64) {
        let delay = self.random(0, 50);
        let Some(link) = self.links.get_mut(&number) else { return };
        link.at_agent = false;
        let node_up = self.nodes[link.node].up;
        let healed = self.nodes[link.node].parted_until;
        let at = match self.schedule.now + delay {
            // What was written before still arrives.
            at if node_up => at.max(link.up).max(healed),
            // A machine that is gone sends no reset: keep-alives find it out.
            at => at + 10_000,
        };
        self.schedule.at(at, Happening::LostAtManager(number));
    }

    /// The Manager's end is closed.
    pub fn link_ends_at_manager(&mut self, number: u64) {
        let delay = self.random(0, 50);
        let Some(link) = self.links.get_mut(&number) else { return };
        link.at_manager = false;
        let at = (self.schedule.now + delay).max(link.down).max(self.nodes[link.node].parted_until);
        self.schedule.at(at, Happening::LostAtAgent(number));
    }
}
