//! Looking for damage: a little at every start, all of it on request.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use tracing::warn;

use super::{StoreError, schema};

/// How long a start may look for damage; a larger database is looked at by `patchbay-manager check`.
const AT_START: Duration = Duration::from_secs(2);
/// SQLite's steps between two looks at the clock.
const STEPS: i32 = 10_000;
/// Problems named at most.
const PROBLEMS: usize = 20;

/// What is in a sound database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Rows of each table, by its name.
    pub rows: Vec<(String, u64)>,
    /// Size of the database without its log, bytes.
    pub bytes: u64,
}

/// Looks at all of a database, also while a Manager uses it.
///
/// # Errors
/// It is not there, can't be read, is damaged, or is of another version.
pub fn check(path: &Path) -> Result<Report, StoreError> {
    let connection = open_to_read(path)?;
    verify(&connection, "integrity_check", PROBLEMS)?;
    schema::require_current(&connection)?;
    let names: Vec<String> = connection
        .prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name",
        )?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut rows = Vec::new();
    for name in names {
        let count =
            connection.query_row(&format!("SELECT count(*) FROM \"{name}\""), [], |row| row.get(0))?;
        rows.push((name, count));
    }
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    Ok(Report { rows, bytes: pragma("page_count")? * pragma("page_size")? })
}

/// A second connection that can't change anything.
pub fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    // Opening for reading alone would not make the shared memory of the log where it is missing.
    let writable = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let readable = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    std::fs::metadata(path).map_err(|error| StoreError::File {
        file: path.to_owned(),
        what: "read",
        error,
    })?;
    let connection = Connection::open_with_flags(path, writable)
        .or_else(|_| Connection::open_with_flags(path, readable))?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Looks for damage as long as a start may take.
pub fn at_start(connection: &Connection) -> Result<(), StoreError> {
    let begun = Instant::now();
    connection.progress_handler(STEPS, Some(move || begun.elapsed() > AT_START));
    let result = verify(connection, "quick_check", 1);
    connection.progress_handler(0, None::<fn() -> bool>);
    match result {
        Err(error) if error.is_interrupted() => {
            warn!(
                "the database is large: {AT_START:?} of looking found no damage; `patchbay-manager check` looks at all of it"
            );
            Ok(())
        }
        result => result,
    }
}

/// Runs one of SQLite's own checks.
pub fn verify(connection: &Connection, pragma: &str, most: usize) -> Result<(), StoreError> {
    let mut statement = connection.prepare(&format!("PRAGMA {pragma}({most})"))?;
    let found: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    if found.len() == 1 && found[0] == "ok" {
        return Ok(());
    }
    Err(StoreError::Damaged(found.join("; ").replace('\n', "; ")))
}
