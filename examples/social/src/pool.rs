//! Sessions kept for reuse, so that a request costs no connection.

use std::sync::{Arc, Mutex, PoisonError};

use patchbay_sdk::{Error, Plug, Session};

/// Idle sessions kept for each plug; further ones are closed.
const MAX_IDLE: usize = 32;

/// Idle sessions of one plug. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    plug: Plug,
    idle: Arc<Mutex<Vec<Session>>>,
}

impl Pool {
    /// An empty pool.
    pub fn new(plug: Plug) -> Self {
        Self { plug, idle: Arc::default() }
    }

    /// A session, kept or new; whether it is new.
    ///
    /// # Errors
    /// No session can be had.
    pub async fn take(&self) -> Result<(Session, bool), Error> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match kept {
                Some(session) if session.is_close_requested() => drop(session),
                Some(session) => return Ok((session, false)),
                None => return Ok((self.plug.connect().await?, true)),
            }
        }
    }

    /// Keeps a session whose last answer was read to its end.
    pub fn keep(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE && !session.is_close_requested() {
            idle.push(session);
            if idle.len() == 1 {
                self.close_when_asked();
            }
        }
    }

    /// Idle sessions that the Manager wants closed are closed at once.
    fn close_when_asked(&self) {
        let idle = Arc::downgrade(&self.idle);
        tokio::spawn(async move {
            while let Some(idle) = idle.upgrade() {
                {
                    let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
                    idle.retain(|session| !session.is_close_requested());
                    if idle.is_empty() {
                        return;
                    }
                }
                drop(idle);
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        });
    }
}
