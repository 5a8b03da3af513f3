//! Where a case spends its time: perf samples everything on the machine while the case runs, and a flame
//! graph shows the stacks of the programs that took part.

mod flame;
mod stacks;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use stacks::Stacks;

use crate::case::{Bench, Pace};
use crate::cases;
use crate::lab::{self, Lab, Place, Role, Running};
use crate::run::interrupt;

/// Samples a second of each processor; not a round number, so that they do not go along with timers.
const FREQUENCY: &str = "1997";
/// How long perf may take to write what it has.
const END_WITHIN: Duration = Duration::from_secs(20);
/// Functions that are printed.
const SHOWN: usize = 25;
/// Whether names of BPF programs are among the kernel's symbols.
const BPF_NAMES: &str = "/proc/sys/net/core/bpf_jit_kallsyms";

/// What to profile.
#[derive(Args)]
pub struct Profile {
    /// A case; `cargo xtask bench --list --full` shows them
    case: String,
    /// Which alternatives: those whose names contain this; Patchbay's and the first one if absent
    #[arg(long, value_name = "PART")]
    alternative: Option<String>,
    /// How long to sample each, in seconds
    #[arg(long, default_value_t = 3, value_name = "COUNT")]
    seconds: u64,
    /// Where results go
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    out: PathBuf,
    /// Where Patchbay's programs are
    #[arg(long, value_name = "FOLDER", default_value = "target/release")]
    binaries: PathBuf,
}

/// Profiles, and writes a flame graph for each alternative.
pub fn run(profile: &Profile) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the whole machine is sampled: run as root");
    }
    let event = event()?;
    let out = std::path::absolute(&profile.out)?;
    let binaries = std::path::absolute(&profile.binaries)?;
    let pace = Pace { measure: Duration::from_secs(1), ..Pace::FULL };
    let mut found: Vec<_> =
        cases::all(&pace).into_iter().filter(|case| case.name().contains(&profile.case)).collect();
    let exact = found.iter().position(|case| case.name() == profile.case);
    let mut case = match (exact, found.len()) {
        (Some(index), _) => found.swap_remove(index),
        (None, 1) => found.remove(0),
        (None, 0) => bail!("no case is called {}", profile.case),
        _ => bail!(
            "these fit, choose one: {}",
            found.iter().map(|case| case.name()).collect::<Vec<_>>().join(" ")
        ),
    };
    let lab = Lab::make(&out.join("work"))?;
    interrupt::watch(lab::clean)?;
    let bench = Bench { lab: &lab, pace, binaries: &binaries };
    let _names = Names::show();
    case.prepare(&bench)?;
    let first = case.alternatives().first().cloned();
    let wanted = |name: &String| match &profile.alternative {
        Some(part) => name.contains(part.as_str()),
        None => name.contains("Patchbay") || Some(name) == first.as_ref(),
    };
    for alternative in case.alternatives().into_iter().filter(wanted) {
        let data = out.join("work/perf.data");
        let recorder = record(&bench, &data, event, profile.seconds)?;
        let until = Instant::now() + Duration::from_secs(profile.seconds);
        while Instant::now() < until && !interrupt::asked() {
            case.measure(&alternative, &bench)?;
        }
        recorder.finish(END_WITHIN).context("perf does not work here")?;
        let stacks = Stacks::read(&data)?;
        let title = format!("{}: {alternative} ({event}, {} samples)", case.name(), stacks.samples());
        let name: String = format!("profile-{}-{alternative}", case.name())
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' })
            .collect();
        let file = out.join(format!("{name}.svg"));
        fs::write(&file, flame::svg(&title, &stacks))?;
        println!("\n{title}\n{}{}", stacks.table(SHOWN), file.display());
    }
    case.finish(&bench);
    Ok(())
}

/// What is counted: processor cycles where the machine lets us, else a timer.
fn event() -> Result<&'static str> {
    let tried = Command::new("perf").args(["stat", "-x,", "-e", "cycles", "true"]).output();
    let tried = tried.context("perf can't be run; on Debian the package linux-perf brings it")?;
    let text = String::from_utf8_lossy(&tried.stderr);
    if tried.status.success() && !text.contains("not supported") && !text.contains("not counted") {
        return Ok("cycles");
    }
    eprintln!(
        "The processor's counters can't be read here (a virtual machine without them, or not permitted): sampling by a \
         timer instead. What runs with interrupts off shows up where they are switched on again."
    );
    Ok("cpu-clock")
}

/// Samples the machine for some seconds. It lives in the lab, and ends with it at the latest.
fn record(bench: &Bench<'_>, data: &Path, event: &str, seconds: u64) -> Result<Running> {
    let program = bench
        .lab
        .program(Role::Control, Place::Loopback, "perf")
        .args(["record", "--quiet", "--all-cpus", "-g", "-e", event, "-F", FREQUENCY, "-o"])
        .arg(data)
        .args(["--", "sleep", &seconds.to_string()]);
    program.start()
}

/// Names of BPF programs, shown while this lives.
struct Names(Option<String>);

impl Names {
    fn show() -> Self {
        let before = fs::read_to_string(BPF_NAMES).ok();
        // Without them there are addresses only.
        let _ = fs::write(BPF_NAMES, "1");
        Self(before)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = fs::write(BPF_NAMES, before);
        }
    }
}
