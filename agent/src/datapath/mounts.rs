//! Mounted file systems, as the kernel tells them to this process (`/proc/self/mountinfo`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// What of the file system is mounted; `/` for all of it.
    pub root: PathBuf,
    /// Where.
    pub place: PathBuf,
    /// What was named as its source; for a file system without a device whatever its mounter said.
    pub source: String,
}

/// The mounts of a file system type, in the order in which they were made.
///
/// # Errors
/// `/proc` is not mounted.
pub(super) fn of_type(kind: &str) -> io::Result<Vec<Mount>> {
    Ok(read(kind, &fs::read_to_string("/proc/self/mountinfo")?))
}

/// The mount at a place, if there is one of this type.
pub(super) fn at(kind: &str, place: &Path) -> Option<Mount> {
    of_type(kind).ok()?.into_iter().rfind(|mount| mount.place == place)
}

fn read(kind: &str, mounts: &str) -> Vec<Mount> {
    let read = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        let mut fields = after.split(' ');
        let (found, source) = (fields.next()?, fields.next()?);
        (found == kind).then(|| Mount {
            root: plain(root).into(),
            place: plain(place).into(),
            source: plain(source),
        })
    };
    mounts.lines().filter_map(read).collect()
}

/// Without the kernel's escapes: space, tabulator, new line and backslash as octal numbers.
fn plain(field: &str) -> String {
    ["040", "011", "012", "134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(field.to_owned(), |text, (number, character)| text.replace(&format!("\\{number}"), character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_root_and_source() {
        let mounts = "30 20 0:26 / /sys/fs/cgroup/unified rw,relatime shared:4 master:1 - cgroup2 none rw\n\
                      31 20 0:27 /a /mnt/a\\040b rw - bpf patchbay rw,mode=700\n\
                      32 20 0:28 / /proc rw - proc proc rw\n";
        let [cgroup] = &read("cgroup2", mounts)[..] else { panic!() };
        assert_eq!((&cgroup.root, &cgroup.place), (&"/".into(), &"/sys/fs/cgroup/unified".into()));
        let [bpf] = &read("bpf", mounts)[..] else { panic!() };
        assert_eq!(*bpf, Mount { root: "/a".into(), place: "/mnt/a b".into(), source: "patchbay".into() });
        assert_eq!(read("tmpfs", mounts), []);
    }
}
