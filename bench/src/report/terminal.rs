//! The short table at the end of a run.

use std::fmt::Write as _;

use crate::run::results::{CaseResult, Results};

/// Metrics of a line.
const SHOWN: usize = 3;

/// Each case with its first metrics, and ratios to its first alternative.
pub fn text(results: &Results) -> String {
    let mut text = String::new();
    for case in &results.cases {
        let _ = writeln!(text, "\n{}: {}", case.name, case.about);
        for failure in &case.failures {
            let _ = writeln!(text, "  {failure}");
        }
        alternatives(&mut text, case);
    }
    if !results.noise.reasons.is_empty() {
        let _ = writeln!(text, "\nThis machine was noisy: {}.", results.noise.reasons.join("; "));
    }
    text.push('\n');
    text
}

fn alternatives(text: &mut String, case: &CaseResult) {
    let Some(base) = case.alternatives.first() else { return };
    for alternative in case.alternatives.iter().filter(|alternative| !alternative.rounds.is_empty()) {
        let _ = write!(text, "  {:<22}", alternative.name);
        let shown = if case.compares { SHOWN } else { usize::MAX };
        for sample in alternative.metrics().into_iter().take(shown) {
            let Some(middle) = alternative.middle(&sample.metric) else { continue };
            let _ = write!(text, " {} {:<10}", sample.metric, sample.unit.text(middle.median));
            let ratio = case.ratio(&sample.metric, &alternative.name, &base.name);
            if let (true, Some(ratio)) = (case.compares, ratio) {
                let _ = write!(text, " × {:<5.2}", ratio.median);
            }
        }
        let line = text.trim_end().len();
        text.truncate(line);
        text.push('\n');
    }
}
