//! `trace`: the messages of one session as they are sent, redirected or not.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tokio::time::{Instant, interval, timeout_at};

use crate::datapath::{self, Looker, ShownMessage};
use crate::require_root;

/// How often the end of the session is looked for.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// Bytes printed in one line.
const BYTES_IN_A_LINE: usize = 16;

/// One session to look at.
#[derive(Args)]
pub struct Trace {
    /// The connecting end's port, as `patchbay sessions` shows it
    #[arg(long, value_name = "PORT")]
    source_port: u16,
    /// The accepting end's port
    #[arg(long, value_name = "PORT")]
    destination_port: u16,
    /// Where the agent pinned its programs [default: that of this machine's agent, if there is one]
    #[arg(long, value_name = "FOLDER")]
    pins: Option<PathBuf>,
    /// Show so many first bytes of each message, up to 64; who may see them may see secrets
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    bytes: usize,
    /// End after so many messages
    #[arg(long, value_name = "COUNT")]
    messages: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
}

/// Prints messages until the session or a limit ends.
///
/// # Errors
/// No agent runs here, or it knows no such session.
pub async fn run(trace: &Trace) -> Result<()> {
    require_root("messages of other programs are shown")?;
    let pins = match &trace.pins {
        Some(pins) => pins.clone(),
        None => only_pins()?,
    };
    let sessions = datapath::pinned_sessions(&pins)?;
    let wanted = (trace.source_port, trace.destination_port);
    let session = sessions
        .iter()
        .find(|session| (session.source.port(), session.destination.port()) == wanted)
        .with_context(|| format!("the agent at {} knows no session {wanted:?}", pins.display()))?;
    if session.outside {
        bail!("the session is outside the map, on plain TCP: tcpdump shows it");
    }
    let (source, destination) = (session.source, session.destination);
    let mut looker = Looker::begin(&pins, session.key, trace.bytes)?;
    eprintln!("{source} → {destination}; Ctrl-C ends");
    let deadline = trace.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let far = Instant::now() + Duration::from_secs(u32::MAX.into());
    let mut check = interval(CHECK_EVERY);
    let (mut count, mut begun) = (0, None);
    while trace.messages.is_none_or(|limit| count < limit) {
        let next = async {
            tokio::select! {
                message = looker.next() => message.map(Some),
                _ = check.tick() => Ok(None),
            }
        };
        let Ok(next) = timeout_at(deadline.unwrap_or(far), next).await else { break };
        match next? {
            Some(message) => {
                let begun = *begun.get_or_insert(message.time);
                print(&message, begun)?;
                count += 1;
            }
            None if looker.is_open()? => {}
            None => {
                eprintln!("the session has ended");
                break;
            }
        }
    }
    Ok(())
}

fn print(message: &ShownMessage, begun: u64) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let arrow = if message.from_source { "→" } else { "←" };
    let path = if message.redirected { "kernel" } else { "tcp" };
    let microseconds = message.time.saturating_sub(begun) / 1_000;
    writeln!(out, "{microseconds:>12} µs  {arrow}  {:>8} B  {path}", message.size)?;
    for line in message.bytes.chunks(BYTES_IN_A_LINE) {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown =
            |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' };
        let text: String = line.iter().map(shown).collect();
        writeln!(out, "                     {:<47}  {text}", hex.join(" "))?;
    }
    Ok(())
}

/// The pins of the one node that there is.
pub(crate) fn only_pins() -> Result<PathBuf> {
    match &datapath::pinned_places()[..] {
        [one] => Ok(one.clone()),
        [] => bail!("no agent has pinned its programs on this machine"),
        many => bail!("several agents are here, name one with --pins: {}", names(many)),
    }
}

fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
