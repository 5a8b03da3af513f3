//! The BPF file system in which programs and maps are pinned: the system's, or one of Patchbay's own that all
//! its processes share. Never any other that happens to be mounted: whoever mounted it may take it away.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tracing::warn;

use super::{Unavailable, mounts};

/// Where a system has it by convention.
const SYSTEMS: &str = "/sys/fs/bpf";
/// Patchbay's own.
const OURS: &str = "/run/patchbay/bpf";
/// Locked by who makes or removes folders in either; only root may open it.
const LOCK: &str = "/run/patchbay/pins.lock";
/// The source of a mount that Patchbay made, by which it is known to be ours.
const SOURCE: &str = "patchbay";
/// `statfs` magic of a BPF file system.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// What only root may enter.
const PRIVATE: u32 = 0o700;

/// A folder of a BPF file system, there and only root's to enter, while nobody removes or unmounts it: as long
/// as this value lives, no other process of Patchbay makes or removes folders there.
pub struct BpfFolder {
    /// The folder.
    pub path: PathBuf,
    _held: File,
}

/// The folder of this name in the system's BPF file system where there is one that keeps it private, else in
/// Patchbay's own, which is mounted if it is not yet.
///
/// # Errors
/// Neither can be used, with the reason.
pub fn folder(name: &str) -> Result<BpfFolder, Unavailable> {
    let fail = |what: String, error: &dyn std::fmt::Display| Unavailable(format!("{what} failed: {error}"));
    let held = hold().map_err(|error| fail(format!("locking {LOCK}"), &error))?;
    if is_bpf(Path::new(SYSTEMS)) {
        let path = Path::new(SYSTEMS).join(name);
        match private_folder(&path) {
            Ok(()) => return Ok(BpfFolder { path, _held: held }),
            Err(error) => warn!("{} is not used for pins, {OURS} is: {error}", path.display()),
        }
    }
    let ours = Path::new(OURS);
    private_folder(ours)
        .and_then(|()| mount_if_none(ours))
        .map_err(|error| fail(format!("mounting a BPF file system on {OURS}"), &error))?;
    let path = ours.join(name);
    private_folder(&path).map_err(|error| fail(format!("making {}", path.display()), &error))?;
    Ok(BpfFolder { path, _held: held })
}

/// Folders of this name that exist, in either file system.
pub fn existing(name: &str) -> Vec<PathBuf> {
    let places = [SYSTEMS, OURS].map(|mount| Path::new(mount).join(name));
    places.into_iter().filter(|place| is_bpf(place)).collect()
}

/// Waits until no other process of Patchbay makes or removes folders in either file system, which they do for
/// a moment only.
pub(super) fn hold() -> io::Result<File> {
    if let Some(folder) = Path::new(LOCK).parent() {
        fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(LOCK)?;
    file.lock()?;
    Ok(file)
}

/// Removes a folder that is empty, and Patchbay's own file system with its last one. To be called while it is
/// [held](hold).
pub(super) fn remove_if_empty(folder: &Path) {
    // Refused while anything is in it.
    let _ = fs::remove_dir(folder);
    // The kernel itself shows maps and programs in each.
    let is_ours = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| !entry.file_name().to_string_lossy().ends_with(".debug"))
    };
    let is_empty = |place: &Path| fs::read_dir(place).is_ok_and(|mut entries| !entries.any(is_ours));
    for place in [folder, Path::new(OURS)] {
        if is_empty(place) && mounts::at("bpf", place).is_some_and(|mount| mount.source == SOURCE) {
            // This process may still have its folder open. The folder itself stays: removing it would unmount
            // it for other namespaces too.
            let _ = umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        }
    }
}

/// Mounts a BPF file system that only root may enter, unless the folder is in one already.
///
/// # Errors
/// The kernel refuses.
pub fn mount_if_none(folder: &Path) -> io::Result<()> {
    if !is_bpf(folder) {
        mount(Some(SOURCE), folder, Some("bpf"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0700"))?;
    }
    Ok(())
}

/// Makes a folder that only root may enter, or makes sure that it is one.
pub(super) fn private_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(PRIVATE).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != 0 {
        let owner = found.uid();
        let text =
            format!("{} is no folder of root's but belongs to user {owner}: remove it", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    if found.mode() & 0o7777 != PRIVATE {
        fs::set_permissions(path, Permissions::from_mode(PRIVATE))?;
    }
    Ok(())
}

/// Whether something is in a BPF file system.
pub(super) fn is_bpf(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type().0 == BPF_FS_MAGIC)
}
