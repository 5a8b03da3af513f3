//! The database's file must stay where it was opened: SQLite would go on writing a file that nobody finds
//! at the next start.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::StoreError;

/// Between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where a database was opened.
#[derive(Debug)]
pub struct FileGuard {
    path: PathBuf,
    file: (u64, u64),
    looked: Option<Instant>,
}

impl FileGuard {
    /// Of an open database.
    pub fn of(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { path: path.to_owned(), file: identity(path)?, looked: None })
    }

    /// Looks, unless it has just done so.
    ///
    /// # Errors
    /// Another file, or none, is in its place.
    pub fn look(&mut self) -> Result<(), StoreError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        if identity(&self.path).ok() != Some(self.file) {
            return Err(StoreError::Moved(self.path.clone()));
        }
        self.looked = Some(Instant::now());
        Ok(())
    }
}

/// Device and inode.
fn identity(path: &Path) -> Result<(u64, u64), StoreError> {
    let metadata = std::fs::metadata(path).map_err(|error| StoreError::File {
        file: path.to_owned(),
        what: "read",
        error,
    })?;
    Ok((metadata.dev(), metadata.ino()))
}
