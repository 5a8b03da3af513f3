//! The agent's logic: a pure state machine over messages, processes and the kernel's events, and the domain types
//! that it speaks of. It does no I/O, reads no clock and logs nothing.

mod accepted;
mod adapted;
pub mod allowance;
mod asked;
mod closing;
mod ending;
pub mod engine;
pub mod habit_names;
mod health;
mod instances;
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

use patchbay_ebpf_common::{Habit, Reason};
use ssmmp::extension::{App, Log, Node, Redirection, Running, RunningMore, Service, Switch};
use ssmmp::{
    Address, Envelope, Hop, InitiationRequest, InstanceId, Message, MessageId, Name, NameList,
    PlugConfiguration, Port, SocketConfiguration, Status,
};

use crate::repository::{Kind, Repository};
use crate::session_report::{Cause, SessionReport};
pub use accepted::SessionEnds;
use asked::AskedTable;
pub use asked::MAX_ASKED;
pub use notice::Notice;
pub use plug_addresses::{Lead, MAX_WAITING, Waiting};
use profiles::{Ends, Profiles};
pub use speaking::{FIRST_MESSAGE, LAST_MESSAGE};
pub use timers::Millis;
use timers::Timers;
pub use unacknowledged::ACKNOWLEDGE_LOOK;
use unacknowledged::Unacknowledged;
use unsent::Unsent;
pub use unsent::{MAX_UNSENT, MAX_UNSENT_OF_ONE};

/// How long an instance that said it ends may still run.
const END_WITHIN: Duration = Duration::from_secs(10);

/// What happens to the agent.
#[derive(Debug)]
pub enum Event {
    /// The Manager's connection stands, not registered yet.
    ManagerUp,
    /// The Manager's connection is gone.
    ManagerLost,
    /// A message from the Manager.
    FromManager(Envelope),
    /// The answer to a message of the Manager that could not be understood.
    Refusal(Envelope),
    /// A message from an instance, which the kernel says it is.
    FromInstance(InstanceId, Envelope),
    /// All sockets of an instance listen.
    Listening(InstanceId),
    /// An instance of an earlier agent exists; whether it has listened, its sessions of which it is the source,
    /// and where its plugs lead.
    Adopted(Start, bool, Vec<SessionReport>, Vec<(Name, Lead)>),
    /// An adapted instance's connection to a plug's own address waits at the agent.
    PlugWaits(InstanceId, Name, Waiting),
    /// It has ended, or waited too long.
    PlugGaveUp(InstanceId, Name, Waiting),
    /// A connection of [`Effect::HandPlug`] is joined: the agent's own end towards the destination, and the destination.
    PlugJoined(InstanceId, SocketAddr, SocketAddr),
    /// The destination of [`Effect::HandPlug`] could not be reached; the last number is that effect's `tries`.
    PlugFailed(InstanceId, Name, Waiting, SocketAddr, u8),
    /// A joined connection has ended.
    PlugLeft(SessionReport, Status),
    /// An instance could not be started.
    StartFailed(InstanceId, Status, String, Vec<String>),
    /// An instance's process has ended, with its last output.
    Exited(InstanceId, String, Vec<String>),
    /// A declared session was established.
    Established(SessionReport),
    /// A declared session has ended.
    Closed(SessionReport, Cause),
    /// A program of a session did something that behaves differently once it is redirected.
    Habit(SessionReport),
    /// A session is on its way out of the map.
    Leaving(SessionReport),
    /// The time of [`Core::next_timeout`] has come.
    Tick,
    /// What was seen so far of sessions that go on.
    Observed(Vec<SessionReport>),
    /// The agent is to end, after this time at the latest.
    End(Duration),
    /// The repository was read again.
    Reload(Repository),
    /// What the node can do about redirection is known better now.
    Tested(Redirects),
}

