//! One database has one Manager: a lock on a file beside it, which ends with the process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::StoreError;

/// How long a lock is waited for, and a port: its holder may have been killed just now.
pub const ENDED_WITHIN: Duration = Duration::from_secs(2);
/// Between two tries.
pub const TRY_EVERY: Duration = Duration::from_millis(20);

/// Held as long as the Manager uses the database.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock ends with the open file")] File);

impl Lock {
    /// Takes the lock of a database.
    ///
    /// # Errors
    /// Another Manager has it, or the file can't be made.
    pub fn take(database: &Path) -> Result<Self, StoreError> {
        // Not the database's own file: closing it would end SQLite's locks of this process on it.
        let path = beside(database, ".lock");
        let failed = |what, error| StoreError::File { file: path.clone(), what, error };
        let unmade = "made in its folder, which must exist and let this user write";
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| failed(unmade, error))?;
        match lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                return Err(StoreError::InUse { lock: path, holder: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(error)) => return Err(failed("locked", error)),
        }
        // Who holds it is only told; a full disk is no reason not to start.
        let _ = file.set_len(0);
        let _ = file.rewind();
        let _ = writeln!(file, "{}", std::process::id());
        Ok(Self(file))
    }
}

/// Locks a file, and waits for a holder that is just ending: a killed Manager has its locks until the kernel has
/// closed its files.
///
/// # Errors
/// Somebody has it for longer, or it can't be locked.
pub fn lock(file: &File) -> Result<(), TryLockError> {
    let begun = Instant::now();
    loop {
        let waited = begun.elapsed();
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if waited < ENDED_WITHIN => std::thread::sleep(TRY_EVERY),
            result => return result,
        }
    }
}

/// A file beside the database.
pub fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_manager_is_refused_and_told_who_has_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = folder.path().join("manager.db");
        let first = Lock::take(&database).expect("free");
        let error = Lock::take(&database).expect_err("taken").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        Lock::take(&database).expect("free again");
    }

    #[test]
    fn a_manager_that_is_just_ending_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = folder.path().join("manager.db");
        let first = Lock::take(&database).expect("free");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(5 * TRY_EVERY);
                drop(first);
            });
            Lock::take(&database).expect("it has ended");
        });
    }
}
