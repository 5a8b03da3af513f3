//! Runs seeds, and says of the first that fails how to see it again.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;
use patchbay_simulation::{FaultKind, MAX_AGENTS, MAX_INSTANCES, Outcome, Plan, run};

/// Simplifications tried before a failure is shown.
const MAX_SIMPLER: usize = 60;

/// Simulates Manager, agents and instances with faults, under virtual time.
#[derive(Parser)]
#[command(
    name = "cargo xtask simulate",
    after_help = "Examples:\n  cargo xtask simulate --seeds 10000\n  cargo xtask simulate --seed 7 --trace 200\n  \
                  cargo xtask simulate --seed 7 --agents 1 --faults link-cut,manager-crash"
)]
struct Arguments {
    /// Run this seed only
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many seeds to run
    #[arg(long, default_value_t = 2000, value_name = "N")]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0, value_name = "N")]
    first: u64,
    /// Nodes, instead of what the seed says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_AGENTS as u64))]
    agents: Option<u64>,
    /// Instances at once, instead of what the seed says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_INSTANCES as u64))]
    instances: Option<u64>,
    /// How long things go wrong, in virtual milliseconds, instead of what the seed says
    #[arg(long, value_name = "MS")]
    active: Option<u64>,
    /// Kinds of faults, or `none`, instead of what the seed says
    #[arg(long, value_name = "KIND,…", value_delimiter = ',')]
    faults: Option<Vec<String>>,
    /// Lines of the trace to show, without polls
    #[arg(long, default_value_t = 60, value_name = "N")]
    trace: usize,
    /// Show polls too
    #[arg(long)]
    polls: bool,
    /// Show a failure as it is, without looking for a simpler one
    #[arg(long)]
    as_is: bool,
    /// Go on after a failure and count them
    #[arg(long)]
    all: bool,
}

fn main() -> ExitCode {
    match simulate(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn simulate(arguments: &Arguments) -> Result<bool> {
    let (first, count) = match arguments.seed {
        Some(seed) => (seed, 1),
        None => (arguments.first, arguments.seeds),
    };
    let plan = |seed| plan(arguments, seed);
    plan(first)?;
    let begun = Instant::now();
    let (next, happened, sessions, instances) =
        (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let failed = std::sync::Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(count as usize);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let outcome = plan(seed).and_then(|plan| Ok(run(&plan, 0)?));
                    if let Ok(outcome) = &outcome {
                        happened.fetch_add(outcome.happened, Ordering::Relaxed);
                        sessions.fetch_add(outcome.sessions, Ordering::Relaxed);
                        instances.fetch_add(outcome.instances, Ordering::Relaxed);
                    }
                    if !matches!(&outcome, Ok(Outcome { violation: None, .. })) {
                        stop.fetch_or(!arguments.all, Ordering::Relaxed);
                        failed
                            .lock()
                            .unwrap_or_else(std::sync::PoisonError::into_inner)
                            .push((seed, outcome));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failed.sort_by_key(|(seed, _)| *seed);
    for (seed, outcome) in &failed {
        let problem = match outcome {
            Ok(outcome) => outcome.violation.clone().unwrap_or_default(),
            Err(error) => format!("{error:#}"),
        };
        println!("seed {seed}: {problem}");
    }
    if let Some((seed, Ok(_))) = failed.first() {
        let failing = plan(*seed)?;
        show(arguments, &if arguments.as_is { failing } else { simplest(&failing)? })?;
    } else if let Some(seed) = arguments.seed {
        show(arguments, &plan(seed)?)?;
    }
    println!(
        "{count} seeds, {} failed, {} instances, {} sessions, {} events in {:.1} s",
        failed.len(),
        instances.into_inner(),
        sessions.into_inner(),
        happened.into_inner(),
        begun.elapsed().as_secs_f64()
    );
    Ok(failed.is_empty())
}

fn plan(arguments: &Arguments, seed: u64) -> Result<Plan> {
    let mut plan = Plan::of_seed(seed);
    if let Some(agents) = arguments.agents {
        plan.agents = agents as usize;
    }
    if let Some(instances) = arguments.instances {
        plan.instances = instances as usize;
    }
    if let Some(active) = arguments.active {
        plan.active = active;
    }
    if let Some(names) = &arguments.faults {
        plan.faults = Vec::new();
        for name in names.iter().filter(|name| *name != "none") {
            let Some(kind) = FaultKind::from_name(name) else {
                let known: Vec<_> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
                bail!("--faults: there is no `{name}`; there are {}", known.join(", "));
            };
            plan.faults.push(kind);
        }
    }
    Ok(plan)
}

/// The simplest run found that fails in the same way.
fn simplest(failing: &Plan) -> Result<Plan> {
    let how = run(failing, 0)?.violation.map(|violation| kind(&violation));
    let mut simplest = failing.clone();
    let mut tried = 0;
    loop {
        let mut found = None;
        for simpler in simplest.simpler() {
            tried += 1;
            if tried > MAX_SIMPLER {
                return Ok(simplest);
            }
            if run(&simpler, 0)?.violation.map(|violation| kind(&violation)) == how {
                found = Some(simpler);
                break;
            }
        }
        match found {
            Some(simpler) => simplest = simpler,
            None => return Ok(simplest),
        }
    }
}

/// A violation without its names and numbers.
fn kind(violation: &str) -> String {
    let is_plain = |word: &&str| word.chars().all(|character| character.is_alphabetic());
    violation.split_whitespace().filter(is_plain).take(8).collect::<Vec<_>>().join(" ")
}

/// Shows the end of a run, and how to see it again.
fn show(arguments: &Arguments, plan: &Plan) -> Result<()> {
    let outcome = run(plan, usize::MAX)?;
    let polls = |line: &&String| arguments.polls || !line.contains("_health_") || line.contains("[");
    let lines: Vec<&String> = outcome.trace.iter().filter(polls).collect();
    for line in &lines[lines.len().saturating_sub(arguments.trace)..] {
        println!("{line}");
    }
    if let Some(violation) = outcome.violation {
        println!("violated: {violation}");
    }
    println!("again: {} --as-is --trace {}", plan.command(), arguments.trace);
    Ok(())
}
