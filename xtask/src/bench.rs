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
/// Packages that bring no program to look for.
const PACKAGES: [&str; 1] = ["libnginx-mod-stream"];

/// What to measure.
#[derive(Args)]
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
    setup::run()?;
    setup::build()?;
    let program = workspace().join("target/release/patchbay-bench");
    // It becomes this process, so that Ctrl-C is its own.
    let error = Command::new(&program).arg("run").args(&bench.flags).current_dir(workspace()).exec();
    Err(error).with_context(|| format!("{} can't be run", program.display()))
}
