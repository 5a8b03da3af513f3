//! History ends: old rows are removed a few at a time, so that no call and no message waits for it.

use std::time::Duration;

use rusqlite::{Connection, Transaction, params};

use super::StoreError;

/// Rows looked at in one step, for each table.
const ROWS_A_STEP: u32 = 500;
/// Between two steps while there is more to remove, milliseconds.
const BETWEEN_STEPS_MS: u64 = 20;
/// Between two looks for what has grown too old, milliseconds; shorter when history is kept for less.
const BETWEEN_LOOKS_MS: u64 = 60_000;

/// How much history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Ended instances and sessions, and events, for so long.
    pub time: Duration,
    /// The newest instances, sessions and events at most, of each so many; the time does not matter beyond.
    pub rows: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self { time: Duration::from_secs(7 * 24 * 3600), rows: 1_000_000 }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pruned {
    /// The next step may find more at once.
    More,
    /// There was nothing more to remove.
    Done,
}

/// Where pruning stands.
#[derive(Debug, Default)]
pub struct Pruner {
    kept: Kept,
    /// The last session looked at; open ones are passed by.
    session: u64,
    due_ms: u64,
}

impl Pruner {
    pub fn keep(&mut self, kept: Kept) {
        self.kept = kept;
    }

    /// When the next step is due, milliseconds since 1970.
    pub fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// One step. One that fails is tried again when the next look is due.
    pub fn step(&mut self, connection: &mut Connection, now_ms: u64) -> Result<Pruned, StoreError> {
        let kept_ms = self.kept.time.as_millis() as u64;
        self.due_ms = now_ms + (kept_ms / 10).clamp(BETWEEN_STEPS_MS, BETWEEN_LOOKS_MS);
        let before = now_ms.saturating_sub(kept_ms);
        let transaction = connection.transaction()?;
        let events = events(&transaction, before, self.kept.rows)?;
        let instances = instances(&transaction, before, self.kept.rows)?;
        let (last, sessions) = sessions(&transaction, self.session, before, self.kept.rows)?;
        transaction.commit()?;
        self.session = if sessions == Pruned::More { last } else { 0 };
        if ![events, instances, sessions].contains(&Pruned::More) {
            return Ok(Pruned::Done);
        }
        self.due_ms = now_ms + BETWEEN_STEPS_MS;
        Ok(Pruned::More)
    }
}

/// Sequence numbers and times grow together. The newest row stays: it tells which numbers were given.
fn events(transaction: &Transaction<'_>, before_ms: u64, most: u64) -> Result<Pruned, StoreError> {
    let removed = transaction
        .prepare_cached(
            "DELETE FROM events WHERE sequence IN (SELECT sequence FROM events ORDER BY sequence LIMIT ?1)
             AND (at_ms < ?2 OR sequence <= (SELECT max(sequence) FROM events) - ?3)
             AND sequence < (SELECT max(sequence) FROM events)",
        )?
        .execute(params![ROWS_A_STEP, before_ms, most])?;
    Ok(if removed == ROWS_A_STEP as usize { Pruned::More } else { Pruned::Done })
}

/// The newest row stays: it tells which ids were given.
fn instances(transaction: &Transaction<'_>, before_ms: u64, most: u64) -> Result<Pruned, StoreError> {
    let removed = transaction
        .prepare_cached(
            "DELETE FROM instances WHERE id IN
                 (SELECT id FROM instances WHERE ended_ms IS NOT NULL ORDER BY ended_ms LIMIT ?1)
             AND (ended_ms < ?2 OR id <= (SELECT max(id) FROM instances) - ?3)
             AND id < (SELECT max(id) FROM instances)",
        )?
        .execute(params![ROWS_A_STEP, before_ms, most])?;
    // What is told of an instance ends with it.
    transaction
        .prepare_cached(
            "DELETE FROM instance_changes WHERE change IN
                 (SELECT change FROM instance_changes ORDER BY change LIMIT ?1)
             AND instance NOT IN (SELECT id FROM instances)",
        )?
        .execute([ROWS_A_STEP])?;
    Ok(if removed == ROWS_A_STEP as usize { Pruned::More } else { Pruned::Done })
}

/// Looks at the next sessions in the order of their numbers, that is of their beginnings, and removes those
/// that ended too long ago. Those never acknowledged count by their beginning. The newest row stays.
fn sessions(
    transaction: &Transaction<'_>,
    after: u64,
    before_ms: u64,
    most: u64,
) -> Result<(u64, Pruned), StoreError> {
    let newest: Option<u64> =
        transaction.prepare_cached("SELECT max(id) FROM sessions")?.query_row([], |row| row.get(0))?;
    let too_many = newest.unwrap_or(0).saturating_sub(most);
    let mut statement = transaction
        .prepare_cached("SELECT id, opened_ms FROM sessions WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let mut rows = statement.query(params![after, ROWS_A_STEP])?;
    let (mut last, mut looked_at) = (after, 0);
    while let Some(row) = rows.next()? {
        let (id, opened): (u64, u64) = (row.get(0)?, row.get(1)?);
        if opened >= before_ms && id > too_many {
            break;
        }
        (last, looked_at) = (id, looked_at + 1);
    }
    transaction
        .prepare_cached(
            "DELETE FROM sessions WHERE id > ?1 AND id <= ?2 AND id < ?3
             AND (closed_ms < ?4 OR (closed_ms IS NOT NULL AND id <= ?5)
                  OR (closed_ms IS NULL AND source_port = 0 AND opened_ms < ?4))",
        )?
        .execute(params![after, last, newest, before_ms, too_many])?;
    Ok((last, if looked_at == ROWS_A_STEP { Pruned::More } else { Pruned::Done }))
}
