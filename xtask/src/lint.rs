//! Format, clippy, documentation, what cores depend on, licences.

use std::process::Command;

use anyhow::Result;

use crate::command::{self, progress};
use crate::{cores, licences, workspace};

/// Runs every check.
pub fn run() -> Result<()> {
    let cargo = || {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(workspace());
        command
    };
    progress("checking the format");
    command::run(cargo().args(["fmt", "--all", "--check"]))?;
    command::run(cargo().args(["fmt", "--check", "--manifest-path", "ebpf/Cargo.toml"]))?;
    command::run(cargo().args(["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]))?;
    progress("clippy");
    command::run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))?;
    // A workspace of its own, whose dependencies are built already.
    command::run(cargo().args([
        "clippy",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--target-dir",
        "target",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))?;
    progress("building the documentation");
    command::run(
        cargo().args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    progress("checking what cores depend on");
    cores::check()?;
    progress("checking the licences of all dependencies");
    licences::check()
}
