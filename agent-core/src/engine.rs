//! What the core decides becomes what is done: one order of doing, whoever does it. The agent's shell runs this engine,
//! and the simulation does, so that what is simulated is what ships.
//!
//! 1. What is written down comes first: message ids are reserved before a message with one of them is spoken.
//! 2. Then everything in the order in which it was decided.
//! 3. What an instance had is cleared away behind everything that its end brought.

use std::net::SocketAddr;

use ssmmp::extension::{Log, Switch};
use ssmmp::{Address, Envelope, InstanceId, Name, Status};

use crate::profiles::Profiles;
use crate::reports::Reports;
use crate::repository::Entry;
use crate::session_report::SessionReport;
use crate::{Core, Declare, Effect, Event, Lead, Millis, Notice, Start, Waiting};

/// Who does what the core decides: the agent's shell, or what stands in for it.
pub trait Shell {
    /// Whether the agent lives; asked before each thing that is done, since a simulated one may be killed between any two.
    fn lives(&mut self) -> bool {
        true
    }
    /// Writes down, for the next agent here, that message ids below this one are used.
    fn reserve_messages(&mut self, next: u64);
    /// Keeps what was learned of programs for the next agent.
    fn keep(&mut self, profiles: &Profiles);
    /// Tells people.
    fn notice(&mut self, notice: Notice);
    /// Sends to the Manager.
    fn to_manager(&mut self, envelope: Envelope);
    /// The Manager knows this agent now.
    fn registered(&mut self);
    /// The Manager refused the registration.
    fn refused(&mut self, status: Status);
    /// Sends to an instance, as soon as it is connected.
    fn to_instance(&mut self, id: InstanceId, envelope: Envelope);
    /// Whether an instance is connected.
    fn is_connected(&self, id: InstanceId) -> bool;
    /// Whether any process of an instance can run now.
    fn is_awake(&self, id: InstanceId) -> bool;
    /// The sessions that live, with their counters; nothing when they can't be read. What is unread needs no look where a
    /// session [is quiet](Reports::is_quiet).
    fn sessions(&mut self, told: &Reports) -> Option<Vec<SessionReport>>;
    /// Monotonic nanoseconds, of the clock that sessions' times are from, where there is one.
    fn monotonic_time(&self) -> Option<u64>;
    /// Sends the lines of an instance's output to the Manager with this.
    fn tell_output(&mut self, asked: Log, answer: Envelope);
    /// Sends further messages of sessions over TCP, or through the kernel again.
    fn switch(&mut self, switch: &Switch);
    /// Makes an instance's cgroup, so that its sessions can be declared before it runs.
    fn prepare(&mut self, start: &Start, entry: &Entry);
    /// Executes an instance. Returns which of its limits are not applied, a sentence; empty when all are.
    fn start(&mut self, start: &Start, entry: &Entry) -> String;
    /// Undoes what was prepared for an instance that will not be executed.
    fn abandon(&mut self, start: &Start);
    /// Ends an instance's processes: politely first, then by force.
    fn end(&mut self, id: InstanceId);
    /// An instance is gone, and everything of it was said: what it had is cleared away.
    fn forget(&mut self, id: InstanceId);
    /// Tells the kernel of a session that may come to be.
    fn declare(&mut self, declare: &Declare);
    /// Forgets the declarations of an instance, as source and as destination.
    fn withdraw(&mut self, id: InstanceId);
    /// Leads the connections of an adapted instance's plug to a destination, or to the agent.
    fn lead(&mut self, id: InstanceId, plug: Name, lead: Option<Lead>);
    /// Joins a connection that waits at the agent with a destination; `tries` were tried before.
    fn hand_plug(&mut self, of: (InstanceId, Name), waiting: Waiting, at: SocketAddr, tries: u8);
    /// Resets a connection that waits at the agent, for a reason.
    fn refuse_plug(&mut self, waiting: Waiting, why: String);
    /// Ends a connection from outside its process; its own end and the other.
    fn destroy(&mut self, local: SocketAddr, remote: SocketAddr);
}

/// The core, and what the Manager was told of sessions' counters.
pub struct Engine {
    core: Core,
    address: Address,
    reports: Reports,
}

