//! The summary as Markdown, for the README.

use std::fmt::Write as _;

use super::date;
use crate::matrix::way::Way;
use crate::run::results::{CaseResult, Results};
use crate::targets;

/// Cells that are shown, with the metric and a name for people.
const ROWS: [(&str, &str, &str); 10] = [
    ("matrix/loopback/request/64B", "p50", "requests of 64 B, latency"),
    ("matrix/loopback/request/16KiB", "p50", "requests of 16 KiB, latency"),
    ("matrix/loopback/request/64KiB", "p50", "requests of 64 KiB, latency"),
    ("matrix/loopback/stream/16KiB", "throughput", "stream of 16 KiB writes, bytes/s"),
    ("matrix/loopback/stream/512B", "throughput", "stream of 512 B writes, bytes/s"),
    ("matrix/namespaces/request/64B", "p50", "between namespaces: 64 B, latency"),
    ("matrix/namespaces/request/64KiB", "p50", "between namespaces: 64 KiB, latency"),
    ("matrix/namespaces/stream/64KiB", "throughput", "between namespaces: stream of 64 KiB writes"),
    ("programs/redis", "rate", "redis-benchmark GET, requests/s"),
    ("programs/redis-pipelined", "rate", "redis-benchmark GET, 16 in a pipeline"),
];

/// All of it.
pub fn markdown(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = format!(
        "`cargo xtask bench --{}` on {} × {}{}, Linux {}, {}: the median of plain TCP, and for the others the median of \
         the ratios to it in the same round. Latency: less is better.{}\n\n",
        results.pace,
        machine.processors,
        machine.processor,
        if machine.virtual_machine { " (virtual machine)" } else { "" },
        machine.kernel.split(' ').next().unwrap_or_default(),
        date(results.begun),
        match results.noise.reasons.is_empty() {
            true => String::new(),
            false => format!(" The machine was noisy: {}.", results.noise.reasons.join("; ")),
        }
    );
    table(&mut text, results);
    text.push('\n');
    target_table(&mut text, results);
    text
}

fn table(text: &mut String, results: &Results) {
    text.push_str("| |");
    for way in Way::ALL {
        let _ = write!(text, " {} |", way.name());
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(Way::ALL.len()));
    text.push('\n');
    for (name, metric, shown) in ROWS {
        let Some(case) = results.case(name) else { continue };
        let _ = write!(text, "| {shown} |");
        for way in Way::ALL {
            let _ = write!(text, " {} |", cell(case, metric, way));
        }
        text.push('\n');
    }
}

fn cell(case: &CaseResult, metric: &str, way: Way) -> String {
    if way == Way::Tcp {
        let base = case.alternative(way.name());
        let unit = base.and_then(|base| {
            base.metrics().into_iter().find(|sample| sample.metric == metric).map(|s| s.unit)
        });
        let middle = base.and_then(|base| base.middle(metric));
        return match (unit, middle) {
            (Some(unit), Some(middle)) => unit.text(middle.median),
            _ => "–".into(),
        };
    }
    let ratio = case.ratio(metric, way.name(), Way::Tcp.name());
    ratio.map_or_else(|| "–".into(), |ratio| format!("{:.2}", ratio.median))
}

fn target_table(text: &mut String, results: &Results) {
    text.push_str("| target: work | against | wanted | reached in the worst cell |\n|---|---|---|---|\n");
    for target in targets::all(results) {
        let reached: Vec<String> = target
            .reached
            .iter()
            .map(|reached| {
                let cell =
                    if reached.cell.is_empty() { String::new() } else { format!(" ({})", reached.cell) };
                format!("{} {}: {}{cell}", if reached.good { "✓" } else { "✗" }, reached.by, reached.text)
            })
            .collect();
        let reached = if reached.is_empty() { "not measured".into() } else { reached.join("; ") };
        let _ = writeln!(text, "| {} | {} | {} | {reached} |", target.work, target.against, target.wanted);
    }
}
