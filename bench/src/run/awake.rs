//! Keeping processors from sleeping between two messages, as tuned's profile for latency does.
//!
//! A processor of a virtual machine that sleeps is woken through the host, which takes several times as long as all
//! that is compared here, and varies with what else the host does.

use std::fs::File;
use std::io::Write as _;

/// While it is open, the kernel keeps to the wake-up time that was written into it.
const DEVICE: &str = "/dev/cpu_dma_latency";
/// The longest wake-up time, in microseconds: none at all, so idle processors poll.
const LONGEST: i32 = 0;

/// Processors do not sleep while this lives.
pub struct Awake(Option<File>);

impl Awake {
    /// Keeps them awake if that is wanted and the kernel has the device.
    pub fn keep(wanted: bool) -> Self {
        let keep = || {
            let mut device = File::options().write(true).open(DEVICE)?;
            device.write_all(&LONGEST.to_ne_bytes())?;
            std::io::Result::Ok(device)
        };
        Self(if wanted { keep().ok() } else { None })
    }

    /// What it does, for a report.
    pub fn describe(&self) -> String {
        match self.0 {
            Some(_) => format!("kept awake between messages ({DEVICE})"),
            None => "may sleep between messages".to_owned(),
        }
    }
}
