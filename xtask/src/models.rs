//! What the model checker tries: every order of two threads' steps that the memory model allows.

use std::process::Command;

use anyhow::Result;

use crate::command::{progress, run as run_command};
use crate::workspace;

/// Checks the models of shared memory.
pub fn run() -> Result<()> {
    progress("checking the models of shared memory");
    run_command(
        Command::new(env!("CARGO"))
            .args(["test", "--release", "--quiet", "--package", "patchbay-shared-memory", "--lib", "model"])
            .arg("--target-dir")
            .arg(workspace().join("target/loom"))
            .current_dir(workspace())
            .env("RUSTFLAGS", "--cfg loom"),
    )
}
