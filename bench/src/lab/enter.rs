//! Becoming a program in a cgroup, a network namespace and on a processor. It is a process of its own
//! that does this, so that nothing has to be done between fork and exec.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, dup2_stderr, setsid};

/// Where the program runs: what is not said stays as it is.
#[derive(Args)]
pub struct Enter {
    #[arg(long)]
    cgroup: Option<PathBuf>,
    #[arg(long)]
    namespace: Option<String>,
    #[arg(long)]
    core: Option<usize>,
    /// Before other programs on this machine, so that they disturb less
    #[arg(long)]
    first: bool,
    /// What the program says on standard error goes to standard output too
    #[arg(long)]
    joined: bool,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Becomes the program; comes back only with an error.
pub fn run(enter: &Enter) -> Result<()> {
    if let Some(cgroup) = &enter.cgroup {
        fs::write(cgroup.join("cgroup.procs"), "0")
            .with_context(|| format!("{} can't be entered", cgroup.display()))?;
    }
    if let Some(namespace) = &enter.namespace {
        let namespace = PathBuf::from("/run/netns").join(namespace);
        setns(File::open(&namespace)?, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("{} can't be entered", namespace.display()))?;
    }
    if let Some(core) = enter.core {
        let mut set = CpuSet::new();
        set.set(core)?;
        sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("processor {core}"))?;
    }
    if enter.joined {
        dup2_stderr(std::io::stdout())?;
    }
    // The runner blocks some to wait for them itself, and a child inherits that.
    SigSet::all().thread_unblock()?;
    // Whatever becomes of the benchmark, its programs end with it.
    set_pdeathsig(Signal::SIGKILL)?;
    let (program, arguments) = enter.command.split_first().context("no program is given")?;
    let mut command = match enter.first {
        true => Command::new("nice"),
        false => Command::new(program),
    };
    if enter.first {
        // Where each session has its share of the processors, the session must go first too.
        if setsid().is_ok() {
            let _ = fs::write("/proc/self/autogroup", "-20");
        }
        command.args(["-n", "-20"]).arg(program);
    }
    Err(command.args(arguments).exec()).with_context(|| format!("{} can't be run", program.to_string_lossy()))
}