/// What the agent does.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send to the Manager.
    ToManager(Envelope),
    /// Send all session counters to the Manager, then this.
    ReportThen(Envelope),
    /// Send further messages of sessions over TCP, or through the kernel again.
    Redirect(Switch),
    /// Send this to the Manager with lines of an instance's output.
    TellOutput(Log, Envelope),
    /// Send the first to the Manager, or the second when all processes of an instance are stopped or frozen.
    ToManagerIfAwake(InstanceId, Envelope, Envelope),
    /// Send to an instance, as soon as it connects.
    ToInstance(InstanceId, Envelope),
    /// Send to an instance that is connected; to the Manager this answer when it is not.
    AskInstance(InstanceId, Envelope, Envelope),
    /// Make an instance's cgroup, so that its sessions can be declared before it runs.
    Prepare(Start),
    /// Execute an instance.
    Start(Start),
    /// Undo what was prepared for an instance that will not be executed.
    Abandon(Start),
    /// End an instance's processes: politely first if `polite`, then by force.
    End(InstanceId),
    /// Tell the kernel of a session that may come to be.
    Declare(Declare),
    /// Lead the connections of an adapted instance's plug to a destination, or to the agent.
    Lead(InstanceId, Name, Option<Lead>),
    /// Join a connection that waits at the agent with a destination.
    HandPlug {
        /// Whose connection it is.
        instance: InstanceId,
        /// By which plug.
        plug: Name,
        /// Its number.
        waiting: Waiting,
        /// Where the destination listens.
        at: SocketAddr,
        /// How many destinations were tried before.
        tries: u8,
    },
    /// Reset a connection that waits at the agent, for a reason.
    RefusePlug(Waiting, String),
    /// Forget the declarations of an instance, as source and as destination.
    Withdraw(InstanceId),
    /// End a connection from outside its process; its own end and the other.
    Destroy(SocketAddr, SocketAddr),
    /// Remember, for the next agent here, that message ids below this one are used.
    ReserveMessages(u64),
    /// The Manager knows this agent now.
    Registered,
    /// The Manager refused the registration.
    Refused(Status),
    /// Keep [`Core::profiles`] for the next agent.
    Keep,
    /// Tell people of this.
    Notice(Notice),
}

/// An execution.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// The instance.
    pub id: InstanceId,
    /// The application, where the Manager says it.
    pub app: Option<Name>,
    /// Its service in the application's graph, where the Manager says it.
    pub vertex: Option<Name>,
    /// Its service, an entry of the repository.
    pub service: Name,
    /// The node's address.
    pub address: Address,
    /// Its ports.
    pub sockets: SocketConfiguration,
    /// Its targets.
    pub plugs: PlugConfiguration,
    /// Its plugs' own addresses, where it is an adapted one.
    pub plug_addresses: BTreeMap<String, SocketAddr>,
}

impl Start {
    /// Whether it is an instance of this service: the graph's, or the repository's entry.
    pub fn is_of(&self, service: &Name) -> bool {
        self.service == *service || self.vertex.as_ref() == Some(service)
    }

    /// An instance without an application, sockets and plugs.
    pub fn of(service: Name, id: InstanceId) -> Self {
        Self {
            id,
            app: None,
            vertex: None,
            service,
            address: Address::UNKNOWN,
            sockets: SocketConfiguration(Vec::new()),
            plugs: PlugConfiguration(Vec::new()),
            plug_addresses: BTreeMap::new(),
        }
    }
}

/// A declaration, in terms of instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declare {
    /// The source instance.
    pub source: InstanceId,
    /// The destination instance.
    pub destination: InstanceId,
    /// Where it listens.
    pub at: SocketAddr,
    /// Whether to redirect.
    pub redirect: Result<(), Reason>,
    /// What the reason is about, if it is [`Reason::Habit`].
    pub about: Habit,
    /// Whether it stays redirected whatever is seen.
    pub always: bool,
    /// Whether its programs are to be observed.
    pub observe: bool,
}

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its plugs' targets are being asked for.
    Plugs,
    /// Its process was started.
    Starting,
    /// Its sockets listen.
    Running,
    /// It was asked to end.
    Ending,
}

#[derive(Debug)]
struct Instance {
    start: Start,
    kind: Kind,
    tested: bool,
    stage: Stage,
    /// The execution_request's id; none of one that an earlier agent started.
    execution: Option<MessageId>,
    /// Its graceful_shutdown_request, until it is answered.
    graceful: Option<MessageId>,
    /// Its hard_shutdown_request, answered when the process is gone.
    hard: Option<MessageId>,
    /// Which of its limits are not applied, and why; empty when all are.
    unlimited: String,
    /// It said itself that it ends, and why it does; it has a time to do so.
    exiting: Option<&'static str>,
}

/// A session of an instance here, by its source and m.
#[derive(Debug, Clone)]
struct Live {
    message_id: MessageId,
    service: Name,
    plug: Name,
    dest_service: Name,
    destination: InstanceId,
    socket: Name,
    at: SocketAddr,
    /// The kernel saw it end, its source has not said so yet: it is told no more.
    over: bool,
}

