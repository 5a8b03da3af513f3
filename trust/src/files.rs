//! Files of keys and certificates: nobody else reads them, and they are there whole or not at all.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Mode of files.
pub const PRIVATE_FILE: u32 = 0o600;
/// Mode of folders.
pub const PRIVATE_FOLDER: u32 = 0o700;

/// Makes a folder and those above it, for its owner only; one that is there stays as it is.
///
/// # Errors
/// It can't be made.
pub fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(path)
}

/// Writes a file whole, or not at all; it replaces an earlier one.
///
/// # Errors
/// It can't be written; what was there stays.
pub fn write_over(path: &Path, text: &str) -> io::Result<()> {
    let next = written_beside(path, text)?;
    fs::rename(&next, path).inspect_err(|_| drop(fs::remove_file(&next)))?;
    sync_above(path)
}

/// Writes a file whole, or not at all; one that is there is never replaced.
///
/// # Errors
/// It is there already ([`io::ErrorKind::AlreadyExists`]), or can't be written.
pub fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let next = written_beside(path, text)?;
    // Unlike a rename, a link never replaces.
    let linked = fs::hard_link(&next, path);
    let _ = fs::remove_file(&next);
    linked?;
    sync_above(path)
}

fn written_beside(path: &Path, text: &str) -> io::Result<std::path::PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Two processes must not write into one.
    name.push(format!(".new-{}", std::process::id()));
    let next = path.with_file_name(name);
    let _ = fs::remove_file(&next);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    // What a full disk cut off is not kept.
    write().inspect_err(|_| drop(fs::remove_file(&next)))?;
    Ok(next)
}

fn sync_above(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => fs::File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}
