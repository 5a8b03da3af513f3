//! What outlives the agent: maps and the cgroup link, pinned in a BPF file system.

use std::path::{Path, PathBuf};
use std::{fs, io};

use aya::programs::RawTracePoint;
use aya::programs::links::{FdLink, PinnedLink};

use super::{Unavailable, bpf_fs};

/// The maps that are pinned, by their name.
pub const MAPS: [&str; 16] = [
    "CONTAINERS",
    "COUNTERS",
    "DECLARED",
    "EARLY",
    "EVENTS",
    "KNOWN_SESSIONS",
    "MARKS",
    "MEMBERS",
    "OPTIONS",
    "OUTSIDE",
    "PAUSED",
    "PENDING",
    "SETTINGS",
    "SHOWN",
    "SOCKETS",
    "SOURCES",
];
/// The pin of the link that attaches the programs to the node's cgroup.
const LINK: &str = "link";
/// The pin of the program that the agent calls.
pub const PROGRAM: &str = "control";
/// What the names of the folders of layouts begin with.
const LAYOUT: &str = "layout-";

/// Where the maps of a layout are pinned.
pub fn of_layout(pins: &Path, layout: u32) -> PathBuf {
    pins.join(format!("{LAYOUT}{layout}"))
}

/// The folders of all other layouts.
pub fn other_layouts(pins: &Path, layout: u32) -> Vec<PathBuf> {
    let own = of_layout(pins, layout);
    layouts(pins).into_iter().filter(|folder| *folder != own).collect()
}

fn layouts(pins: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(pins).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(LAYOUT));
    named.map(|entry| entry.path()).collect()
}

/// Whether the programs of a layout were attached, which is done last.
pub fn is_attached(folder: &Path) -> bool {
    folder.join(LINK).exists()
}

/// Makes the folder, which only root may enter, and mounts a BPF file system on it when it is in none.
pub fn prepare(pins: &Path, layout: u32) -> Result<(), Unavailable> {
    prepare_folder(pins)?;
    bpf_fs::private_folder(&of_layout(pins, layout))
        .map_err(|error| Unavailable(format!("making a folder in {} failed: {error}", pins.display())))
}

/// The same without a folder for a layout: what is claimed before anything is pinned there.
pub fn prepare_folder(pins: &Path) -> Result<(), Unavailable> {
    let fail = |what: &str, error: &dyn std::fmt::Display| {
        Unavailable(format!("{what} {} failed: {error}", pins.display()))
    };
    if let Some(above) = pins.parent() {
        fs::create_dir_all(above).map_err(|error| fail("making the folder for pins", &error))?;
    }
    // A whole file system that is somebody else's keeps its own permissions.
    if !pins.exists() || !bpf_fs::is_bpf(pins) || pins.parent().is_some_and(bpf_fs::is_bpf) {
        bpf_fs::private_folder(pins).map_err(|error| fail("making the folder for pins", &error))?;
    }
    bpf_fs::mount_if_none(pins).map_err(|error| fail("mounting a BPF file system on", &error))
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

/// Removes the pins of one layout, whatever its version has; the link first, so that no program misses its maps'
/// names.
pub fn remove_layout(folder: &Path) -> io::Result<()> {
    let pinned = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    for pin in [folder.join(LINK)].into_iter().chain(pinned.collect::<Vec<_>>()) {
        match fs::remove_file(pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::remove_dir(folder)
}

/// Removes all pins, and the file system when it was mounted for them and nothing else is in it.
pub fn remove(pins: &Path) -> io::Result<()> {
    for folder in layouts(pins) {
        remove_layout(&folder)?;
    }
    let _held = bpf_fs::hold();
    bpf_fs::remove_if_empty(pins);
    if let Some(above) = pins.parent().filter(|above| bpf_fs::is_bpf(above)) {
        bpf_fs::remove_if_empty(above);
    }
    // Where it was a mount of its own.
    let _ = fs::remove_dir(pins);
    Ok(())
}
