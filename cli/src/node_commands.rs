//! What is done on this node by its agent's program: `exec` and `trace`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use patchbay_api as api;

use crate::client::{Client, Failure};

/// The agent's program.
const AGENT: &str = "patchbay-agent";

/// A program to run with redirection inside.
#[derive(Args)]
pub struct Exec {
    /// Flags, then `--`, then the program and its arguments; `patchbay-agent exec --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// A session to look at.
#[derive(Args)]
pub struct Trace {
    /// The session's number, as `patchbay sessions` shows it
    #[arg(value_parser = crate::parse::number)]
    session: u64,
    /// Show so many first bytes of each message, up to 64
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    bytes: usize,
    /// End after so many messages
    #[arg(long, value_parser = crate::parse::number, value_name = "COUNT")]
    messages: Option<u64>,
    /// Where the agent pinned its programs
    #[arg(long, value_name = "FOLDER")]
    pins: Option<PathBuf>,
}

impl Exec {
    pub fn run(&self) -> Failure {
        become_agent(Command::new(agent()).arg("exec").args(&self.arguments))
    }
}

impl Trace {
    pub fn run(&self, client: &Client) -> Result<(), Failure> {
        let before = self.session.saturating_sub(1);
        let sessions: Vec<api::Session> =
            client.get(&format!("/v1/sessions?ended=false&limit=1&after={before}"))?;
        let session = sessions.iter().find(|session| session.id == self.session).ok_or_else(|| {
            Failure::Said(format!("no session {} is open; `patchbay sessions` lists them", self.session))
        })?;
        if session.source.node != session.destination.node {
            return Err(Failure::Said("its ends are on two nodes: tcpdump shows it".into()));
        }
        let mut command = Command::new(agent());
        command.args(["trace", "--source-port", &session.source.port.to_string()]);
        command.args(["--destination-port", &session.destination.port.to_string()]);
        command.args(["--bytes", &self.bytes.to_string()]);
        if let Some(messages) = self.messages {
            command.args(["--messages", &messages.to_string()]);
        }
        if let Some(pins) = &self.pins {
            command.arg("--pins").arg(pins);
        }
        Err(become_agent(&mut command))
    }
}

/// The agent's program beside this one, or wherever it is found.
fn agent() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name(AGENT));
    beside.filter(|program| program.exists()).unwrap_or_else(|| AGENT.into())
}

fn become_agent(command: &mut Command) -> Failure {
    let error = command.exec();
    Failure::Said(format!("{} can't be run: {error}", command.get_program().to_string_lossy()))
}
