//! `patchbay history`: what was, from the Manager's database.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use patchbay_api as api;

use crate::client::{Client, Failure};
use crate::output::Output;
use crate::tables;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  patchbay history session 28\n  patchbay history instance 7 --output json\n  \
                  patchbay history node a\n\nThe Manager's --keep-history says how long history is kept."
)]
pub struct History {
    #[command(subcommand)]
    of: Of,
}

#[derive(Subcommand)]
enum Of {
    /// A session: its ends, path, bytes, and how it ended
    Session {
        /// Its id
        #[arg(value_parser = crate::parse::number)]
        id: u64,
    },
    /// An instance: its states, sessions and end
    Instance {
        /// Its id
        #[arg(value_parser = crate::parse::number)]
        id: u64,
    },
    /// A node: when it came and went, and what ran there
    Node {
        /// Its name
        name: String,
    },
}

impl History {
    pub fn run(&self, client: &Client, output: Output) -> Result<(), Failure> {
        match &self.of {
            Of::Session { id } => {
                let answer: api::SessionHistory = client.get(&format!("/v1/history/sessions/{id}"))?;
                output.show(&answer, session)
            }
            Of::Instance { id } => {
                let answer: api::InstanceHistory = client.get(&format!("/v1/history/instances/{id}"))?;
                output.show(&answer, instance)
            }
            Of::Node { name } => {
                let answer: api::NodeHistory = client.get(&format!("/v1/history/nodes/{name}"))?;
                output.show(&answer, node)
            }
        }
    }
}

fn session(answer: &api::SessionHistory) -> String {
    let api::Session { opened_ms, closed_ms, status, source, destination, .. } = &answer.session;
    let mut text = tables::sessions(std::slice::from_ref(&answer.session));
    let _ = write!(
        text,
        "\n\n{} → {}\nopened  {}",
        address(source),
        address(destination),
        tables::moment(*opened_ms)
    );
    if let Some(closed) = closed_ms {
        let status = status.map(|status| format!(", status {status}")).unwrap_or_default();
        let seconds = closed.saturating_sub(*opened_ms) as f64 / 1000.0;
        let _ = write!(text, "\nclosed  {}, after {seconds:.3} s{status}", tables::moment(*closed));
    }
    text + &events(&answer.events)
}

fn address(end: &api::End) -> String {
    match end.address.contains(':') {
        true => format!("[{}]:{}", end.address, end.port),
        false => format!("{}:{}", end.address, end.port),
    }
}

fn instance(answer: &api::InstanceHistory) -> String {
    let mut text = tables::instances(std::slice::from_ref(&answer.instance));
    text.push('\n');
    for change in &answer.changes {
        let reason = change.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let _ = write!(text, "\n{}  {}{reason}", tables::moment(change.at_ms), change.state);
    }
    let _ = write!(text, "\n\n{}", tables::sessions(&answer.sessions));
    if answer.more_sessions {
        text.push_str("\n(the newest ones; it had more)");
    }
    text + &events(&answer.events)
}

fn node(answer: &api::NodeHistory) -> String {
    let mut text = tables::instances(&answer.instances);
    if answer.more_instances {
        text.push_str("\n(the newest ones; it had more)");
    }
    text + &events(&answer.events)
}

fn events(events: &[api::Event]) -> String {
    let mut text = String::new();
    if !events.is_empty() {
        text.push('\n');
    }
    for event in events {
        let _ = write!(text, "\n{}  {}: {}", tables::moment(event.at_ms), event.kind, event.text);
    }
    text
}
