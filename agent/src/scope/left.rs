//! What a scope leaves in the kernel when it is killed: its maps stay pinned, so that nothing unread is lost,
//! and the next scope removes them once nobody uses them.

use std::fs;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::datapath::{Datapath, bpf_mount, pinned_sessions};

/// The folder of all scopes, in a BPF file system.
const FOLDER: &str = "patchbay-scopes";

/// Where this process pins its maps.
pub fn place() -> PathBuf {
    root().join(std::process::id().to_string())
}

fn root() -> PathBuf {
    bpf_mount().unwrap_or_else(|| PathBuf::from("/run")).join(FOLDER)
}

/// Removes what dead scopes left whose sessions have all ended or are on TCP.
pub fn clear() {
    let dead = |name: &str| name.parse::<u32>().is_ok_and(|id| !Path::new(&format!("/proc/{id}")).exists());
    for entry in fs::read_dir(root()).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(dead) {
            remove_if_unused(&entry.path());
        }
    }
}

/// Removes a scope's pins unless a session still needs them.
pub fn remove_if_unused(pins: &Path) {
    let used = pinned_sessions(pins).is_ok_and(|sessions| sessions.iter().any(|session| !session.outside));
    if used {
        return;
    }
    if let Err(error) = Datapath::detach(pins) {
        warn!("the pins at {} can't be removed: {error}", pins.display());
    }
    // Only the last one's succeeds.
    let _ = fs::remove_dir(root());
}
