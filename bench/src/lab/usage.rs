//! What processes used, as the kernel counts it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// CPU time of a cgroup since it was made, in nanoseconds: user and kernel.
pub fn cgroup_cpu(cgroup: &Path) -> Result<u64> {
    let text = fs::read_to_string(cgroup.join("cpu.stat"))
        .with_context(|| format!("{} has no cpu.stat", cgroup.display()))?;
    let microseconds = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec ")?.parse::<u64>().ok())
        .context("cpu.stat has no usage_usec")?;
    Ok(microseconds * 1_000)
}

/// Processes of a cgroup and those below it.
pub fn processes(cgroup: &Path) -> Vec<u32> {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<u32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(processes(&entry.path()));
        }
    }
    found
}

/// Resident memory of a process now, in bytes; 0 when it has ended.
pub fn resident(process: u32) -> u64 {
    status(&format!("/proc/{process}/status"), "VmRSS:") * 1024
}

/// Context switches of all threads of a process so far; what waits is voluntary.
pub fn context_switches(process: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    threads
        .map(|thread| {
            let file = thread.path().join("status").display().to_string();
            status(&file, "voluntary_ctxt_switches:") + status(&file, "nonvoluntary_ctxt_switches:")
        })
        .sum()
}

/// CPU time of a process so far, in nanoseconds: user and kernel, all threads that live.
/// The kernel's own schedule statistics, which are finer than its ticks.
pub fn process_cpu(process: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let running = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    threads.filter_map(running).sum()
}

/// Kernel memory of all TCP sockets of this machine, in bytes.
pub fn tcp_memory() -> u64 {
    const PAGE: u64 = 4096;
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let mut words = line.split(' ').skip_while(|word| *word != "mem");
    words.nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE
}

fn status(file: &str, field: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(field));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The machine's processors since boot, in ticks of a hundredth of a second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Processors {
    /// Doing anything for this machine.
    pub busy: u64,
    /// Taken away by the host.
    pub stolen: u64,
}

impl Processors {
    /// As they are now.
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let values: Vec<u64> =
            line.split_whitespace().skip(1).filter_map(|value| value.parse().ok()).collect();
        let at = |index: usize| values.get(index).copied().unwrap_or(0);
        // user nice system idle iowait irq softirq steal
        Self { busy: at(0) + at(1) + at(2) + at(5) + at(6), stolen: at(7) }
    }
}
