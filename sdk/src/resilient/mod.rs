//! A plug that goes on when its session ends: it asks for another one and repeats what may be repeated.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::registry::lock;
use crate::{Error, Plug, Session};

/// Idle sessions kept for each plug; further ones are closed.
const MAX_IDLE: usize = 32;
/// First pause before a session is asked for again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a hook may take.
const HOOK_WITHIN: Duration = Duration::from_secs(1);

/// What may be done again on another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Everything: doing it twice is the same as doing it once.
    Safe,
    /// Only what was not begun: no byte of it was written.
    Unsent,
}

/// Bounds of a resilient plug.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sessions tried for one exchange.
    pub tries: u32,
    /// All tries of one exchange together, with the pauses between them.
    pub within: Duration,
    /// The work of one try, once its session is open.
    pub each: Duration,
    /// How long an exchange may go on after the Manager asked to close its session; below the 3 seconds
    /// after which the session is cut.
    pub finish: Duration,
}

impl Default for Limits {
    /// 30 tries in 30 seconds, 10 seconds each, 2 seconds to finish.
    fn default() -> Self {
        Self {
            tries: 30,
            within: Duration::from_secs(30),
            each: Duration::from_secs(10),
            finish: Duration::from_secs(2),
        }
    }
}

/// What work and hooks return: a boxed future that may use the session, and owns whatever else it needs.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;
type Hook = Arc<dyn for<'a> Fn(&'a mut Session) -> Work<'a, ()> + Send + Sync>;

/// A plug that survives closing requests, lost peers, and restarts of agent and Manager. It keeps idle
/// sessions for reuse. Cheap to clone; clones share their sessions.
///
/// ```no_run
/// # use patchbay_sdk::{Error, Repeat, ResilientPlug, Service};
/// # use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// # async fn example(service: Service) -> Result<(), Error> {
/// let clock = ResilientPlug::new(service.plug("clock")?);
/// let time = clock
///     .exchange(Repeat::Safe, |session| {
///         Box::pin(async {
///             session.write_all(b"time?").await?;
///             session.read_u64().await
///         })
///     })
///     .await?;
/// # drop(time); Ok(()) }
/// ```
#[derive(Clone)]
pub struct ResilientPlug {
    plug: Plug,
    limits: Limits,
    save: Option<Hook>,
    load: Option<Hook>,
    shared: Arc<Shared>,
}

struct Shared {
    idle: Mutex<Vec<Session>>,
    /// Sessions that ended and were not replaced yet.
    lost: AtomicU32,
    /// Ends the task that closes idle sessions.
    _end: DropGuard,
}

/// Why one try failed.
struct Failure {
    error: Error,
    /// Bytes of it were written.
    begun: bool,
    /// It failed on a session that was kept from earlier, which proves nothing about the next one.
    kept: bool,
}

impl ResilientPlug {
    /// Makes a plug resilient. Call it inside a tokio runtime.
    pub fn new(plug: Plug) -> Self {
        let end = CancellationToken::new();
        let shared = Arc::new(Shared {
            idle: Mutex::default(),
            lost: AtomicU32::new(0),
            _end: end.clone().drop_guard(),
        });
        let resilient = Self { plug, limits: Limits::default(), save: None, load: None, shared };
        resilient.close_idle_when_asked(end);
        resilient
    }

