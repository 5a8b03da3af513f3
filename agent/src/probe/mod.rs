//! `probe`: what redirection does on this kernel, tried in a private cgroup and network namespace.

mod checks;
mod peer;
mod running;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
pub use checks::Fault;
use clap::Args;
pub use peer::run as run_peer;
pub use running::Running;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use crate::datapath::{Datapath, Options, Scope, Watch, cgroup2_mount};
use crate::own_cgroup::{self, OwnCgroup};
use crate::processes::{enter_cgroup, remove_cgroup};
use crate::{require_root, show};

/// How long the other end may take for anything, on a busy machine too.
const STEP_WITHIN: Duration = Duration::from_secs(8);

/// How to print.
#[derive(Args)]
pub struct Probe {
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// What this kernel does.
#[derive(Debug, Clone, Serialize)]
pub struct Matrix {
    /// The kernel's release.
    pub kernel: String,
    /// Whether bytes were redirected, whole, in order, and under a bound.
    pub redirects: bool,
    /// Whether programs can be observed (Linux 6.3).
    pub observes: bool,
    /// What was tried, and whether it differs from plain TCP.
    pub faults: Vec<Found>,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
}

/// One thing that was tried.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// What.
    pub fault: Fault,
    /// Whether this kernel has it; `None` when it could not be tried.
    pub present: Option<bool>,
    /// What it means, for people.
    pub meaning: &'static str,
    /// What Patchbay does about it.
    pub answer: &'static str,
}

impl Matrix {
    /// Bits of [`crate::datapath::habit::tried`] that redirection leaves as they are here. What could not be
    /// tried is not among them.
    pub fn harmless(&self) -> u32 {
        let habits_of = |faults: &dyn Fn(&Found) -> bool| {
            self.faults.iter().filter(|found| faults(found)).fold(0, |all, found| all | found.fault.tried())
        };
        let absent = |found: &Found| found.present == Some(false);
        let (harmless, harmful) = (habits_of(&absent), habits_of(&|found| !absent(found)));
        harmless & !harmful
    }
}

/// Tries everything and prints the matrix.
///
/// # Errors
/// This node can't redirect, with the reason.
pub async fn run(probe: &Probe) -> Result<()> {
    require_root("kernel programs are loaded")?;
    let matrix = try_everything().await?;
    own_cgroup::remove_left(&cgroup2_mount()?);
    if probe.json {
        return show(&(serde_json::to_string_pretty(&matrix)? + "\n"));
    }
    let yes = |yes| if yes { "yes" } else { "no" };
    let mut text = format!(
        "kernel {}, tried in {} ms\nredirects safely:         {}\nprograms can be observed: {}\n\n\
         {:<26} {:<12} answer\n",
        matrix.kernel,
        matrix.milliseconds,
        yes(matrix.redirects),
        yes(matrix.observes),
        "differs from TCP",
        ""
    );
    for found in &matrix.faults {
        let present = match found.present {
            Some(true) => "yes",
            Some(false) => "no",
            None => "not tried",
        };
        let _ = writeln!(text, "{:<26} {:<12} {}", found.meaning, present, found.answer);
    }
    show(&text)
}

/// Tries everything.
///
/// # Errors
/// This node can't redirect, with the reason.
pub async fn try_everything() -> Result<Matrix> {
    let begun = Instant::now();
    let cgroup = OwnCgroup::make(own_cgroup::SELF_TEST)?;
    let result = try_in(&cgroup).await;
    remove_cgroup(&cgroup.path).await;
    let mut matrix = result?;
    matrix.milliseconds = u64::try_from(begun.elapsed().as_millis())?;
    Ok(matrix)
}

/// One step.
async fn within<T>(step: impl Future<Output = T>) -> Result<T> {
    let ended = tokio::time::timeout(STEP_WITHIN, step).await;
    ended.map_err(|_| anyhow!("it hangs: its other end did nothing for {} s", STEP_WITHIN.as_secs()))
}

async fn try_in(cgroup: &OwnCgroup) -> Result<Matrix> {
    let scope = Some(Scope { always: true, refusal: None });
    let options = Options { scope, sessions_limit: 64, ..Options::new(cgroup.path.clone()) };
    let mut datapath = Datapath::load(&options)?;
    let observes =
        datapath.observe(Watch::Everything).and_then(|()| datapath.observe(Watch::Nothing)).is_ok();
    let mut command = Command::new(own_program());
    command.arg("probe-peer").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    enter_cgroup(&mut command, cgroup.entrance()?);
    let mut peer = command.spawn().context("the self-test can't be started")?;
    let (Some(mut to_peer), Some(from_peer)) = (peer.stdin.take(), peer.stdout.take()) else {
        bail!("the self-test has no pipes");
    };
    let mut lines = BufReader::new(from_peer).lines();
    let mut answers = Vec::new();
    while let Some(line) = within(lines.next_line()).await?? {
        match line.as_str() {
            "off" => datapath.set_redirection(false)?,
            "on" => datapath.set_redirection(true)?,
            "delete" => datapath.delete_all()?,
            answer => {
                answers.push(answer.to_owned());
                continue;
            }
        }
        to_peer.write_all(b"done\n").await?;
    }
    let status = within(peer.wait()).await??;
    anyhow::ensure!(status.success(), "the self-test's other end failed: {status}");
    let mut redirected = 0;
    while let Some(event) = datapath.waiting_event() {
        redirected += event.report().sent.kernel_bytes;
    }
    let answer = |name: &str| {
        answers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(|value| value == "yes")
    };
    let faults = Fault::ALL
        .map(|fault| Found {
            fault,
            present: answer(fault.name()),
            meaning: fault.meaning(),
            answer: fault.answer(),
        })
        .to_vec();
    let kernel = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    // Without either nothing would stop the sender of a receiver that does not read.
    let is_bounded = datapath.counts_unread() || answer(Fault::Charged.name()) == Some(true);
    let redirects = answer("order") == Some(true) && redirected > 0 && is_bounded;
    Ok(Matrix { kernel, redirects, observes, faults, milliseconds: 0 })
}

/// This program, even when its file was replaced.
fn own_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}
