//! The deterministic simulation of Manager, agents and instances.

use std::process::Command;

use anyhow::Result;

use crate::command::{progress, run as run_command};
use crate::workspace;

/// Arguments of the simulation; `--help` behind `--` shows them.
#[derive(clap::Args)]
pub struct Simulate {
    /// `--seeds N`, `--seed N`, `--agents N`, `--instances N`, …
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds the simulation in release mode and runs it.
pub fn run(simulate: &Simulate) -> Result<()> {
    progress("building the simulation (release)");
    run_command(
        Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--release", "-p", "patchbay-simulation", "--"])
            .args(&simulate.arguments)
            .current_dir(workspace()),
    )
}
