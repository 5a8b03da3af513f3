//! Measuring all cases in turns, keeping every sample, and reporting.

mod awake;
pub mod interrupt;
mod machine;
mod noise;
mod progress;
pub mod results;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use awake::Awake;
use clap::Args;
use noise::Watch;
use progress::Progress;
use results::{CaseResult, Results, Round};

use crate::case::{Bench, Case, Measured, Pace};
use crate::lab::{self, Lab};
use crate::{cases, report};

/// What to measure, and how.
#[derive(Args)]
pub struct Run {
    /// Everything, with more rounds; takes as long as it needs
    #[arg(long)]
    full: bool,
    /// The most telling cases in less than three minutes (the default)
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Only cases whose names contain this; may be given several times
    #[arg(long = "case", value_name = "PART")]
    cases: Vec<String>,
    /// Measurements of each alternative; the middle one counts
    #[arg(long, value_name = "COUNT")]
    rounds: Option<usize>,
    /// Print the cases and measure nothing
    #[arg(long)]
    list: bool,
    /// Remove what a killed run left, and measure nothing
    #[arg(long)]
    clean: bool,
    /// Let idle processors sleep between two messages; waking them then counts for more than what is compared
    #[arg(long)]
    sleep: bool,
    /// Put the summary into the README, between its markers
    #[arg(long)]
    readme: bool,
    /// Make the reports again from the samples of the latest run
    #[arg(long)]
    report: bool,
    /// Where results go
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    out: PathBuf,
    /// Where Patchbay's programs are
    #[arg(long, value_name = "FOLDER", default_value = "target/release")]
    binaries: PathBuf,
}

impl Run {
    fn pace(&self) -> Pace {
        let pace = if self.full { Pace::FULL } else { Pace::QUICK };
        Pace { rounds: self.rounds.unwrap_or(pace.rounds).max(1), ..pace }
    }

    fn chosen(&self, pace: &Pace) -> Result<Vec<Box<dyn Case>>> {
        let mut cases = cases::all(pace);
        if !self.cases.is_empty() {
            cases.retain(|case| self.cases.iter().any(|part| case.name().contains(part)));
        }
        if cases.is_empty() {
            bail!("no case is called {}; --list shows them, --full has more", self.cases.join(" or "));
        }
        Ok(cases)
    }
}

/// Measures, or does what else was asked for.
pub fn run(run: &Run) -> Result<()> {
    let pace = run.pace();
    if run.report {
        let results = Results::read(&run.out)?;
        return report::write(&results, &run.out, run.readme);
    }
    let mut cases = run.chosen(&pace)?;
    if run.list {
        for case in &cases {
            println!("{:<40} {}", case.name(), case.about());
        }
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("cgroups and network namespaces are made and kernel programs loaded: run as root");
    }
    let binaries = std::path::absolute(&run.binaries)?;
    let out = std::path::absolute(&run.out)?;
    let lab = Lab::make(&out.join("work"))?;
    if run.clean {
        println!("nothing of a benchmark is left");
        return Ok(());
    }
    interrupt::watch(lab::clean)?;
    let bench = Bench { lab: &lab, pace, binaries: &binaries };
    let awake = Awake::keep(!run.sleep);
    let mut results = Results::begin(&bench, machine::describe(&bench, awake.describe()));
    let begun = Instant::now();
    let mut progress = Progress::new(&cases, &pace);
    let mut watch = Watch::begin(&lab);
    for case in &mut cases {
        if interrupt::asked() {
            break;
        }
        results.cases.push(measure(case.as_mut(), &bench, &mut progress, &mut watch));
        results.noise = watch.noise(&results);
        results.seconds = begun.elapsed().as_secs_f64();
        results.write(&out)?;
    }
    results.interrupted = interrupt::asked();
    results.write(&out)?;
    progress.end();
    report::write(&results, &out, run.readme).context("the report can't be written")
}

/// All rounds of one case.
fn measure(case: &mut dyn Case, bench: &Bench<'_>, progress: &mut Progress, watch: &mut Watch) -> CaseResult {
    let alternatives = case.alternatives();
    let mut result = CaseResult::new(case);
    if let Err(error) = case.prepare(bench) {
        result.failures.push(format!("not measured: {error:#}"));
    } else {
        watch.calibrate();
        for round in 0..case.rounds(&bench.pace) {
            for turn in 0..alternatives.len() {
                // Each round begins with another alternative, so that none always follows the same.
                let index = (turn + round) % alternatives.len();
                if interrupt::asked() {
                    break;
                }
                let name = &alternatives[index];
                progress.show(&result.name, name, round);
                let begun = watch.look();
                let measured = case.measure(name, bench);
                keep(&mut result, index, round, measured, &begun, watch);
            }
        }
    }
    case.finish(bench);
    progress.done(case);
    result
}

fn keep(
    result: &mut CaseResult,
    index: usize,
    round: usize,
    measured: Result<Measured>,
    begun: &noise::Look,
    watch: &mut Watch,
) {
    match measured {
        Ok(Measured { samples, commands }) => {
            let (foreign, stolen) = watch.since(begun);
            let alternative = &mut result.alternatives[index];
            alternative.rounds.push(Round { round, samples, foreign, stolen });
            if alternative.commands.is_empty() {
                alternative.commands = commands;
            }
        }
        Err(error) => {
            let failure = format!("{}, round {}: {error:#}", result.alternatives[index].name, round + 1);
            eprintln!("\r{}: {failure}", result.name);
            result.failures.push(failure);
        }
    }
}

/// How long all of it takes, about.
fn estimate(case: &dyn Case, pace: &Pace) -> Duration {
    let measurements = case.rounds(pace) * case.alternatives().len();
    case.estimate(pace) * u32::try_from(measurements).unwrap_or(u32::MAX)
}
