//! The cluster's cgroups: one above everything, so that everything can be ended and removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How long processes may take to be gone after they were killed.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// The cgroup of this name below the cgroup v2 mount.
pub fn path(name: &str) -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    });
    Ok(mount.context("cgroup v2 is not mounted on this machine")?.join(name))
}

/// Ends everything in a cgroup and below (Linux 5.14).
pub fn kill(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.kill"), "1")
        .with_context(|| format!("the processes in {} can't be ended", cgroup.display()))
}

/// Ends everything and removes the cgroups, if they are there.
pub fn remove(name: &str) -> Result<()> {
    let cgroup = path(name)?;
    if !cgroup.exists() {
        return Ok(());
    }
    kill(&cgroup)?;
    let begun = Instant::now();
    while remove_folders(&cgroup).is_err() {
        if begun.elapsed() > GONE_WITHIN {
            bail!("the cgroup {} can't be removed", cgroup.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn remove_folders(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_folders(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}
