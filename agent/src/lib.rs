//! The Patchbay agent: one on each node. It executes service instances, passes their SSMMP messages
//! on, and redirects same-node sessions inside the kernel.

use std::io::{ErrorKind, Write as _};

use anyhow::{Result, bail};

pub mod adopted;
pub mod claim;
pub mod data_folder;
pub mod datapath;
pub mod declared;
pub mod detach;
pub mod fresh;
pub mod instance_listener;
pub mod known_manager;
pub mod manager_link;
pub mod manager_route;
pub mod memory;
pub mod message_ids;
pub mod mounts;
pub mod node;
pub mod node_secret;
mod notices;
pub mod observe;
pub mod output;
mod own_cgroup;
pub mod plugs;
pub mod pods;
mod private;
pub mod probe;
pub mod processes;
pub mod profile_file;
pub mod profile_table;
pub mod redirection;
pub mod repository;
pub mod reserved_ports;
pub mod run;
pub mod scope;
pub mod secured;
pub mod signals;
pub mod socket_table;
pub mod switch;
pub mod trace;
pub mod unredirected;

/// Prints for people or programs; whoever stops reading has seen enough.
///
/// # Errors
/// The output can't be written.
pub fn show(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Trouble happens again: how many times it has so far, when that is to be told.
fn again(trouble: &ssmmp::Repeated) -> Option<u64> {
    trouble.again(monotonic_time().unwrap_or_default() / 1_000_000)
}

/// Nanoseconds since boot, the clock of the kernel programs.
pub fn boot_time() -> Option<u64> {
    time_of(nix::time::ClockId::CLOCK_BOOTTIME)
}

/// The same without the time that the machine was suspended: their clock for what happens all the time.
pub fn monotonic_time() -> Option<u64> {
    time_of(nix::time::ClockId::CLOCK_MONOTONIC)
}

fn time_of(clock: nix::time::ClockId) -> Option<u64> {
    let now = nix::time::clock_gettime(clock).ok()?;
    Some(u64::try_from(now.tv_sec()).ok()? * 1_000_000_000 + u64::try_from(now.tv_nsec()).ok()?)
}

/// Refuses a command that only root can do; `why` says what it does.
///
/// # Errors
/// This process is not root's.
pub fn require_root(why: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("{why}: run it as root");
    }
    Ok(())
}
