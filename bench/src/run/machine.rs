//! The machine, its kernel and the versions of everything that took part.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::case::Bench;

/// Programs whose versions are told, and how they are asked for.
const PROGRAMS: [(&str, &str); 9] = [
    ("haproxy", "-v"),
    ("nginx", "-v"),
    ("redis-server", "--version"),
    ("wrk", "-v"),
    ("pgbench", "--version"),
    ("h2load", "--version"),
    ("iperf3", "--version"),
    ("nft", "--version"),
    ("rustc", "--version"),
];

/// What was measured on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The processor.
    pub processor: String,
    /// How many of them.
    pub processors: usize,
    /// Memory, in bytes.
    pub memory: u64,
    /// Whether a hypervisor is below.
    pub virtual_machine: bool,
    /// The kernel's version.
    pub kernel: String,
    /// The distribution.
    pub system: String,
    /// How the processor is kept from leaking secrets, which costs time.
    pub mitigations: Vec<String>,
    /// Patchbay's version and commit.
    pub patchbay: String,
    /// Other programs' versions.
    pub programs: Vec<String>,
    /// Which process ran where.
    pub pinning: String,
    /// What processors did when they were idle.
    pub idle: String,
    /// What filtered between the namespaces.
    pub filter: String,
}

/// Describes this one.
pub fn describe(bench: &Bench<'_>, idle: String) -> Machine {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        cpu.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_once(": "))
            .map(|found| found.1)
    };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.split_whitespace().nth(1).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or_default();
    let kernel = nix::sys::utsname::uname()
        .map(|name| format!("{} {}", name.release().to_string_lossy(), name.machine().to_string_lossy()));
    Machine {
        processor: field("model name").unwrap_or("unknown").trim().to_owned(),
        processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        memory: memory * 1024,
        virtual_machine: field("flags")
            .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
        kernel: kernel.unwrap_or_default(),
        system: system.trim_matches('"').to_owned(),
        mitigations: mitigations(),
        patchbay: patchbay(),
        programs: PROGRAMS.iter().filter_map(|(program, flag)| version(program, flag)).collect(),
        pinning: bench.lab.pinning(),
        idle,
        filter: bench.lab.filter.clone(),
    }
}

fn mitigations() -> Vec<String> {
    let folder = fs::read_dir("/sys/devices/system/cpu/vulnerabilities").into_iter().flatten().flatten();
    let mut active: Vec<String> = folder
        .filter_map(|entry| {
            let state = fs::read_to_string(entry.path()).ok()?;
            let how = state.trim().strip_prefix("Mitigation: ")?;
            Some(format!("{}: {how}", entry.file_name().to_string_lossy()))
        })
        .collect();
    active.sort();
    active
}

fn patchbay() -> String {
    let commit = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!("{} ({})", env!("CARGO_PKG_VERSION"), commit.unwrap_or_else(|_| "no commit".into()))
}

/// The first line that a program says about itself.
fn version(program: &str, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| !line.trim().is_empty())?.trim();
    Some(if line.contains(program) { line.to_owned() } else { format!("{program}: {line}") })
}
