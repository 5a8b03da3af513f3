//! What went which way, and why.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::datapath::{Reason, SessionReport};

/// Ports that are printed, those with most bytes.
const SHOWN_PORTS: usize = 12;

/// Sessions by the port they went to.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// By port.
    pub ports: BTreeMap<u16, Port>,
    /// Connections that found the table of sessions full: nothing else is known of them.
    pub uncounted: u64,
}

/// Sessions to one port.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Port {
    /// All of them.
    pub sessions: u64,
    /// Those whose bytes were redirected, all or some.
    pub redirected: u64,
    /// Bytes through the kernel, both ways.
    pub kernel_bytes: u64,
    /// Bytes over TCP, both ways.
    pub tcp_bytes: u64,
    /// Messages through the kernel, both ways.
    pub kernel_messages: u64,
    /// Why sessions were over TCP, or went back to it, with how many.
    pub reasons: BTreeMap<String, u64>,
}

impl Summary {
    /// Counts a session.
    pub fn add(&mut self, report: &SessionReport) {
        let port = self.ports.entry(report.destination.port()).or_default();
        port.sessions += 1;
        let both = [report.sent, report.received];
        let kernel: u64 = both.iter().map(|traffic| traffic.kernel_bytes).sum();
        port.redirected += u64::from(kernel > 0);
        port.kernel_bytes += kernel;
        port.tcp_bytes += both.iter().map(|traffic| traffic.tcp_bytes).sum::<u64>();
        port.kernel_messages += both.iter().map(|traffic| traffic.kernel_messages).sum::<u64>();
        if let Some(why) = report.why() {
            *port.reasons.entry(why.into_owned()).or_default() += 1;
        }
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, file: &std::path::Path) -> Result<()> {
        std::fs::write(file, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("{} can't be written", file.display()))
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut ports: Vec<_> = self.ports.iter().collect();
        ports.sort_by_key(|(_, port)| std::cmp::Reverse(port.kernel_bytes + port.tcp_bytes));
        let more = ports.len().saturating_sub(SHOWN_PORTS);
        for (number, port) in ports.into_iter().take(SHOWN_PORTS) {
            let _ = write!(
                text,
                "port {number}: {} session{}, {} redirected; {} through the kernel, {} over TCP",
                port.sessions,
                if port.sessions == 1 { "" } else { "s" },
                port.redirected,
                size(port.kernel_bytes),
                size(port.tcp_bytes),
            );
            let reasons: Vec<String> =
                port.reasons.iter().map(|(reason, count)| format!("{count} because: {reason}")).collect();
            if !reasons.is_empty() {
                let _ = write!(text, " ({})", reasons.join(", "));
            }
            text.push('\n');
        }
        if more > 0 {
            let _ = writeln!(text, "and {more} more ports; --report writes them all");
        }
        if self.uncounted > 0 {
            let _ = writeln!(text, "{} more connections: {}", self.uncounted, Reason::TableFull.text());
        }
        if text.is_empty() {
            text.push_str("no connection stayed inside\n");
        }
        text
    }
}

fn size(bytes: u64) -> String {
    const STEP: f64 = 1024.0;
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < STEP {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= STEP;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{Path, Reason, Traffic};

    #[test]
    fn sessions_are_counted_by_port_with_their_reasons() {
        let mut summary = Summary::default();
        let mut report = SessionReport::between(0, 0, "127.0.0.1:6379".parse().expect("an address"));
        report.path = Path::Kernel;
        report.sent = Traffic { kernel_bytes: 3 << 20, kernel_messages: 2, ..Traffic::default() };
        summary.add(&report);
        report.path = Path::Tcp(Reason::Learning);
        report.sent = Traffic { tcp_bytes: 100, ..Traffic::default() };
        summary.add(&report);
        assert_eq!(
            summary.text(),
            "port 6379: 2 sessions, 1 redirected; 3.0 MiB through the kernel, 100 B over TCP \
             (1 because: program being observed)\n"
        );
        assert_eq!(Summary::default().text(), "no connection stayed inside\n");
    }
}
