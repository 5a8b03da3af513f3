//! Flows for whoever follows: the latest are kept, a reader that is too slow is told how many it missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Flows kept for who asks later; the oldest go first.
const KEPT: usize = 4_096;
/// Flows that may wait for one reader; it is told of more that it missed.
const WAITING: usize = 1_024;

/// The latest flows, and those to come.
#[derive(Debug)]
pub struct Flows {
    kept: Mutex<VecDeque<Arc<str>>>,
    sender: broadcast::Sender<Arc<str>>,
}

impl Default for Flows {
    fn default() -> Self {
        Self { kept: Mutex::default(), sender: broadcast::channel(WAITING).0 }
    }
}

impl Flows {
    /// One more.
    pub fn push(&self, flow: &serde_json::Value) {
        let line: Arc<str> = format!("{flow}\n").into();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(line.clone());
        // Nobody may be listening. Under the lock, so that a reader misses none and gets none twice.
        let _ = self.sender.send(line);
    }

    /// The latest flows, at most so many, and with `follow` those to come.
    pub fn read(&self, last: usize, follow: bool) -> Reader {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let first = kept.len().saturating_sub(last);
        let kept = kept.range(first..).cloned().collect();
        Reader { kept, next: follow.then(|| self.sender.subscribe()) }
    }
}

/// Somebody who reads.
#[derive(Debug)]
pub struct Reader {
    kept: VecDeque<Arc<str>>,
    next: Option<broadcast::Receiver<Arc<str>>>,
}

impl Reader {
    /// The next line; `None` at the end. Safe to cancel.
    pub async fn line(&mut self) -> Option<Arc<str>> {
        if let Some(line) = self.kept.pop_front() {
            return Some(line);
        }
        match self.next.as_mut()?.recv().await {
            Ok(line) => Some(line),
            // As Hubble tells it.
            Err(RecvError::Lagged(lost)) => {
                let text = format!(
                    "{{\"lost_events\":{{\"source\":\"EVENTS_RING_BUFFER\",\"num_events_lost\":\"{lost}\"}}}}\n"
                );
                Some(text.into())
            }
            Err(RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn readers_get_the_latest_and_are_told_what_they_missed() {
        let flows = Flows::default();
        (0..3).for_each(|number| flows.push(&json!(number)));
        let mut reader = flows.read(2, false);
        assert_eq!(reader.line().await.as_deref(), Some("1\n"));
        assert_eq!(reader.line().await.as_deref(), Some("2\n"));
        assert_eq!(reader.line().await, None);
        let mut follower = flows.read(0, true);
        (0..WAITING as u64 + 5).for_each(|number| flows.push(&json!(number)));
        let lost = follower.line().await.expect("it is told");
        assert!(lost.contains("\"num_events_lost\":\"5\""), "{lost}");
        assert_eq!(follower.line().await.as_deref(), Some("5\n"));
        assert!(flows.read(usize::MAX, false).kept.len() <= KEPT);
    }
}
