//! The hand-over of the core under loom: every order in which threads can run and see each other's memory.
//! What was handed over is handled, or somebody was told to look.

#[path = "../src/shell/handover.rs"]
mod handover;

mod sync {
    pub use std::sync::TryLockError;

    pub use loom::sync::Mutex;
    pub use loom::sync::atomic::{AtomicBool, Ordering, fence};
}

use handover::{HandOver, Turn};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

/// Times that a thread is interrupted in one order; more find nothing more and take hours.
const INTERRUPTIONS: usize = 3;

fn every_order(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(INTERRUPTIONS);
    builder.check(run);
}

/// A queue as the core's: what is put in is published with release and read with acquire, no more.
struct Shared {
    put: AtomicUsize,
    /// How many were taken out.
    core: HandOver<usize>,
    /// Whether the core's thread was told to look, which it remembers while it runs.
    told: AtomicUsize,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self { put: AtomicUsize::new(0), core: HandOver::new(0), told: AtomicUsize::new(0) })
    }

    /// What a connection's task does with a message.
    fn hand_over(&self) {
        self.put.fetch_add(1, Ordering::Release);
        let turn = self.core.turn(|taken| {
            *taken = self.put.load(Ordering::Acquire);
            false
        });
        if turn == Turn::More {
            self.told.store(1, Ordering::Relaxed);
        }
    }

    fn taken(&self) -> usize {
        let mut found = 0;
        let _ = self.core.wait_for_turn(|taken| {
            found = *taken;
            false
        });
        found
    }
}

#[test]
fn what_is_handed_over_while_another_one_works_is_seen_by_somebody() {
    every_order(|| {
        let shared = Shared::new();
        let others: Vec<_> = (0..2)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || shared.hand_over())
            })
            .collect();
        shared.hand_over();
        for other in others {
            other.join().expect("it ends");
        }
        let (told, taken) = (shared.told.load(Ordering::Relaxed), shared.taken());
        assert!(taken == 3 || told == 1, "{taken} of 3 were handled and nobody looks again");
    });
}

#[test]
fn the_thread_does_not_sleep_on_what_was_handed_over() {
    every_order(|| {
        let shared = Shared::new();
        let others: Vec<_> = (0..2)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || shared.hand_over())
            })
            .collect();
        // One round of the core's thread.
        let turn = shared.core.wait_for_turn(|taken| {
            *taken = shared.put.load(Ordering::Acquire);
            false
        });
        for other in others {
            other.join().expect("it ends");
        }
        let (told, taken) = (shared.told.load(Ordering::Relaxed), shared.taken());
        let looks = told == 1 || turn == Some(Turn::More);
        assert!(taken == 2 || looks, "{taken} of 2 were handled and the thread sleeps");
    });
}
