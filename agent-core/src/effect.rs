//! What the agent does.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use patchbay_ebpf_common::{Habit, Reason};
use ssmmp::extension::{Log, Redirection, Switch};
use ssmmp::{Address, Envelope, InstanceId, Name, PlugConfiguration, SocketConfiguration, Status};

use super::{Lead, Notice, Waiting};

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
    /// Keep [`Core::profiles`](super::Core::profiles) for the next agent.
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
    /// Whether its ends may have shared memory.
    pub memory: bool,
    /// What the reason is about, if it is [`Reason::Habit`].
    pub about: Habit,
    /// Whether it stays redirected whatever is seen.
    pub always: bool,
    /// Whether its programs are to be observed.
    pub observe: bool,
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
