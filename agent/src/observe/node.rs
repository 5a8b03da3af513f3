//! What an agent with a Manager tells of itself.

use std::sync::Arc;
use std::time::Duration;

use patchbay_agent_core::Event;
use patchbay_agent_core::session_report::SessionReport;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Observed;

/// How often what exists is counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// What readiness waits for.
pub const CONDITIONS: [&str; 2] = ["manager", "self-test"];

/// Counts for whoever asks, or for nobody.
#[derive(Debug, Default)]
pub struct Counting(Option<(Arc<Observed>, Interval)>);

impl Counting {
    /// Counts for somebody.
    pub fn new(observed: Arc<Observed>) -> Self {
        let mut tick = interval(COUNT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self(Some((observed, tick)))
    }

    /// Waits until it is time to [count](Self::count); for ever, when nobody asks. Safe to cancel.
    pub async fn due(&mut self) {
        match &mut self.0 {
            Some((_, tick)) => drop(tick.tick().await),
            None => std::future::pending().await,
        }
    }

    /// Counts what exists.
    pub fn count(&self, sessions: &[SessionReport], limit: u32, uncounted: u64, registered: bool) {
        let Some((observed, _)) = &self.0 else { return };
        observed.turned();
        observed.metrics.live(sessions, limit);
        observed.metrics.uncounted(uncounted);
        observed.metrics.connected("manager", registered);
        observed.set("manager", registered.then_some(()).ok_or_else(|| "not registered".into()));
    }

    /// Counts sessions that have ended.
    pub fn see(&self, event: &Event) {
        if let (Some((observed, _)), Event::Closed(report, _) | Event::PlugLeft(report, _)) = (&self.0, event)
        {
            observed.metrics.ended(report);
        }
    }

    /// The self-test has ended; a node that can't redirect is ready all the same.
    pub fn tested(&self, passed: bool) {
        let Some((observed, _)) = &self.0 else { return };
        observed.metrics.self_test(passed);
        observed.set("self-test", Ok(()));
    }
}
