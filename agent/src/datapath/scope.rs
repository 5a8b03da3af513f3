//! Redirection without declarations: every connection between two processes of the cgroup, inside one
//! network namespace, known from who listens there.

use std::net::SocketAddr;

use patchbay_ebpf_common as common;

use super::report::{address, address_bytes};
use super::{Datapath, Error, Reason};

/// How connections inside the cgroup are treated at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Whether they stay redirected whatever is seen.
    pub always: bool,
    /// Why sessions with a new listening socket stay on TCP at first.
    pub refusal: Option<Reason>,
}

impl Scope {
    pub(super) fn mode(self) -> u32 {
        if self.always { common::mode::ALWAYS } else { common::mode::AUTO }
    }
}

/// A listening socket of the scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListeningSocket {
    /// Where it listens.
    pub at: SocketAddr,
    /// Its network namespace's cookie.
    pub namespace: u64,
}

impl Datapath {
    /// The listening sockets of the scope.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn listening(&self) -> Result<Vec<ListeningSocket>, Error> {
        self.listening
            .keys()
            .map(|key| {
                let key = key?;
                Ok(ListeningSocket { at: address(key.address, key.port), namespace: key.namespace })
            })
            .collect()
    }

    /// Says what happens to further sessions with a listening socket.
    ///
    /// # Errors
    /// The table is full, or the kernel refused.
    pub fn set_listening(&mut self, socket: ListeningSocket, refusal: Option<Reason>) -> Result<(), Error> {
        let key = common::ListeningKey {
            namespace: socket.namespace,
            address: address_bytes(socket.at.ip()),
            port: u32::from(socket.at.port()),
            padding: 0,
        };
        Ok(self.listening.insert(key, self.treatment(refusal), 0)?)
    }

    /// Says what happens to further sessions of a program with a port.
    ///
    /// # Errors
    /// The table is full, or the kernel refused.
    pub fn set_source(&mut self, program: &str, port: u16, refusal: Option<Reason>) -> Result<(), Error> {
        let mut name = common::ProgramName::default();
        // The last byte stays zero, as in the kernel.
        for (to, from) in name[..15].iter_mut().zip(program.bytes()) {
            *to = from;
        }
        let key = common::SourceKey { program: name, port: port.into(), padding: 0 };
        Ok(self.sources.insert(key, self.treatment(refusal), 0)?)
    }

    fn treatment(&self, refusal: Option<Reason>) -> common::Listening {
        common::Listening {
            refusal: refusal.map_or(0, |reason| reason as u32),
            mode: self.options.scope.map_or(common::mode::AUTO, Scope::mode),
        }
    }
}
