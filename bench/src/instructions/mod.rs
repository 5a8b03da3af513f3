//! Instruction counts of the codec and the cores: repeatable where times are not, so they can gate.
//!
//! Each work is done few and many times under callgrind; the difference is what one time costs, without
//! the start of the process and the making of what it works on.

mod agent;
mod codec;
mod manager;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

/// Times that a work is done, few and many.
const TIMES: [u32; 2] = [20, 220];
/// How much more than in the baseline a work may cost, in percent.
const ALLOWED: u64 = 5;
/// The baseline's file.
const BASELINE: &str = "bench/instructions.toml";

/// A work: given how often, it does it.
type Work = fn(u32);

/// Each with its name in the baseline.
const WORKS: [(&str, Work); 4] = [
    ("codec: all canonical messages read", codec::read),
    ("codec: all canonical messages written", codec::write),
    ("Manager: a session asked for, opened and closed", manager::session),
    ("agent: a session asked for, answered, opened and closed", agent::session),
];

/// Counts, and compares with the baseline.
#[derive(Args)]
pub struct Instructions {
    /// Make these counts the baseline, for this reason
    #[arg(long, value_name = "REASON")]
    accept: Option<String>,
}

/// One work, as callgrind runs it.
#[derive(Args)]
pub struct Repeat {
    work: usize,
    times: u32,
}

/// What was counted before.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Baseline {
    /// Why these counts are right.
    reason: String,
    /// The compiler that they hold for.
    rustc: String,
    /// The processor architecture that they hold for.
    architecture: String,
    /// Instructions for one time of each work.
    instructions: BTreeMap<String, u64>,
}

/// Does a work so often.
pub fn repeat(repeat: &Repeat) -> Result<()> {
    let (_, work) = WORKS.get(repeat.work).context("there is no such work")?;
    work(repeat.times);
    Ok(())
}

/// Counts all works.
pub fn run(instructions: &Instructions) -> Result<()> {
    let now = Baseline {
        reason: instructions.accept.clone().unwrap_or_default(),
        rustc: rustc()?,
        architecture: std::env::consts::ARCH.into(),
        instructions: (0..WORKS.len())
            .map(|work| Ok((WORKS[work].0.to_owned(), count(work)?)))
            .collect::<Result<_>>()?,
    };
    let file = Path::new(BASELINE);
    if let Some(reason) = &instructions.accept {
        if reason.trim().is_empty() {
            bail!("say why these counts are right: --accept REASON");
        }
        let head = "# Instructions of the codec and the cores; `cargo xtask instructions --accept REASON` writes it.\n";
        fs::write(file, head.to_owned() + &toml::to_string_pretty(&now)?)?;
        print!("{}", table(&now, &now));
        return Ok(());
    }
    let text = fs::read_to_string(file).with_context(|| format!("{BASELINE} can't be read"))?;
    let baseline: Baseline = toml::from_str(&text).with_context(|| format!("{BASELINE} is damaged"))?;
    print!("{}", table(&baseline, &now));
    if (&baseline.rustc, &baseline.architecture) != (&now.rustc, &now.architecture) {
        println!(
            "Not compared: the baseline is of {} on {}, this is {} on {}.",
            baseline.rustc, baseline.architecture, now.rustc, now.architecture
        );
        return Ok(());
    }
    let worse = worse(&baseline, &now);
    if !worse.is_empty() {
        bail!(
            "more than {ALLOWED} % more instructions:\n  {}\nMake it cheaper, or state the reason with \
             `cargo xtask instructions --accept REASON`.",
            worse.join("\n  ")
        );
    }
    Ok(())
}

/// What costs more than it may, or has no count yet.
fn worse(baseline: &Baseline, now: &Baseline) -> Vec<String> {
    let found = now.instructions.iter().filter_map(|(work, count)| {
        let Some(before) = baseline.instructions.get(work) else {
            return Some(format!("{work}: not in the baseline"));
        };
        let more = 100.0 * (*count as f64 / *before as f64 - 1.0);
        // In whole numbers, so that the limit itself is allowed.
        (100 * count > (100 + ALLOWED) * before)
            .then(|| format!("{work}: {before} became {count} (+{more:.1} %)"))
    });
    found.collect()
}

fn table(baseline: &Baseline, now: &Baseline) -> String {
    let line = |(work, count): (&String, &u64)| match baseline.instructions.get(work) {
        Some(before) => {
            let change = 100.0 * (*count as f64 / *before as f64 - 1.0);
            format!("{work:<58} {count:>10} instructions  {change:>+6.1} %\n")
        }
        None => format!("{work:<58} {count:>10} instructions\n"),
    };
    now.instructions.iter().map(line).collect()
}

/// Instructions for one time of a work.
fn count(work: usize) -> Result<u64> {
    let [few, many] = TIMES.map(|times| total(work, times));
    Ok((many? - few?) / u64::from(TIMES[1] - TIMES[0]))
}

/// Instructions of a process that does a work so often.
fn total(work: usize, times: u32) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["repeat", &work.to_string(), &times.to_string()])
        .output()
        .context("valgrind can't be run; `apt-get install valgrind` brings it")?;
    let text = String::from_utf8_lossy(&output.stderr);
    // "==123== Collected : 123456"
    let collected = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    collected.with_context(|| format!("callgrind counted nothing:\n{text}"))
}

fn rustc() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("rustc can't be run")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(count: u64) -> Baseline {
        Baseline { instructions: [("w".to_owned(), count)].into(), ..Baseline::default() }
    }

    #[test]
    fn up_to_five_percent_more_is_allowed_and_anything_less_is() {
        assert!(worse(&counted(1000), &counted(1050)).is_empty());
        assert!(worse(&counted(1000), &counted(10)).is_empty());
        assert_eq!(worse(&counted(1000), &counted(1051)), ["w: 1000 became 1051 (+5.1 %)"]);
        assert_eq!(worse(&Baseline::default(), &counted(1)), ["w: not in the baseline"]);
    }

    #[test]
    fn every_work_can_be_done() {
        for (_, work) in WORKS {
            work(3);
        }
    }
}
