//! What sessions have carried, and by which path.

use std::borrow::Cow;

use super::items::{self, Item, Parts, put_text};
use super::{End, Extension};
use crate::MessageType as M;

/// Counters of a node's sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions<'a>(pub Vec<SessionCounters<'a>>);

/// Those of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionCounters<'a> {
    /// The source's address and port.
    pub source: End,
    /// The destination's, as the source has them.
    pub destination: End,
    /// The path that it takes.
    pub path: Path,
    /// Why it does not take a faster one, for people; [`Extension::write`] keeps no separators of it.
    pub reason: Option<Cow<'a, str>>,
    /// From the source to the destination.
    pub sent: Traffic,
    /// Back.
    pub received: Traffic,
    /// Whether it lives.
    pub is_open: bool,
    /// What is told of its directions; absent from agents that do not see it.
    pub details: Option<Details<'a>>,
}

/// The path of a session. Another one is a variant here, with its word in [`Path::word`] and [`Path::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// Through shared memory.
    Memory,
    /// Redirected in the kernel.
    Kernel,
    /// Over TCP.
    Tcp,
}

impl Path {
    /// Every path.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Kernel, Self::Tcp];

    /// Its word on the wire, and for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Kernel => "kernel",
            Self::Tcp => "tcp",
        }
    }

    fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|path| path.word() == text)
    }
}

/// What one direction has carried, by path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes redirected in the kernel.
    pub kernel_bytes: u64,
    /// Bytes over TCP.
    pub tcp_bytes: u64,
    /// Messages redirected in the kernel.
    pub kernel_messages: u64,
    /// Messages over TCP.
    pub tcp_messages: u64,
}

/// What is told of a session's directions, from the source to the destination first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details<'a> {
    /// The path of the latest message, if there was one.
    pub latest: [Option<Latest<'a>>; 2],
    /// How often the path changed.
    pub switches: [u32; 2],
    /// Redirected bytes that are unread.
    pub in_flight: [u32; 2],
    /// Milliseconds since the last message, if that is known.
    pub idle: Option<u64>,
    /// What went through shared memory.
    pub memory: [ThroughMemory; 2],
}

/// What one direction has carried through shared memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThroughMemory {
    /// Bytes.
    pub bytes: u64,
    /// Writes.
    pub messages: u64,
}

/// The path of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Latest<'a> {
    /// A path that needs no reason.
    Fast(Path),
    /// Over TCP, and why, for people.
    Tcp(Cow<'a, str>),
}

impl Latest<'_> {
    /// The path's word, or the reason for TCP.
    pub fn text(&self) -> &str {
        match self {
            Self::Fast(path) => path.word(),
            Self::Tcp(reason) => reason,
        }
    }
}

impl<'a> Extension<'a> for Sessions<'a> {
    const NAME: &'static str = "x_sessions";
    const ON: &'static [M] = &[M::AgentHealthControlResponse];

    fn read(text: &'a str) -> Option<Self> {
        Some(Self(items::read(text)))
    }

    fn write(&self, out: &mut String) {
        items::write(&self.0, out);
    }
}

impl<'a> Item<'a> for SessionCounters<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let mut parts = Parts::of(text);
        let (source, destination) = (parts.end()?, parts.end()?);
        let path = Path::read(parts.text()?)?;
        let reason = Some(parts.text()?).filter(|reason| *reason != "-").map(Cow::Borrowed);
        let mut bytes = || Some([parts.value::<u64>()?, parts.value::<u64>()?]);
        let [of_sent, of_received] = [bytes()?, bytes()?];
        let [messages_sent, messages_received] = [bytes()?, bytes()?];
        let traffic = |[kernel_bytes, tcp_bytes]: [u64; 2], [kernel_messages, tcp_messages]: [u64; 2]| {
            Traffic { kernel_bytes, tcp_bytes, kernel_messages, tcp_messages }
        };
        Some(Self {
            source,
            destination,
            path,
            reason,
            sent: traffic(of_sent, messages_sent),
            received: traffic(of_received, messages_received),
            is_open: parts.text()? != "closed",
            details: Details::read(parts),
        })
    }

    fn write(&self, out: &mut String) {
        let Self { source, destination, path, sent, received, .. } = self;
        out.push_str(&format!("{}, {}, {}, {}, ", source.0, source.1, destination.0, destination.1));
        out.push_str(&format!("{}, ", path.word()));
        put_text(self.reason.as_deref().unwrap_or("-"), &[], out);
        for traffic in [sent, received] {
            out.push_str(&format!(", {}, {}", traffic.kernel_bytes, traffic.tcp_bytes));
        }
        for traffic in [sent, received] {
            out.push_str(&format!(", {}, {}", traffic.kernel_messages, traffic.tcp_messages));
        }
        out.push_str(if self.is_open { ", open" } else { ", closed" });
        if let Some(details) = &self.details {
            details.write(out);
        }
    }
}

impl<'a> Details<'a> {
    fn read(mut parts: Parts<'a>) -> Option<Self> {
        let mut latest = || {
            Some(match parts.text()? {
                "-" => None,
                "memory" => Some(Latest::Fast(Path::Memory)),
                "kernel" => Some(Latest::Fast(Path::Kernel)),
                reason => Some(Latest::Tcp(Cow::Borrowed(reason))),
            })
        };
        let latest = [latest()?, latest()?];
        let mut two = || Some([parts.value::<u32>()?, parts.value::<u32>()?]);
        let (switches, in_flight, idle) = (two()?, two()?, parts.value());
        let mut through = || ThroughMemory {
            bytes: parts.value().unwrap_or_default(),
            messages: parts.value().unwrap_or_default(),
        };
        Some(Self { latest, switches, in_flight, idle, memory: [through(), through()] })
    }

    fn write(&self, out: &mut String) {
        for latest in &self.latest {
            out.push_str(", ");
            put_text(latest.as_ref().map_or("-", Latest::text), &[], out);
        }
        let ([sent, received], [to, back]) = (self.switches, self.in_flight);
        out.push_str(&format!(", {sent}, {received}, {to}, {back}, "));
        out.push_str(&self.idle.map_or("-".to_owned(), |idle| idle.to_string()));
        for ThroughMemory { bytes, messages } in self.memory {
            out.push_str(&format!(", {bytes}, {messages}"));
        }
    }
}
