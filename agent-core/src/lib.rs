//! The agent's logic: a pure state machine over messages, processes and the kernel's events, and the domain types
//! that it speaks of. It does no I/O, reads no clock and logs nothing.

mod accepted;
mod adapted;
pub mod allowance;
mod asked;
mod closing;
mod effect;
mod ending;
pub mod engine;
mod event;
pub mod habit_names;
mod health;
mod instance;
mod instances;
mod live;
mod manager;
mod notice;
mod observed;
mod plug_addresses;
pub mod profiles;
pub mod reports;
pub mod repository;
mod resync;
pub mod session_report;
mod sessions;
mod speaking;
mod timers;
mod unacknowledged;
mod unsent;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

pub use accepted::SessionEnds;
use asked::AskedTable;
pub use asked::MAX_ASKED;
pub use effect::{Declare, Effect, Redirects, Start};
pub use event::Event;
use instance::{Instance, Stage};
use live::{Live, acknowledgement};
pub use notice::Notice;
pub use plug_addresses::{Lead, MAX_WAITING, Waiting};
use profiles::{Ends, Profiles};
pub use speaking::{FIRST_MESSAGE, LAST_MESSAGE};
use ssmmp::extension::Redirection;
use ssmmp::{Address, InstanceId, MessageId, Name, Port};
pub use timers::Millis;
use timers::Timers;
pub use unacknowledged::ACKNOWLEDGE_LOOK;
use unacknowledged::Unacknowledged;
use unsent::Unsent;
pub use unsent::{MAX_UNSENT, MAX_UNSENT_OF_ONE};

use crate::repository::Repository;

/// How long an instance that said it ends may still run.
const END_WITHIN: Duration = Duration::from_secs(10);

/// A declaration and what it was decided from.
#[derive(Debug, Clone)]
struct Declared {
    declare: Declare,
    ends: Ends,
}

/// The agent's state and its only owner.
pub struct Core {
    address: Address,
    node: String,
    redirects: Redirects,
    repository: Repository,
    instances: BTreeMap<InstanceId, Instance>,
    profiles: Profiles,
    declared: BTreeMap<(InstanceId, SocketAddr), Declared>,
    asked: AskedTable,
    plugs: plug_addresses::Plugs,
    live: BTreeMap<accepted::SessionEnds, Live>,
    accepted: accepted::Accepted,
    finishing: adapted::Finishing,
    /// Whether no session of an instance here can be missing in `live`.
    knows_all_sessions: bool,
    closing: BTreeMap<MessageId, closing::Closing>,
    unacknowledged: Unacknowledged,
    health: health::Asked,
    registered: bool,
    /// Whether the Manager has shown that it knows our extension lines.
    extended: bool,
    /// Whether this node redirects, as the Manager was told it last.
    redirection_told: Option<Redirection>,
    registration: MessageId,
    unsent: Unsent,
    next_message: u64,
    /// Below this one, message ids are reserved for this agent.
    reserved: u64,
    /// The time that this agent has said it ends within.
    ending: Option<Duration>,
    timers: Timers,
    now: Millis,
    effects: Vec<Effect>,
}

impl Core {
    /// An agent without instances.
    pub fn new(
        address: Address,
        node: String,
        redirects: Redirects,
        repository: Repository,
        profiles: Profiles,
    ) -> Self {
        Self {
            address,
            node,
            redirects,
            repository,
            profiles,
            declared: BTreeMap::new(),
            instances: BTreeMap::new(),
            asked: AskedTable::default(),
            plugs: plug_addresses::Plugs::new(),
            live: BTreeMap::new(),
            accepted: accepted::Accepted::new(),
            finishing: adapted::Finishing::default(),
            knows_all_sessions: true,
            closing: BTreeMap::new(),
            unacknowledged: Unacknowledged::new(),
            health: health::Asked::new(),
            registered: false,
            extended: false,
            redirection_told: None,
            registration: MessageId::from(1),
            unsent: Unsent::default(),
            next_message: FIRST_MESSAGE,
            reserved: FIRST_MESSAGE,
            ending: None,
            timers: Timers::default(),
            now: 0,
            effects: Vec::new(),
        }
    }

    /// The one way in. What waits at the same moment is to come before [`Event::Tick`]: it may be what is waited for.
    pub fn handle(&mut self, now: Millis, event: Event) -> Vec<Effect> {
        self.now = self.now.max(now);
        match event {
            Event::ManagerUp => self.register(),
            Event::ManagerLost => self.registered = false,
            Event::FromManager(envelope) => self.manager_said(envelope),
            Event::Refusal(envelope) => self.effect(Effect::ToManager(envelope)),
            Event::FromInstance(id, envelope) => self.instance_said(id, envelope),
            Event::Listening(id) => self.listening(id),
            Event::Adopted(start, listens, sessions, leads) => self.adopt(start, listens, &sessions, &leads),
            Event::PlugWaits(id, plug, waiting) => self.plug_waits(id, &plug, waiting),
            Event::PlugGaveUp(id, plug, waiting) => self.plug_gave_up(id, &plug, waiting),
            Event::PlugJoined(id, source, at) => self.plug_joined(id, source, at),
            Event::PlugFailed(id, plug, waiting, at, tries) => {
                self.plug_failed(id, &plug, waiting, at, tries);
            }
            Event::PlugLeft(report, status) => {
                let (id, port) = (InstanceId(report.source_instance), Port(report.source.port()));
                self.tell_source_closed(id, port, report.destination, status);
            }
            Event::StartFailed(id, status, reason, output) => self.start_failed(id, status, &reason, &output),
            Event::Exited(id, reason, output) => self.exited(id, &reason, &output),
            Event::Established(report) => self.established(&report),
            Event::Closed(report, cause) => {
                self.observed(&report, true);
                self.closed(&report, cause);
            }
            Event::Habit(report) => self.observed(&report, false),
            Event::Leaving(report) => self.left(&report),
            Event::Tick => self.run_timers(),
            Event::End(within) => self.end(within),
            Event::Reload(repository) => self.reload(repository),
            Event::Observed(reports) => {
                for report in &reports {
                    self.observed(report, false);
                }
            }
            Event::Tested(redirects) => self.tested(redirects),
        }
        self.take_effects()
    }

    /// Messages for the Manager that were dropped because too many waited.
    pub fn dropped(&self) -> u64 {
        self.unsent.dropped()
    }

    /// Whether the Manager knows this agent now.
    pub fn is_registered(&self) -> bool {
        self.registered
    }

    /// The instances that exist here.
    pub fn instance_ids(&self) -> Vec<InstanceId> {
        self.instances.keys().copied().collect()
    }

    /// What was learned of programs, to which others may add.
    pub fn profiles(&mut self) -> &mut Profiles {
        &mut self.profiles
    }

    /// An entry of the repository.
    pub fn entry(&self, service: &Name) -> Option<&repository::Entry> {
        self.repository.get(service)
    }

    fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn notice(&mut self, notice: Notice) {
        self.effect(Effect::Notice(notice));
    }
}