    /// Sets other bounds than the default ones.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Before an exchange's session is given up on the Manager's request, `save` may still use it, for one
    /// second: to write what the peer must know of work that is not done. Its failure is ignored.
    #[must_use]
    pub fn on_close_request<F>(mut self, save: F) -> Self
    where
        F: for<'a> Fn(&'a mut Session) -> Work<'a, ()> + Send + Sync + 'static,
    {
        self.save = Some(Arc::new(save));
        self
    }

    /// A session that takes the place of one that ended is given to `load` first, for one second: to read
    /// back what was saved. When it fails, the session counts as broken.
    #[must_use]
    pub fn on_reopen<F>(mut self, load: F) -> Self
    where
        F: for<'a> Fn(&'a mut Session) -> Work<'a, ()> + Send + Sync + 'static,
    {
        self.load = Some(Arc::new(load));
        self
    }

    /// Does something on a session. When the session ends before it is done, or the Manager asks to close
    /// it and it is not done in time, it is done again on another session if `repeat` allows it.
    ///
    /// # Errors
    /// The tries or the time are used up; the Manager refuses for good; what was begun may not be repeated;
    /// or `work` found its peer's bytes invalid ([`io::ErrorKind::InvalidData`]), which is never repeated.
    pub async fn exchange<T>(
        &self,
        repeat: Repeat,
        work: impl for<'a> FnMut(&'a mut Session) -> Work<'a, T>,
    ) -> Result<T, Error> {
        let (session, value) = self.begin(repeat, work).await?;
        if session.is_close_requested() {
            self.give_up(session).await;
        } else {
            self.keep(session);
        }
        Ok(value)
    }

    /// As [`Self::exchange`], and hands its session out for what follows and can't be repeated. Give it
    /// back with [`Self::keep`], or drop it.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    pub async fn begin<T>(
        &self,
        repeat: Repeat,
        mut work: impl for<'a> FnMut(&'a mut Session) -> Work<'a, T>,
    ) -> Result<(Session, T), Error> {
        let deadline = Instant::now() + self.limits.within;
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            let failure = match self.attempt(deadline, &mut work).await {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            if is_final(&failure.error) || (failure.begun && repeat == Repeat::Unsent) {
                return Err(failure.error);
            }
            if failure.kept {
                continue;
            }
            tries += 1;
            if tries >= self.limits.tries || Instant::now() + pause >= deadline {
                return Err(self.exhausted(tries, &failure.error));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A session, kept or new, for work of which nothing can be repeated. It is asked for again until it
    /// can be had. Give it back with [`Self::keep`], or drop it.
    ///
    /// # Errors
    /// The tries or the time are used up, or the Manager refuses for good.
    pub async fn open(&self) -> Result<Session, Error> {
        Ok(self.begin(Repeat::Safe, |_| Box::pin(async { Ok(()) })).await?.0)
    }

    /// Keeps a session for reuse whose last answer was read to its end.
    pub fn keep(&self, session: Session) {
        let mut idle = lock(&self.shared.idle);
        // The check comes after the lock is taken: who is asked later is found among the idle ones.
        if !session.is_close_requested() && idle.len() < MAX_IDLE {
            idle.push(session);
        }
    }

    async fn attempt<T>(
        &self,
        deadline: Instant,
        work: &mut impl for<'a> FnMut(&'a mut Session) -> Work<'a, T>,
    ) -> Result<(Session, T), Failure> {
        let (mut session, kept) = timeout_at(deadline, self.take())
            .await
            .unwrap_or_else(|_| Err(self.no_answer()))
            .map_err(|error| Failure { error, begun: false, kept: false })?;
        let until = deadline.min(Instant::now() + self.limits.each);
        let before = session.written();
        let (asked, finish) = (session.close_requested(), self.limits.finish);
        let result = tokio::select! {
            result = work(&mut session) => result,
            () = async { asked.await; sleep(finish).await } => {
                Err(io::Error::new(io::ErrorKind::Interrupted, "the Manager asked to close the session"))
            }
            () = sleep_until(until) => Err(io::ErrorKind::TimedOut.into()),
        };
        let begun = session.written() > before;
        let asked = session.is_close_requested();
        if asked || result.is_err() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
        match result {
            Ok(value) => Ok((session, value)),
            Err(error) => {
                if asked {
                    self.give_up(session).await;
                }
                Err(Failure { error: error.into(), begun, kept })
            }
        }
    }

    /// A session and whether it was kept from earlier.
    async fn take(&self) -> Result<(Session, bool), Error> {
        loop {
            // Nothing is awaited under the lock, and no session is dropped.
            let kept = lock(&self.shared.idle).pop();
            let Some(mut session) = kept else { break };
            if session.is_fresh() {
                return Ok((session, true));
            }
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            drop(session);
        }
        let mut session = self.plug.connect().await?;
        let replaces = |lost: u32| lost.checked_sub(1);
        if self.shared.lost.fetch_update(Ordering::Relaxed, Ordering::Relaxed, replaces).is_ok()
            && let Some(load) = &self.load
        {
            let loaded = timeout(HOOK_WITHIN, load(&mut session)).await;
            if let Err(error) = loaded.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
                return Err(error.into());
            }
        }
        Ok((session, false))
    }

    /// Ends a session that the Manager asked to close; dropping it answers the Manager.
    async fn give_up(&self, mut session: Session) {
        if let Some(save) = &self.save {
            let _ = timeout(HOOK_WITHIN, save(&mut session)).await;
        }
    }

    /// Idle sessions that shall be closed are closed at once.
    fn close_idle_when_asked(&self, end: CancellationToken) {
        let registry = self.plug.registry.clone();
        let shared = Arc::downgrade(&self.shared);
        tokio::spawn(async move {
            loop {
                let changed = registry.changed.notified();
                let Some(shared) = shared.upgrade() else { return };
                let closed: Vec<Session> =
                    lock(&shared.idle).extract_if(.., |session| session.is_close_requested()).collect();
                shared.lost.fetch_add(u32::try_from(closed.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
                drop(shared);
                drop(closed);
                tokio::select! {
                    () = changed => {}
                    () = end.cancelled() => return,
                }
            }
        });
    }

    fn no_answer(&self) -> Error {
        Error::NoAnswer { plug: self.plug.name.to_string() }
    }

    fn exhausted(&self, tries: u32, last: &Error) -> Error {
        Error::Exhausted { plug: self.plug.name.to_string(), tries, reason: last.to_string() }
    }
}

/// Whether asking again can't help.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Refused { status, .. } => *status < 500,
        Error::Io(error) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
        }
        Error::NoAnswer { .. } => false,
        Error::Configuration(_) | Error::Unknown { .. } | Error::Exhausted { .. } => true,
    }
}

#[cfg(test)]
mod tests;
