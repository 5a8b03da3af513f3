//! Switching redirection on and off around a measurement, each in a process of its own.

pub mod declare;
pub mod recipe;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::case::Bench;
use crate::lab::{Place, Program, Role, Running};

/// Redirection, switched on until this is ended.
pub struct Switch {
    running: Running,
    report: Option<PathBuf>,
    /// How it was switched on, as somebody would type it.
    pub line: String,
}

impl Switch {
    /// The agent's own `node`, for all connections between the ends.
    pub fn node(bench: &Bench<'_>, mode: &str) -> Result<Self> {
        let report = bench.lab.folder().join("redirected.json");
        let _ = fs::remove_file(&report);
        let program = bench
            .lab
            .program(Role::Control, Place::Loopback, bench.binaries.join("patchbay-agent"))
            .joined()
            .args(["node", "--pods", "off", "--redirect", mode, "--cgroup"])
            .arg(bench.lab.traffic())
            .arg("--state-dir")
            .arg(bench.lab.folder().join("profiles"))
            .arg("--report")
            .arg(&report);
        Self::start(program, Some(report))
    }

    /// The agent's data path with one declared session, as an agent does it for two instances.
    pub fn declared(bench: &Bench<'_>, mode: &str, port: u16) -> Result<Self> {
        let report = bench.lab.folder().join("redirected.json");
        let _ = fs::remove_file(&report);
        let program = bench
            .lab
            .own_program(Role::Control, Place::Loopback)?
            .args(["declare", "--mode", mode, "--traffic"])
            .arg(bench.lab.traffic())
            .arg("--source")
            .arg(bench.lab.cgroup(Role::Source))
            .arg("--destination")
            .arg(bench.lab.cgroup(Role::Destination))
            .args(["--at", &format!("{}:{port}", Place::Namespaces.address(Role::Destination))])
            .arg("--state-dir")
            .arg(bench.lab.folder().join("profiles-declared"))
            .arg("--report")
            .arg(&report);
        Self::start(program, Some(report))
    }

    /// The reference that nobody should use.
    pub fn recipe(bench: &Bench<'_>) -> Result<Self> {
        let program = bench.lab.own_program(Role::Control, Place::Loopback)?;
        Self::start(program.args(["unsafe-recipe", "--cgroup"]).arg(bench.lab.traffic()), None)
    }

    fn start(program: Program, report: Option<PathBuf>) -> Result<Self> {
        let line = program.line();
        let mut running = program.start()?;
        running.wait_for("ready")?;
        Ok(Self { running, report, line })
    }

    /// Switches it off; returns the share of the bytes that was redirected, in percent, if it is known.
    ///
    /// # Errors
    /// It failed meanwhile.
    pub fn end(self) -> Result<Option<f64>> {
        self.running.terminate()?;
        self.report.as_deref().map(share).transpose()
    }
}

/// The share of the bytes that a report calls redirected, in percent.
fn share(report: &Path) -> Result<f64> {
    let text = fs::read_to_string(report).with_context(|| format!("{} is missing", report.display()))?;
    let value: Value = serde_json::from_str(&text)?;
    let ports = value["ports"].as_object().context("a report has ports")?;
    let sum = |field: &str| ports.values().filter_map(|port| port[field].as_f64()).sum::<f64>();
    let (kernel, tcp) = (sum("kernel_bytes"), sum("tcp_bytes"));
    Ok(if kernel + tcp > 0.0 { 100.0 * kernel / (kernel + tcp) } else { 0.0 })
}
