//! What the agent tells of itself over HTTP: metrics, health, readiness, and to users of this machine flows.

mod flows;
mod metrics;
mod node;
mod serve;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use flows::Flows;
pub use metrics::Metrics;
pub use node::{CONDITIONS, Counting};
pub use serve::{Listening, listen};

use crate::monotonic_time;

/// Where it is told to users of this machine, unless another place is named.
pub const SOCKET: &str = "/run/patchbay/agent.sock";
/// The agent's loop takes a turn at least once a second; after this time without one it counts as stuck, nanoseconds.
const STUCK_AFTER: u64 = 30_000_000_000;

/// A place to listen at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// Over TCP.
    Address(SocketAddr),
    /// A Unix socket, root's alone.
    Socket(PathBuf),
}

impl At {
    /// `unix`, `unix:FILE`, `ADDRESS:PORT`, or a port of the loopback device.
    ///
    /// # Errors
    /// It is none of these, for people.
    pub fn read(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::Socket(SOCKET.into()));
        }
        if let Some(file) = text.strip_prefix("unix:").filter(|file| file.starts_with('/')) {
            return Ok(Self::Socket(file.into()));
        }
        if let Ok(port) = text.trim_start_matches(':').parse() {
            return Ok(Self::Address(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        }
        text.parse()
            .map(Self::Address)
            .map_err(|_| "write unix, unix:/FILE, ADDRESS:PORT, or a port for the loopback device".into())
    }
}

/// Everything that is told.
#[derive(Debug)]
pub struct Observed {
    /// For Prometheus.
    pub metrics: Metrics,
    /// Sessions as they begin and end.
    pub flows: Flows,
    conditions: Mutex<BTreeMap<&'static str, Result<(), String>>>,
    turn: AtomicU64,
}

impl Observed {
    /// With conditions that do not hold yet.
    pub fn new(conditions: &[&'static str]) -> Arc<Self> {
        let waiting = conditions.iter().map(|name| (*name, Err("not yet".to_owned())));
        Arc::new(Self {
            metrics: Metrics::default(),
            flows: Flows::default(),
            conditions: Mutex::new(waiting.collect()),
            turn: AtomicU64::new(monotonic_time().unwrap_or_default()),
        })
    }

    /// A condition of readiness holds, or does not, and why.
    pub fn set(&self, condition: &'static str, holds: Result<(), String>) {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).insert(condition, holds);
    }

    /// The agent's loop has taken a turn.
    pub fn turned(&self) {
        self.turn.store(monotonic_time().unwrap_or_default(), Ordering::Relaxed);
    }

    /// Whether every condition holds, and what is said of them.
    fn readiness(&self) -> (bool, String) {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for (name, holds) in &*conditions {
            match holds {
                Ok(()) => text.push_str(&format!("{name}: ok\n")),
                Err(why) => text.push_str(&format!("{name}: {why}\n")),
            }
        }
        (conditions.values().all(Result::is_ok), text)
    }

    /// Whether the loop goes on.
    fn is_alive(&self) -> bool {
        let now = monotonic_time().unwrap_or_default();
        now.saturating_sub(self.turn.load(Ordering::Relaxed)) < STUCK_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let loopback = At::Address("127.0.0.1:9964".parse().expect("an address"));
        for (text, at) in [
            ("9964", loopback.clone()),
            (":9964", loopback.clone()),
            ("127.0.0.1:9964", loopback),
            ("unix", At::Socket(SOCKET.into())),
            ("unix:/tmp/a.sock", At::Socket("/tmp/a.sock".into())),
        ] {
            assert_eq!(At::read(text), Ok(at), "{text}");
        }
        for text in ["", "unix:a", "host:1", "1.2.3.4", "99999"] {
            assert!(At::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn it_is_ready_once_every_condition_holds() {
        let observed = Observed::new(&["datapath", "api-server"]);
        assert_eq!(observed.readiness(), (false, "api-server: not yet\ndatapath: not yet\n".into()));
        observed.set("datapath", Ok(()));
        observed.set("api-server", Err("refused".into()));
        assert!(!observed.readiness().0);
        observed.set("api-server", Ok(()));
        assert!(observed.readiness().0 && observed.is_alive());
        observed.turn.store(0, Ordering::Relaxed);
        assert!(monotonic_time().expect("Linux") < STUCK_AFTER || !observed.is_alive());
    }
}
