//! What the Manager is told of sessions' counters: what has changed since it was told last.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use ssmmp::extension::{self, Details, Latest, SessionCounters, Sessions, ThroughMemory};
use ssmmp::{Address, AgentHealthControlResponse, Envelope, Hop, MessageId, Status};

use crate::session_report::{Path, SessionReport, Traffic};

/// Sessions in one message to the Manager (docs/protocol.md).
const SESSIONS_IN_A_MESSAGE: usize = 200;
/// Ended sessions kept until they are reported; the oldest go first.
const ENDED_KEPT: usize = 10_000;

/// What was told last.
#[derive(Debug, Default)]
pub struct Reports {
    told: HashMap<(SocketAddr, SocketAddr), Told>,
    ended: VecDeque<SessionReport>,
}

/// What of a session is told.
#[derive(Debug, PartialEq)]
struct Told {
    path: Path,
    memory: bool,
    traffic: [Traffic; 2],
    in_flight: [u32; 2],
}

impl Reports {
    /// A session has ended; it is told with the next report.
    pub fn ended(&mut self, session: SessionReport) {
        if self.ended.len() >= ENDED_KEPT {
            self.ended.pop_front();
        }
        self.ended.push_back(session);
    }

    /// Whether nothing was unread in a session when it was told last, and it has carried nothing since.
    pub fn is_quiet(&self, session: &SessionReport) -> bool {
        self.told
            .get(&(session.source, session.destination))
            .is_some_and(|told| told.in_flight == [0; 2] && told.traffic == [session.sent, session.received])
    }

    /// Those of the living sessions that have changed, and those that have ended; `now` in monotonic nanoseconds.
    pub fn changed(
        &mut self,
        address: Address,
        live: &[SessionReport],
        now: Option<u64>,
        message_id: impl FnMut() -> MessageId,
    ) -> Vec<Envelope> {
        let mut earlier = std::mem::replace(&mut self.told, HashMap::with_capacity(live.len()));
        let mut changed = Vec::new();
        for session in live.iter().filter(|session| !session.uncounted) {
            let ends = (session.source, session.destination);
            let told = Told {
                path: session.path,
                memory: session.memory,
                traffic: [session.sent, session.received],
                in_flight: session.in_flight,
            };
            if earlier.remove(&ends).as_ref() != Some(&told) {
                changed.push(session);
            }
            self.told.insert(ends, told);
        }
        let ended = std::mem::take(&mut self.ended);
        let open = changed.into_iter().map(|session| (session, true));
        let sessions = open.chain(ended.iter().map(|session| (session, false)));
        report_messages(address, sessions, now, message_id)
    }
}

/// Counters of sessions, each open or not, in as many messages as they need; `now` in monotonic nanoseconds.
pub fn report_messages<'a>(
    address: Address,
    sessions: impl Iterator<Item = (&'a SessionReport, bool)>,
    now: Option<u64>,
    mut message_id: impl FnMut() -> MessageId,
) -> Vec<Envelope> {
    let items: Vec<SessionCounters<'a>> =
        sessions.map(|(session, open)| counters(session, open, now)).collect();
    items
        .chunks(SESSIONS_IN_A_MESSAGE)
        .map(|items| {
            let response = AgentHealthControlResponse {
                message_id: message_id(),
                agent_network_address: address,
                status: Status::OK,
            };
            Envelope::new(response, Hop::AgentToManager).with(Sessions(items.to_vec()))
        })
        .collect()
}

/// A session as the Manager is told of it.
fn counters(session: &SessionReport, is_open: bool, now: Option<u64>) -> SessionCounters<'_> {
    let (sent, received) = (&session.sent, &session.received);
    let latest = |path: Option<Path>| {
        if session.memory {
            return Some(Latest::Fast(extension::Path::Memory));
        }
        path.map(|path| match path {
            Path::Kernel => Latest::Fast(extension::Path::Kernel),
            Path::Tcp(reason) => Latest::Tcp(session.text(reason)),
        })
    };
    let idle = |last: u64| now.map(|now| now.saturating_sub(last) / 1_000_000);
    SessionCounters {
        source: extension::end(session.source),
        destination: extension::end(session.destination),
        path: match session.path {
            _ if session.memory => extension::Path::Memory,
            Path::Kernel => extension::Path::Kernel,
            Path::Tcp(_) => extension::Path::Tcp,
        },
        reason: session.why().filter(|_| !session.memory),
        sent: traffic(sent),
        received: traffic(received),
        is_open,
        details: Some(Details {
            latest: [latest(sent.path), latest(received.path)],
            switches: [sent.switches, received.switches],
            in_flight: session.in_flight,
            idle: Some(session.last_activity).filter(|last| *last > 0).and_then(idle),
            memory: [sent, received]
                .map(|way| ThroughMemory { bytes: way.memory_bytes, messages: way.memory_messages }),
        }),
    }
}

fn traffic(of: &Traffic) -> extension::Traffic {
    let Traffic { kernel_bytes, tcp_bytes, kernel_messages, tcp_messages, .. } = *of;
    extension::Traffic { kernel_bytes, tcp_bytes, kernel_messages, tcp_messages }
}
