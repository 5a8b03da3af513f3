//! Working inside the network namespaces of sessions, which the kernel programs know by their cookies.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};

use crate::socket_table;

/// Enters, in this thread, each wanted namespace in which a process lives, and works there. The thread stays in
/// the last one: it must be one that ends afterwards. Namespaces of no process are left out.
pub(super) fn visit(mut wanted: BTreeSet<u64>, mut work: impl FnMut(u64)) {
    let own = PathBuf::from("/proc/thread-self/ns/net");
    let all = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path().join("ns/net"));
    let mut seen = BTreeSet::new();
    for path in std::iter::once(own).chain(all) {
        if wanted.is_empty() {
            return;
        }
        // Most entries are no processes, and a process may have ended meanwhile.
        let Ok(found) = fs::metadata(&path) else { continue };
        if !seen.insert(found.ino()) {
            continue;
        }
        if let Ok(cookie) = enter(&path)
            && wanted.remove(&cookie)
        {
            work(cookie);
        }
    }
}

fn enter(path: &PathBuf) -> io::Result<u64> {
    setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
    socket_table::namespace()
}
