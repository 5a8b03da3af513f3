//! Files and folders that only root and an instance's user see.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

/// Makes a folder through which users reach what is theirs, without seeing what there is (0711).
pub fn passage(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o711))
}
