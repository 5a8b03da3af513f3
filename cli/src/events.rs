//! `patchbay events`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use patchbay_api as api;

use crate::client::{Client, Failure};
use crate::output::{self, Output};
use crate::parse::{encoded, number};
use crate::tables;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  patchbay events --follow --since 0s\n  patchbay events --since 2h --kind instance-failed,service-failing\n  \
                        patchbay events --since 2026-01-02T03:04:05Z --subject 'node a'"
)]
pub struct Events {
    /// Go on showing what happens
    #[arg(long)]
    follow: bool,
    /// Show only what came after this number
    #[arg(long, default_value_t = 0, value_parser = number, value_name = "NUMBER")]
    after: u64,
    /// Show only what came since then: a time ago, as in 2h, or a moment, as in 2026-01-02T03:04:05Z
    #[arg(long, value_parser = moment, value_name = "WHEN")]
    since: Option<u64>,
    /// Show only these kinds, with commas between them
    #[arg(long, value_delimiter = ',', value_parser = kind, value_name = "KIND,...")]
    kind: Vec<String>,
    /// Show only those whose subject contains this
    #[arg(long, default_value = "", value_name = "TEXT")]
    subject: String,
}

impl Events {
    pub fn run(&self, client: &Client, output: Output) -> Result<(), Failure> {
        let path = format!(
            "/v1/events?follow={}&after={}&since_ms={}&kind={}&subject={}",
            self.follow,
            self.after,
            self.since.unwrap_or(0),
            encoded(&self.kind.join(",")),
            encoded(&self.subject)
        );
        if output == Output::Table {
            output::print(tables::EVENTS)?;
        }
        for line in client.lines(&path)? {
            let line = line.map_err(|error| Failure::Said(format!("the Manager's answer ended: {error}")))?;
            match output {
                Output::Json => output::print(&line)?,
                Output::Table => {
                    if let Ok(event) = serde_json::from_str::<api::Event>(&line) {
                        output::print(&tables::event(&output::visible(&event)?))?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn kind(text: &str) -> Result<String, String> {
    match api::EVENT_KINDS.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!("there is no such kind; the kinds are {}", api::EVENT_KINDS.join(", "))),
    }
}

/// A moment, milliseconds since 1970.
fn moment(text: &str) -> Result<u64, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        return Ok(now.saturating_sub(ago).as_millis() as u64);
    }
    let moment = humantime::parse_rfc3339_weak(text)
        .map_err(|_| "write it as a time ago, as in 90s or 2h, or as 2026-01-02T03:04:05Z".to_owned())?;
    Ok(moment.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind that the Manager publishes can be asked for, and no other.
    #[test]
    fn kinds_are_those_that_the_manager_publishes() {
        let mut published = String::new();
        let mut folders =
            vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../manager-core/src"))];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("readable").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => published += &std::fs::read_to_string(path).expect("readable"),
                }
            }
        }
        for known in api::EVENT_KINDS {
            assert!(published.contains(&format!("\"{known}\"")), "nobody publishes {known}");
        }
        let about = ["app-", "instance-", "node-", "redirection-", "service-", "session-"];
        for word in published.split('"').filter(|word| about.iter().any(|about| word.starts_with(about))) {
            let is_kind = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
            assert!(!is_kind || word.ends_with('-') || kind(word).is_ok(), "{word} is published");
        }
        assert!(kind("nonsense").is_err_and(|said| said.contains("instance-failed")));
    }

    #[test]
    fn moments_are_absolute_or_ago() {
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(1_000));
        let now = moment("0s").expect("now");
        assert!((now - 3_600_000).abs_diff(moment("1h").expect("ago")) < 1_000);
        assert!(moment("yesterday").is_err());
    }
}
