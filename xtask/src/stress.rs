//! The stress oracle of the data path, as long as wanted.

use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::command::{progress, run as run_command};
use crate::{setup, workspace};

/// How long, and which sessions.
#[derive(Args)]
#[command(
    after_help = "Example, a terabyte checked by position while paths are switched and agents replaced:\n  \
                        cargo xtask stress --gigabytes 1000"
)]
pub struct Stress {
    /// End when so many bytes were checked, in units of 10^9
    #[arg(long, value_name = "COUNT")]
    gigabytes: Option<u64>,
    /// End after so many seconds [default: 60, or a day with --gigabytes]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// The same seed makes the same sessions
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Sessions of every kind while the data path is switched, replaced, filled and emptied.
pub fn run(stress: &Stress) -> Result<()> {
    const DAY: u64 = 24 * 60 * 60;
    if !nix::unistd::geteuid().is_root() {
        bail!("cgroups are made and kernel programs loaded: run as root");
    }
    setup::run()?;
    setup::build()?;
    let seconds = stress.seconds.unwrap_or(if stress.gigabytes.is_some() { DAY } else { 60 });
    progress(&format!("sessions of every kind, seed {}, for at most {seconds} s", stress.seed));
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["test", "--package", "patchbay-agent", "--test", "datapath", "--"])
        .args(["--nocapture", "--exact", "stress::paths_are_switched_sessions_leave_and_agents_are_replaced"])
        .env("PATCHBAY_STRESS_SECONDS", seconds.to_string())
        .env("PATCHBAY_STRESS_SEED", stress.seed.to_string())
        .current_dir(workspace());
    if let Some(gigabytes) = stress.gigabytes {
        command.env("PATCHBAY_STRESS_GIGABYTES", gigabytes.to_string());
    }
    run_command(&mut command)
}
