//! The fuzz targets, for a bounded time.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::command::{progress, run as run_command};
use crate::workspace;

/// The codec, then the two listeners' bytes through framing and codec into the real cores, then a session's peer that
/// writes anything anywhere into its shared memory.
const TARGETS: [&str; 5] = ["envelope", "conversation", "manager", "agent", "memory"];
/// Time for each target, in seconds, unless set otherwise.
const SECONDS: u32 = 15;
/// What cargo-fuzz would pass: coverage that libFuzzer can follow.
const FLAGS: &str = "--cfg=fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table -Cdebug-assertions";
/// Known messages, from which the fuzzer starts.
const VECTORS: [&str; 2] = ["vectors-canonical.jsonl", "vectors-observed-java-dialect.jsonl"];

#[derive(clap::Args)]
pub struct Fuzz {
    /// Only these targets
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    targets: Vec<String>,
    /// Time for each target
    #[arg(long, default_value_t = SECONDS, value_name = "SECONDS")]
    seconds: u32,
}

impl Default for Fuzz {
    fn default() -> Self {
        Self { targets: Vec::new(), seconds: SECONDS }
    }
}

/// Builds each target with coverage, which stable rustc can, and runs it.
pub fn run(fuzz: &Fuzz) -> Result<()> {
    let target = workspace().join("target/fuzz");
    progress("building the fuzz targets");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    run_command(
        Command::new(env!("CARGO"))
            .args(["build", "--release", "--quiet", "--target", &triple, "--target-dir"])
            .arg(&target)
            .current_dir(workspace().join("fuzz"))
            .env("RUSTFLAGS", FLAGS),
    )?;
    let wanted = |name: &&str| fuzz.targets.is_empty() || fuzz.targets.iter().any(|target| target == name);
    for name in TARGETS.iter().filter(|name| wanted(name)) {
        progress(&format!("fuzzing {name} for {} s", fuzz.seconds));
        let corpus = target.join("corpus").join(name);
        seed(&corpus)?;
        run_command(
            Command::new(target.join(&triple).join("release").join(name))
                .arg(format!("-max_total_time={}", fuzz.seconds))
                .args([
                    "-max_len=4096",
                    "-rss_limit_mb=2048",
                    "-timeout=10",
                    "-verbosity=0",
                    "-print_funcs=0",
                    "-print_final_stats=1",
                ])
                .arg(format!("-artifact_prefix={}/", target.display()))
                .arg(&corpus),
        )
        .with_context(|| {
            format!(
                "the input that failed is in {}; run the target with it to see it again",
                target.display()
            )
        })?;
    }
    Ok(())
}

/// Puts the known messages into a new corpus.
fn seed(corpus: &Path) -> Result<()> {
    if corpus.exists() {
        return Ok(());
    }
    fs::create_dir_all(corpus)?;
    for file in VECTORS {
        let text = fs::read_to_string(workspace().join("ssmmp/tests").join(file))?;
        for (number, line) in text.lines().enumerate() {
            let vector: Value = serde_json::from_str(line)?;
            fs::write(corpus.join(format!("{file}-{number}")), vector["wire"].as_str().unwrap_or_default())?;
        }
    }
    Ok(())
}
