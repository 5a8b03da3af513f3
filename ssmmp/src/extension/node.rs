//! What a node has and has not, as its agent's registration tells it.

use super::Extension;
use super::items::{self, Item, Parts, put_text};
use crate::{InstanceId, MessageType as M, Name, Port, SocketPort};

/// The instances that exist on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running(pub Vec<RunningInstance>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningInstance {
    /// Its service, an entry of the repository.
    pub service: Name,
    /// The instance.
    pub id: InstanceId,
    /// Its sockets.
    pub sockets: Vec<SocketPort>,
    /// Where it stands.
    pub stage: Stage,
}

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It does not listen yet.
    Starting,
    /// It listens; what is meant where nothing is said.
    Running,
    /// It was asked to end.
    Ending,
}

impl Extension<'_> for Running {
    const NAME: &'static str = "x_running";
    const ON: &'static [M] = &[M::InitiationRequest];

    fn read(text: &str) -> Option<Self> {
        Some(Self(items::read(text)))
    }

    fn write(&self, out: &mut String) {
        items::write(&self.0, out);
    }
}

impl RunningInstance {
    /// Bytes that it takes on the wire, with what separates it from the next.
    pub fn bytes(&self) -> usize {
        let mut text = String::new();
        self.write(&mut text);
        text.len() + " & ".len()
    }
}

impl Item<'_> for RunningInstance {
    fn read(text: &str) -> Option<Self> {
        let mut parts = Parts::of(text);
        let (service, id) = (parts.value()?, InstanceId(parts.value()?));
        let socket = |text: &str| {
            let (socket, port) = text.split_once('=')?;
            Some(SocketPort { socket: Name::new(socket.trim()).ok()?, port: Port(port.trim().parse().ok()?) })
        };
        let sockets = parts.text().unwrap_or_default().split(';').filter_map(socket).collect();
        let stage = match parts.text() {
            Some("starting") => Stage::Starting,
            Some("ending") => Stage::Ending,
            _ => Stage::Running,
        };
        Some(Self { service, id, sockets, stage })
    }

    fn write(&self, out: &mut String) {
        let sockets: Vec<String> = self.sockets.iter().map(|s| format!("{}={}", s.socket, s.port)).collect();
        let stage = match self.stage {
            Stage::Starting => "starting",
            Stage::Running => "running",
            Stage::Ending => "ending",
        };
        out.push_str(&format!("{}, {}, {}, {stage}", self.service, self.id, sockets.join(";")));
    }
}

/// What of its repository a node can't execute now, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable(pub Vec<(Name, String)>);

impl Extension<'_> for Unavailable {
    const NAME: &'static str = "x_unavailable";
    const ON: &'static [M] = &[M::InitiationRequest];

    fn read(text: &str) -> Option<Self> {
        Some(Self(items::read(text)))
    }

    fn write(&self, out: &mut String) {
        items::write(&self.0, out);
    }
}

impl Item<'_> for (Name, String) {
    fn read(text: &str) -> Option<Self> {
        let (name, reason) = text.split_once(',')?;
        Some((Name::new(name.trim()).ok()?, reason.trim().to_owned()))
    }

    fn write(&self, out: &mut String) {
        out.push_str(&format!("{}, ", self.0));
        put_text(&self.1, &[',', '|'], out);
    }
}

/// Which limits of a node's instances are not applied, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnlimitedInstances(pub Vec<(InstanceId, String)>);

impl Extension<'_> for UnlimitedInstances {
    const NAME: &'static str = "x_unlimited";
    const ON: &'static [M] = &[M::InitiationRequest];

    fn read(text: &str) -> Option<Self> {
        Some(Self(items::read(text)))
    }

    fn write(&self, out: &mut String) {
        items::write(&self.0, out);
    }
}

impl Item<'_> for (InstanceId, String) {
    fn read(text: &str) -> Option<Self> {
        let (id, sentence) = text.split_once(',')?;
        Some((InstanceId(id.trim().parse().ok()?), sentence.trim().to_owned()))
    }

    fn write(&self, out: &mut String) {
        out.push_str(&format!("{}, ", self.0));
        put_text(&self.1, &[',', '|'], out);
    }
}
