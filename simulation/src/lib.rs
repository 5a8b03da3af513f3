//! One Manager, its agents and their instances under virtual time.
//!
//! The cores are the real ones, so are the messages' form and the Manager's database; sockets, processes,
//! kernels and clocks are modelled. A seed decides everything: how large the cluster is, what programs do,
//! when messages arrive, what breaks when. The same seed gives the same run.
//!
//! The way through: [`Plan::of_seed`] → [`run`] → [`Outcome`].

mod agent;
mod application;
mod checks;
mod durable;
mod faults;
mod link;
mod manager;
mod network;
mod node;
mod plan;
mod plugs;
mod process;
mod schedule;
mod service;
mod trace;
mod world;

pub use plan::{FaultKind, MAX_AGENTS, MAX_INSTANCES, Plan};
pub use world::{Outcome, run};
