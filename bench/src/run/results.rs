//! Everything that was measured, as it is written to JSON.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use crate::case::{Bench, Case};
use crate::sample::Sample;

/// The file's name in the folder of results.
const FILE: &str = "results.json";

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// When it began, seconds since 1970.
    pub begun: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// `quick` or `full`.
    pub pace: String,
    /// Whether it was ended before all was measured.
    pub interrupted: bool,
    /// The machine.
    pub machine: Machine,
    /// Whether it was quiet.
    pub noise: Noise,
    /// The cases.
    pub cases: Vec<CaseResult>,
}

/// Whether the machine was quiet.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Noise {
    /// Load average when the run began.
    pub load_at_start: f64,
    /// What other programs used of the machine, the median of all measurements, in percent.
    pub foreign: f64,
    /// What the host took away, in percent.
    pub stolen: f64,
    /// How much longer the same loop took at the 90th percentile than at its fastest, in percent.
    pub spread: f64,
    /// Why the machine counts as noisy; empty when it was quiet.
    pub reasons: Vec<String>,
}

/// A case.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// What was done.
    pub about: String,
    /// Whether the ways do the same, so that ratios mean something.
    pub compares: bool,
    /// The ways it was done; the first is the one to compare with.
    pub alternatives: Vec<AlternativeResult>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
}

/// One way to do a case.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AlternativeResult {
    /// Its name.
    pub name: String,
    /// The commands that were run.
    pub commands: Vec<String>,
    /// Every measurement.
    pub rounds: Vec<Round>,
}

/// One measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Round {
    /// Its number, from 0.
    pub round: usize,
    /// The values.
    pub samples: Vec<Sample>,
    /// What other programs used of the machine meanwhile, in percent.
    pub foreign: f64,
    /// What the host took away meanwhile, in percent.
    pub stolen: f64,
}

/// The middle of some values, and how far they spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Middle {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Middle {
    /// Of at least one value.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[half],
            _ => f64::midpoint(values[half - 1], values[half]),
        };
        Some(Self { median, least, most })
    }
}

impl Results {
    /// Nothing is measured yet.
    pub fn begin(bench: &Bench<'_>, machine: Machine) -> Self {
        let begun = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            begun,
            seconds: 0.0,
            pace: if bench.pace.full { "full" } else { "quick" }.into(),
            interrupted: false,
            machine,
            noise: Noise::default(),
            cases: Vec::new(),
        }
    }

    /// Writes them; a reader sees the old ones or the new ones.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let file = folder.join(FILE);
        let new = folder.join(format!("{FILE}.new"));
        fs::write(&new, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("{} can't be written", new.display()))?;
        Ok(fs::rename(&new, &file)?)
    }

    /// Those of the latest run.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = folder.join(FILE);
        let text = fs::read_to_string(&file)
            .with_context(|| format!("{} can't be read; run `cargo xtask bench` first", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is of another version", file.display()))
    }

    /// The case with this name.
    pub fn case(&self, name: &str) -> Option<&CaseResult> {
        self.cases.iter().find(|case| case.name == name)
    }
}

impl CaseResult {
    /// Nothing is measured yet.
    pub fn new(case: &dyn Case) -> Self {
        let alternatives =
            case.alternatives().into_iter().map(|name| AlternativeResult { name, ..Default::default() });
        Self {
            name: case.name(),
            about: case.about(),
            compares: case.compares(),
            alternatives: alternatives.collect(),
            failures: Vec::new(),
        }
    }

    /// An alternative by its name.
    pub fn alternative(&self, name: &str) -> Option<&AlternativeResult> {
        self.alternatives.iter().find(|alternative| alternative.name == name)
    }

    /// How many times as much one alternative gives as another, computed round by round.
    pub fn ratio(&self, metric: &str, of: &str, to: &str) -> Option<Middle> {
        let (of, to) = (self.alternative(of)?, self.alternative(to)?);
        let ratios = of.rounds.iter().filter_map(|round| {
            let same = to.rounds.iter().find(|other| other.round == round.round)?;
            let (value, base) = (round.value(metric)?, same.value(metric)?);
            (base > 0.0).then(|| value / base)
        });
        Middle::of(ratios.collect())
    }
}

impl AlternativeResult {
    /// The middle of a metric's values.
    pub fn middle(&self, metric: &str) -> Option<Middle> {
        Middle::of(self.rounds.iter().filter_map(|round| round.value(metric)).collect())
    }

    /// The metrics in their order, each with its first sample.
    pub fn metrics(&self) -> Vec<&Sample> {
        let mut found: Vec<&Sample> = Vec::new();
        for sample in self.rounds.iter().flat_map(|round| &round.samples) {
            if !found.iter().any(|known| known.metric == sample.metric) {
                found.push(sample);
            }
        }
        found
    }
}

impl Round {
    /// The value of a metric.
    pub fn value(&self, metric: &str) -> Option<f64> {
        self.samples.iter().find(|sample| sample.metric == metric).map(|sample| sample.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::metrics::P50;

    fn rounds(values: &[(usize, f64)]) -> Vec<Round> {
        let round =
            |&(round, value)| Round { round, samples: vec![P50.sample(value)], foreign: 0.0, stolen: 0.0 };
        values.iter().map(round).collect()
    }

    #[test]
    fn ratios_compare_what_was_measured_in_the_same_round() {
        let alternative = |name: &str| AlternativeResult { name: name.into(), ..Default::default() };
        let mut case = CaseResult {
            name: "c".into(),
            about: String::new(),
            compares: true,
            alternatives: vec![alternative("a"), alternative("b")],
            failures: Vec::new(),
        };
        case.alternatives[0].rounds = rounds(&[(0, 10.0), (1, 100.0), (2, 20.0)]);
        // Round 1 failed.
        case.alternatives[1].rounds = rounds(&[(0, 5.0), (2, 11.0)]);
        let ratio = case.ratio("p50", "b", "a").expect("two rounds in common");
        assert_eq!((ratio.least, ratio.median, ratio.most), (0.5, 0.525, 0.55));
        assert_eq!(case.ratio("p99", "b", "a"), None);
    }
}
