//! `patchbay flows`: sessions of this node as they begin and end, in Hubble's form.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use patchbay_api as api;
use serde_json::Value;

use crate::client::{Client, Failure};
use crate::output;

/// Where agents tell flows.
const SOCKET: &str = "/run/patchbay/agent.sock";
/// How long an agent that does not listen yet is waited for.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

#[derive(Args)]
#[command(
    after_help = "Examples:\n  patchbay flows --follow\n  patchbay flows --last 100 -o jsonpb | jq .flow.Summary\n\n\
                        The agent tells them where it was started with `--observe unix`; no Manager is asked."
)]
pub struct Flows {
    /// Go on showing what happens
    #[arg(long)]
    follow: bool,
    /// Show so many of the latest first
    #[arg(long, default_value_t = 20, value_name = "NUMBER")]
    last: usize,
    /// Lines for people, or one JSON object a line as `hubble observe -o jsonpb` prints
    #[arg(short = 'o', long, default_value = "compact", value_enum)]
    format: Form,
    /// The agent's socket
    #[arg(long, default_value = SOCKET, value_name = "FILE")]
    socket: PathBuf,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Form {
    Compact,
    Jsonpb,
}

impl Flows {
    pub fn run(&self) -> Result<(), Failure> {
        let client = Client::at_socket(&self.socket, CONNECT_WITHIN);
        let lines = client.lines(&format!("/flows?last={}&follow={}", self.last, self.follow));
        let lines = lines.map_err(|failure| match failure {
            Failure::Unreachable { reason, .. } => Failure::Said(format!(
                "no agent tells flows at {}: {reason}\nStart it with `--observe unix`, or name another place with --socket.",
                self.socket.display()
            )),
            other => other,
        })?;
        for line in lines {
            let line = line.map_err(|error| Failure::Said(format!("the agent's answer ended: {error}")))?;
            match self.format {
                Form::Jsonpb => output::print(&line)?,
                Form::Compact => {
                    if let Ok(flow) = serde_json::from_str::<Value>(&line) {
                        output::print(&api::visible(&text(&flow)))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The form for people: `2026-01-02T14:02:07Z shop/web-1:41022 -> shop/redis-0:6379 FORWARDED …`.
fn text(flow: &Value) -> String {
    if let Some(lost) = flow["lost_events"]["num_events_lost"].as_str() {
        return format!("({lost} flows missed)");
    }
    let flow = &flow["flow"];
    let end = |side: &str, port: &str| {
        let port = &flow["l4"]["TCP"][port];
        match (flow[side]["namespace"].as_str(), flow[side]["pod_name"].as_str()) {
            (Some(namespace), Some(pod)) => format!("{namespace}/{pod}:{port}"),
            _ => format!("{}:{port}", flow["IP"][side].as_str().unwrap_or_default()),
        }
    };
    format!(
        "{} {} -> {} {} {}",
        flow["time"].as_str().unwrap_or_default(),
        end("source", "source_port"),
        end("destination", "destination_port"),
        flow["verdict"].as_str().unwrap_or_default(),
        flow["Summary"].as_str().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_flow_names_pods_and_else_addresses() {
        let flow = json!({"flow": {
            "time": "2026-01-02T03:04:05Z", "verdict": "FORWARDED", "Summary": "TCP session closed",
            "IP": {"source": "10.0.0.1", "destination": "10.0.0.2"},
            "l4": {"TCP": {"source_port": 40000, "destination_port": 80}},
            "source": {"namespace": "shop", "pod_name": "web-1"}, "destination": {},
        }});
        let expected = "2026-01-02T03:04:05Z shop/web-1:40000 -> 10.0.0.2:80 FORWARDED TCP session closed";
        assert_eq!(text(&flow), expected);
        assert_eq!(text(&json!({"lost_events": {"num_events_lost": "3"}})), "(3 flows missed)");
    }
}
