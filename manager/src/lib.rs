//! The Patchbay Manager: knows the graph of each application, has its services executed by the agents,
//! and configures every session.

pub mod certificates;
pub mod dns;
pub mod http;
pub mod maintenance;
pub mod managers_file;
pub mod metrics;
pub mod server;
pub mod shell;
pub mod store;

/// Trouble happens again: how many times it has so far, when that is to be told.
fn again(trouble: &ssmmp::Repeated) -> Option<u64> {
    trouble.again(shell::now())
}
