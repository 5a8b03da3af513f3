//! Observing what programs do with their sockets, by raw tracepoints of the whole node.

use aya::programs::RawTracePoint;
use aya::programs::raw_trace_point::RawTracePointLinkId;

use super::load::{describe, program};
use super::{Datapath, Unavailable};

/// Program and tracepoint. `sock_recv_length` and `sock_send_length` exist since Linux 6.3.
const TRACEPOINTS: [(&str, &str); 3] = [
    ("patchbay_received", "sock_recv_length"),
    ("patchbay_sent", "sock_send_length"),
    ("patchbay_system_call", "sys_enter"),
];

/// An attached program.
pub(super) struct Attached {
    program: &'static str,
    link: RawTracePointLinkId,
}

impl Datapath {
    /// Whether programs are observed now.
    pub fn is_observing(&self) -> bool {
        !self.observing.is_empty()
    }

    /// Begins or ends observing. While it lasts each system call on the node costs a little more, so it
    /// lasts only as long as there is something to learn or to guard.
    ///
    /// # Errors
    /// Names what the kernel lacks; then nothing is observed.
    pub fn observe(&mut self, on: bool) -> Result<(), Unavailable> {
        if on == self.is_observing() {
            return Ok(());
        }
        if !on {
            for attached in std::mem::take(&mut self.observing) {
                let program: &mut RawTracePoint = program(&mut self.programs, attached.program)?;
                program.detach(attached.link).map_err(|error| Unavailable(describe(&error)))?;
            }
            return Ok(());
        }
        for (name, tracepoint) in TRACEPOINTS {
            if let Err(missing) = self.attach(name, tracepoint) {
                self.observing.clear();
                return Err(missing);
            }
        }
        Ok(())
    }

    fn attach(&mut self, name: &'static str, tracepoint: &str) -> Result<(), Unavailable> {
        let fail = |error: &dyn std::error::Error| {
            Unavailable(format!(
                "programs can't be observed, the tracepoint {tracepoint}: {}",
                describe(error)
            ))
        };
        let program: &mut RawTracePoint = program(&mut self.programs, name)?;
        if program.fd().is_err() {
            program.load().map_err(|error| fail(&error))?;
        }
        let link = program.attach(tracepoint).map_err(|error| fail(&error))?;
        self.observing.push(Attached { program: name, link });
        Ok(())
    }
}
