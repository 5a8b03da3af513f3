//! What the Manager is told of sessions' counters: what has changed since it was told last.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

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
    let items: Vec<String> = sessions.map(|(session, open)| item(session, open, now)).collect();
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

/// One item of `x_sessions` (docs/protocol.md).
fn item(session: &SessionReport, open: bool, now: Option<u64>) -> String {
    let state = if open { "open" } else { "closed" };
    let (path, reason) = match session.why() {
        None => ("kernel", "-".to_owned()),
        Some(why) => ("tcp", why),
    };
    let (sent, received) = (&session.sent, &session.received);
    let latest = |path: Option<Path>| match path {
        None => "-".to_owned(),
        Some(Path::Kernel) => "kernel".to_owned(),
        Some(Path::Tcp(reason)) => session.text(reason),
    };
    let idle = match (session.last_activity, now) {
        (0, _) | (_, None) => "-".to_owned(),
        (last, Some(now)) => (now.saturating_sub(last) / 1_000_000).to_string(),
    };
    format!(
        "{}, {}, {}, {}, {path}, {reason}, {}, {}, {}, {}, {}, {}, {}, {}, {state}, {}, {}, {}, {}, {}, {}, {idle}",
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
        latest(sent.path),
        latest(received.path),
        sent.switches,
        received.switches,
        session.in_flight[0],
        session.in_flight[1],
    )
}
