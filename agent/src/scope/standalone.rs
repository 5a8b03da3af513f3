//! `standalone`: redirection inside a cgroup that exists already, until it is ended.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use super::{Allow, Mode, Runner, STATE, base_name};
use crate::datapath::{Options, cgroup2_mount};
use crate::require_root;

/// A cgroup whose inner connections are redirected.
#[derive(Args)]
pub struct Standalone {
    /// The cgroup, below the cgroup v2 mount or as a whole path
    #[arg(long, value_name = "PATH")]
    cgroup: PathBuf,
    /// When to redirect
    #[arg(long, value_enum, default_value = "auto")]
    mode: Mode,
    /// With --mode auto, let programs do what their files could, because they are known not to; one that is seen to do it
    /// goes back to TCP for good
    #[arg(long, value_enum, value_name = "HABIT")]
    allow: Vec<Allow>,
    /// Where what was learned of programs is kept
    #[arg(long, default_value = STATE, value_name = "FOLDER")]
    state_dir: PathBuf,
    /// Also write what went which way as JSON when it ends
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Redirects inside the cgroup until SIGINT or SIGTERM, then takes everything back to TCP.
///
/// # Errors
/// There is no such cgroup, or this node can't redirect.
pub async fn run(standalone: &Standalone) -> Result<()> {
    require_root("kernel programs are loaded")?;
    // A whole path replaces the mount when joined.
    let cgroup = cgroup2_mount()?.join(&standalone.cgroup);
    if !cgroup.join("cgroup.procs").exists() {
        bail!("{} is no cgroup v2", cgroup.display());
    }
    let mut runner = Runner::load(
        Options::new(cgroup.clone()),
        base_name(&cgroup),
        standalone.mode,
        &standalone.allow,
        &standalone.state_dir,
    )?;
    info!(cgroup = %cgroup.display(), "ready: new connections inside are redirected");
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        failed = runner.work() => failed?,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    info!("taking sessions back to TCP");
    runner.end().await?;
    print!("{}", runner.summary.text());
    if let Some(file) = &standalone.report {
        runner.summary.write(file)?;
    }
    Ok(())
}
