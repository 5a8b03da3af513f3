//! The data path as the agent uses it: loaded, or absent with a reason.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use ssmmp::{Address, AgentHealthControlResponse, Envelope, Hop, InstanceId, MessageId, Status};
use tracing::{info, warn};

use crate::core::{Declare, Event};
use crate::datapath::{Datapath, Declaration, Options, Path, SessionEvent, SessionReport};
use crate::instance_listener::Directory;
use crate::socket_table;

/// Sessions in one message to the Manager (docs/protocol.md).
const SESSIONS_IN_A_MESSAGE: usize = 200;
/// Ended sessions kept until they are reported; the oldest go first.
const ENDED_KEPT: usize = 10_000;

/// The kernel part, if this node has one.
pub struct Redirection {
    datapath: Option<Datapath>,
    why_not: String,
    declared: BTreeSet<(InstanceId, InstanceId, u64, SocketAddr)>,
    ended: Vec<SessionReport>,
    reported: Vec<SessionReport>,
}

impl Redirection {
    /// Loads the data path; without it the node goes on, and says once what is missing.
    pub fn load(options: Result<&Options, String>) -> Self {
        let (datapath, why_not) =
            match options.and_then(|o| Datapath::load(o).map_err(|missing| missing.to_string())) {
                Ok(datapath) => (Some(datapath), String::new()),
                Err(missing) => {
                    warn!("sessions of this node stay on TCP: {missing}");
                    (None, missing)
                }
            };
        Self { datapath, why_not, declared: BTreeSet::new(), ended: Vec::new(), reported: Vec::new() }
    }

    /// `kernel`, or why not, short.
    pub fn describe(&self) -> String {
        match &self.datapath {
            Some(_) => "kernel".into(),
            None => format!("off: {}", self.why_not.chars().take(160).collect::<String>()),
        }
    }

    /// Declares a session; a session that can't be declared stays on TCP.
    pub fn declare(&mut self, declare: &Declare, directory: &Directory) {
        let Some(datapath) = &mut self.datapath else { return };
        let Some(source_cgroup) = directory.cgroup(declare.source) else { return };
        let declaration = Declaration {
            source_cgroup,
            destination_cgroup: directory.cgroup(declare.destination).unwrap_or(0),
            destination: declare.at,
            source_instance: declare.source.0,
            destination_instance: declare.destination.0,
            redirect: declare.redirect,
        };
        match datapath.declare(&declaration) {
            Ok(()) => {
                self.declared.insert((declare.source, declare.destination, source_cgroup, declare.at));
            }
            Err(error) => warn!("a session stays on TCP: {error}"),
        }
    }

    /// Takes back every declaration of an instance.
    pub fn withdraw(&mut self, id: InstanceId) {
        let Some(datapath) = &mut self.datapath else { return };
        let (gone, kept) = std::mem::take(&mut self.declared)
            .into_iter()
            .partition(|(source, destination, ..)| *source == id || *destination == id);
        self.declared = kept;
        let gone: BTreeSet<_> = gone;
        for (_, _, cgroup, at) in gone {
            if let Err(error) = datapath.withdraw(cgroup, at) {
                warn!("a declaration could not be withdrawn: {error}");
            }
        }
    }

    /// Switches redirection of further messages on or off.
    pub fn switch(&mut self, on: bool) {
        match &mut self.datapath {
            Some(datapath) => match datapath.set_redirection(on) {
                Ok(()) => info!(on, "redirection switched"),
                Err(error) => warn!("redirection can't be switched: {error}"),
            },
            None => warn!("redirection can't be switched: {}", self.why_not),
        }
    }

    /// The next thing the kernel tells; never, when there is no kernel part.
    pub async fn next_event(&mut self) -> Event {
        let Some(datapath) = &mut self.datapath else { return std::future::pending().await };
        match datapath.next_event().await {
            Ok(SessionEvent::Established(report)) => Event::Established(report),
            Ok(SessionEvent::Closed(report, cause)) => {
                if self.ended.len() >= ENDED_KEPT {
                    self.ended.remove(0);
                }
                self.ended.push(report.clone());
                Event::Closed(report, cause)
            }
            Err(error) => {
                warn!("the kernel's events can't be read any more: {error}");
                std::future::pending().await
            }
        }
    }

    /// Counters that changed since the last report, in as many messages as they need.
    pub fn report(&mut self, address: Address, mut message_id: impl FnMut() -> MessageId) -> Vec<Envelope> {
        let Some(datapath) = &self.datapath else { return Vec::new() };
        let mut live = match datapath.sessions() {
            Ok(live) => live,
            Err(error) => {
                warn!("the sessions' counters can't be read: {error}");
                return Vec::new();
            }
        };
        add_plain_tcp(&mut live);
        let ended: Vec<SessionReport> = std::mem::take(&mut self.ended);
        let changed =
            live.iter().filter(|session| !self.reported.contains(session)).map(|session| (session, "open"));
        let items: Vec<String> = changed
            .chain(ended.iter().map(|session| (session, "closed")))
            .map(|(session, state)| item(session, state))
            .collect();
        self.reported = live;
        items
            .chunks(SESSIONS_IN_A_MESSAGE)
            .map(|items| {
                let response = AgentHealthControlResponse {
                    message_id: message_id(),
                    agent_network_address: address,
                    status: Status::OK,
                };
                Envelope::new(response, Hop::AgentToManager).with("x_sessions", &items.join(" & "))
            })
            .collect()
    }
}

/// Sessions that were never in the map are counted by TCP itself.
fn add_plain_tcp(sessions: &mut [SessionReport]) {
    let is_plain = |session: &SessionReport| {
        let counted =
            session.sent.kernel_messages + session.sent.tcp_messages + session.received.tcp_messages;
        matches!(session.path, Path::Tcp(_)) && counted == 0
    };
    if !sessions.iter().any(is_plain) {
        return;
    }
    let carried = match socket_table::carried() {
        Ok(carried) => carried,
        Err(error) => {
            warn!("the socket table can't be read: {error}");
            return;
        }
    };
    let by_ends: HashMap<_, _> = carried.iter().map(|found| ((found.local, found.remote), found)).collect();
    for session in sessions.iter_mut().filter(|session| is_plain(session)) {
        if let Some(found) = by_ends.get(&(session.source, session.destination)) {
            session.sent.tcp_bytes = found.sent;
            session.received.tcp_bytes = found.received;
        }
    }
}

/// One item of `x_sessions` (docs/protocol.md).
fn item(session: &SessionReport, state: &str) -> String {
    let (path, reason) = match session.path {
        Path::Kernel => ("kernel", "-"),
        Path::Tcp(reason) => ("tcp", reason.text()),
    };
    let (sent, received) = (&session.sent, &session.received);
    format!(
        "{}, {}, {}, {}, {path}, {reason}, {}, {}, {}, {}, {}, {}, {}, {}, {state}",
        session.source.ip(),
        session.source.port(),
        session.destination.ip(),
        session.destination.port(),
        sent.kernel_bytes,
        sent.tcp_bytes,
        received.kernel_bytes,
        received.tcp_bytes,
        sent.kernel_messages,
        sent.tcp_messages,
        received.kernel_messages,
        received.tcp_messages,
    )
}
