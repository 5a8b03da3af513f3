//! The schema: an ordered list of migrations, each run once, in a transaction.
//!
//! To add a column or a table: append a file `migrations/NNN-what.sql` and a line below, write and read it
//! in `rows.rs` and `restore.rs`, describe it in docs/database.md. A migration that was released is never
//! changed. New columns of old tables need a `DEFAULT`.

use rusqlite::Connection;
use rusqlite_migration::{Error, M, MigrationDefinitionError, Migrations, SchemaVersion};

use super::StoreError;

const LIST: &[M<'static>] = &[
    M::up(include_str!("migrations/001-first.sql")),
    M::up(include_str!("migrations/002-history.sql")),
    M::up(include_str!("migrations/003-reconfiguration.sql")),
    M::up(include_str!("migrations/004-readable.sql")),
    M::up(include_str!("migrations/005-identity.sql")),
    M::up(include_str!("migrations/006-nodes.sql")),
    M::up(include_str!("migrations/007-memory.sql")),
];
/// `PRAGMA user_version` counts those that were run.
const MIGRATIONS: Migrations<'static> = Migrations::from_slice(LIST);

/// Brings a database to this Manager's schema.
///
/// # Errors
/// SQLite refused, then the database is as before; or a newer Manager wrote it.
pub fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    MIGRATIONS.to_latest(connection).map_err(|error| match error {
        Error::MigrationDefinition(MigrationDefinitionError::DatabaseTooFarAhead) => {
            match MIGRATIONS.current_version(connection) {
                Ok(SchemaVersion::Outside(found)) => newer(found.get()),
                _ => newer(0),
            }
        }
        other => refused(other),
    })
}

/// Refuses a database that is not of exactly this Manager's schema; for readers, which change nothing.
///
/// # Errors
/// It is older or newer.
pub fn require_current(connection: &Connection) -> Result<(), StoreError> {
    let found: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match found.cmp(&LIST.len()) {
        std::cmp::Ordering::Less => Err(StoreError::Older { found, known: LIST.len() }),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(newer(found)),
    }
}

fn newer(found: usize) -> StoreError {
    StoreError::Newer { found, known: LIST.len() }
}

fn refused(error: Error) -> StoreError {
    match error {
        Error::RusqliteError { err, .. } => err.into(),
        other => StoreError::Migration(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_valid_sql() {
        MIGRATIONS.validate().expect("valid");
    }

    #[test]
    fn a_database_of_a_newer_manager_is_refused() {
        let mut connection = Connection::open_in_memory().expect("opened");
        connection.pragma_update(None, "user_version", LIST.len() + 1).expect("set");
        let error = migrate(&mut connection).expect_err("newer");
        assert!(error.to_string().contains(&format!("schema version {}", LIST.len() + 1)), "{error}");
    }
}
