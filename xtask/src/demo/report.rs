//! What the demo found out.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use patchbay_api::Session;
use serde::{Deserialize, Serialize};

/// What the users saw.
#[derive(Serialize, Deserialize)]
pub struct Driven {
    /// Requests sent.
    pub requests: usize,
    /// What went wrong.
    pub errors: Vec<String>,
    /// Files that went up and came down.
    pub files_checked: usize,
    /// Files that came back different.
    pub checksum_mismatches: usize,
    /// With redirection off and on.
    pub latency_us: Latencies,
}

/// Latencies of the same requests.
#[derive(Default, Serialize, Deserialize)]
pub struct Latencies {
    /// Redirection off.
    pub off: Latency,
    /// Redirection on.
    pub on: Latency,
}

/// Microseconds.
#[derive(Default, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the requests took at most this.
    pub p50: u64,
    /// 99 of 100 requests took at most this.
    pub p99: u64,
}

/// The report in `target/demo/report.json`.
#[derive(Serialize)]
pub struct Report {
    requests: usize,
    errors: usize,
    error_texts: Vec<String>,
    files_checked: usize,
    checksum_mismatches: usize,
    sessions: usize,
    sessions_kernel: usize,
    sessions_tcp: usize,
    bytes_kernel: u64,
    bytes_tcp: u64,
    tcp_reasons: BTreeMap<String, usize>,
    latency_us: Latencies,
    seconds: f64,
}

fn kernel_bytes(session: &Session) -> u64 {
    session.sent.kernel_bytes + session.received.kernel_bytes
}

fn tcp_bytes(session: &Session) -> u64 {
    session.sent.tcp_bytes + session.received.tcp_bytes
}

impl Report {
    pub fn new(driven: Driven, sessions: &[Session], took: Duration) -> Self {
        let mut tcp_reasons = BTreeMap::new();
        for session in sessions.iter().filter(|session| session.path != "kernel") {
            *tcp_reasons
                .entry(session.reason.clone().unwrap_or_else(|| session.path.clone()))
                .or_default() += 1;
        }
        let sessions_kernel = sessions.iter().filter(|session| session.path == "kernel").count();
        Self {
            requests: driven.requests,
            errors: driven.errors.len(),
            error_texts: driven.errors,
            files_checked: driven.files_checked,
            checksum_mismatches: driven.checksum_mismatches,
            sessions: sessions.len(),
            sessions_kernel,
            sessions_tcp: sessions.len() - sessions_kernel,
            bytes_kernel: sessions.iter().map(kernel_bytes).sum(),
            bytes_tcp: sessions.iter().map(tcp_bytes).sum(),
            tcp_reasons,
            latency_us: driven.latency_us,
            seconds: took.as_secs_f64(),
        }
    }

    pub fn print(&self, file: &Path) {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let Latencies { off, on } = &self.latency_us;
        println!(
            "\nrequests {}, errors {}, files checked {}, checksum mismatches {}",
            self.requests, self.errors, self.files_checked, self.checksum_mismatches
        );
        println!(
            "through the kernel: {} sessions, {:.1} MiB\nover TCP:           {} sessions, {:.1} MiB",
            self.sessions_kernel,
            mebibytes(self.bytes_kernel),
            self.sessions_tcp,
            mebibytes(self.bytes_tcp)
        );
        for (reason, count) in &self.tcp_reasons {
            println!("                    {count} because: {reason}");
        }
        println!(
            "\nrequest latency     p50        p99\nredirection off  {:>6} µs  {:>6} µs",
            off.p50, off.p99
        );
        println!("redirection on   {:>6} µs  {:>6} µs", on.p50, on.p99);
        println!("ratio            {:>6.2}     {:>6.2}", ratio(on.p50, off.p50), ratio(on.p99, off.p99));
        println!("\n{:.1} s; report: {}", self.seconds, file.display());
    }

    /// Fails on anything that should not be.
    pub fn judge(&self, sessions: &[Session]) -> Result<()> {
        let mut wrong: Vec<String> = self.error_texts.clone();
        if self.checksum_mismatches > 0 {
            wrong.push(format!("{} files came back different", self.checksum_mismatches));
        }
        if self.bytes_kernel == 0 {
            wrong.push("nothing went through the kernel".into());
        }
        let stayed = sessions
            .iter()
            .filter(|session| session.source.node == session.destination.node && session.path != "kernel");
        wrong.extend(stayed.map(|session| {
            let (source, destination) = (&session.source, &session.destination);
            format!(
                "session {} ({}/{} → {}/{}) is on one node and not in the kernel: {} {}",
                session.id,
                source.service,
                source.instance,
                destination.service,
                destination.instance,
                session.path,
                session.reason.as_deref().unwrap_or_default()
            )
        }));
        if !wrong.is_empty() {
            bail!("the demo failed:\n  {}", wrong.join("\n  "));
        }
        Ok(())
    }
}

fn ratio(on: u64, off: u64) -> f64 {
    on as f64 / off.max(1) as f64
}
