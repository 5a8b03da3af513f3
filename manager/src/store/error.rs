//! Why the database can't be used, and what to do about it.

use std::path::PathBuf;

use rusqlite::ErrorCode;

/// Why the database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("{error}; {advice}")]
    Sqlite {
        /// What SQLite says.
        error: rusqlite::Error,
        /// What to do.
        advice: &'static str,
    },
    /// Its pages do not fit together.
    #[error("it is damaged: {0}; {RESTORE}")]
    Damaged(String),
    /// It was written by a newer Manager.
    #[error("it has schema version {found}, this Manager knows {known}: use a newer Manager")]
    Newer {
        /// Its version.
        found: usize,
        /// This Manager's.
        known: usize,
    },
    /// It was written by an older Manager and has not been migrated.
    #[error("it has schema version {found}, this program needs {known}: start the Manager once, it migrates")]
    Older {
        /// Its version.
        found: usize,
        /// This Manager's.
        known: usize,
    },
    /// A migration is wrong.
    #[error("its schema can't be migrated: {0}")]
    Migration(String),
    /// Another Manager uses it.
    #[error("another Manager{} uses it (lock {}); one database has one Manager", process(*holder), lock.display())]
    InUse {
        /// The lock file.
        lock: PathBuf,
        /// The other's process id, if it is known.
        holder: Option<u32>,
    },
    /// A file beside the database can't be used.
    #[error("{} can't be {what}: {error}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What was tried with it, as in "can't be written".
        what: &'static str,
        /// Why not.
        error: std::io::Error,
    },
    /// The file to be written is there already.
    #[error("{} is there already; nothing is overwritten, choose another name", .0.display())]
    Exists(PathBuf),
    /// It was moved or replaced while it was used.
    #[error(
        "{} was moved or replaced while the Manager used it: put it back, or start the Manager again with what is there", .0.display()
    )]
    Moved(PathBuf),
    /// A row can't be understood.
    #[error("a row of {table} can't be understood: {problem}; {RESTORE}")]
    Row {
        /// The table.
        table: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Nothing has this number or name.
    #[error("{0}")]
    Unknown(String),
}

const RESTORE: &str = "stop the Manager, keep the damaged file for a look, and put a backup (see \
                       `patchbay-manager backup`) in its place without a -wal or -shm file beside it";

fn process(id: Option<u32>) -> String {
    id.map(|id| format!(" (process {id})")).unwrap_or_default()
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let advice = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt) => return Self::Damaged(error.to_string()),
            Some(ErrorCode::NotADatabase) => return Self::Damaged("the file is no SQLite database".into()),
            Some(ErrorCode::DiskFull) => "make room on its disk",
            Some(ErrorCode::ReadOnly) => "make the file, its folder and its file system writable",
            Some(ErrorCode::CannotOpen) => "its folder must exist, and this user must be able to write there",
            Some(ErrorCode::PermissionDenied) => "this user must be able to write the file and its folder",
            Some(ErrorCode::SystemIoFailure) => "see the system's log for its disk",
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                "end the program that holds it in a transaction"
            }
            Some(ErrorCode::OperationInterrupted) => "it took too long",
            _ => "this is a fault in Patchbay, please report it",
        };
        Self::Sqlite { error, advice }
    }
}

impl StoreError {
    /// Whether it was stopped because it took too long.
    pub fn is_interrupted(&self) -> bool {
        matches!(self, Self::Sqlite { error, .. }
            if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted))
    }
}
