//! Who listened in a cgroup before the kernel programs were there to see it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use crate::datapath::{ListeningSocket, cgroup_id};
use crate::socket_table;

/// The listening sockets of a cgroup and those below it, in all network namespaces of its processes.
pub fn listening(cgroup: &Path) -> io::Result<BTreeSet<ListeningSocket>> {
    let mut cgroups = BTreeSet::new();
    let mut namespaces = BTreeMap::new();
    walk(cgroup, &mut cgroups, &mut namespaces)?;
    let mut found = BTreeSet::new();
    for namespace in namespaces.into_values() {
        for (socket, made_in) in listening_in(namespace)? {
            if cgroups.contains(&made_in) {
                found.insert(socket);
            }
        }
    }
    Ok(found)
}

/// Ids of the cgroups, and network namespaces by their inode.
fn walk(
    cgroup: &Path,
    cgroups: &mut BTreeSet<u64>,
    namespaces: &mut BTreeMap<u64, PathBuf>,
) -> io::Result<()> {
    cgroups.insert(cgroup_id(cgroup)?);
    for process in fs::read_to_string(cgroup.join("cgroup.procs"))?.lines() {
        let namespace = PathBuf::from(format!("/proc/{process}/ns/net"));
        // A process may have ended meanwhile.
        if let Ok(found) = fs::metadata(&namespace) {
            namespaces.insert(found.ino(), namespace);
        }
    }
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), cgroups, namespaces)?;
        }
    }
    Ok(())
}

/// Looks from inside the namespace, in a thread that ends with it.
fn listening_in(namespace: PathBuf) -> io::Result<Vec<(ListeningSocket, u64)>> {
    let look = move || {
        setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?;
        let namespace = socket_table::namespace()?;
        let sockets = socket_table::listening()?;
        Ok(sockets.into_iter().map(|s| (ListeningSocket { at: s.at, namespace }, s.cgroup)).collect())
    };
    std::thread::spawn(look).join().unwrap_or_else(|_| Err(io::Error::other("the look failed")))
}
