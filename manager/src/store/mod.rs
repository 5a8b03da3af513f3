//! Current state and history in SQLite: rows that plain SQL can question (docs/database.md).
//!
//! What is durable when: a commit is in the write-ahead log before anything it reveals is said, so nothing
//! that was said is lost when the Manager is killed. Commits that change an application or an instance are
//! also forced to the disk first ([`Fsync::Instances`]), together with everything committed before, so that
//! a power cut neither loses them nor lets an instance's id be given twice; sessions and events of the last
//! moments may be missing then, and the agents tell of the sessions again.

mod backup;
mod check;
mod checkpoint;
mod error;
mod file_guard;
mod history;
mod lock;
mod prune;
mod restore;
mod rows;
mod schema;

#[cfg(test)]
mod tests;

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

pub use backup::backup;
pub use check::{Report, check};
use checkpoint::Checkpointer;
pub use error::StoreError;
use file_guard::FileGuard;
pub use history::{EventFilter, EventPage, History};
use lock::Lock;
pub use lock::{ENDED_WITHIN, TRY_EVERY, lock};
use patchbay_api::Event;
pub use prune::{Kept, Pruned};
use rusqlite::{Connection, Row};

use patchbay_manager_core::{Core, Effect, Identity, Saved};

/// Prepared statements kept.
const STATEMENTS: usize = 64;
/// Memory for pages of the database, KiB: at a million sessions most of what changes is in it.
const CACHE_KIB: i64 = 64 * 1024;
/// The log's file is cut to this after it was folded in, bytes; a reader can make it grow beyond.
const WAL_BYTES: u32 = 64 << 20;

/// Which commits are forced to the disk before anything is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Fsync {
    /// Those that change applications or instances, and with them all before.
    #[default]
    Instances,
    /// Every one: nothing said is lost in a power cut either.
    All,
}

/// The database and its only writer.
pub struct Store {
    connection: Connection,
    fsync: Fsync,
    forces: bool,
    sequence: u64,
    pruner: prune::Pruner,
    guard: Option<FileGuard>,
    // Ends before the lock does.
    checkpointer: Option<Checkpointer>,
    _lock: Option<Lock>,
}

