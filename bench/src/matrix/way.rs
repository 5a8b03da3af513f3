//! The ways that bytes can go from one end to the other.

use anyhow::Result;

use crate::case::Bench;
use crate::lab::Place;
use crate::switch::Switch;

/// A way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// TCP as the kernel does it.
    Tcp,
    /// Patchbay, which decides by what it has learned.
    Auto,
    /// Patchbay, whatever is seen.
    Always,
    /// The plain recipe, which is not safe: every socket into the map, every message redirected.
    Recipe,
    /// A Unix socket.
    Unix,
    /// Two HAProxy, one beside each end.
    Haproxy,
    /// Two nginx, one beside each end.
    Nginx,
}

impl Way {
    /// All of them; what they are compared with first.
    pub const ALL: [Self; 7] =
        [Self::Tcp, Self::Auto, Self::Always, Self::Recipe, Self::Unix, Self::Haproxy, Self::Nginx];

    /// The alternative's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "plain TCP",
            Self::Auto => "Patchbay auto",
            Self::Always => "Patchbay always",
            Self::Recipe => "plain recipe (unsafe)",
            Self::Unix => "Unix socket",
            Self::Haproxy => "HAProxy pair",
            Self::Nginx => "nginx pair",
        }
    }

    /// The way with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.name() == name)
    }

    /// Switches redirection on, for one destination port, where this way has any.
    ///
    /// # Errors
    /// Kernel programs can't be loaded.
    pub fn switch_on(self, bench: &Bench<'_>, place: Place, port: u16) -> Result<Option<Switch>> {
        let mode = match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Recipe => return Switch::recipe(bench).map(Some),
            Self::Tcp | Self::Unix | Self::Haproxy | Self::Nginx => return Ok(None),
        };
        match place {
            Place::Loopback => Switch::node(bench, mode).map(Some),
            Place::Namespaces => Switch::declared(bench, mode, port).map(Some),
        }
    }
}
