//! cgroup v2: where it is, and the ids by which the kernel names cgroups.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The id by which the kernel names a cgroup: its folder's inode number.
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
    mount_of_type("cgroup2", &fs::read_to_string("/proc/mounts")?).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "cgroup v2 is not mounted: `mount -t cgroup2 none /sys/fs/cgroup/unified` mounts it",
        )
    })
}

/// Where a BPF file system is mounted, if anywhere.
pub fn bpf_mount() -> Option<PathBuf> {
    mount_of_type("bpf", &fs::read_to_string("/proc/mounts").ok()?)
}

/// Where agents of this machine have pinned their maps.
pub fn pinned_places() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let below = |mount: PathBuf| {
        let nodes = fs::read_dir(mount.join("patchbay")).into_iter().flatten().flatten();
        nodes.map(|entry| entry.path()).chain([mount]).collect::<Vec<_>>()
    };
    mounts_of_type("bpf", &mounts).flat_map(below).filter(|place| super::is_pinned(place)).collect()
}

/// The first mount of a file system type.
pub(super) fn mount_of_type(kind: &str, mounts: &str) -> Option<PathBuf> {
    mounts_of_type(kind, mounts).next()
}

fn mounts_of_type(kind: &str, mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(move |line| {
        let mut fields = line.split(' ');
        let (_, place, found) = (fields.next()?, fields.next()?, fields.next()?);
        (found == kind).then(|| PathBuf::from(place.replace("\\040", " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_wherever_it_is() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_of_type("cgroup2", mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_of_type("bpf", mounts), None);
        assert_eq!(mount_of_type("bpf", "none /mnt/a\\040b bpf rw 0 0\n"), Some("/mnt/a b".into()));
    }
}
