//! A node: its kernel's declarations, its agent, and what survives the agent.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use patchbay_agent_core::engine::Engine;
use patchbay_agent_core::profiles::Profiles;
use patchbay_agent_core::repository::Repository;
use patchbay_agent_core::session_report::SessionReport;
use patchbay_agent_core::{Core, Event, FIRST_MESSAGE, Redirects};
use ssmmp::extension::Redirection;
use ssmmp::{Address, InstanceId, Name};

use crate::plugs::Led;
use crate::schedule::{Happening, Life, Millis};
use crate::trace::Party;
use crate::world::World;

/// First port of plugs; a real kernel's range is elsewhere and as long.
const FIRST_PLUG_PORT: u16 = 20_000;
/// Plug ports of a node; none is used again within a run of usual length, as TIME_WAIT sees to.
const PLUG_PORTS: u16 = 30_000;
/// Between two reports of counters, milliseconds.
pub const REPORT_EVERY: Millis = 1_000;

/// A machine.
pub struct Node {
    /// Its address.
    pub address: Address,
    /// Whether it runs.
    pub up: bool,
    /// What its agent can execute.
    pub repository: Repository,
    /// Its agent, while it runs.
    pub agent: Option<Agent>,
    /// Until when it and the Manager can't reach each other.
    pub parted_until: Millis,
    /// What the kernel was told: source and place, with the destination instance.
    pub declared: BTreeMap<(InstanceId, SocketAddr), InstanceId>,
    /// Where it leads plugs of adapted instances.
    pub led: BTreeMap<(InstanceId, Name), Led>,
    /// When the kernel last told its agent something.
    pub kernel_told: Millis,
    /// What agents keep for their successors.
    pub profiles: Profiles,
    next_port: u16,
    /// Where its next agent's message ids begin.
    pub first_message: u64,
}

/// A running agent: the real core and what its shell keeps.
pub struct Agent {
    /// The real engine with the real core; away while it works.
    pub engine: Option<Box<Engine>>,
    /// Which of the node's agents it is.
    pub life: Life,
    /// Whether it is stopped (SIGSTOP).
    pub frozen: bool,
    /// When its core is told the time next, as it is planned.
    pub tick: Option<Millis>,
    /// Events that wait because it is stopped.
    pub waiting: VecDeque<Event>,
    /// Its link to the Manager.
    pub link: Option<u64>,
    /// Failed tries to connect in a row.
    pub tries: u32,
    /// Instances that are connected, with their processes.
    pub connected: BTreeMap<InstanceId, u64>,
    /// Lines for instances that have not connected yet.
    pub early: BTreeMap<InstanceId, Vec<Rc<str>>>,
    /// Instances whose processes it watches.
    pub watched: BTreeMap<InstanceId, u64>,
    /// Instances with a cgroup.
    pub prepared: std::collections::BTreeSet<InstanceId>,
    /// Effects until it is killed.
    pub crash_in: Option<u32>,
}

impl Agent {
    /// Its core, between two things that it does.
    pub fn core(&self) -> &Core {
        self.engine.as_ref().expect("it does nothing now").core()
    }
}

impl Node {
    /// A node that has not booted.
    pub fn new(address: Address, repository: Repository) -> Self {
        Self {
            address,
            up: false,
            repository,
            agent: None,
            parted_until: 0,
            declared: BTreeMap::new(),
            led: BTreeMap::new(),
            kernel_told: 0,
            profiles: Profiles::default(),
            next_port: FIRST_PLUG_PORT,
            first_message: FIRST_MESSAGE,
        }
    }
}

impl World {
    /// A new plug port of a node.
    pub fn next_port(&mut self, node: usize) -> SocketAddr {
        let node = &mut self.nodes[node];
        node.next_port += 1;
        if node.next_port == FIRST_PLUG_PORT + PLUG_PORTS {
            node.next_port = FIRST_PLUG_PORT;
        }
        SocketAddr::new(node.address.0, node.next_port)
    }

    /// A node boots: nothing of before is there but its disk.
    pub fn node_boots(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.up {
            return;
        }
        node.up = true;
        node.declared.clear();
        node.led.clear();
        self.note(Party::Agent(index), "its node boots");
        self.agent_starts(index);
    }

