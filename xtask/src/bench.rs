//! The benchmarks: sets up, builds, and becomes the benchmark program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{setup, workspace};

/// Programs that are compared, and the Debian packages that bring them.
const PROGRAMS: [(&str, &str); 9] = [
    ("haproxy", "haproxy"),
    ("nginx", "nginx-light"),
    ("nft", "nftables"),
    ("wrk", "wrk"),
    ("iperf3", "iperf3"),
    ("h2load", "nghttp2-client"),
    ("nghttpd", "nghttp2-server"),
    ("redis-benchmark", "redis-tools"),
    ("pgbench", "postgresql-contrib"),
];
/// What samples stacks.
const PROFILER: (&str, &str) = ("perf", "linux-perf");
/// What counts instructions.
const COUNTER: (&str, &str) = ("valgrind", "valgrind");
/// Packages that bring no program to look for.
const PACKAGES: [&str; 1] = ["libnginx-mod-stream"];

/// What to measure.
#[derive(Args, Default)]
#[command(disable_help_flag = true)]
pub struct Bench {
    /// Flags of the benchmark program: --quick, --full, --case PART, --list, --help and others
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

/// Sets up, builds and measures.
pub fn run(bench: &Bench) -> Result<()> {
    setup::install_programs(&PROGRAMS)?;
    setup::install_packages(&PACKAGES)?;
    become_program("run", &bench.flags)
}

/// Sets up, builds, and shows where a case spends its time.
pub fn profile(bench: &Bench) -> Result<()> {
    setup::install_programs(&[PROFILER])?;
    setup::install_programs(&PROGRAMS)?;
    setup::install_packages(&PACKAGES)?;
    become_program("profile", &bench.flags)
}

/// Counts the instructions of codec and cores and compares them with the baseline.
pub fn instructions(bench: &Bench) -> Result<()> {
    setup::install_programs(&[COUNTER])?;
    let mut command = program("instructions", &bench.flags)?;
    crate::command::run(&mut command)
}

/// The program becomes this process, so that Ctrl-C is its own.
fn become_program(task: &str, flags: &[OsString]) -> Result<()> {
    let error = program(task, flags)?.exec();
    Err(error).context("the benchmark program can't be run")
}

fn program(task: &str, flags: &[OsString]) -> Result<Command> {
    setup::run()?;
    setup::build()?;
    let mut command = Command::new(workspace().join("target/release/patchbay-bench"));
    command.arg(task).args(flags).current_dir(workspace());
    Ok(command)
}
