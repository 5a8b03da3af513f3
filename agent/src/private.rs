//! Files and folders that only root and an instance's user see.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::Path;

use nix::unistd::{Gid, Uid};

/// Who owns it besides root.
pub type Owner = (Uid, Gid);

/// Makes a folder through which users reach what is theirs, without seeing what there is (0711).
pub fn passage(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o711))
}

/// Makes a folder of a user (0700).
pub fn folder(path: &Path, (uid, gid): Owner) -> io::Result<()> {
    if let Some(above) = path.parent() {
        passage(above)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    chown(path, Some(uid.as_raw()), Some(gid.as_raw()))
}

/// Opens a file of root's for writing at its end; makes it if it is not there (0600).
pub fn append(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Replaces a file of root's, whole or not at all (0600).
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let next = path.with_extension("next");
    let written = || {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&next)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        fs::rename(&next, path)
    };
    // What a full disk cut off is not kept.
    written().inspect_err(|_| drop(fs::remove_file(&next)))
}
