//! Sessions of a node without the kernel part: the socket table says what becomes of them, so that they
//! are acknowledged, shown and counted all the same.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use patchbay_agent_core::{Declare, Event};
use patchbay_ebpf_common::Reason;
use ssmmp::{InstanceId, Repeated};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;

use crate::datapath::{Cause, Path, SessionReport};
use crate::socket_table::{self, Carried};

/// Looks at the socket table that failed.
static NO_SOCKET_TABLE: Repeated = Repeated::new();
/// How often the socket table is read while a session may come or go.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Watches declared sessions in the socket table. A session shorter than a quarter of a second may be
/// missed: only the kernel part sees every one.
pub struct Unredirected {
    why: Reason,
    declared: BTreeMap<(u64, SocketAddr), Expected>,
    live: HashMap<(SocketAddr, SocketAddr), SessionReport>,
    found: VecDeque<Event>,
    looks: Interval,
}

struct Expected {
    source: InstanceId,
    destination: InstanceId,
    reason: Reason,
}

impl Unredirected {
    /// Watches nothing yet; `why` is told of sessions that could have been redirected.
    pub fn new(why: Reason) -> Self {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { why, declared: BTreeMap::new(), live: HashMap::new(), found: VecDeque::new(), looks }
    }

    /// Expects a session.
    pub fn declare(&mut self, source_cgroup: u64, declare: &Declare) {
        let expected = Expected {
            source: declare.source,
            destination: declare.destination,
            reason: declare.redirect.err().unwrap_or(self.why),
        };
        self.declared.insert((source_cgroup, declare.at), expected);
    }

    /// Expects no more sessions there.
    pub fn withdraw(&mut self, source_cgroup: u64, at: SocketAddr) {
        self.declared.remove(&(source_cgroup, at));
    }

    /// The sessions that exist, with their counters.
    pub fn sessions(&self) -> Vec<SessionReport> {
        self.live.values().cloned().collect()
    }

    /// The next session that came or went; never, while none is expected.
    pub async fn next_event(&mut self) -> Event {
        loop {
            if let Some(event) = self.found.pop_front() {
                return event;
            }
            if self.declared.is_empty() && self.live.is_empty() {
                return std::future::pending().await;
            }
            self.looks.tick().await;
            match socket_table::carried() {
                Ok(carried) => self.compare(&carried),
                Err(error) => {
                    if let Some(times) = crate::again(&NO_SOCKET_TABLE) {
                        warn!(times, "the socket table can't be read: {error}");
                    }
                }
            }
        }
    }

    fn compare(&mut self, carried: &[Carried]) {
        let mut gone = std::mem::take(&mut self.live);
        for socket in carried {
            let ends = (socket.local, socket.remote);
            let earlier = gone.remove(&ends);
            let Some(mut report) = earlier.clone().or_else(|| self.expected(socket)) else { continue };
            (report.sent.tcp_bytes, report.received.tcp_bytes) = (socket.sent, socket.received);
            if earlier.is_none() {
                self.found.push_back(Event::Established(report.clone()));
            }
            self.live.insert(ends, report);
        }
        // Who closed can't be seen from here: a source that is still asked says so itself.
        self.found.extend(gone.into_values().map(|report| Event::Closed(report, Cause::SourceFinished)));
    }

    fn expected(&self, socket: &Carried) -> Option<SessionReport> {
        let expected = self.declared.get(&(socket.cgroup, socket.remote))?;
        Some(SessionReport {
            source: socket.local,
            path: Path::Tcp(expected.reason),
            ..SessionReport::between(expected.source.0, expected.destination.0, socket.remote)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(remote: &str, cgroup: u64, sent: u64) -> Carried {
        let at = |text: &str| text.parse().expect("an address");
        Carried { local: at("10.0.0.1:40000"), remote: at(remote), cgroup, sent, received: 2 * sent }
    }

    #[tokio::test]
    async fn only_declared_sessions_are_seen_from_their_begin_to_their_end() {
        let mut sessions = Unredirected::new(Reason::Unavailable);
        let at = "10.0.0.1:54001".parse().expect("an address");
        let declare = Declare {
            source: InstanceId(7),
            destination: InstanceId(9),
            at,
            redirect: Err(Reason::Never),
            memory: true,
            always: false,
            about: patchbay_ebpf_common::Habit::NONE,
            observe: false,
        };
        sessions.declare(77, &declare);
        sessions.compare(&[socket("10.0.0.1:54001", 78, 1), socket("10.0.0.1:54002", 77, 1)]);
        assert!(sessions.found.is_empty(), "another cgroup, another destination");
        sessions.compare(&[socket("10.0.0.1:54001", 77, 1)]);
        let Event::Established(report) = sessions.next_event().await else { panic!() };
        assert_eq!(report.path, Path::Tcp(Reason::Never));
        sessions.withdraw(77, at);
        sessions.compare(&[socket("10.0.0.1:54001", 77, 5)]);
        let [report] = &sessions.sessions()[..] else { panic!() };
        assert_eq!((report.sent.tcp_bytes, report.received.tcp_bytes), (5, 10));
        sessions.compare(&[]);
        let Event::Closed(report, _) = sessions.next_event().await else { panic!() };
        assert_eq!(report.sent.tcp_bytes, 5);
        assert!(sessions.sessions().is_empty());
    }
}
