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
    with(&simulate.arguments)
}

/// Runs so many seeds.
pub fn run_seeds(seeds: u64) -> Result<()> {
    with(&["--seeds".to_owned(), seeds.to_string()])
}

fn with(arguments: &[String]) -> Result<()> {
    progress("the simulation of Manager, agents and instances (release)");
    run_command(
        Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--release", "-p", "patchbay-simulation", "--"])
            .args(arguments)
            .current_dir(workspace()),
    )
}
