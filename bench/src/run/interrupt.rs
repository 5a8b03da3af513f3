//! Ctrl-C ends the run after the measurement under way and keeps what is done; a second one ends at once.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Whether the run shall end.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Watches SIGINT and SIGTERM from now on. Call it before other threads are made.
pub fn watch(clean: fn() -> Result<()>) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            if !ASKED.swap(true, Ordering::Relaxed) {
                eprintln!(
                    "\n{signal}: this measurement ends, then the report follows; once more ends at once"
                );
                continue;
            }
            if let Err(error) = clean() {
                eprintln!("error: {error:#}; `cargo xtask bench --clean` tries again");
            }
            std::process::exit(128 + signal as i32);
        }
    });
    Ok(())
}
