//! What a scope tells of its sessions: metrics, and flows for who follows them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Pods;
use crate::datapath::{DEFAULT_SESSIONS_LIMIT, Datapath, SessionEvent, SessionReport};
use crate::observe::Observed;
use crate::pods::flow::{self, Moment};

/// How often what exists is counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Who is told.
pub struct Observing {
    observed: Arc<Observed>,
    node: String,
    counted: Option<Instant>,
}

impl Observing {
    /// For a node of this name.
    pub fn new(observed: Arc<Observed>, node: String) -> Self {
        Self { observed, node, counted: None }
    }

    /// A session has begun, changed or ended.
    pub fn told(&self, event: &SessionEvent, pods: Option<&Pods>) {
        let moment = match event {
            SessionEvent::Established(_) => Moment::Established,
            SessionEvent::Leaving(_) => Moment::Left,
            SessionEvent::Closed(report, _) => {
                self.observed.metrics.ended(report);
                Moment::Closed
            }
            SessionEvent::Habit(_) => return,
        };
        let table = pods.map(|pods| &pods.table);
        self.observed.flows.push(&flow::line(event.report(), moment, table, &self.node));
    }

    /// To be called every now and then.
    pub fn look(&mut self, sessions: &[SessionReport], datapath: &Datapath, pods: Option<&Pods>) {
        self.observed.turned();
        if self.counted.is_some_and(|counted| counted.elapsed() < COUNT_EVERY) {
            return;
        }
        self.counted = Some(Instant::now());
        self.observed.metrics.live(sessions, DEFAULT_SESSIONS_LIMIT);
        if let Ok(refused) = datapath.refused_by_full_tables() {
            self.observed.metrics.uncounted(refused);
        }
        if let Some(pods) = pods {
            self.observed.metrics.pods(pods.table.counts());
            self.observed.metrics.connected("api-server", pods.is_connected());
            self.observed.set("api-server", pods.is_listed());
        }
    }
}
