//! `detach`: everything that a dead agent left in the kernel goes back to TCP and is removed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use ssmmp::NodeName;
use tokio::time::{Instant, sleep};

use crate::claim::{Claim, Thing};
use crate::datapath::{Datapath, Options, PlugAddresses, is_pinned};
use crate::require_root;
use crate::run::{node_name, usual_cgroup, usual_pins};

/// How often sessions are looked at while they leave.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What to remove.
#[derive(Args)]
pub struct Detach {
    /// The node's name; the host's name if absent
    #[arg(long, env = "PATCHBAY_NODE", value_parser = NodeName::new, value_name = "NAME")]
    node: Option<NodeName>,
    /// Where the agent pinned its programs; where `run` does so for this node if absent
    #[arg(long, value_name = "FOLDER")]
    pins: Option<PathBuf>,
    /// The node's cgroup, below the cgroup v2 mount or as a whole path; that of `run` if absent
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// How long sessions may take to be read empty, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    within: u64,
    /// Do not wait; what is unread is lost to its readers
    #[arg(long)]
    now: bool,
    /// Do not ask
    #[arg(long, requires = "now")]
    yes: bool,
}

/// Takes every session back to TCP, then removes programs, maps and pins.
///
/// # Errors
/// A program does not read what was redirected to it, or something can't be removed; then sessions go on
/// over TCP and the pins stay.
pub async fn run(detach: &Detach) -> Result<()> {
    require_root("kernel programs are removed")?;
    let node = node_name(detach.node.as_ref())?;
    let pins = detach.pins.clone().unwrap_or_else(|| usual_pins(&node));
    if !is_pinned(&pins) {
        bail!(
            "nothing is pinned at {}; say --node, or --pins and --cgroup, as the agent was started",
            pins.display()
        );
    }
    let below = detach.cgroup.clone().unwrap_or_else(|| usual_cgroup(&node));
    let cgroup = crate::datapath::cgroup2_mount()?.join(below);
    // A running agent would go on as if its maps were there.
    let things = [Thing::folder("the cgroup", &cgroup), Thing::folder("the pins' folder", &pins)];
    let there: Vec<Thing> = things.into_iter().filter(|thing| thing.lock.is_dir()).collect();
    let _claim = Claim::take(&there, false).await?;
    let mut datapath = Datapath::load(&Options { pins: Some(pins.clone()), ..Options::new(cgroup) })?;
    datapath.set_redirection(false)?;
    datapath.leave_all()?;
    let deadline = Instant::now() + Duration::from_secs(detach.within);
    loop {
        let inside: Vec<_> = datapath.sessions()?.into_iter().filter(|session| !session.outside).collect();
        if inside.is_empty() {
            break;
        }
        let mut unread = 0_u64;
        for session in &inside {
            unread += datapath.unread(session)?.iter().map(|bytes| u64::from(*bytes)).sum::<u64>();
        }
        if detach.now {
            if unread > 0 && !detach.yes {
                bail!(
                    "{} sessions have {unread} unread redirected bytes, which would be lost; say --yes if \
                     that is meant, or leave --now away",
                    inside.len()
                );
            }
            break;
        }
        if Instant::now() > deadline {
            bail!(
                "{} sessions are still inside with {unread} unread bytes; they go on over TCP. Run it again, \
                 or lose these bytes with --now --yes",
                inside.len()
            );
        }
        sleep(LOOK_EVERY).await;
        datapath.let_out()?;
        datapath.follow_earlier()?;
    }
    drop(datapath);
    PlugAddresses::remove(&pins)?;
    Datapath::detach(&pins)?;
    println!("nothing of Patchbay is left in the kernel at {}", pins.display());
    Ok(())
}
