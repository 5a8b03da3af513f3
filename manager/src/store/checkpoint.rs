//! The write-ahead log is folded into the database by a thread of its own, so that commits seldom wait for
//! the disk: they only do so when the log has grown to [`LOG_PAGES`] in spite of it.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;
use ssmmp::Repeated;
use tracing::warn;

use super::StoreError;

/// Pages in the log at which a commit itself folds it in: 64 MiB.
pub const LOG_PAGES: u32 = 16_384;
/// Commits between two rounds of the thread.
const COMMITS: u32 = 1_000;

/// The thread's owner; the thread ends with it.
#[derive(Debug)]
pub struct Checkpointer {
    commits: u32,
    rounds: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread with a connection of its own.
    ///
    /// # Errors
    /// The database can't be opened, or the thread can't be started.
    pub fn start(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        let (rounds, receiver) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || run(&connection, &receiver))
            .map_err(|error| StoreError::File {
                file: path.into(),
                what: "kept in step by a thread",
                error,
            })?;
        Ok(Self { commits: 0, rounds: Some(rounds), thread: Some(thread) })
    }

    /// There was a commit.
    pub fn committed(&mut self) {
        self.commits += 1;
        if let Some(rounds) = self.rounds.as_ref().filter(|_| self.commits >= COMMITS) {
            self.commits = 0;
            // A round that waits already takes this commit too.
            let _ = rounds.try_send(());
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.rounds = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Checkpoints that failed.
static NOT_FOLDED: Repeated = Repeated::new();

fn run(connection: &Connection, rounds: &Receiver<()>) {
    while rounds.recv().is_ok() {
        // It never waits for readers or the writer: what it leaves, the next round takes.
        if let Err(problem) = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            && let Some(times) = crate::again(&NOT_FOLDED)
        {
            warn!(times, "the write-ahead log can't be folded in, it is tried again: {problem}");
        }
    }
}
