//! Everything there is to test.

use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{progress, run as run_command};
use crate::{bench, chart, demo, fuzz, models, setup, simulate, soak, transparency, workspace};

/// Simulated clusters, each of another seed.
const SEEDS: u64 = 2_000;
/// How long the tests' soak breaks things; `cargo xtask soak` takes ten minutes.
const SOAK_MINUTES: f64 = 1.0;

/// Sets up, then runs every test.
pub fn run() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the tests make cgroups and network namespaces and load kernel programs: run as root");
    }
    setup::run()?;
    // The end-to-end tests run the real programs.
    setup::build()?;
    progress("running all tests");
    run_command(
        Command::new(env!("CARGO")).args(["test", "--workspace", "--no-fail-fast"]).current_dir(workspace()),
    )?;
    chart::run(&chart::Chart::default())?;
    models::run()?;
    fuzz::run(&fuzz::Fuzz::default())?;
    simulate::run_seeds(SEEDS)?;
    progress("programs that nobody here wrote, with redirection off and on");
    transparency::run(&transparency::Transparency::quick())?;
    progress("counting instructions of codec and cores");
    bench::instructions(&bench::Bench::default())?;
    progress("the demo, as the end-to-end test of everything together");
    demo::run(&demo::Demo::default())?;
    progress("a short soak: everything breaks, nothing that was acknowledged is lost");
    soak::run(&soak::Soak { minutes: SOAK_MINUTES, seed: 1, no_build: true })
}
