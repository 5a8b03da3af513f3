//! `mounts`: the file systems that the agent needs on a node, mounted where they are missing: the only thing that
//! needs a privileged container there.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::datapath::{cgroup2_mounts, mount_bpf};
use crate::require_root;

/// What to look for and where.
#[derive(Args)]
pub struct Mounts {
    /// Where the node's BPF file system is, or is mounted
    #[arg(long, default_value = "/sys/fs/bpf", value_name = "FOLDER")]
    bpf: PathBuf,
}

/// Mounts a BPF file system where there is none, and says what a node without cgroup v2 needs.
///
/// # Errors
/// It can't be mounted, or there is no cgroup v2.
pub fn run(mounts: &Mounts) -> Result<()> {
    require_root("file systems are mounted")?;
    mount_bpf(&mounts.bpf)
        .with_context(|| format!("a BPF file system can't be mounted on {}", mounts.bpf.display()))?;
    if cgroup2_mounts()?.is_empty() {
        bail!(
            "this node has cgroup v1 only: pods have no cgroups of their own in v2, by which sessions are told apart. \
             Boot it with systemd.unified_cgroup_hierarchy=1 (the usual since 2022), or mount cgroup v2 beside v1 \
             before containers start"
        );
    }
    println!("{}: a BPF file system; cgroup v2 is there", mounts.bpf.display());
    Ok(())
}
