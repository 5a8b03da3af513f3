//! What goes wrong, and what people do meanwhile.

use patchbay_manager_core::Command;

use crate::manager::Call;
use crate::plan::FaultKind;
use crate::schedule::{Happening, Millis};
use crate::trace::Party;
use crate::world::World;

/// How long drained nodes stay so once nothing goes wrong, milliseconds.
const LIFTED_AFTER: Millis = 60_000;

impl World {
    /// One fault of the kinds that this run has, then the next.
    pub fn fault(&mut self) {
        if self.quiet {
            return;
        }
        let pause = self.random(self.plan.fault_every / 4, self.plan.fault_every * 2);
        self.after(pause, Happening::Fault);
        let acute: Vec<FaultKind> = self
            .plan
            .faults
            .iter()
            .copied()
            .filter(|kind| {
                !matches!(kind, FaultKind::BadStarts | FaultKind::Misbehaviour | FaultKind::Delays)
            })
            .collect();
        if acute.is_empty() {
            return;
        }
        let kind = acute[self.random(0, acute.len() as u64 - 1) as usize];
        let node = self.random(0, self.nodes.len() as u64 - 1) as usize;
        match kind {
            FaultKind::LinkCut => {
                let link = self.nodes[node].agent.as_ref().and_then(|agent| agent.link);
                if let Some(link) = link {
                    self.cut(link);
                }
            }
            FaultKind::Partition => self.part(node),
            FaultKind::AgentCrash => {
                let effects = self.random(0, 10) as u32;
                if let Some(agent) = &mut self.nodes[node].agent {
                    agent.crash_in.get_or_insert(effects);
                }
            }
            FaultKind::ManagerCrash => {
                let effects = self.random(0, 20) as u32;
                let crash_in = &self.manager.fate.crash_in;
                crash_in.set(crash_in.get().or(Some(effects)));
            }
            FaultKind::NodeCrash => self.node_crashes(node),
            FaultKind::InstanceCrash => {
                if let Some(process) = self.some_process() {
                    self.process_ends(process, "signal 9");
                }
            }
            FaultKind::Freeze => match self.random(0, 3) {
                0 => self.manager_freezes(),
                1 => self.agent_freezes(node),
                _ => {
                    if let Some(process) = self.some_process() {
                        self.process_freezes(process);
                    }
                }
            },
            FaultKind::ClockJump => {
                let hours = self.random(0, 48) as i64 - 24;
                self.manager.clock_ahead += hours * 3_600_000;
                let text = format!("its clock jumps by {hours} hours, to be seen at its next start");
                self.note(Party::Manager, &text);
            }
            FaultKind::FullDisk => {
                let time = self.random(100, 8_000);
                self.note(Party::Manager, &format!("its disk is full for {time} ms"));
                self.manager.fate.disk_full.set(true);
                self.after(time, Happening::DiskHasRoom);
            }
            FaultKind::Unread => {
                let link = self.nodes[node].agent.as_ref().and_then(|agent| agent.link);
                if let Some(link) = link.and_then(|link| self.links.get_mut(&link)) {
                    link.unread = true;
                    self.note(Party::Agent(node), "leaves too much unread");
                }
            }
            FaultKind::BadStarts | FaultKind::Misbehaviour | FaultKind::Delays => {}
        }
    }

    fn some_process(&mut self) -> Option<u64> {
        let all: Vec<u64> = self.processes.keys().copied().collect();
        if all.is_empty() {
            return None;
        }
        let index = self.random(0, all.len() as u64 - 1) as usize;
        Some(all[index])
    }

    /// A node and the Manager can't reach each other for a while; nobody is told.
    fn part(&mut self, node: usize) {
        let time = self.random(200, 30_000);
        let until = self.schedule.now + time;
        self.nodes[node].parted_until = self.nodes[node].parted_until.max(until);
        self.note(Party::Agent(node), &format!("and the Manager can't reach each other for {time} ms"));
    }

    /// People use the API.
    pub fn api_call(&mut self) {
        if self.quiet {
            return;
        }
        let pause = self.random(500, 8_000);
        self.after(pause, Happening::ApiCall);
        let app = self.random(0, self.applications.len() as u64 - 1) as usize;
        match self.random(0, 9) {
            0..=2 => self.apply(app),
            _ => {
                if let Some(command) = self.some_command(app) {
                    self.call(Call::Command(command));
                }
            }
        }
    }

    /// A command about something that may be there.
    fn some_command(&mut self, app: usize) -> Option<Command> {
        let name = self.applications[app].name.clone();
        let service = self.random(0, self.applications[app].services.len() as u64 - 1) as usize;
        let (service, _, _, plugs) = self.applications[app].services[service].clone();
        let node = format!("n{}", self.random(0, self.nodes.len() as u64 - 1));
        let instance = self.some_process().map(|number| self.processes[&number].start.id);
        Some(match self.random(0, 11) {
            0 => Command::StopApp(name),
            1..=3 => Command::StopInstance(instance?),
            4 => {
                let open: Vec<u64> = self.manager.core()?.every_session().map(|s| s.id).collect();
                let last = open.len().checked_sub(1)?;
                Command::CloseSession(open[self.random(0, last as u64) as usize])
            }
            5 => Command::CloseConnection(name, format!("{service}.{}", plugs.first()?)),
            6 => Command::CloseInstance(instance?),
            7 | 8 => Command::Move(instance?, node),
            9 => Command::Drain(node),
            10 => Command::Undrain(node),
            _ => {
                let replicas = self.random(0, 4) as u32;
                Command::Scale(name, service, (replicas > 0).then_some(replicas))
            }
        })
    }

    /// What people have decided for a while is lifted, so that graphs alone say what is to be.
    pub fn lift_commands(&mut self) {
        for node in 0..self.nodes.len() {
            self.call(Call::Command(Command::Undrain(format!("n{node}"))));
        }
        let services: Vec<(String, String)> = self
            .applications
            .iter()
            .flat_map(|app| app.services.iter().map(|(service, ..)| (app.name.clone(), service.clone())))
            .collect();
        for (app, service) in services {
            self.call(Call::Command(Command::Scale(app, service, None)));
        }
    }

    /// An application is applied, in one of its versions.
    pub fn apply(&mut self, app: usize) {
        let version = self.random(0, 1) as usize;
        let application = &self.applications[app];
        let call = Call::Apply(application.name.clone(), application.versions[version].clone());
        self.call(call);
    }

    /// Faults end: everything is started, continued, joined again.
    pub fn quiet(&mut self) {
        self.quiet = true;
        self.quiet_since = self.schedule.now;
        self.note(Party::Outside, "from here on nothing goes wrong");
        self.manager.fate.crash_in.set(None);
        self.manager.fate.disk_full.set(false);
        self.manager_starts();
        self.manager_thaws(self.manager.life);
        for node in 0..self.nodes.len() {
            self.nodes[node].parted_until = 0;
            self.node_boots(node);
            self.agent_starts(node);
            if let Some(agent) = &mut self.nodes[node].agent {
                agent.crash_in = None;
                let life = agent.life;
                self.agent_thaws(node, life);
            }
        }
        let all: Vec<u64> = self.processes.keys().copied().collect();
        for number in all {
            self.process_thaws(number);
        }
        // By then every agent has registered.
        self.after(LIFTED_AFTER, Happening::Lifted);
    }
}
