//! The agent ends: in order with its Manager, else by itself, and by force in the end.

use std::time::Duration;

use patchbay_agent_core::Event;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::info;

use super::Node;

/// How long instances that are ended at once may take.
const END_WITHIN: Duration = Duration::from_secs(5);
/// At the end of the time that an ending agent gives its instances: those that are left are ended by it.
const LAST_PART: u32 = 4;
/// How long the last messages to the Manager may take to leave.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// When an ending agent does what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    /// It ends itself what the Manager has not.
    pub(super) force: Instant,
    /// It goes, whatever is left.
    end: Instant,
}

impl Node {
    /// Begins to end: the Manager is told, and does what is to be done in order. Without one, or when it is
    /// told again, all instances are asked to end at once.
    pub(super) fn begin_end(&mut self, within: Duration) {
        let now = Instant::now();
        let again = self.ending.is_some();
        let within = if again { END_WITHIN.min(within) } else { within };
        info!(instances = self.shell.running.len(), ?within, "ending");
        self.ending = Some(Ending { force: now + within - within / LAST_PART, end: now + within });
        if !again {
            self.handle(Event::End(within));
        }
        if again || !self.engine.core().is_registered() {
            self.end_all(within - within / LAST_PART);
        }
    }

    /// Asks every instance to end, and ends it by force after a time.
    pub(super) fn end_all(&mut self, polite: Duration) {
        for running in self.shell.running.values() {
            let _ = running.end.try_send(polite);
        }
        // Once is enough.
        self.ending = self.ending.map(|ending| Ending { force: ending.end, ..ending });
    }

    /// Whether an ending agent has nothing more to wait for.
    pub(super) fn has_ended(&self) -> bool {
        self.ending.is_some_and(|ending| {
            self.shell.running.is_empty() && self.engine.core().instance_ids().is_empty()
                || Instant::now() >= ending.end
        })
    }

    /// What is left ends by force, and the last messages leave.
    pub(super) async fn end(&mut self, events: &mut mpsc::Receiver<Event>) {
        self.end_all(Duration::ZERO);
        self.shell.tasks.close();
        let deadline = Instant::now() + END_WITHIN;
        while !self.shell.running.is_empty() {
            match tokio::time::timeout_at(deadline, events.recv()).await {
                Ok(Some(event)) => self.handle(event),
                _ => break,
            }
        }
        let _ = tokio::time::timeout(LEAVE_WITHIN, self.shell.manager.has_left()).await;
    }
}
