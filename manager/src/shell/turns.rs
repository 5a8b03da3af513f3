//! Who works with the core: one at a time, whoever has something for it and finds it free. A message is then
//! handled by the task that has read it, without waking another thread, which would take longer than all of
//! the rest. Who finds it taken leaves its input in the queue, where the one who has it sees it
//! (`handover.rs`). A thread of the core's own goes on when that becomes much, and does what is due by time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use tokio::sync::watch;

use super::handover::{HandOver, Turn};
use super::now;
use super::owner::{Owner, Patience};

/// The owner, and its thread.
pub struct Turns {
    owner: HandOver<Owner>,
    thread: OnceLock<Thread>,
    /// When the thread looks again by itself, milliseconds since 1970.
    sleeps_until: AtomicU64,
    fault: watch::Sender<bool>,
}

/// Wakes the thread when the last who could send an input is gone.
pub struct WakeAtEnd(Arc<Turns>);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        self.0.wake();
    }
}

/// Says so when a turn ends in a panic.
struct Watch<'a>(&'a watch::Sender<bool>);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.send_replace(true);
        }
    }
}

/// Starts the thread, which ends when nobody can send an input any more.
///
/// # Errors
/// It can't be started.
pub fn start(owner: Owner) -> std::io::Result<(Arc<Turns>, Arc<WakeAtEnd>, JoinHandle<()>)> {
    let turns = Arc::new(Turns {
        owner: HandOver::new(owner),
        thread: OnceLock::new(),
        sleeps_until: AtomicU64::new(0),
        fault: watch::channel(false).0,
    });
    let of_thread = turns.clone();
    let thread = std::thread::Builder::new().name("core".into()).spawn(move || of_thread.run())?;
    // Nobody else sets it.
    let _ = turns.thread.set(thread.thread().clone());
    Ok((turns.clone(), Arc::new(WakeAtEnd(turns)), thread))
}

impl Turns {
    /// Takes a turn, unless somebody has it: that one looks again afterwards.
    pub fn turn(&self) {
        let _watch = Watch(&self.fault);
        let turn = self.owner.turn(|owner| {
            owner.batch(Patience::Leaves);
            owner.has_work() || owner.due() < self.sleeps_until.load(Ordering::Relaxed)
        });
        if turn == Turn::More {
            self.wake();
        }
    }

    /// Has the thread look.
    pub fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Waits for a fault.
    pub async fn ended(&self) {
        // Its sender lives as long as this.
        let _ = self.fault.subscribe().wait_for(|fault| *fault).await;
    }

    fn run(&self) {
        let _watch = Watch(&self.fault);
        loop {
            let (mut due, mut is_over) = (0, false);
            let turn = self.owner.wait_for_turn(|owner| {
                while owner.batch(Patience::Waits) {}
                owner.idle();
                (due, is_over) = (owner.due(), owner.is_over());
                self.sleeps_until.store(due, Ordering::Relaxed);
                owner.has_work()
            });
            match turn {
                None => return,
                Some(_) if is_over => return,
                Some(Turn::Done) => {
                    std::thread::park_timeout(Duration::from_millis(due.saturating_sub(now())));
                }
                Some(Turn::More | Turn::Taken) => {}
            }
        }
    }
}
