//! A case: something that can be measured again and again, in several ways that are compared.
//!
//! The runner measures all alternatives of a case in turns (A B C, A B C, …), so that whatever changes on
//! the machine meanwhile meets all of them. To add a case, implement [`Case`] and list it in
//! `cases.rs`.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::lab::Lab;
use crate::sample::Sample;

/// Something to measure.
pub trait Case {
    /// Its name, by which `--case` finds it: `group/place/work`, without spaces.
    fn name(&self) -> String;

    /// What is done, in one line for people.
    fn about(&self) -> String;

    /// The ways to do it; the first is what the others are compared with.
    fn alternatives(&self) -> Vec<String>;

    /// How long one measurement of one alternative takes, about.
    fn estimate(&self, pace: &Pace) -> Duration;

    /// How many measurements of each alternative are made; the pace's rounds unless the case says less.
    fn rounds(&self, pace: &Pace) -> usize {
        pace.rounds
    }

    /// Whether the alternatives do the same, so that ratios mean something.
    fn compares(&self) -> bool {
        true
    }

    /// Called once before the first measurement: starts servers, lets programs be learned.
    ///
    /// # Errors
    /// The case can't be measured here; the others go on, and the report says why.
    fn prepare(&mut self, _bench: &Bench<'_>) -> Result<()> {
        Ok(())
    }

    /// Measures one alternative once.
    ///
    /// # Errors
    /// This measurement failed; the others go on, and the report says why.
    fn measure(&mut self, alternative: &str, bench: &Bench<'_>) -> Result<Measured>;

    /// Called once after the last measurement, failed or not: ends what [`Case::prepare`] started.
    fn finish(&mut self, _bench: &Bench<'_>) {}
}

/// What one measurement gave.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// The values; the first is the one that charts show.
    pub samples: Vec<Sample>,
    /// The commands that were run, as somebody would type them.
    pub commands: Vec<String>,
}

/// What cases measure with.
pub struct Bench<'a> {
    /// Cgroups, network namespaces and programs inside them.
    pub lab: &'a Lab,
    /// How thorough to be.
    pub pace: Pace,
    /// Where the release binaries are.
    pub binaries: &'a Path,
}

/// How thorough to be.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Measurements of each alternative.
    pub rounds: usize,
    /// What one measurement lasts, where a case can choose.
    pub measure: Duration,
    /// What goes before and does not count.
    pub warm_up: Duration,
    /// Whether everything is wanted, however long it takes.
    pub full: bool,
}

impl Pace {
    /// All of it in less than three minutes.
    pub const QUICK: Self = Self {
        rounds: 3,
        measure: Duration::from_millis(125),
        warm_up: Duration::from_millis(50),
        full: false,
    };
    /// The whole matrix.
    pub const FULL: Self = Self {
        rounds: 7,
        measure: Duration::from_millis(500),
        warm_up: Duration::from_millis(100),
        full: true,
    };
}