impl Engine {
    /// The engine of a core at a node's address.
    pub fn new(core: Core, address: Address) -> Self {
        Self { core, address, reports: Reports::default() }
    }

    /// The core, to be asked.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The core, for what others have to add to it ([`Core::profiles`], [`Core::note_unlimited`]).
    pub fn core_mut(&mut self) -> &mut Core {
        &mut self.core
    }

    /// Something happens, and what it brings is done.
    pub fn handle(&mut self, now: Millis, event: Event, shell: &mut impl Shell) {
        if let Event::Closed(report, _) | Event::PlugLeft(report, _) = &event
            && !report.uncounted
        {
            self.reports.ended(report.clone());
        }
        let gone = match &event {
            Event::Exited(id, ..) | Event::StartFailed(id, ..) => Some(*id),
            _ => None,
        };
        let effects = self.core.handle(now, event);
        self.perform(effects, shell);
        if let Some(id) = gone.filter(|_| shell.lives()) {
            shell.forget(id);
        }
    }

    /// Tells the Manager which counters have changed, where it knows what that is.
    pub fn report_regularly(&mut self, shell: &mut impl Shell) {
        if self.core.is_registered() && self.core.is_extended() {
            self.report(shell);
        }
    }

    fn report(&mut self, shell: &mut impl Shell) {
        let Some(live) = shell.sessions(&self.reports) else { return };
        let (core, now) = (&mut self.core, shell.monotonic_time());
        let messages = self.reports.changed(self.address, &live, now, || core.message_id());
        let effects = self.core.take_effects();
        self.perform(effects, shell);
        for message in messages {
            shell.to_manager(message);
        }
    }

    fn perform(&mut self, mut effects: Vec<Effect>, shell: &mut impl Shell) {
        effects.sort_by_key(|effect| !matches!(effect, Effect::ReserveMessages(_)));
        for effect in effects {
            if !shell.lives() {
                return;
            }
            self.do_one(effect, shell);
        }
    }

    fn do_one(&mut self, effect: Effect, shell: &mut impl Shell) {
        match effect {
            Effect::ReserveMessages(next) => shell.reserve_messages(next),
            Effect::Keep => shell.keep(self.core.profiles()),
            Effect::Notice(notice) => shell.notice(notice),
            Effect::ToManager(envelope) => shell.to_manager(envelope),
            Effect::ReportThen(envelope) => {
                self.report(shell);
                shell.to_manager(envelope);
            }
            Effect::TellOutput(asked, answer) => shell.tell_output(asked, answer),
            Effect::ToManagerIfAwake(id, awake, stopped) => {
                let answer = if shell.is_awake(id) { awake } else { stopped };
                shell.to_manager(answer);
            }
            Effect::Registered => shell.registered(),
            Effect::Refused(status) => shell.refused(status),
            Effect::ToInstance(id, envelope) => shell.to_instance(id, envelope),
            Effect::AskInstance(id, envelope, _) if shell.is_connected(id) => shell.to_instance(id, envelope),
            Effect::AskInstance(id, _, absent) => {
                self.core.health_answered(id, absent.message.message_id());
                shell.to_manager(absent);
            }
            Effect::Redirect(switch) => shell.switch(&switch),
            Effect::Prepare(start) => {
                if let Some(entry) = self.core.entry(&start.service) {
                    shell.prepare(&start, entry);
                }
            }
            Effect::Start(start) => {
                if let Some(entry) = self.core.entry(&start.service) {
                    let unlimited = shell.start(&start, entry);
                    self.core.note_unlimited(start.id, unlimited);
                }
            }
            Effect::Abandon(start) => shell.abandon(&start),
            Effect::End(id) => shell.end(id),
            Effect::Declare(declare) => shell.declare(&declare),
            Effect::Withdraw(id) => shell.withdraw(id),
            Effect::Lead(id, plug, lead) => shell.lead(id, plug, lead),
            Effect::HandPlug { instance, plug, waiting, at, tries } => {
                shell.hand_plug((instance, plug), waiting, at, tries);
            }
            Effect::RefusePlug(waiting, why) => shell.refuse_plug(waiting, why),
            Effect::Destroy(local, remote) => shell.destroy(local, remote),
        }
    }
}
