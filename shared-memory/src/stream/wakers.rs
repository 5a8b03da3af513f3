//! Two tasks that wait for the same descriptors.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// Which of a stream's two tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Task {
    Reader,
    Writer,
}

impl Task {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Reader => Self::Writer,
            Self::Writer => Self::Reader,
        }
    }
}

/// The tasks that wait. As a waker it wakes both; each looks then whether it was meant.
#[derive(Debug, Default)]
pub(super) struct Wakers([Mutex<Option<Waker>>; 2]);

impl Wakers {
    /// A task is about to wait; to be called before it says so to the peer.
    pub(super) fn register(&self, task: Task, waker: &Waker) {
        let mut place = self.0[task as usize].lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *place {
            Some(known) => known.clone_from(waker),
            None => *place = Some(waker.clone()),
        }
    }

    /// Wakes a task, if it waits.
    pub(super) fn wake(&self, task: Task) {
        let waker = self.0[task as usize].lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Self::wake(self, Task::Reader);
        Self::wake(self, Task::Writer);
    }
}
