//! The hand-over of something that one at a time works with, whoever has something for it and finds it free.
//! Who finds it taken leaves a mark; who gives it back looks for the mark, so that nothing that was handed over
//! before the mark was made stays unseen. `manager/tests/handover.rs` runs this file under loom, which tries
//! every order in which threads and the memory of their processors can do it.

use super::sync::{AtomicBool, Mutex, Ordering, TryLockError, fence};

/// What one at a time works with.
#[derive(Debug)]
pub struct HandOver<T> {
    owned: Mutex<T>,
    /// Somebody has handed something over, and may have found it taken.
    is_wanted: AtomicBool,
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Another one has it and looks again afterwards.
    Taken,
    /// Nothing is left to do.
    Done,
    /// Something is left, or has come meanwhile: somebody has to look.
    More,
}

impl<T> HandOver<T> {
    /// Free, and nothing was handed over.
    pub fn new(owned: T) -> Self {
        Self { owned: Mutex::new(owned), is_wanted: AtomicBool::new(false) }
    }

    /// Works with it unless somebody else does; `work` says whether something is left. What was handed over
    /// before this is seen by `work`, here or by who has it, or [`Turn::More`] is returned to one of them.
    pub fn turn(&self, work: impl FnOnce(&mut T) -> bool) -> Turn {
        // Read-modify-write operations both here and below: each sees all that was handed over before the
        // marks that it replaces, however many were made one after another.
        self.is_wanted.swap(true, Ordering::AcqRel);
        // Either this is seen by who gives it back, or it is found free here.
        fence(Ordering::SeqCst);
        let is_more = match self.owned.try_lock() {
            Ok(mut owned) => self.work(&mut owned, work),
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => return Turn::Taken,
        };
        self.after(is_more)
    }

    /// The same for who waits until it is free; `None` when a turn has ended in a panic.
    pub fn wait_for_turn(&self, work: impl FnOnce(&mut T) -> bool) -> Option<Turn> {
        let is_more = match self.owned.lock() {
            Ok(mut owned) => self.work(&mut owned, work),
            Err(_) => return None,
        };
        Some(self.after(is_more))
    }

    fn work(&self, owned: &mut T, work: impl FnOnce(&mut T) -> bool) -> bool {
        // Taken before anything is looked at: a mark that is made from now on is seen at the end.
        self.is_wanted.swap(false, Ordering::AcqRel);
        work(owned)
    }

    /// It was given back.
    fn after(&self, is_more: bool) -> Turn {
        fence(Ordering::SeqCst);
        if is_more || self.is_wanted.load(Ordering::Acquire) { Turn::More } else { Turn::Done }
    }
}
