//! Redirection without declarations: every connection between two processes of the cgroup, in whatever network
//! namespaces, known from the name that it has at both of its ends.

use std::fs;
use std::sync::OnceLock;

use aya::maps::MapError;
use patchbay_ebpf_common as common;

use super::{Datapath, Error, Habit, Reason};

/// How connections inside the cgroup are treated at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Whether they stay redirected whatever is seen.
    pub always: bool,
    /// Why sessions of programs that nothing is said of stay on TCP.
    pub refusal: Option<Reason>,
}

impl Scope {
    pub(super) fn mode(self) -> u32 {
        if self.always { common::mode::ALWAYS } else { common::mode::AUTO }
    }
}

/// A program that connects to a port, or accepts connections at one, as the kernel tells programs apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Its name as the kernel keeps it, at most 15 bytes.
    pub name: common::ProgramName,
    /// The device, as the kernel numbers it, and the inode of its file; `None` for whatever file.
    pub file: Option<(u32, u64)>,
    /// [`common::arguments_hash`] of its arguments; `None` for whatever arguments.
    pub arguments: Option<u64>,
    /// The port; `None` for all that the system chooses.
    pub port: Option<u16>,
    /// Whether it accepts connections there.
    pub accepts: bool,
}

impl Source {
    fn key(self) -> common::SourceKey {
        let (device, inode) = self.file.unwrap_or_default();
        let side = if self.accepts { common::ACCEPTS } else { 0 };
        common::SourceKey {
            name: self.name,
            inode,
            arguments: self.arguments.unwrap_or_default(),
            device,
            port: u32::from(self.port.unwrap_or_default()) | side,
        }
    }
}

/// The ports that the system chooses in this network namespace, as the kernel programs take them.
pub(super) fn chosen_ports() -> u32 {
    let (first, last) = port_range();
    u32::from(last) << 16 | u32::from(first)
}

/// The port, unless the system chooses it for who wants any: then it says nothing about a program.
pub fn fixed_port(port: u16) -> Option<u16> {
    let (first, last) = port_range();
    (!(first..=last).contains(&port)).then_some(port)
}

fn port_range() -> (u16, u16) {
    static RANGE: OnceLock<(u16, u16)> = OnceLock::new();
    *RANGE.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let mut ports = text.split_whitespace().filter_map(|port| port.parse().ok());
        // Linux's own default.
        (ports.next().unwrap_or(32_768), ports.next().unwrap_or(60_999))
    })
}

impl Datapath {
    /// How often sockets of the scope have begun to listen.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn listened(&self) -> Result<u64, Error> {
        self.counted(common::counter::LISTENED)
    }

    /// Says what happens to further sessions of a program. What was said longest ago, and not used since, is
    /// forgotten when the table is full.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn set_source(&mut self, source: Source, refusal: Option<Reason>, about: Habit) -> Result<(), Error> {
        let treatment = common::Treatment {
            refusal: refusal.map_or(0, |reason| reason as u32),
            mode: self.options.scope.map_or(common::mode::AUTO, Scope::mode),
            about: about.0,
        };
        Ok(self.sources.insert(source.key(), treatment, 0)?)
    }

    /// Takes back what was said of a program: its file is gone, and the next one may have its number.
    ///
    /// # Errors
    /// The kernel refused; a program that nothing was said of is no error.
    pub fn forget_source(&mut self, source: Source) -> Result<(), Error> {
        unless_gone(self.sources.remove(&source.key()))
    }

    /// Takes no new sessions; those that there are go on.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn close_scope(&mut self) -> Result<(), Error> {
        self.options.scope = None;
        self.set_settings()
    }

    /// Says how sessions of a cgroup begin, whatever is usual in the scope.
    ///
    /// # Errors
    /// The kernel refused: the table is full, say. Then what is usual holds.
    pub fn set_container(&mut self, cgroup: u64, scope: Scope) -> Result<(), Error> {
        let treatment = common::Treatment {
            refusal: scope.refusal.map_or(0, |reason| reason as u32),
            mode: scope.mode(),
            about: 0,
        };
        Ok(self.containers.insert(cgroup, treatment, 0)?)
    }

    /// Takes that back: the cgroup is gone.
    ///
    /// # Errors
    /// The kernel refused; a cgroup that nothing was said of is no error.
    pub fn forget_container(&mut self, cgroup: u64) -> Result<(), Error> {
        unless_gone(self.containers.remove(&cgroup))
    }
}

fn unless_gone(removed: Result<(), MapError>) -> Result<(), Error> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(call)) if call.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}