impl Store {
    /// Opens the database, made if it is not there, migrates it, and looks at it for damage for a bounded
    /// time.
    ///
    /// # Errors
    /// Another Manager uses it, it can't be opened or written, is damaged, is no database, or is of a newer
    /// version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let is_file = path != Path::new(":memory:");
        let lock = is_file.then(|| Lock::take(path)).transpose()?;
        if is_file {
            private(path)?;
        }
        let mut connection = Connection::open(path)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", checkpoint::LOG_PAGES)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
        check::at_start(&connection)?;
        schema::migrate(&mut connection)?;
        let sequence = connection
            .query_row("SELECT max(sequence) FROM events", [], |row| row.get::<_, Option<u64>>(0))?
            .unwrap_or(0);
        let guard = is_file.then(|| FileGuard::of(path)).transpose()?;
        let checkpointer = is_file.then(|| Checkpointer::start(path)).transpose()?;
        let mut store = Self {
            connection,
            fsync: Fsync::default(),
            forces: true,
            sequence,
            pruner: prune::Pruner::default(),
            guard,
            checkpointer,
            _lock: lock,
        };
        store.force(true)?;
        Ok(store)
    }

    /// Chooses which commits are forced to the disk.
    pub fn set_fsync(&mut self, fsync: Fsync) {
        self.fsync = fsync;
    }

    /// Chooses how much history is kept.
    pub fn keep(&mut self, kept: Kept) {
        self.pruner.keep(kept);
    }

    /// Counts the Manager's starts, so that message ids never repeat.
    ///
    /// # Errors
    /// SQLite refused.
    pub fn next_epoch(&self) -> Result<u64, StoreError> {
        Ok(self.connection.query_row(
            "INSERT INTO counters VALUES ('epoch', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1
             RETURNING value",
            [],
            |row| row.get(0),
        )?)
    }

    /// Who this Manager is, at one more start. Epochs follow the clock, so that a restored backup has a
    /// later one than all before.
    ///
    /// # Errors
    /// SQLite refused.
    pub fn identify(&self, now_ms: u64) -> Result<Identity, StoreError> {
        Ok(self.connection.query_row(
            "UPDATE identity SET epoch = max(epoch + 1, ?1) RETURNING id, epoch",
            [now_ms / 1000],
            |row| Ok(Identity { id: row.get(0)?, epoch: row.get(1)? }),
        )?)
    }

    /// Gives the core what an earlier run wrote down.
    ///
    /// # Errors
    /// SQLite refused, or a row is not understood.
    pub fn restore(&self, core: &mut Core) -> Result<(), StoreError> {
        let last = |table: &str| {
            self.connection
                .query_row(&format!("SELECT max(id) FROM {table}"), [], |row| row.get::<_, Option<u64>>(0))
        };
        let (last_instance, last_session) = (last("instances")?.unwrap_or(0), last("sessions")?.unwrap_or(0));
        core.restore(Saved {
            apps: restore::apps(&self.connection)?,
            services: restore::services(&self.connection)?,
            message_ids: restore::message_ids(&self.connection)?,
            nodes: restore::nodes(&self.connection)?,
            drained: restore::drained(&self.connection)?,
            instances: restore::instances(&self.connection)?,
            sessions: restore::sessions(&self.connection)?,
            last_instance,
            last_session,
        });
        Ok(())
    }

    /// Writes the rows and events among effects in one transaction, numbers the events, and returns how many
    /// rows that were.
    ///
    /// # Errors
    /// SQLite refused; then nothing was written and nothing may be spoken.
    pub fn write(&mut self, effects: &mut [Effect]) -> Result<usize, StoreError> {
        let rows =
            effects.iter().filter(|effect| matches!(effect, Effect::Save(_) | Effect::Publish(_))).count();
        if rows == 0 {
            return Ok(0);
        }
        let must_last = effects.iter().any(|effect| matches!(effect, Effect::Save(row) if !row.is_session()));
        if let Some(guard) = &mut self.guard {
            guard.look()?;
        }
        self.force(must_last || self.fsync == Fsync::All)?;
        let transaction = self.connection.transaction()?;
        let mut sequence = self.sequence;
        for effect in effects {
            match effect {
                Effect::Save(row) => rows::save(&transaction, row)?,
                Effect::Publish(event) => {
                    sequence += 1;
                    event.sequence = sequence;
                    rows::save_event(&transaction, event)?;
                }
                _ => {}
            }
        }
        transaction.commit()?;
        self.sequence = sequence;
        if let Some(checkpointer) = &mut self.checkpointer {
            checkpointer.committed();
        }
        Ok(rows)
    }

    /// Has the next commits reach the disk before they return, or only the operating system.
    fn force(&mut self, forces: bool) -> Result<(), StoreError> {
        if forces != self.forces {
            self.connection.pragma_update(None, "synchronous", if forces { "FULL" } else { "NORMAL" })?;
            self.forces = forces;
        }
        Ok(())
    }

    /// When [`Self::prune`] is due, milliseconds since 1970.
    pub fn prune_due(&self) -> u64 {
        self.pruner.due_ms()
    }

    /// Removes a bounded number of rows older than what is kept.
    ///
    /// # Errors
    /// SQLite refused; it may be tried again.
    pub fn prune(&mut self, now_ms: u64) -> Result<Pruned, StoreError> {
        self.force(self.fsync == Fsync::All)?;
        self.pruner.step(&mut self.connection, now_ms)
    }
}

/// Only this user reads the database: SQLite gives its other files the same mode.
fn private(path: &Path) -> Result<(), StoreError> {
    let mut open = OpenOptions::new();
    let file = open.read(true).append(true).create(true).mode(0o600).open(path);
    let failed = |what, error| StoreError::File { file: path.to_owned(), what, error };
    let file = file.map_err(|error| failed("opened and written", error))?;
    let about = file.metadata().map_err(|error| failed("looked at", error))?;
    if about.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(|error| failed("kept from others", error))?;
    }
    Ok(())
}

/// A row of events, its columns in the schema's order.
fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        sequence: row.get(0)?,
        at_ms: row.get(1)?,
        kind: row.get(2)?,
        subject: row.get(3)?,
        text: row.get(4)?,
    })
}
