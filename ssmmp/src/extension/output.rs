//! What instances write to their standard output and error.

use super::Extension;
use super::items::Parts;
use crate::{InstanceId, MessageType as M};

/// An instance's last lines, when it failed or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output(pub Vec<String>);

impl Extension<'_> for Output {
    const NAME: &'static str = "x_output";
    const ON: &'static [M] = &[M::ExecutionResponse, M::ServiceInstanceTerminationInfo];

    fn read(text: &str) -> Option<Self> {
        let lines: Vec<String> = text.split('|').map(|line| line.trim().to_owned()).collect();
        // One that wrote nothing.
        lines.iter().any(|line| !line.is_empty()).then_some(Self(lines))
    }

    fn write(&self, out: &mut String) {
        let lines: Vec<String> = self.0.iter().map(|line| line.replace('|', "/")).collect();
        out.push_str(&lines.join(" | "));
    }
}

/// Lines of an instance's output are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The instance, ended or not.
    pub instance: InstanceId,
    /// Lines after this time only, microseconds since 1970, the oldest first; without it the last ones.
    pub after: Option<u64>,
    /// So many lines at most.
    pub lines: usize,
}

impl Extension<'_> for Log {
    const NAME: &'static str = "x_log";
    const ON: &'static [M] = &[M::AgentHealthControlRequest];

    fn read(text: &str) -> Option<Self> {
        let mut parts = Parts::of(text);
        let instance = InstanceId(parts.value()?);
        let after = match parts.text()? {
            "-" => None,
            time => Some(time.parse().ok()?),
        };
        Some(Self { instance, after, lines: parts.value()? })
    }

    fn write(&self, out: &mut String) {
        let after = self.after.map_or("-".to_owned(), |time| time.to_string());
        out.push_str(&format!("{}, {after}, {}", self.instance, self.lines));
    }
}

/// Lines of an instance's output with their times, microseconds since 1970: a list of pairs in JSON, without tildes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLines(pub Vec<(u64, String)>);

impl Extension<'_> for LogLines {
    const NAME: &'static str = "x_log_lines";
    const ON: &'static [M] = &[M::AgentHealthControlResponse];

    fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().map(Self)
    }

    fn write(&self, out: &mut String) {
        // A list of numbers and texts can always be written.
        out.push_str(&serde_json::to_string(&self.0).unwrap_or_default().replace('~', "\\u007e"));
    }
}
