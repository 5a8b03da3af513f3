//! The summary as Markdown.

use std::fmt::Write as _;

use crate::run::results::Results;

/// All of it.
pub fn text(results: &Results) -> String {
    let mut text = String::new();
    for case in &results.cases {
        let _ = writeln!(text, "\n{}: {}", case.name, case.about);
        let Some(base) = case.alternatives.first() else { continue };
        for alternative in &case.alternatives {
            let _ = write!(text, "  {:<22}", alternative.name);
            let Some(round) = alternative.rounds.first() else {
                let _ = writeln!(text, " -");
                continue;
            };
            for sample in &round.samples {
                let Some(middle) = alternative.middle(&sample.metric) else { continue };
                let ratio = case.ratio(&sample.metric, &alternative.name, &base.name);
                let _ = write!(
                    text,
                    " {} {} ({:.2});",
                    sample.metric,
                    sample.unit.text(middle.median),
                    ratio.map_or(f64::NAN, |ratio| ratio.median)
                );
            }
            text.push('\n');
        }
        for failure in &case.failures {
            let _ = writeln!(text, "  {failure}");
        }
    }
    text
}
