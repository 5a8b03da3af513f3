//! Everything there is in a run, and its one loop.

use std::collections::BTreeMap;
use std::rc::Rc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use ssmmp::Address;

use crate::application::{Application, repository};
use crate::checks;
use crate::link::Link;
use crate::manager::Manager;
use crate::network::Connection;
use crate::node::Node;
use crate::plan::Plan;
use crate::process::Process;
use crate::schedule::{Happening, Life, Millis, Schedule};
use crate::trace::{Party, Trace};

/// Between two looks at the invariants of every moment, milliseconds.
const LOOK_EVERY: Millis = 250;

/// How a run ended.
pub struct Outcome {
    /// What did not hold, if anything.
    pub violation: Option<String>,
    /// The same for the same plan.
    pub hash: u64,
    /// Messages and other things that happened.
    pub happened: u64,
    /// Sessions that were established.
    pub sessions: u64,
    /// Instances that were started.
    pub instances: u64,
    /// The last of what happened, a line each.
    pub trace: Vec<String>,
}

/// Everything there is.
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: StdRng,
    pub(crate) schedule: Schedule,
    pub(crate) trace: Trace,
    pub(crate) manager: Manager,
    pub(crate) nodes: Vec<Node>,
    pub(crate) links: BTreeMap<u64, Link>,
    pub(crate) processes: BTreeMap<u64, Process>,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) applications: Vec<Application>,
    pub(crate) lives: Life,
    pub(crate) links_made: u64,
    pub(crate) processes_made: u64,
    pub(crate) connections_made: u64,
    pub(crate) waited: u64,
    pub(crate) quiet: bool,
    pub(crate) quiet_since: Millis,
    pub(crate) looks_due: bool,
    /// Calls that were not answered, by application.
    pub(crate) calls_under_way: BTreeMap<String, u32>,
    violation: Option<String>,
    // The database's folder is removed with the world.
    _folder: tempfile::TempDir,
}

/// Runs a plan to its end or to the first violation; `lines` of the trace are kept for people.
///
/// # Errors
/// The database's folder can't be made.
pub fn run(plan: &Plan, lines: usize) -> std::io::Result<Outcome> {
    let mut world = World::new(plan)?;
    world.live();
    Ok(Outcome {
        violation: world.violation.take(),
        hash: world.trace.hash(),
        happened: world.trace.count(),
        sessions: world.connections_made,
        instances: world.processes_made,
        trace: world.trace.last(lines),
    })
}

impl World {
    fn new(plan: &Plan) -> std::io::Result<Self> {
        let mut rng = StdRng::seed_from_u64(plan.seed);
        // In memory where there is such a folder: a run writes thousands of transactions.
        let shared = std::path::Path::new("/dev/shm");
        let folder = match shared.is_dir() {
            true => tempfile::tempdir_in(shared)?,
            false => tempfile::tempdir()?,
        };
        let large = plan.instances > 100;
        let count = if plan.instances > 500 { 6 } else { rng.random_range(1..=2) };
        let applications: Vec<_> =
            (0..count).map(|number| Application::random(number, large, &mut rng)).collect();
        let nodes = (0..plan.agents)
            .map(|index| {
                let address = std::net::Ipv4Addr::new(10, 0, (index / 250) as u8, (index % 250 + 1) as u8);
                Node::new(Address(address.into()), repository(&applications, index, &mut rng))
            })
            .collect();
        Ok(Self {
            plan: plan.clone(),
            rng,
            schedule: Schedule::default(),
            trace: Trace::default(),
            manager: Manager::new(folder.path().join("manager.db")),
            nodes,
            links: BTreeMap::new(),
            processes: BTreeMap::new(),
            connections: BTreeMap::new(),
            applications,
            lives: 0,
            links_made: 0,
            processes_made: 0,
            connections_made: 0,
            waited: 0,
            quiet: false,
            quiet_since: 0,
            looks_due: false,
            calls_under_way: BTreeMap::new(),
            violation: None,
            _folder: folder,
        })
    }

