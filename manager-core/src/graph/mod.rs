//! The abstract graph of an application (section 1): read from a file that a person writes, checked.

mod changes;
mod check;
mod file;
pub mod policy;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use patchbay_api::Problem;
use policy::{Balance, Said};
use ssmmp::extension;

/// Longest graph file, in bytes.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// Most services in one application.
pub const MAX_SERVICES: usize = 1000;

/// A checked graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    /// The application's name.
    pub app: String,
    /// Its services by name.
    pub services: BTreeMap<String, Service>,
}

/// A vertex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Entry point, stateless, or storage.
    pub kind: Kind,
    /// The entry of the agents' repositories that is executed for it: its name, or one version of it.
    pub program: String,
    /// Abstract sockets by name.
    pub sockets: BTreeMap<String, Socket>,
    /// Where each abstract plug leads.
    pub plugs: BTreeMap<String, Target>,
    /// Fewest replicas.
    pub least: u32,
    /// Most replicas.
    pub most: u32,
    /// Where its state is.
    pub state: State,
    /// What the file says of how it is to be run, the application's words included.
    pub policy: Said,
}

/// An abstract socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// The protocol spoken on it.
    pub protocol: String,
    /// A gateway's fixed public port.
    pub port: Option<u16>,
}

/// The other end of an abstract connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The destination service.
    pub service: String,
    /// Its socket.
    pub socket: String,
    /// Whether its sessions may be redirected.
    pub redirect: Redirect,
    /// Whether its ends may exchange through shared memory.
    pub memory: bool,
    /// What its programs are known not to do, although their files could.
    pub allow: BTreeSet<Allow>,
    /// Which instance gets a session of it, before the destination's policy.
    pub balance: Option<Balance>,
}

/// The kinds of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Entry point for users, stateless.
    Gateway,
    /// Stateless, with sockets and plugs.
    Regular,
    /// Backend storage: no plugs, holds all state.
    Baas,
}

/// Where a service's state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// On the node that executes it, which it can't leave: a BaaS, unless the graph says otherwise.
    Node,
    /// Elsewhere, or there is none: it may be executed anywhere.
    Shared,
}

/// Whether sessions of an abstract connection may be redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Redirect {
    /// When both programs are known to be safe.
    #[default]
    Auto,
    /// Whatever the programs do.
    Always,
    /// Never.
    Never,
}

/// What a person says that programs do not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allow {
    /// They never splice out of their sockets.
    Splice,
}

impl Kind {
    /// The word in the graph file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Regular => "regular",
            Self::Baas => "baas",
        }
    }
}

impl Redirect {
    /// As it is told to agents.
    pub fn to_wire(self) -> extension::Redirect {
        match self {
            Self::Auto => extension::Redirect::Auto,
            Self::Always => extension::Redirect::Always,
            Self::Never => extension::Redirect::Never,
        }
    }

    /// The word in the graph file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

impl Allow {
    /// The word in the graph file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Splice => "splice",
        }
    }
}

impl Target {
    /// What is said not to be done, for people: words, separated by commas.
    pub fn allowances(&self) -> String {
        self.allow.iter().map(|allow| allow.as_str()).collect::<Vec<_>>().join(",")
    }

    /// The same as it is told to agents.
    pub fn allowances_to_wire(&self) -> extension::Allow {
        extension::Allow(self.allow.iter().map(|Allow::Splice| extension::Allowance::Splice).collect())
    }
}

impl Graph {
    /// Reads and checks a graph file; the warnings are problems that do not stop it.
    ///
    /// # Errors
    /// Every problem found, with its place in the file.
    pub fn read(text: &str) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let file = file::parse(text)?;
        let problems = check::check(&file, text);
        if problems.iter().any(|problem| !problem.warning) {
            return Err(problems);
        }
        Ok((file.into_graph(), problems))
    }
}

/// Whether an instance was executed with a plug that leads to a socket.
pub fn connects(recipe: &str, plug: &str, service: &str, socket: &str) -> bool {
    let wanted = format!("{plug}>{service}.{socket}");
    recipe.split(' ').any(|word| word == wanted)
}

impl Service {
    /// What its instances are executed with. One executed with something else is out of date.
    pub fn recipe(&self) -> String {
        let mut text = self.program.clone();
        for (name, socket) in &self.sockets {
            text.push_str(&format!(" {name}"));
            if let Some(port) = socket.port {
                text.push_str(&format!("={port}"));
            }
        }
        for (plug, target) in &self.plugs {
            text.push_str(&format!(" {plug}>{}.{}", target.service, target.socket));
        }
        text
    }

    /// Fewest instances there must be: a gateway has at least one (F4).
    pub fn fewest(&self) -> u32 {
        if self.kind == Kind::Gateway { self.least.max(1) } else { self.least }
    }
}
