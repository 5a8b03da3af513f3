//! The social application end to end, by the demo: two nodes, a Manager, agents, its own redirection.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::case::{Bench, Case, Measured, Pace};
use crate::sample::metrics::{P50, P99};

/// Off and on, which the demo measures in turns itself.
const ALTERNATIVES: [(&str, &str); 2] = [("redirection off", "off"), ("redirection on", "on")];
/// The demo, as somebody would type it.
const COMMAND: &str = "cargo xtask demo --users 10 --files 10";

/// The case.
pub struct Social;

impl Case for Social {
    fn name(&self) -> String {
        "programs/social".into()
    }

    fn about(&self) -> String {
        "the social application end to end: GET /table through its gateway, two nodes".into()
    }

    fn alternatives(&self) -> Vec<String> {
        ALTERNATIVES.map(|(name, _)| name.to_owned()).to_vec()
    }

    fn rounds(&self, _pace: &Pace) -> usize {
        3
    }

    fn estimate(&self, _pace: &Pace) -> Duration {
        Duration::from_secs(20)
    }

    /// The demo measures both in turns; one run of it gives one of them, so that rounds stay alike.
    fn measure(&mut self, alternative: &str, _bench: &Bench<'_>) -> Result<Measured> {
        let mut words = COMMAND.split(' ');
        let output = Command::new(words.next().context("a program")?)
            .args(words)
            .stdin(Stdio::null())
            .output()
            .context("the demo can't be run")?;
        if !output.status.success() {
            bail!("the demo failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let report: Value = serde_json::from_str(&fs::read_to_string("target/demo/report.json")?)?;
        let (_, key) =
            ALTERNATIVES.iter().find(|(name, _)| *name == alternative).context("an alternative")?;
        let value = |field: &str| -> Result<f64> {
            let microseconds = report["latency_us"][key][field].as_f64();
            Ok(microseconds.context("the demo's report has no such latency")? * 1e3)
        };
        let samples = vec![P50.sample(value("p50")?), P99.sample(value("p99")?)];
        Ok(Measured { samples, commands: vec![COMMAND.into()] })
    }
}
