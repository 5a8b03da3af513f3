//! What the core waits for, as state: the shell asks when the next time has come ([`Core::next_timeout`]) and says so
//! ([`Event::Tick`](super::Event::Tick)).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ssmmp::{InstanceId, MessageId};

use super::Core;
use super::accepted::SessionEnds;
use super::adapted::FinishId;

/// A time of the clock that is handed in, milliseconds; it never goes back.
pub type Millis = u64;

/// What a timer is for. Each is stopped when what it waits for has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// An instance has said that it ends, [`super::END_WITHIN`] ago, and its process is still there: it is ended.
    End(InstanceId),
    /// An instance was asked to close a session and has not answered: the connection is ended in the kernel. Of an adapted
    /// one the end waited for its plug's next destination, which has not come in time.
    Close(MessageId),
    /// A native program has connected, [`super::ACKNOWLEDGE_LOOK`] ago, and not acknowledged: looked at once more, then the
    /// connection is ended.
    Acknowledge(SessionEnds),
    /// A destination has closed a session half a second ago, and its process lives: the end is told as one in order.
    Finish(FinishId),
    /// An instance was asked how it is and has not said it for 3 s: it is answered for.
    Health(InstanceId, MessageId),
}

/// Timers that run, by what they are for and by when they are due.
#[derive(Debug, Default)]
pub(super) struct Timers {
    at: BTreeMap<Timer, Millis>,
    due: BTreeSet<(Millis, Timer)>,
}

impl Timers {
    /// Sets a timer, or sets it anew.
    fn set(&mut self, timer: Timer, at: Millis) {
        self.stop(timer);
        self.at.insert(timer, at);
        self.due.insert((at, timer));
    }

    /// Stops a timer, if it runs.
    pub(super) fn stop(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.due.remove(&(at, timer));
        }
    }

    /// Takes a timer whose time has come, the earliest first.
    fn take_due(&mut self, now: Millis) -> Option<Timer> {
        let (at, timer) = *self.due.first()?;
        (at <= now).then(|| self.stop(timer))?;
        Some(timer)
    }
}

impl Core {
    /// Sets a timer for a time from now on.
    pub(super) fn after(&mut self, within: Duration, timer: Timer) {
        let within = Millis::try_from(within.as_millis()).unwrap_or(Millis::MAX);
        self.timers.set(timer, self.now.saturating_add(within));
    }

    /// When [`Event::Tick`](super::Event::Tick) is due.
    pub fn next_timeout(&self) -> Option<Millis> {
        self.timers.due.first().map(|(at, _)| *at)
    }

    /// Does what timers were for whose time has come.
    pub(super) fn run_timers(&mut self) {
        while let Some(timer) = self.timers.take_due(self.now) {
            match timer {
                Timer::End(id) => self.end_overdue(id),
                Timer::Close(request) => self.close_overdue(&request),
                Timer::Acknowledge(ends) => self.acknowledge_overdue(ends),
                Timer::Finish(number) => self.finish_overdue(number),
                Timer::Health(id, question) => self.health_overdue(id, question),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_due_once_at_the_time_that_it_was_set_to_last() {
        let mut timers = Timers::default();
        let [one, other] = [1, 2].map(|id| Timer::End(InstanceId(id)));
        timers.set(one, 10);
        timers.set(other, 20);
        timers.set(one, 30);
        assert_eq!(timers.take_due(19), None);
        assert_eq!(
            (timers.take_due(40), timers.take_due(40), timers.take_due(40)),
            (Some(other), Some(one), None)
        );
        timers.set(one, 50);
        timers.stop(one);
        assert_eq!(timers.take_due(60), None);
    }
}
