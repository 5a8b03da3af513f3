//! A copy of the database at one moment, also while the Manager writes (SQLite's online backup).

use std::fs::File;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::StoreError;
use super::check::{open_to_read, verify};
use super::lock::beside;

/// Pages copied between two calls of the progress function: 16 MiB.
const PAGES: i32 = 4096;

/// Copies a database, of whatever version, to a new file, checks the copy, and only then gives it its name. `progress` is told
/// the pages that are copied and all there are. Returns the copy's size in bytes.
///
/// # Errors
/// The file is there already or can't be written, or the database can't be read or is damaged.
pub fn backup(database: &Path, target: &Path, mut progress: impl FnMut(u64, u64)) -> Result<u64, StoreError> {
    if target.exists() {
        return Err(StoreError::Exists(target.to_owned()));
    }
    let partial = beside(target, ".partial");
    let result = copy(database, &partial, &mut progress).and_then(|bytes| {
        std::fs::rename(&partial, target).map_err(|error| file_error(target, error))?;
        Ok(bytes)
    });
    if result.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    result
}

fn copy(database: &Path, partial: &Path, progress: &mut impl FnMut(u64, u64)) -> Result<u64, StoreError> {
    let source = open_to_read(database)?;
    let _ = std::fs::remove_file(partial);
    let mut copy = Connection::open(partial)?;
    // The copy is of the moment at which this begins; the Manager's later commits do not begin it anew.
    source.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")?;
    let backup = Backup::new(&source, &mut copy)?;
    while backup.step(PAGES)? != StepResult::Done {
        let now = backup.progress();
        progress((now.pagecount - now.remaining) as u64, now.pagecount as u64);
    }
    drop(backup);
    source.execute_batch("COMMIT")?;
    // One file, without a log beside it.
    copy.pragma_update(None, "journal_mode", "DELETE")?;
    verify(&copy, "quick_check", 1)?;
    drop(copy);
    let file = File::open(partial).map_err(|error| file_error(partial, error))?;
    file.sync_all().map_err(|error| file_error(partial, error))?;
    Ok(file.metadata().map_err(|error| file_error(partial, error))?.len())
}

fn file_error(file: &Path, error: std::io::Error) -> StoreError {
    StoreError::File { file: file.to_owned(), what: "written", error }
}
