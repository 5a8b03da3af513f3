//! The graph file's own form, with the place of everything in it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use patchbay_api::Problem;
use serde::Deserialize;
use toml::Spanned;

use super::policy::{Balance, Said};
use super::{Allow, Graph, Kind, MAX_FILE_BYTES, Redirect, Service, Socket, State, Target};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphFile {
    pub app: Spanned<String>,
    #[serde(default)]
    pub allow_cycles: bool,
    #[serde(default)]
    pub policy: Said,
    #[serde(default)]
    pub service: BTreeMap<Spanned<String>, ServiceFile>,
    #[serde(default)]
    pub connection: Vec<ConnectionFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceFile {
    pub kind: Spanned<Kind>,
    #[serde(default)]
    pub sockets: BTreeMap<Spanned<String>, SocketFile>,
    #[serde(default)]
    pub plugs: BTreeMap<Spanned<String>, PlugFile>,
    pub replicas: Option<Spanned<ReplicasFile>>,
    pub program: Option<Spanned<String>>,
    pub state: Option<Spanned<State>>,
    #[serde(default)]
    pub policy: Said,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SocketFile {
    pub protocol: String,
    pub port: Option<Spanned<u16>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlugFile {
    pub protocol: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicasFile {
    pub min: Option<u32>,
    pub max: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionFile {
    pub from: Spanned<String>,
    pub to: Spanned<String>,
    #[serde(default)]
    pub redirect: Redirect,
    pub memory: Option<bool>,
    pub allow: Option<Spanned<BTreeSet<Allow>>>,
    pub balance: Option<Balance>,
}

/// Reads the text; its form only.
pub fn parse(text: &str) -> Result<GraphFile, Vec<Problem>> {
    if text.len() > MAX_FILE_BYTES {
        let message = format!("the file is longer than {MAX_FILE_BYTES} bytes");
        return Err(vec![problem(text, 0..0, message, None)]);
    }
    toml::from_str(text)
        .map_err(|error| vec![problem(text, error.span().unwrap_or(0..0), error.message().to_owned(), None)])
}

/// A problem at a place.
pub fn problem(text: &str, place: Range<usize>, message: String, help: Option<String>) -> Problem {
    let before = &text[..place.start.min(text.len())];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Problem {
        message,
        help,
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        warning: false,
    }
}

impl ServiceFile {
    /// Fewest and most replicas.
    pub fn replicas(&self) -> (u32, u32) {
        let usual = if *self.kind.get_ref() == Kind::Gateway { (1, 1) } else { (0, 1) };
        let Some(replicas) = self.replicas.as_ref().map(Spanned::get_ref) else { return usual };
        let least = replicas.min.unwrap_or(usual.0);
        (least, replicas.max.unwrap_or(usual.1.max(least)))
    }

    /// Where its state is; only a BaaS has any.
    pub fn state(&self) -> State {
        let usual = if *self.kind.get_ref() == Kind::Baas { State::Node } else { State::Shared };
        self.state.as_ref().map_or(usual, |state| *state.get_ref())
    }

    fn into_service(self, name: String, whole: &Said) -> Service {
        let (least, most) = self.replicas();
        let state = self.state();
        let sockets = self
            .sockets
            .into_iter()
            .map(|(name, socket)| {
                let port = socket.port.map(Spanned::into_inner);
                (name.into_inner(), Socket { protocol: socket.protocol, port })
            })
            .collect();
        Service {
            kind: self.kind.into_inner(),
            program: self.program.map_or(name, Spanned::into_inner),
            sockets,
            plugs: BTreeMap::new(),
            least,
            most,
            state,
            policy: self.policy.or(whole),
        }
    }
}

impl GraphFile {
    /// The graph of a file that was checked.
    pub fn into_graph(self) -> Graph {
        let whole = self.policy;
        let mut services: BTreeMap<String, Service> = self
            .service
            .into_iter()
            .map(|(name, service)| (name.get_ref().clone(), service.into_service(name.into_inner(), &whole)))
            .collect();
        for connection in self.connection {
            let (from, to) = (connection.from.into_inner(), connection.to.into_inner());
            if let (Some((source, plug)), Some((service, socket))) =
                (from.rsplit_once('.'), to.rsplit_once('.'))
                && let Some(source) = services.get_mut(source)
            {
                let target = Target {
                    service: service.into(),
                    socket: socket.into(),
                    redirect: connection.redirect,
                    memory: connection.memory.unwrap_or(true),
                    allow: connection.allow.map(Spanned::into_inner).unwrap_or_default(),
                    balance: connection.balance,
                };
                source.plugs.insert(plug.into(), target);
            }
        }
        Graph { app: self.app.into_inner(), services }
    }
}
