//! cgroup v2: where it is, who is in a cgroup, and the ids by which the kernel names cgroups.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{bpf_fs, mounts};

/// The id by which the kernel names a cgroup: its folder's inode number. It is given once while the machine
/// runs: a cgroup that is made again under the same name has another.
///
/// # Errors
/// The folder can't be read.
pub fn cgroup_id(cgroup: &Path) -> io::Result<u64> {
    Ok(fs::metadata(cgroup)?.ino())
}

/// Where cgroup v2 is mounted; not always at `/sys/fs/cgroup`.
///
/// # Errors
/// It is mounted nowhere.
pub fn cgroup2_mount() -> io::Result<PathBuf> {
    mounts::of_type("cgroup2")?.into_iter().next().map(|mount| mount.place).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "cgroup v2 is not mounted: `mount -t cgroup2 none /sys/fs/cgroup/unified` mounts it",
        )
    })
}

/// All places where cgroup v2 is mounted.
///
/// # Errors
/// `/proc` is not mounted.
pub fn cgroup2_mounts() -> io::Result<Vec<PathBuf>> {
    Ok(mounts::of_type("cgroup2")?.into_iter().map(|mount| mount.place).collect())
}

/// The cgroup that this process is in.
///
/// # Errors
/// No mount shows it, which happens inside cgroup and mount namespaces.
pub fn own_cgroup() -> io::Result<PathBuf> {
    let lines = fs::read_to_string("/proc/self/cgroup")?;
    let own = lines.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let process = std::process::id().to_string();
    for mount in mounts::of_type("cgroup2")? {
        let Ok(below) = Path::new(own).strip_prefix(&mount.root) else { continue };
        let cgroup = mount.place.join(below);
        if members(&cgroup).is_ok_and(|members| members.contains(&process)) {
            return Ok(cgroup);
        }
    }
    let none = "cgroup v2 is mounted nowhere";
    let hidden = format!("the cgroup {own} of this process is below no mount of cgroup v2");
    let problem = if cgroup2_mount().is_err() { none } else { &hidden };
    let text = format!("{problem}: `mount -t cgroup2 none FOLDER` in this namespace shows it");
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

/// The processes in a cgroup, or the threads where it is threaded; those of other PID namespaces are `0`.
///
/// # Errors
/// It is gone, or can't be read.
pub fn members(cgroup: &Path) -> io::Result<Vec<String>> {
    let read = |file: &str| fs::read_to_string(cgroup.join(file));
    // The kernel lists threads only, where they may be in cgroups of their own.
    let members = match read("cgroup.procs") {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => read("cgroup.threads"),
        members => members,
    };
    Ok(members?.lines().map(str::to_owned).collect())
}

/// Whether an error says that a cgroup is no longer there.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Where agents of this machine have pinned their maps.
pub fn pinned_places() -> Vec<PathBuf> {
    let below = |folder: PathBuf| {
        let nodes = fs::read_dir(folder).into_iter().flatten().flatten();
        nodes.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let usual = bpf_fs::existing("patchbay").into_iter().flat_map(below);
    // Where an agent was told another place, it is mounted there.
    let told = mounts::of_type("bpf").unwrap_or_default().into_iter().map(|mount| mount.place);
    usual.chain(told).filter(|place| super::is_pinned(place)).collect()
}
