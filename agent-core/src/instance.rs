//! An instance as its agent knows it.

use ssmmp::MessageId;

use super::Start;
use crate::repository::Kind;

/// Where an instance stands.
///
/// ```text
///                      execution_request
///        adapted, with plugs │        │ others          taken over from an earlier agent
///                            ▼        │                      │ not listening  │ listening
///                       ┌─────────┐   │                      │                │
///              ┌────────│  Plugs  │   │                      │                │
///              │        └─────────┘   ▼                      ▼                │
///              │             │ all  ┌──────────────────────────┐              │
///              │             └─────▶│         Starting         │              │
///              │           answered └──────────────────────────┘              │
///   a target   │                       │ all its sockets  │  asked to          ▼
///   is refused,│                       │ listen           │  shut down     ┌─────────┐
///   or it is   │                       └──────────────────┼───────────────▶│ Running │
///   asked to   │                                          ▼                └─────────┘
///   shut down  │                                     ┌────────┐ asked to     │    ▲
///              │                                     │ Ending │◀─────────────┘    │
///              │                                     └────────┘ shut down         │
///              │                                       │    └─────────────────────┘
///              ▼                                       ▼      it refuses
///             gone ◀──────────── its process has ended, from any of these
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its plugs' targets are being asked for.
    Plugs,
    /// Its process was started.
    Starting,
    /// Its sockets listen.
    Running,
    /// It was asked to end.
    Ending,
}

impl Stage {
    /// Whether an instance may come to stand there.
    pub(super) fn may_become(self, next: Self) -> bool {
        use Stage::{Ending, Plugs, Running, Starting};
        matches!(
            (self, next),
            (Plugs, Starting)
                | (Starting, Running)
                | (Starting | Running | Ending, Ending)
                | (Ending, Running)
        )
    }
}

/// An instance that exists here.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) start: Start,
    pub(super) kind: Kind,
    pub(super) tested: bool,
    stage: Stage,
    /// The execution_request's id; none of one that an earlier agent started.
    pub(super) execution: Option<MessageId>,
    /// Its graceful_shutdown_request, until it is answered.
    pub(super) graceful: Option<MessageId>,
    /// Its hard_shutdown_request, answered when the process is gone.
    pub(super) hard: Option<MessageId>,
    /// Which of its limits are not applied, and why; empty when all are.
    pub(super) unlimited: String,
    /// It said itself that it ends, and why it does; it has a time to do so.
    pub(super) exiting: Option<&'static str>,
}

impl Instance {
    /// One that comes to be here.
    pub(super) fn new(
        start: Start,
        (kind, tested): (Kind, bool),
        stage: Stage,
        execution: Option<MessageId>,
    ) -> Self {
        Self {
            start,
            kind,
            tested,
            stage,
            execution,
            graceful: None,
            hard: None,
            unlimited: String::new(),
            exiting: None,
        }
    }

    /// Where it stands.
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// It comes to stand elsewhere.
    pub(super) fn becomes(&mut self, stage: Stage) {
        debug_assert!(self.stage.may_become(stage), "{:?} does not become {stage:?}", self.stage);
        self.stage = stage;
    }
}
