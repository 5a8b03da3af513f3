//! Stacks as perf prints them, counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Programs that take part in cases, by the names that the kernel keeps of them.
const PROGRAMS: [&str; 11] = [
    "patchbay-bench",
    "haproxy",
    "nginx",
    "redis-server",
    "redis-benchmark",
    "wrk",
    "h2load",
    "nghttpd",
    "postgres",
    "pgbench",
    "iperf3",
];

/// How often each stack was seen, from the program to the innermost function.
#[derive(Default)]
pub struct Stacks(BTreeMap<Vec<String>, u64>);

impl Stacks {
    /// Those that perf recorded.
    pub fn read(data: &Path) -> Result<Self> {
        let output = Command::new("perf")
            .args(["script", "--no-inline", "--fields", "comm,ip,sym", "--comms", &PROGRAMS.join(","), "-i"])
            .arg(data)
            .output()
            .context("perf can't be run")?;
        if !output.status.success() {
            bail!("perf can't read what it recorded: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let stacks = Self::parse(&String::from_utf8_lossy(&output.stdout));
        if stacks.0.is_empty() {
            bail!("perf has seen none of the case's programs; is another profiler at work?");
        }
        Ok(stacks)
    }

    /// Samples are blocks: a line with the program, then its frames from the innermost on.
    fn parse(text: &str) -> Self {
        let mut stacks = Self::default();
        for block in text.split("\n\n") {
            let mut lines = block.lines().filter(|line| !line.trim().is_empty());
            let Some(program) = lines.next().map(str::trim) else { continue };
            if !PROGRAMS.contains(&program) {
                continue;
            }
            let mut stack: Vec<String> = lines.map(frame).collect();
            stack.push(program.to_owned());
            stack.reverse();
            *stacks.0.entry(stack).or_default() += 1;
        }
        stacks
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&[String], u64)> {
        self.0.iter().map(|(stack, count)| (stack.as_slice(), *count))
    }

    /// How many samples there are.
    pub fn samples(&self) -> u64 {
        self.0.values().sum()
    }

    /// The functions that ran most often themselves, and those in whose calls most time went.
    pub fn table(&self, shown: usize) -> String {
        let (mut own, mut all): (BTreeMap<&str, u64>, BTreeMap<&str, u64>) = Default::default();
        for (stack, count) in self.iter() {
            if let Some(inner) = stack.last() {
                *own.entry(inner).or_default() += count;
            }
            let mut seen: Vec<&str> = stack.iter().map(String::as_str).collect();
            seen.sort_unstable();
            seen.dedup();
            for function in seen {
                *all.entry(function).or_default() += count;
            }
        }
        let mut text = format!("{:>6} {:>6}  function\n", "self", "all");
        let mut own: Vec<_> = own.into_iter().collect();
        own.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let share = |count: u64| 100.0 * count as f64 / self.samples().max(1) as f64;
        for (function, count) in own.into_iter().take(shown) {
            let within = all.get(function).copied().unwrap_or(0);
            let _ = writeln!(text, "{:>5.1}% {:>5.1}%  {function}", share(count), share(within));
        }
        text
    }
}

/// The function of a line: an address and a name.
fn frame(line: &str) -> String {
    let name = line.trim().split_once(' ').map_or("[unknown]", |(_, name)| name.trim());
    name.split("+0x").next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_programs_that_take_part_are_counted() {
        let text = "patchbay-bench \n\tffffffff81 tcp_sendmsg\n\tffff82 do_syscall_64\n\t7f01 send\n\n\
                    rustc \n\tffff01 clear_page\n\nredis-server \n\tffff82 tcp_sendmsg\n\n";
        let stacks = Stacks::parse(text);
        assert_eq!(stacks.samples(), 2);
        let first: Vec<_> = stacks.iter().map(|(stack, _)| stack.join(";")).collect();
        assert_eq!(first, ["patchbay-bench;send;do_syscall_64;tcp_sendmsg", "redis-server;tcp_sendmsg"]);
        assert!(stacks.table(5).contains("100.0% 100.0%  tcp_sendmsg"));
    }
}
