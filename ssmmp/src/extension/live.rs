//! Sessions as their sources' side knows them, told whole to a peer that may not know them.

use std::fmt::Write as _;

use super::items::{self, Item, Parts};
use super::{End, Extension};
use crate::value::Value as _;
use crate::{InstanceId, MessageId, MessageType as M, Name, Port};

/// Living sessions of a node's instances as sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live(pub Vec<LiveSession>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSession {
    /// The source instance.
    pub source: InstanceId,
    /// Its port, m.
    pub port: Port,
    /// The destination instance.
    pub destination: InstanceId,
    /// Where it listens: its address and k.
    pub at: End,
    /// The id of the source's request, if that is known.
    pub message_id: Option<MessageId>,
    /// The source's plug, if that is known.
    pub plug: Option<Name>,
}

impl Extension<'_> for Live {
    const NAME: &'static str = "x_live";
    const ON: &'static [M] = &[M::AgentHealthControlResponse, M::SessionAck];

    fn read(text: &str) -> Option<Self> {
        Some(Self(items::read(text)))
    }

    fn write(&self, out: &mut String) {
        items::write(&self.0, out);
    }
}

impl Item<'_> for LiveSession {
    fn read(text: &str) -> Option<Self> {
        let mut parts = Parts::of(text);
        let session = Self {
            source: InstanceId(parts.value()?),
            port: Port(parts.value()?),
            destination: InstanceId(parts.value()?),
            at: parts.end()?,
            message_id: MessageId::read(parts.text()?).ok(),
            plug: Name::new(parts.text()?).ok().filter(|plug| *plug != Name::unnamed()),
        };
        parts.finish().map(|()| session)
    }

    fn write(&self, out: &mut String) {
        let Self { source, port, destination, at, message_id, plug } = self;
        // Writing to a text never fails.
        let _ = write!(out, "{source}, {port}, {destination}, {}, {}, ", at.0, at.1);
        out.push_str(message_id.as_ref().map_or("0", MessageId::as_str));
        out.push_str(", ");
        out.push_str(plug.as_ref().map_or("-", Name::as_str));
    }
}

/// A session as its source tells it to an agent that did not see it begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeSession {
    /// The source's plug.
    pub plug: Name,
    /// The destination's service.
    pub service: Name,
    /// The destination instance.
    pub destination: InstanceId,
    /// Its socket.
    pub socket: Name,
    /// Where it listens.
    pub at: End,
}

impl Extension<'_> for WholeSession {
    const NAME: &'static str = "x_session";
    const ON: &'static [M] = &[M::SessionAck];

    fn read(text: &str) -> Option<Self> {
        let mut parts = Parts::of(text);
        let session = Self {
            plug: parts.value()?,
            service: parts.value()?,
            destination: InstanceId(parts.value()?),
            socket: parts.value()?,
            at: parts.end()?,
        };
        parts.finish().map(|()| session)
    }

    fn write(&self, out: &mut String) {
        let Self { plug, service, destination, socket, at } = self;
        out.push_str(&format!("{plug}, {service}, {destination}, {socket}, {}, {}", at.0, at.1));
    }
}
