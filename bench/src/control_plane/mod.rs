//! The control plane: the real Manager with as many agents, instances and sessions as are wanted, spoken to
//! over real connections; and the real agent with an instance of its own.

mod agent;
mod executions;
mod fleet;
mod graph;
pub mod instance;
mod manager;
mod message;
mod recovery;
mod sessions;

use crate::case::{Case, Pace};
use crate::sample::{Metric, Unit};

/// Sessions established in a second: asked for, answered, acknowledged.
const ESTABLISHED: Metric = Metric::more("established", Unit::PerSecond);
/// CPU time of the Manager for each of them.
const MANAGER_CPU: Metric = Metric::less("Manager cpu for each", Unit::Nanoseconds);
/// CPU time of the agent for each of them.
const AGENT_CPU: Metric = Metric::less("agent cpu for each", Unit::Nanoseconds);
/// Resident memory of the Manager.
const MANAGER_MEMORY: Metric = Metric::less("Manager memory", Unit::Bytes);
/// Resident memory of the agent.
const AGENT_MEMORY: Metric = Metric::less("agent memory", Unit::Bytes);
/// What a session adds to the Manager's resident memory.
const MEMORY_EACH: Metric = Metric::less("memory for each session", Unit::Bytes);
/// A party's CPU time while nothing is asked of it, polls included.
const IDLE_CPU: Metric = Metric::less("Manager cpu while idle", Unit::Percent);
/// Events published in a second.
const EVENTS: Metric = Metric::more("events", Unit::PerSecond);

/// The control plane's cases, the sizes of the protocol's targets among them when all is wanted.
pub fn cases(pace: &Pace) -> Vec<Box<dyn Case>> {
    vec![
        Box::new(sessions::Sessions::new(pace)),
        Box::new(executions::Executions::new(pace)),
        Box::new(recovery::Recovery::new(pace)),
        Box::new(agent::ThroughAgent::new(pace)),
    ]
}