/// A declaration and what it was decided from.
#[derive(Debug, Clone)]
struct Declared {
    declare: Declare,
    ends: Ends,
}

/// What the node can do about redirection.
#[derive(Debug, Clone)]
pub struct Redirects {
    /// Whether it does.
    pub redirection: Redirection,
    /// Whether the kernel part sees every session, redirected or not.
    pub sees_all: bool,
    /// Whether programs can be observed, so that unknown ones may be redirected later.
    pub observes: bool,
    /// Bits of [`patchbay_ebpf_common::habit::tried`] that redirection leaves as they are on this kernel.
    pub harmless: u32,
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

    fn register(&mut self) {
        self.registered = false;
        self.tell_repository();
    }

    /// Tells what this node can execute and what exists on it.
    fn tell_repository(&mut self) {
        let mut parts = self.running();
        let rest = parts.pop().unwrap_or(Running(Vec::new()));
        for part in parts {
            let request = self.registration_with(NameList(Vec::new())).1;
            self.effect(Effect::ToManager(request.with(part).with(RunningMore)));
        }
        let (id, envelope) = self.registration_with(self.offered());
        self.registration = id;
        let redirection = self.redirects.redirection.clone();
        self.redirection_told = Some(redirection.clone());
        let envelope = envelope.with(redirection).with(rest);
        let envelope = envelope.with_some(self.unlimited()).with_some(self.unavailable());
        self.effect(Effect::ToManager(envelope));
    }

    fn registration_with(&mut self, service_repository: NameList) -> (MessageId, Envelope) {
        let message_id = self.message_id();
        let request =
            InitiationRequest { message_id, agent_network_address: self.address, service_repository };
        (message_id, Envelope::new(request, Hop::AgentToManager).with(Node(&self.node)))
    }

    fn manager_said(&mut self, envelope: Envelope) {
        self.extended |= envelope.has_extensions();
        match &envelope.message {
            Message::InitiationResponse(response) if response.message_id == self.registration => {
                self.extended = envelope.has_extensions();
                if response.status.is_success() {
                    // One that was registered all the time has only told of another repository.
                    if !std::mem::replace(&mut self.registered, true) {
                        self.effect(Effect::Registered);
                        self.tell_again();
                        self.tell_ending();
                        self.tell_redirection();
                    }
                } else {
                    self.registered = false;
                    self.effect(Effect::Refused(response.status));
                }
            }
            _ if !self.registered => {}
            Message::ExecutionRequest(request) => {
                let (app, vertex) = (envelope.line(), envelope.line());
                self.execute(request.clone(), app.map(|App(name)| name), vertex.map(|Service(name)| name));
            }
            Message::SessionResponse(response) => self.session_answered(response.clone(), envelope),
            Message::SourceServiceSessionCloseRequest(request) => {
                self.close_asked(request.source_service_instance_id, envelope);
            }
            Message::DestServiceSessionCloseRequest(request) => {
                let id = self.destination(request.dest_service_instance_id, request.dest_socket_port);
                self.close_asked(id, envelope);
            }
            Message::GracefulShutdownRequest(request) => {
                self.shutdown_asked(request.service_instance_id, request.message_id, true);
            }
            Message::HardShutdownRequest(request) => {
                self.shutdown_asked(request.service_instance_id, request.message_id, false);
            }
            Message::ServiceInstanceHealthRequest(request) => {
                self.health_asked(request.service_instance_id, envelope);
            }
            Message::AgentHealthControlRequest(request) => {
                let answer = self.own_health(request.message_id);
                if let Some(switch) = envelope.line::<Switch>() {
                    self.effect(Effect::Redirect(switch));
                }
                self.effect(match envelope.line::<Log>() {
                    Some(asked) => Effect::TellOutput(asked, answer),
                    None => Effect::ReportThen(answer),
                });
            }
            _ => {}
        }
    }

    fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn notice(&mut self, notice: Notice) {
        self.effect(Effect::Notice(notice));
    }
}

fn acknowledgement(source: InstanceId, port: Port, live: &Live) -> ssmmp::SessionAck {
    ssmmp::SessionAck {
        message_id: live.message_id,
        source_service_name: live.service.clone(),
        source_service_instance_id: source,
        source_plug_port: port,
        dest_socket_new_port: Port(live.at.port()),
        status: Status::OK,
    }
}
