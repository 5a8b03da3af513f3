//! Times and bounds.

use crate::graph::policy::{Health, Policy};
use crate::time::Millis;

/// Times and bounds, before what graphs say.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long an instance may take to start, milliseconds.
    pub start_timeout: Millis,
    /// How long a graceful shutdown may take before it is forced, milliseconds.
    pub shutdown_timeout: Millis,
    /// Between two polls of an agent or instance, milliseconds.
    pub health_interval: Millis,
    /// An instance without sessions for so long is shut down, milliseconds.
    pub idle_timeout: Millis,
    /// How long a lost agent may take to return before its instances count as lost, milliseconds.
    pub agent_grace: Millis,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            start_timeout: 30_000,
            shutdown_timeout: 10_000,
            health_interval: 5_000,
            idle_timeout: 600_000,
            agent_grace: 15_000,
        }
    }
}

impl Config {
    /// The policy where a graph says nothing.
    pub fn policy(&self) -> Policy {
        let usual = Policy::default();
        Policy {
            start_within: self.start_timeout,
            stop_within: self.shutdown_timeout,
            idle: Some(self.idle_timeout),
            health: Health { every: self.health_interval, ..usual.health },
            ..usual
        }
    }
}