    /// A node goes down with everything on it.
    pub fn node_crashes(&mut self, index: usize) {
        if !self.nodes[index].up {
            return;
        }
        self.note(Party::Agent(index), "its node goes down");
        self.nodes[index].up = false;
        self.agent_gone(index);
        let gone: Vec<u64> =
            self.processes.values().filter(|process| process.node == index).map(|p| p.number).collect();
        for number in gone {
            let Some(process) = self.processes.remove(&number) else { continue };
            let connections: Vec<u64> = process.connections.iter().copied().collect();
            self.lose_all_of(number, &connections);
        }
        self.nodes[index].declared.clear();
        self.nodes[index].led.clear();
        let pause = self.random(1_000, 25_000);
        self.after(pause, Happening::NodeBoots(index));
    }

    /// A node's agent starts and takes over what an earlier one left.
    pub fn agent_starts(&mut self, index: usize) {
        if !self.nodes[index].up || self.nodes[index].agent.is_some() {
            return;
        }
        self.lives += 1;
        let life = self.lives;
        let node = &mut self.nodes[index];
        let redirects =
            Redirects { redirection: Redirection::Kernel, sees_all: true, observes: true, harmless: 0 };
        let mut core = Core::new(
            node.address,
            format!("n{index}"),
            redirects,
            node.repository.clone(),
            node.profiles.clone(),
        );
        core.number_messages_from(node.first_message);
        node.agent = Some(Agent {
            engine: Some(Box::new(Engine::new(core, node.address))),
            life,
            frozen: false,
            tick: None,
            waiting: VecDeque::new(),
            link: None,
            tries: 0,
            connected: BTreeMap::new(),
            early: BTreeMap::new(),
            watched: BTreeMap::new(),
            prepared: std::collections::BTreeSet::new(),
            crash_in: None,
        });
        node.kernel_told = self.schedule.now;
        self.note(Party::Agent(index), "starts");
        self.adopt(index);
        let pause = self.random(0, 50);
        self.after(pause, Happening::AgentConnects(index, life));
        let phase = self.random(0, REPORT_EVERY);
        self.after(phase, Happening::AgentReports(index, life));
    }

    /// What an earlier agent left is taken over, whether it listens already or is still starting.
    fn adopt(&mut self, index: usize) {
        let ids: Vec<(InstanceId, u64)> = self
            .processes
            .values()
            .filter(|process| process.node == index)
            .map(|process| (process.start.id, process.number))
            .collect();
        let alive: std::collections::BTreeSet<InstanceId> = ids.iter().map(|(id, _)| *id).collect();
        let alive_here = alive.clone();
        let node = &mut self.nodes[index];
        node.led.retain(|(source, _), _| alive.contains(source));
        // Declarations of sources that are gone are withdrawn.
        node.declared.retain(|(source, _), _| alive.contains(source));
        if let Some(agent) = &mut node.agent {
            agent.watched.extend(ids.iter().copied());
            agent.prepared.extend(alive);
        }
        let reports: Vec<SessionReport> = self
            .connections
            .values()
            .filter(|connection| connection.nodes.0 == index && connection.declared.is_some())
            .map(|connection| connection.report())
            .collect();
        for (id, number) in ids {
            let (start, listens) = (self.processes[&number].start.clone(), self.processes[&number].listening);
            let now = self.schedule.now;
            let node = &mut self.nodes[index];
            // What has ended on this node meanwhile is led to no more.
            node.led.retain(|(source, _), (lead, until)| {
                *source != id
                    || *until > now
                        && (lead.at.ip() != node.address.0 || alive_here.contains(&lead.destination))
            });
            let led = node.led.iter().filter(|((source, _), _)| *source == id);
            let leads = led.map(|((_, plug), (lead, _))| (plug.clone(), *lead)).collect();
            let own = reports.iter().filter(|report| report.source_instance == id.0).cloned().collect();
            self.agent_handles(index, Event::Adopted(start, listens, own, leads));
        }
    }

    /// An agent is killed; its instances go on.
    pub fn agent_crashes(&mut self, index: usize) {
        if self.nodes[index].agent.is_none() {
            return;
        }
        self.note(Party::Agent(index), "is killed");
        self.agent_gone(index);
        let pause = self.random(50, 12_000);
        self.after(pause, Happening::AgentStarts(index));
    }

    fn agent_gone(&mut self, index: usize) {
        let Some(agent) = self.nodes[index].agent.take() else { return };
        self.carried_lost(index);
        if let Some(link) = agent.link {
            self.link_ends_at_agent(link);
        }
        let ends: Vec<u64> = agent.connected.values().copied().collect();
        for process in ends {
            if let Some(process) = self.processes.get_mut(&process) {
                process.agent = None;
            }
            let pause = self.random(20, 2_000);
            self.after(pause, Happening::ProcessConnects(process));
        }
    }
}
