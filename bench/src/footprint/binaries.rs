//! Sizes of the programs as they are shipped.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::case::{Bench, Case, Measured, Pace};
use crate::sample::{Metric, Unit};

/// Size of the file, with the debug information that it is built with.
const SIZE: Metric = Metric::less("file", Unit::Bytes);
/// Size of what is loaded: code and data.
const LOADED: Metric = Metric::less("code and data", Unit::Bytes);

/// The case.
pub struct Binaries;

impl Case for Binaries {
    fn name(&self) -> String {
        "footprint/binaries".into()
    }

    fn about(&self) -> String {
        "sizes of the programs".into()
    }

    fn alternatives(&self) -> Vec<String> {
        ["patchbay-agent", "patchbay-manager", "patchbay"].map(String::from).to_vec()
    }

    fn compares(&self) -> bool {
        false
    }

    fn rounds(&self, _pace: &Pace) -> usize {
        1
    }

    fn estimate(&self, _pace: &Pace) -> Duration {
        Duration::from_millis(10)
    }

    fn measure(&mut self, alternative: &str, bench: &Bench<'_>) -> Result<Measured> {
        let file = bench.binaries.join(alternative);
        let size = fs::metadata(&file).with_context(|| format!("{} is not built", file.display()))?.len();
        let mut samples = Vec::new();
        let text = std::process::Command::new("size").arg(&file).output()?;
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        let loaded = text.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)?.parse::<f64>().ok());
        samples.extend(loaded.map(|loaded| LOADED.sample(loaded)));
        samples.push(SIZE.sample(size as f64));
        Ok(Measured { samples, commands: vec![format!("size target/release/{alternative}")] })
    }
}
