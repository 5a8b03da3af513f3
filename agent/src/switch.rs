//! `redirect`: takes sessions to TCP and lets them return, without interrupting anything.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::datapath::{self, SessionReport, Switch};
use crate::{require_root, trace};

/// Sessions whose further messages go over TCP, or through the kernel again.
#[derive(Args)]
pub struct Redirect {
    #[command(subcommand)]
    direction: Direction,
}

#[derive(Subcommand)]
enum Direction {
    /// Further messages go over TCP, where captures, firewalls and shaping see them
    Off(Which),
    /// Further messages go through the kernel again, each direction once its reader has read what came over TCP
    On(Which),
}

/// Which sessions; without ports all of the node, also those that will be made.
#[derive(Args)]
struct Which {
    /// Only sessions whose connecting end has this port, as `patchbay sessions` shows it
    #[arg(long, value_name = "PORT")]
    source_port: Option<u16>,
    /// Only sessions to this port
    #[arg(long, value_name = "PORT")]
    destination_port: Option<u16>,
    /// Where the agent pinned its programs [default: BPF-MOUNT/patchbay/NODE, if there is one node]
    #[arg(long, value_name = "FOLDER")]
    pins: Option<PathBuf>,
}

/// Switches, and says what it did.
///
/// # Errors
/// No agent runs here, or no session matches.
pub fn run(redirect: &Redirect) -> Result<()> {
    require_root("other programs' sessions are switched")?;
    let (which, on) = match &redirect.direction {
        Direction::Off(which) => (which, false),
        Direction::On(which) => (which, true),
    };
    let pins = match &which.pins {
        Some(pins) => pins.clone(),
        None => trace::only_pins()?,
    };
    let mut switch = Switch::open(&pins)?;
    let way = if on { "through the kernel again, where they may" } else { "over TCP" };
    if which.source_port.is_none() && which.destination_port.is_none() {
        switch.node(on)?;
        println!("further messages of all sessions of the node go {way}");
        return Ok(());
    }
    let sessions = datapath::pinned_sessions(&pins)?;
    let matching: Vec<&SessionReport> = sessions.iter().filter(|session| which.matches(session)).collect();
    if matching.is_empty() {
        bail!("the agent at {} knows no such session; `patchbay sessions` shows the ports", pins.display());
    }
    let mut switched = 0;
    for session in matching {
        switched += usize::from(switch.session(session, on)?);
    }
    println!("further messages of {switched} session{} go {way}", if switched == 1 { "" } else { "s" });
    Ok(())
}

impl Which {
    fn matches(&self, session: &SessionReport) -> bool {
        self.source_port.is_none_or(|port| session.source.port() == port)
            && self.destination_port.is_none_or(|port| session.destination.port() == port)
    }
}
