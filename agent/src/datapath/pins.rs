//! What outlives the agent: maps and the cgroup link, pinned in a BPF file system.

use std::path::Path;
use std::{fs, io};

use aya::programs::RawTracePoint;
use aya::programs::links::{FdLink, PinnedLink};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::Unavailable;

/// The maps that are pinned, by their name.
pub const MAPS: [&str; 9] = [
    "BY_TUPLE",
    "DECLARED",
    "EVENTS",
    "KNOWN_SESSIONS",
    "LISTENING",
    "MEMBERS",
    "SETTINGS",
    "SHOWN",
    "SOCKETS",
];
/// The pin of the link that attaches the programs to the node's cgroup.
const LINK: &str = "link";
/// The pin of the program that the agent calls.
pub const PROGRAM: &str = "control";
/// `statfs` magic of a BPF file system.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Makes the folder, and mounts a BPF file system on it when it is in none.
pub fn prepare(pins: &Path) -> Result<(), Unavailable> {
    let fail = |what: &str, error: &dyn std::fmt::Display| {
        Unavailable(format!("{what} {} failed: {error}", pins.display()))
    };
    fs::create_dir_all(pins).map_err(|error| fail("making the folder for pins", &error))?;
    if is_bpf(pins) {
        return Ok(());
    }
    mount(Some("bpf"), pins, Some("bpf"), MsFlags::empty(), None::<&str>)
        .map_err(|error| fail("mounting a BPF file system on", &error))
}

/// Pins the new link, then lets the earlier agent's go, so that no connection is missed.
pub fn replace_link(pins: &Path, link: FdLink) -> Result<(), Unavailable> {
    let path = pins.join(LINK);
    let next = pins.join("link_next");
    let fail = |error: &dyn std::error::Error| {
        Unavailable(format!(
            "pinning the link at {} failed: {}",
            path.display(),
            super::load::describe(error)
        ))
    };
    let _ = fs::remove_file(&next);
    link.pin(&next).map_err(|error| fail(&error))?;
    if let Ok(earlier) = PinnedLink::from_pin(&path) {
        drop(earlier.unpin().map_err(|error| fail(&error))?);
    }
    fs::rename(&next, &path).map_err(|error| fail(&error))
}

/// Pins the program that the agent calls in place of an earlier agent's.
pub fn replace_program(pins: &Path, program: &mut RawTracePoint) -> Result<(), Unavailable> {
    let path = pins.join(PROGRAM);
    let _ = fs::remove_file(&path);
    program.pin(&path).map_err(|error| {
        Unavailable(format!("pinning at {} failed: {}", path.display(), super::load::describe(&error)))
    })
}

/// Removes all pins, and the file system when it was mounted for them.
pub fn remove(pins: &Path) -> io::Result<()> {
    for name in MAPS.iter().chain(&[LINK, "link_next", PROGRAM]) {
        match fs::remove_file(pins.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    // Only a mount point of its own can be unmounted; elsewhere this is refused, as it should be.
    let _ = umount2(pins, MntFlags::MNT_DETACH);
    let _ = fs::remove_dir(pins);
    Ok(())
}

fn is_bpf(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type().0 == BPF_FS_MAGIC)
}
