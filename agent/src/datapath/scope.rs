//! Redirection without declarations: every connection between two processes of the cgroup, in whatever network
//! namespaces, known from the name that it has at both of its ends.

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

/// A program that connects, as the kernel tells programs apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Its name as the kernel keeps it, at most 15 bytes.
    pub name: common::ProgramName,
    /// The device, as the kernel numbers it, and the inode of its file; `None` for whatever file.
    pub file: Option<(u32, u64)>,
    /// [`common::arguments_hash`] of its arguments; `None` for whatever arguments.
    pub arguments: Option<u64>,
    /// The port it connects to; `None` for every port of which nothing else is said.
    pub port: Option<u16>,
}

impl Source {
    /// Every program of a name with a port.
    pub fn named(program: &str, port: u16) -> Self {
        let mut name = common::ProgramName::default();
        // The last byte stays zero, as in the kernel.
        for (to, from) in name[..15].iter_mut().zip(program.bytes()) {
            *to = from;
        }
        Self { name, file: None, arguments: None, port: Some(port) }
    }

    fn key(self) -> common::SourceKey {
        let (device, inode) = self.file.unwrap_or_default();
        common::SourceKey {
            name: self.name,
            inode,
            arguments: self.arguments.unwrap_or_default(),
            device,
            port: self.port.unwrap_or_default().into(),
        }
    }
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
}
