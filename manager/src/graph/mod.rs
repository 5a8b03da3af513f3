//! The abstract graph of an application (section 1): read from a file that a person writes, checked.

mod check;
mod file;

use std::collections::BTreeMap;

use patchbay_api::{Action, Change, Problem};

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
    /// Abstract sockets by name.
    pub sockets: BTreeMap<String, Socket>,
    /// Where each abstract plug leads.
    pub plugs: BTreeMap<String, Target>,
    /// Fewest replicas.
    pub least: u32,
    /// Most replicas.
    pub most: u32,
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
    /// The word in the graph file and in `x_redirect`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
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

    /// What differs from an earlier graph of the same application.
    pub fn changes_since(&self, earlier: Option<&Self>) -> Vec<Change> {
        let empty = BTreeMap::new();
        let before = earlier.map_or(&empty, |graph| &graph.services);
        let mut changes = Vec::new();
        let mut note = |action, name: &str, detail: String| {
            changes.push(Change { action, subject: format!("service {name}"), detail });
        };
        for (name, service) in &self.services {
            match before.get(name) {
                None => note(Action::Add, name, service.describe()),
                Some(old) if old != service => {
                    note(Action::Change, name, format!("{} (was {})", service.describe(), old.describe()));
                }
                Some(_) => {}
            }
        }
        for (name, service) in before {
            if !self.services.contains_key(name) {
                note(Action::Remove, name, service.describe());
            }
        }
        changes
    }
}

impl Service {
    fn describe(&self) -> String {
        let mut text = format!("{}, {} to {} replicas", self.kind.as_str(), self.least, self.most);
        for (plug, target) in &self.plugs {
            text.push_str(&format!(
                ", {plug} → {}.{} ({})",
                target.service,
                target.socket,
                target.redirect.as_str()
            ));
        }
        text
    }
}
