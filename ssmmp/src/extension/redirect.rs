//! What people say of redirection: by the graph for a session that begins, and at any time for those that live.

use super::items::{self, Item, Parts};
use super::{End, Extension};
use crate::{InstanceId, MessageType as M, Port};

/// How an abstract connection's sessions are redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirect {
    /// When their programs' habits are known to be safe.
    Auto,
    /// Whatever is seen.
    Always,
    /// Not at all.
    Never,
}

impl Extension<'_> for Redirect {
    const NAME: &'static str = "x_redirect";
    const ON: &'static [M] = &[M::SessionResponse];

    fn read(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "always" => Some(Self::Always),
            "never" => Some(Self::Never),
            _ => None,
        }
    }

    fn write(&self, out: &mut String) {
        out.push_str(match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        });
    }
}

/// What an abstract connection's programs never do, as a person says. Words of a later version are left out, which
/// keeps programs on TCP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allow(pub Vec<Allowance>);

/// Something that a program's files could do and that a person says it does not. What it is seen to do counts all
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// The program's files call splice, and it never splices out of its sockets.
    Splice,
}

impl Extension<'_> for Allow {
    const NAME: &'static str = "x_allow";
    const ON: &'static [M] = &[M::SessionResponse];

    fn read(text: &str) -> Option<Self> {
        let word = |word: &str| (word.trim() == "splice").then_some(Allowance::Splice);
        Some(Self(text.split(',').filter_map(word).collect()))
    }

    fn write(&self, out: &mut String) {
        let words: Vec<&str> = self.0.iter().map(|Allowance::Splice| "splice").collect();
        out.push_str(&words.join(","));
    }
}

/// Further messages of some sessions go over TCP, or through the kernel again. One of which a part makes no sense is
/// none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    /// Through the kernel.
    pub on: bool,
    /// Which sessions.
    pub which: Switched,
}

/// Which sessions are switched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Switched {
    /// All of the node, also later ones.
    Node,
    /// These, at least one.
    Sessions(Vec<SwitchedSession>),
}

/// A session that is switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SwitchedSession {
    /// The source instance.
    pub source: InstanceId,
    /// Its port, m: the kernel gives it to connections of one source to several destinations.
    pub port: Port,
    /// Where the destination listens: its address and k.
    pub at: End,
}

impl Extension<'_> for Switch {
    const NAME: &'static str = "x_redirect";
    const ON: &'static [M] = &[M::AgentHealthControlRequest];

    fn read(text: &str) -> Option<Self> {
        let (way, what) = text.split_once(',')?;
        let on = match way.trim() {
            "on" => true,
            "off" => false,
            _ => return None,
        };
        let which = match what.trim() {
            "node" => Switched::Node,
            items => {
                let sessions: Option<Vec<_>> = items.split('&').map(|item| Item::read(item.trim())).collect();
                Switched::Sessions(sessions?)
            }
        };
        Some(Self { on, which })
    }

    fn write(&self, out: &mut String) {
        out.push_str(if self.on { "on, " } else { "off, " });
        match &self.which {
            Switched::Node => out.push_str("node"),
            Switched::Sessions(sessions) => items::write(sessions, out),
        }
    }
}

impl Item<'_> for SwitchedSession {
    fn read(text: &str) -> Option<Self> {
        let mut parts = Parts::of(text);
        let session =
            Self { source: InstanceId(parts.value()?), port: Port(parts.value()?), at: parts.end()? };
        parts.finish().map(|()| session)
    }

    fn write(&self, out: &mut String) {
        out.push_str(&format!("{}, {}, {}, {}", self.source, self.port, self.at.0, self.at.1));
    }
}
