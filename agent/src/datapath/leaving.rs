//! Taking sessions out of the map without losing a byte.
//!
//! Deleting a socket throws its unread redirected bytes away (measured, Linux 6.18). So a session first
//! stops redirecting. A send that was decided before may still be on its way: the kernel lets the sender's
//! lock go between the decision and the receiver's queue, so nothing shows it. Only after [`SETTLE`], a
//! thousand times what that takes, and with nothing unread at two looks in a row, are the sockets deleted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aya::maps::{MapData, SockHash};
use aya::programs::RawTracePoint;
use aya::programs::{RawTracePointRunOptions, TestRun as _};
use patchbay_ebpf_common::{Reason, operation};

use super::earlier::Earlier;
use super::load::program;
use super::{CONTROL, Datapath, Error, Path, SessionReport};

/// From the last redirected message to the first look; 20 ms lose bytes on a busy machine (seen).
const SETTLE: Duration = Duration::from_secs(1);

/// Sessions on their way out.
#[derive(Default)]
pub(super) struct Leaving(BTreeMap<u64, Exit>);

struct Exit {
    sockets: [u64; 2],
    since: Instant,
    was_empty: bool,
}

/// The program that the agent calls, and the socket map that it is about.
pub(super) struct Generation<'a> {
    pub(super) control: &'a RawTracePoint,
    pub(super) sockets: &'a mut SockHash<MapData, u64>,
}

impl Generation<'_> {
    pub(super) fn control(&self, operation: u64, key: u64, value: u64) -> Result<u32, Error> {
        run_control(self.control, operation, key, value)
    }
}

impl Leaving {
    pub(super) fn begin(&mut self, report: &SessionReport) {
        let exit = Exit { sockets: report.sockets, since: Instant::now(), was_empty: false };
        self.0.entry(report.key).or_insert(exit);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lets the sessions out that have been found empty twice.
    pub(super) fn let_out(&mut self, generation: &mut Generation<'_>) -> Result<(), Error> {
        let due: Vec<(u64, [u64; 2], bool)> = self
            .0
            .iter()
            .filter(|(_, exit)| exit.since.elapsed() >= SETTLE)
            .map(|(key, exit)| (*key, exit.sockets, exit.was_empty))
            .collect();
        for (key, sockets, was_empty) in due {
            let unread = [0, 1].map(|side| generation.control(operation::UNREAD, key, side));
            let [source, there] = unread;
            let (source, there) = (source?, there?);
            if source == operation::UNKNOWN {
                self.0.remove(&key);
                continue;
            }
            let empty = source == 0 && there == 0;
            if empty && was_empty {
                for cookie in sockets {
                    // One that closed meanwhile is gone already.
                    let _ = generation.sockets.remove(&cookie);
                }
                generation.control(operation::LEFT, key, 0)?;
                self.0.remove(&key);
            } else if let Some(exit) = self.0.get_mut(&key) {
                exit.was_empty = empty;
            }
        }
        Ok(())
    }
}

impl Datapath {
    /// Whether a session is on its way out of the map.
    pub fn is_leaving(&self) -> bool {
        !self.leaving.is_empty() || self.earlier.iter().any(Earlier::is_leaving)
    }

    /// Takes a session back to TCP for good.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn leave(&mut self, session: &SessionReport, reason: Reason) -> Result<(), Error> {
        if let Some(earlier) = self.earlier.iter_mut().find(|earlier| earlier.has(session.key)) {
            return earlier.leave(session, reason as u64);
        }
        self.control(operation::LEAVE, session.key, reason as u64)?;
        self.leaving.begin(session);
        Ok(())
    }

    /// Takes sessions back to TCP whose accepting end does not show up within a time.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn leave_unpaired(&mut self, within: Duration) -> Result<(), Error> {
        let Some(now) = crate::boot_time() else { return Ok(()) };
        for (session, _) in self.records()? {
            let unpaired = session.path == Path::Tcp(Reason::Unpaired) && !session.outside;
            let age = Duration::from_nanos(now.saturating_sub(session.established));
            // A record that is just being filled has no time yet.
            let known = session.established != 0;
            if known && unpaired && session.leaving.is_none() && age > within {
                self.leave(&session, Reason::Unpaired)?;
            }
        }
        Ok(())
    }

    /// Takes every session back to TCP for good.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn leave_all(&mut self) -> Result<(), Error> {
        self.entering.clear();
        for session in self.sessions()?.iter().filter(|session| !session.outside) {
            self.leave(session, Reason::SwitchedOff)?;
        }
        Ok(())
    }

    /// Looks at the sessions on their way and lets those out that have nothing unread. To be called every
    /// now and then while [`Self::is_leaving`].
    ///
    /// # Errors
    /// The kernel refused.
    pub fn let_out(&mut self) -> Result<(), Error> {
        for earlier in &mut self.earlier {
            earlier.let_out()?;
        }
        let control: &RawTracePoint =
            program(&mut self.programs, CONTROL).map_err(|missing| Error::Missing(missing.0))?;
        self.leaving.let_out(&mut Generation { control, sockets: &mut self.sockets })
    }

    /// Deletes every socket from the map at once. Whatever is unread is lost: for the self-test only.
    ///
    /// # Errors
    /// The kernel refused.
    pub(crate) fn delete_all(&mut self) -> Result<(), Error> {
        for session in self.sessions()? {
            for cookie in session.sockets {
                let _ = self.sockets.remove(&cookie);
            }
        }
        Ok(())
    }

    /// Unread redirected bytes at the source and at the destination.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn unread(&mut self, session: &SessionReport) -> Result<[u32; 2], Error> {
        let known = |bytes| if bytes == operation::UNKNOWN { 0 } else { bytes };
        let mut ask = |side| match self.earlier.iter().find(|earlier| earlier.has(session.key)) {
            Some(earlier) => earlier.control(operation::UNREAD, session.key, side),
            None => self.control(operation::UNREAD, session.key, side),
        };
        Ok([known(ask(0)?), known(ask(1)?)])
    }

    pub(super) fn control(&mut self, operation: u64, key: u64, value: u64) -> Result<u32, Error> {
        let program: &mut RawTracePoint =
            program(&mut self.programs, CONTROL).map_err(|missing| Error::Missing(missing.0))?;
        run_control(program, operation, key, value)
    }
}

/// Runs the program that the agent calls.
pub(super) fn run_control(
    program: &RawTracePoint,
    operation: u64,
    key: u64,
    value: u64,
) -> Result<u32, Error> {
    let mut options = RawTracePointRunOptions::new();
    options.args[..3].copy_from_slice(&[operation, key, value]);
    Ok(program.test_run(options)?.return_value)
}
