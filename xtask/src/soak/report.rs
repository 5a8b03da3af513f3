//! What a soak found out.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;

use super::ledger::Entries;

/// The report in `target/soak/report.json`.
#[derive(Default, Serialize)]
pub struct Report {
    pub seed: u64,
    pub seconds: u64,
    pub faults: BTreeMap<String, u32>,
    pub requests: u64,
    pub answered_at_once: u64,
    pub answered_when_asked_again: u64,
    pub given_up: u64,
    pub failed_tries: u64,
    /// Requests answered at once, of all, in percent.
    pub availability_percent: f64,
    pub longest_request_ms: u128,
    pub acknowledged_registrations: usize,
    pub acknowledged_posts: usize,
    pub acknowledged_files: usize,
    /// Acknowledged writes that were read back at the end.
    pub read_back: usize,
    /// Acknowledged writes that were gone or different.
    pub lost: Vec<String>,
    /// Answers that contradicted what a user had been told before.
    pub wrong: Vec<String>,
    pub errors: Vec<String>,
    /// Processes that were there when their node's agent had ended.
    pub orphans: Vec<String>,
    /// Seconds from the last mended fault until everything was as it should be.
    pub at_rest_after_seconds: f64,
    pub kernel_bytes: u64,
}

impl Report {
    /// What the users saw.
    pub fn of_users(&mut self, entries: &Entries) {
        self.requests = entries.ok + entries.retried + entries.failed;
        self.answered_at_once = entries.ok;
        self.answered_when_asked_again = entries.retried;
        self.given_up = entries.failed;
        self.failed_tries = entries.failed_tries;
        self.availability_percent = 100.0 * entries.ok as f64 / self.requests.max(1) as f64;
        self.longest_request_ms = entries.longest.as_millis();
        self.acknowledged_registrations = entries.users.len();
        self.acknowledged_posts = entries.posts.len();
        self.acknowledged_files = entries.files.len();
        self.wrong.clone_from(&entries.wrong);
        self.errors.clone_from(&entries.errors);
    }

    pub fn print(&self, file: &Path) {
        println!("\n{:<28} times", "fault");
        for (kind, count) in &self.faults {
            println!("{kind:<28} {count:>5}");
        }
        println!(
            "\nrequests {}: {} answered at once ({:.2} %), {} when asked again, {} given up; longest {:.1} s",
            self.requests,
            self.answered_at_once,
            self.availability_percent,
            self.answered_when_asked_again,
            self.given_up,
            self.longest_request_ms as f64 / 1000.0
        );
        println!(
            "acknowledged: {} registrations, {} posts, {} files; {} read back, {} lost",
            self.acknowledged_registrations,
            self.acknowledged_posts,
            self.acknowledged_files,
            self.read_back,
            self.lost.len()
        );
        println!("{} requests lost, {} processes orphaned", self.given_up, self.orphans.len());
        println!(
            "at rest {:.1} s after the last fault; {:.1} MiB through the kernel",
            self.at_rest_after_seconds,
            self.kernel_bytes as f64 / f64::from(1 << 20)
        );
        println!("seed {}, {} s; report: {}", self.seed, self.seconds, file.display());
    }

    /// Fails on anything that should not be.
    pub fn judge(&self) -> Result<()> {
        let given_up = self.errors.iter().map(|error| format!("given up: {error}"));
        let orphans = self.orphans.iter().map(|process| format!("orphaned: {process}"));
        let wrong: Vec<String> =
            self.lost.iter().chain(&self.wrong).cloned().chain(orphans).chain(given_up).collect();
        if !wrong.is_empty() {
            bail!(
                "the soak failed; again with: cargo xtask soak --seed {}\n  {}",
                self.seed,
                wrong[..wrong.len().min(20)].join("\n  ")
            );
        }
        if self.read_back == 0 || self.kernel_bytes == 0 || self.faults.is_empty() {
            bail!("the soak proves nothing: nothing was read back, redirected, or broken");
        }
        Ok(())
    }
}
