//! The self-test beside everything else: in a thread of its own, so that nothing it waits for, a child that can't
//! enter its cgroup say, delays the agent.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::{Matrix, try_everything};
use crate::datapath::cgroup2_mount;
use crate::own_cgroup;

/// When it is said that the self-test's thread itself hangs.
const OVERDUE: Duration = Duration::from_secs(20);

/// A self-test that may be under way.
#[derive(Debug, Default)]
pub struct Running {
    result: Option<oneshot::Receiver<Result<Matrix>>>,
    /// What came of it, when it was waited for.
    ended: Option<Result<Matrix>>,
    overdue: Option<Instant>,
}

impl Running {
    /// Begins one; call it inside a tokio runtime.
    ///
    /// # Errors
    /// There can be no further thread.
    pub fn begin() -> Result<Self> {
        let (tell, result) = oneshot::channel();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let done = runtime.context("its runtime can't be started").and_then(|runtime| {
                let done = runtime.block_on(try_everything());
                // What it waits for without end must not hold up the answer.
                runtime.shutdown_background();
                done
            });
            // Nobody waits for it any more when this fails.
            let _ = tell.send(done);
            let _ = cgroup2_mount().map(|mount| own_cgroup::remove_left(&mount));
        };
        std::thread::Builder::new().name("self-test".into()).spawn(work)?;
        Ok(Self { result: Some(result), ended: None, overdue: Some(Instant::now() + OVERDUE) })
    }

    /// Waits until it has ended, but not without end.
    pub async fn wait(&mut self) {
        if self.result.is_none() {
            return;
        }
        if let Ok(ended) = tokio::time::timeout(OVERDUE, self.done()).await {
            self.ended = Some(ended);
        }
    }

    /// What came of it, once; never, when there is none. Safe to cancel.
    ///
    /// # Errors
    /// It failed, for whatever reason: nothing may be redirected.
    pub async fn done(&mut self) -> Result<Matrix> {
        if let Some(ended) = self.ended.take() {
            return ended;
        }
        let Some(result) = &mut self.result else { return std::future::pending().await };
        let done = loop {
            let overdue = self.overdue;
            tokio::select! {
                done = &mut *result => break done,
                () = async { sleep_until(overdue.unwrap_or_else(Instant::now)).await }, if overdue.is_some() => {
                    self.overdue = None;
                    warn!("the self-test hangs; sessions stay on TCP until it has ended");
                }
            }
        };
        self.result = None;
        done.unwrap_or_else(|_| Err(anyhow!("the self-test crashed")))
    }
}
