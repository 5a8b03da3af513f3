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

/// How much of what programs do is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watch {
    /// Nothing.
    Nothing,
    /// The options that the cgroup's programs set, which costs those calls only: some take a session back to TCP
    /// whatever was said of it.
    Options,
    /// All that there is to learn. While it lasts each system call on the node costs about 30 ns more (measured with
    /// one tracepoint, Linux 6.18), and each call that receives or sends about 100 ns (estimated), so it lasts as long
    /// as there is something to learn or to guard.
    Everything,
}

/// What is attached.
#[derive(Default)]
pub(super) struct Observing {
    options: Option<CgroupSockoptLinkId>,
    everything: Option<Everything>,
}

struct Everything {
    raw: Vec<(&'static str, RawTracePointLinkId)>,
    /// They end with their descriptors.
    _calls: Vec<OwnedFd>,
}

impl Datapath {
    /// How much is seen now.
    pub fn watch(&self) -> Watch {
        match &self.observing {
            Observing { everything: Some(_), .. } => Watch::Everything,
            Observing { options: Some(_), .. } => Watch::Options,
            _ => Watch::Nothing,
        }
    }

    /// Begins or ends to see what programs do.
    ///
    /// # Errors
    /// Names what the kernel lacks; then what was to be seen is not.
    pub fn observe(&mut self, watch: Watch) -> Result<(), Unavailable> {
        if watch == self.watch() {
            return Ok(());
        }
        if watch == Watch::Everything {
            self.attach_options()?;
            self.observing.everything = Some(self.attach_everything()?);
        } else {
            if let Some(Everything { raw, _calls }) = self.observing.everything.take() {
                self.detach_raw(raw)?;
            }
            match watch {
                Watch::Nothing => self.detach_options()?,
                _ => self.attach_options()?,
            }
        }
        // Sessions whose beginning was seen are told from others by this number.
        self.watched =
            if watch == Watch::Everything { boot_time().map_or(1, |now| (now as u32) | 1) } else { 0 };
        self.set_settings().map_err(|error| Unavailable(error.to_string()))
    }

    fn attach_options(&mut self) -> Result<(), Unavailable> {
        if self.observing.options.is_some() {
            return Ok(());
        }
        let cgroup = File::open(&self.options.cgroup).map_err(|error| failed("the cgroup", &error))?;
        let program: &mut CgroupSockopt = program(&mut self.programs, OPTIONS)?;
        let fail = |error: &dyn std::error::Error| failed("options", error);
        if program.fd().is_err() {
            program.load().map_err(|error| fail(&error))?;
        }
        let link = program.attach(&cgroup, CgroupAttachMode::Single).map_err(|error| fail(&error))?;
        self.observing.options = Some(link);
        Ok(())
    }

    fn detach_options(&mut self) -> Result<(), Unavailable> {
        let Some(link) = self.observing.options.take() else { return Ok(()) };
        let program: &mut CgroupSockopt = program(&mut self.programs, OPTIONS)?;
        program.detach(link).map_err(|error| Unavailable(describe(&error)))
    }

    fn attach_everything(&mut self) -> Result<Everything, Unavailable> {
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
        let mut raw = Vec::new();
        for (name, tracepoint) in TRACEPOINTS {
            match self.attach_raw(name, tracepoint) {
                Ok(link) => raw.push((name, link)),
                Err(missing) => {
                    self.detach_raw(raw)?;
                    return Err(missing);
                }
            }
        }
        Ok(Everything { raw, _calls: calls })
    }

    fn detach_raw(&mut self, raw: Vec<(&'static str, RawTracePointLinkId)>) -> Result<(), Unavailable> {
        for (name, link) in raw {
            let program: &mut RawTracePoint = program(&mut self.programs, name)?;
            program.detach(link).map_err(|error| Unavailable(describe(&error)))?;
        }
        Ok(())
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
