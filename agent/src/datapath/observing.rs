//! Observing what programs do with their sockets: every receiving and sending call of the node, four system
//! calls that could do harm, and the options that the cgroup's programs set.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::programs::cgroup_sockopt::CgroupSockoptLinkId;
use aya::programs::raw_trace_point::RawTracePointLinkId;
use aya::programs::{CgroupAttachMode, CgroupSockopt, RawTracePoint, TracePoint};

use super::load::{describe, program};
use super::{Datapath, Unavailable, tracepoints};
use crate::boot_time;

/// Program and tracepoint; both exist since Linux 6.3.
const TRACEPOINTS: [(&str, &str); 2] =
    [("patchbay_received", "sock_recv_length"), ("patchbay_sent", "sock_send_length")];
/// Program and system call, as the kernel's tracepoints name it.
const CALLS: [(&str, &str); 4] = [
    ("patchbay_ioctl", "ioctl"),
    ("patchbay_getsockopt", "getsockopt"),
    ("patchbay_splice", "splice"),
    ("patchbay_sendfile", "sendfile64"),
];
/// The program for options.
const OPTIONS: &str = "patchbay_setsockopt";

/// What is attached.
pub(super) struct Observing {
    raw: Vec<(&'static str, RawTracePointLinkId)>,
    options: CgroupSockoptLinkId,
    /// They end with their descriptors.
    _calls: Vec<OwnedFd>,
}

impl Datapath {
    /// Whether programs are observed now.
    pub fn is_observing(&self) -> bool {
        self.observing.is_some()
    }

    /// Begins or ends observing. While it lasts each system call on the node costs about 30 ns more (measured
    /// with one tracepoint, Linux 6.18), and each call that receives or sends about 100 ns (estimated), so it
    /// lasts as long as there is something to learn or to guard.
    ///
    /// # Errors
    /// Names what the kernel lacks; then nothing is observed.
    pub fn observe(&mut self, on: bool) -> Result<(), Unavailable> {
        if on == self.is_observing() {
            return Ok(());
        }
        if let Some(Observing { raw, options, _calls }) = self.observing.take() {
            self.detach_all(raw, options)?;
        } else {
            self.observing = Some(self.attach_all()?);
        }
        // Sessions whose beginning was seen are told from others by this number.
        self.watch = if on { boot_time().map_or(1, |now| (now as u32) | 1) } else { 0 };
        self.set_settings().map_err(|error| Unavailable(error.to_string()))
    }

    fn attach_all(&mut self) -> Result<Observing, Unavailable> {
        let mut calls = Vec::new();
        for (name, call) in CALLS {
            let fail = |error: &dyn std::error::Error| failed(&format!("the system call {call}"), error);
            let program: &mut TracePoint = program(&mut self.programs, name)?;
            if program.fd().is_err() {
                program.load().map_err(|error| fail(&error))?;
            }
            let descriptor = program.fd().map_err(|error| fail(&error))?.as_fd();
            calls.push(tracepoints::attach(call, descriptor).map_err(|error| fail(&error))?);
        }
        let cgroup = File::open(&self.options.cgroup).map_err(|error| failed("the cgroup", &error))?;
        let program: &mut CgroupSockopt = program(&mut self.programs, OPTIONS)?;
        let fail = |error: &dyn std::error::Error| failed("options", error);
        if program.fd().is_err() {
            program.load().map_err(|error| fail(&error))?;
        }
        let options = program.attach(&cgroup, CgroupAttachMode::Single).map_err(|error| fail(&error))?;
        let mut raw = Vec::new();
        for (name, tracepoint) in TRACEPOINTS {
            match self.attach_raw(name, tracepoint) {
                Ok(link) => raw.push((name, link)),
                Err(missing) => {
                    self.detach_all(raw, options)?;
                    return Err(missing);
                }
            }
        }
        Ok(Observing { raw, options, _calls: calls })
    }

    fn detach_all(
        &mut self,
        raw: Vec<(&'static str, RawTracePointLinkId)>,
        options: CgroupSockoptLinkId,
    ) -> Result<(), Unavailable> {
        for (name, link) in raw {
            let program: &mut RawTracePoint = program(&mut self.programs, name)?;
            program.detach(link).map_err(|error| Unavailable(describe(&error)))?;
        }
        let program: &mut CgroupSockopt = program(&mut self.programs, OPTIONS)?;
        program.detach(options).map_err(|error| Unavailable(describe(&error)))
    }

    fn attach_raw(&mut self, name: &str, tracepoint: &str) -> Result<RawTracePointLinkId, Unavailable> {
        let fail = |error: &dyn std::error::Error| failed(&format!("the tracepoint {tracepoint}"), error);
        let program: &mut RawTracePoint = program(&mut self.programs, name)?;
        if program.fd().is_err() {
            program.load().map_err(|error| fail(&error))?;
        }
        program.attach(tracepoint).map_err(|error| fail(&error))
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> Unavailable {
    Unavailable(format!("programs can't be observed, {what}: {}", describe(error)))
}
