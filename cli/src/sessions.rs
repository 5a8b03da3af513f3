//! `patchbay sessions`.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use clap::Args;
use patchbay_api as api;

use crate::Filter;
use crate::client::{Client, Failure};
use crate::output::{self, Output};
use crate::tables;

/// Clears a terminal and goes to its beginning.
const CLEAR: &str = "\x1b[2J\x1b[H";

#[derive(Args)]
pub struct Sessions {
    #[command(flatten)]
    filter: Filter,
    /// Each direction: path and reason of the latest message, messages by path, switches, bytes in flight
    #[arg(long)]
    details: bool,
    /// Show them again and again, every 2 s unless said, with their rates
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s", value_parser = humantime::parse_duration)]
    watch: Option<Duration>,
}

impl Sessions {
    pub fn run(&self, client: &Client, output: Output) -> Result<(), Failure> {
        let Some(every) = self.watch else {
            let sessions = self.list(client)?;
            self.filter.check(client, sessions.is_empty())?;
            let table = if self.details { tables::session_details } else { tables::sessions };
            return output.list(&sessions, table);
        };
        let every = every.max(Duration::from_millis(100));
        let mut before: Option<(Instant, HashMap<u64, u64>)> = None;
        loop {
            let sessions = self.list(client)?;
            let now = Instant::now();
            let bytes: HashMap<u64, u64> =
                sessions.iter().map(|session| (session.id, carried(session))).collect();
            let rates: HashMap<u64, f64> = match &before {
                None => HashMap::new(),
                Some((then, earlier)) => {
                    let seconds = now.duration_since(*then).as_secs_f64().max(0.001);
                    let rate = |(id, bytes): (&u64, &u64)| {
                        Some((*id, bytes.saturating_sub(*earlier.get(id)?) as f64 / seconds))
                    };
                    bytes.iter().filter_map(rate).collect()
                }
            };
            if output == Output::Table && std::io::stdout().is_terminal() {
                output::print(CLEAR)?;
            }
            match self.details {
                true => output.list(&sessions, tables::session_details)?,
                false => output.list(&sessions, |sessions| tables::session_rates(sessions, &rates))?,
            }
            before = Some((now, bytes));
            std::thread::sleep(every);
        }
    }

    fn list(&self, client: &Client) -> Result<Vec<api::Session>, Failure> {
        client.pages(&self.filter.path("sessions"), |session: &api::Session| session.id)
    }
}

fn carried(session: &api::Session) -> u64 {
    let of = |traffic: &api::Traffic| traffic.memory_bytes + traffic.kernel_bytes + traffic.tcp_bytes;
    of(&session.sent) + of(&session.received)
}
