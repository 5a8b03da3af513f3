//! `probe`: what redirection does on this kernel, tried in a private cgroup and network namespace.

mod checks;
mod peer;

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
pub use checks::Fault;
use clap::Args;
pub use peer::run as run_peer;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use crate::datapath::{Datapath, Options, Scope, cgroup2_mount};
use crate::processes::{enter_cgroup, remove_cgroup};
use crate::{require_root, show};

/// The cgroup of a self-test, before the agent's process id.
const CGROUP: &str = "patchbay-probe-";
/// Nothing of the self-test may take longer.
const WITHIN: Duration = Duration::from_secs(5);

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
    let mount = cgroup2_mount()?;
    remove_killed(&mount).await;
    let cgroup = mount.join(format!("{CGROUP}{}", std::process::id()));
    fs::create_dir(&cgroup).with_context(|| format!("the cgroup {} can't be made", cgroup.display()))?;
    let result = tokio::time::timeout(WITHIN, try_in(&cgroup)).await;
    remove_cgroup(&cgroup).await;
    let mut matrix = result.context("the self-test hangs")??;
    matrix.milliseconds = u64::try_from(begun.elapsed().as_millis())?;
    Ok(matrix)
}

/// Removes the cgroups of self-tests whose agent was killed meanwhile.
async fn remove_killed(mount: &Path) {
    for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(CGROUP)?.parse::<u32>().ok());
        if process.is_some_and(|id| !Path::new("/proc").join(id.to_string()).exists()) {
            remove_cgroup(&entry.path()).await;
        }
    }
}

async fn try_in(cgroup: &Path) -> Result<Matrix> {
    let scope = Some(Scope { always: true, refusal: None });
    let options = Options { scope, sessions_limit: 64, ..Options::new(cgroup.to_owned()) };
    let mut datapath = Datapath::load(&options)?;
    let observes = datapath.observe(true).and_then(|()| datapath.observe(false)).is_ok();
    let members = OpenOptions::new().write(true).open(cgroup.join("cgroup.procs"))?;
    let mut command = Command::new(own_program());
    command.arg("probe-peer").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    enter_cgroup(&mut command, members);
    let mut peer = command.spawn().context("the self-test can't be started")?;
    let (Some(mut to_peer), Some(from_peer)) = (peer.stdin.take(), peer.stdout.take()) else {
        bail!("the self-test has no pipes");
    };
    let mut lines = BufReader::new(from_peer).lines();
    let mut answers = Vec::new();
    while let Some(line) = lines.next_line().await? {
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
    peer.wait().await?;
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
