//! The fuzz targets, for a bounded time.

use std::process::Command;

use anyhow::Result;

use crate::command::{progress, run as run_command};
use crate::workspace;

const TARGETS: [&str; 2] = ["envelope", "line_buffer"];
/// Time for each target, in seconds.
const SECONDS: u32 = 20;
/// What cargo-fuzz would pass: coverage that libFuzzer can follow.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table -Cdebug-assertions -Ccodegen-units=1";

/// Builds each target with coverage, which stable rustc can, and runs it.
pub fn run() -> Result<()> {
    let folder = workspace().join("ssmmp/fuzz");
    let target = workspace().join("target/fuzz");
    progress("building the fuzz targets");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    run_command(
        Command::new(env!("CARGO"))
            .args(["build", "--release", "--quiet", "--target", &triple, "--target-dir"])
            .arg(&target)
            .current_dir(&folder)
            .env("RUSTFLAGS", FLAGS),
    )?;
    for name in TARGETS {
        progress(&format!("fuzzing {name} for {SECONDS} s"));
        let corpus = target.join("corpus").join(name);
        std::fs::create_dir_all(&corpus)?;
        run_command(
            Command::new(target.join(&triple).join("release").join(name))
                .arg(format!("-max_total_time={SECONDS}"))
                .args(["-max_len=4096", "-verbosity=0", "-print_final_stats=1"])
                .arg(format!("-artifact_prefix={}/", target.display()))
                .arg(&corpus),
        )?;
    }
    Ok(())
}