    fn live(&mut self) {
        self.manager_starts();
        for node in 0..self.nodes.len() {
            let delay = self.random(0, 2_000);
            self.after(delay, Happening::NodeBoots(node));
        }
        for app in 0..self.applications.len() {
            self.apply(app);
        }
        self.after(self.plan.fault_every, Happening::Fault);
        self.after(3_000, Happening::ApiCall);
        self.after(self.plan.active, Happening::Quiet);
        self.after(LOOK_EVERY, Happening::Look);
        let end = self.plan.active + self.plan.rest;
        while let Some(happening) = self.schedule.next(end) {
            self.happens(happening);
            if self.violation.is_some() {
                return;
            }
        }
        if let Err(problem) = self.at_rest() {
            self.violated(format!("at rest: {problem}"));
        }
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::AtManager(link, line) => self.at_manager(link, &line),
            Happening::AtAgent(link, line) => self.at_agent(link, &line),
            Happening::LostAtManager(link) => self.lost_at_manager(link),
            Happening::LostAtAgent(link) => self.lost_at_agent(link),
            Happening::ManagerWorks(life) => self.manager_works(life),
            Happening::ManagerTick(life, at) => self.manager_ticks(life, at),
            Happening::DiskHasRoom => self.manager.fate.disk_full.set(false),
            Happening::ManagerStarts => self.manager_starts(),
            Happening::ManagerThaws(life) => self.manager_thaws(life),
            Happening::AgentConnects(node, life) => self.agent_connects(node, life),
            Happening::AgentEvent(node, life, event) => self.agent_event(node, life, *event),
            Happening::AgentTick(node, life, planned) => self.agent_ticks(node, life, planned),
            Happening::AgentReports(node, life) => self.agent_reports_regularly(node, life),
            Happening::AgentStarts(node) => self.agent_starts(node),
            Happening::AgentThaws(node, life) => self.agent_thaws(node, life),
            Happening::NodeBoots(node) => self.node_boots(node),
            Happening::FromProcess(process, life, line) => self.agent_hears(process, life, &line),
            Happening::ToProcess(process, life, line) => self.process_hears(process, life, &line),
            Happening::ProcessConnects(process) => self.process_connects(process),
            Happening::Listens(process) => self.process_listens(process),
            Happening::Exits(process, how) => self.process_exits(process, how),
            Happening::ProcessThaws(process) => self.process_thaws(process),
            Happening::Acts(process) => self.acts(process),
            Happening::Arrives(attempt) => self.arrives(attempt),
            Happening::Closes(connection, end, asked) => self.closes(connection, end, asked),
            Happening::PeerGone(connection, end, broken) => self.peer_gone(connection, end, broken),
            Happening::Fault => self.fault(),
            Happening::ApiCall => self.api_call(),
            Happening::Quiet => self.quiet(),
            Happening::Lifted => self.lift_commands(),
            Happening::Look => self.look(),
        }
    }

    fn look(&mut self) {
        self.after(LOOK_EVERY, Happening::Look);
        if let Some(core) = self.manager.core().filter(|_| self.looks_due)
            && let Err(problem) = checks::at_every_moment(core)
        {
            self.violated(problem);
        }
        self.looks_due = false;
    }

    /// Something that must hold does not; the first such thing ends the run.
    pub(crate) fn violated(&mut self, problem: String) {
        self.note(Party::Outside, &format!("VIOLATION: {problem}"));
        self.violation.get_or_insert(problem);
    }

    /// Writes down what no message says.
    pub(crate) fn note(&mut self, who: Party, text: &str) {
        self.trace.add(self.schedule.now, who, who, &Rc::from(text));
    }

    pub(crate) fn after(&mut self, delay: Millis, what: Happening) {
        self.schedule.at(self.schedule.now + delay, what);
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn random(&mut self, low: u64, high: u64) -> u64 {
        self.rng.random_range(low..=high)
    }

    pub(crate) fn chance(&mut self, of: f64) -> bool {
        self.rng.random_bool(of)
    }
}
