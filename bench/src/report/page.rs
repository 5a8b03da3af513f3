//! One page that stands alone: charts, tables, the machine, the commands.

use std::fmt::Write as _;

use super::chart::{bars, colour, escape};
use super::date;
use crate::run::results::{CaseResult, Results};
use crate::sample::Better;
use crate::targets;

/// Parts of the page: what names of cases begin with, the heading, what to know.
const PARTS: [(&str, &str, &str); 8] = [
    (
        "matrix/loopback/request",
        "Requests on loopback",
        "Median latency; shorter is better. × is the ratio to the first line, computed in each round.",
    ),
    (
        "matrix/namespaces/request",
        "Requests between network namespaces",
        "The way between pods: a veth pair each, a bridge, connection tracking. Shorter is better.",
    ),
    ("matrix/loopback/stream", "Streams on loopback", "Bytes that arrive; longer is better."),
    ("matrix/namespaces/stream", "Streams between network namespaces", "Longer is better."),
    (
        "matrix/",
        "Short connections, and both directions at once",
        "Short connections: latency of connecting, one request and closing; shorter is better. Halves: bytes; longer is better.",
    ),
    ("programs/", "Real programs", "By their own benchmarks."),
    ("control/", "Control plane", ""),
    ("footprint/", "Footprint", ""),
];

const STYLE: &str = include_str!("page.css");

/// The page.
pub fn html(results: &Results) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Patchbay benchmark</title><style>{STYLE}</style><body><main>\
         <h1>What redirection brings on this machine</h1>"
    );
    head(&mut page, results);
    target_table(&mut page, results);
    let mut shown = vec![false; results.cases.len()];
    for (beginning, heading, note) in PARTS {
        let cases: Vec<&CaseResult> = results
            .cases
            .iter()
            .zip(&mut shown)
            .filter(|(case, shown)| !**shown && case.name.starts_with(beginning))
            .map(|(case, shown)| {
                *shown = true;
                case
            })
            .collect();
        part(&mut page, heading, note, &cases);
    }
    let rest = results.cases.iter().zip(&shown).filter(|(_, shown)| !**shown).map(|(case, _)| case);
    part(&mut page, "More", "", &rest.collect::<Vec<_>>());
    machine(&mut page, results);
    page.push_str("</main></body></html>\n");
    page
}

fn head(page: &mut String, results: &Results) {
    let machine = &results.machine;
    let _ = write!(
        page,
        "<p class=\"lead\">{} · {} processor{} · Linux {} · {} · Patchbay {}</p>",
        escape(&machine.processor),
        machine.processors,
        if machine.processors == 1 { "" } else { "s" },
        escape(&machine.kernel),
        date(results.begun),
        escape(&machine.patchbay)
    );
    let rounds = results.cases.iter().flat_map(|case| &case.alternatives).map(|one| one.rounds.len()).max();
    let _ = write!(
        page,
        "<p>A <code>--{}</code> run of {:.0} s. Alternatives were measured in turns, up to {} times each; a bar is \
         the median, the thin line goes from the least to the most.{}</p>",
        results.pace,
        results.seconds,
        rounds.unwrap_or(0),
        if results.interrupted { " <b>It was interrupted: not all was measured.</b>" } else { "" }
    );
    let noise = &results.noise;
    if noise.reasons.is_empty() {
        page.push_str("<p class=\"quiet\">The machine was quiet.</p>");
    } else {
        let _ = write!(
            page,
            "<p class=\"noisy\"><b>This machine was noisy:</b> {}. Ratios within a round hold better than the values \
             themselves; run it again on a quiet machine before you rely on small differences.</p>",
            escape(&noise.reasons.join("; "))
        );
    }
}

fn target_table(page: &mut String, results: &Results) {
    page.push_str(
        "<h2>Targets</h2><p>The worst cell that each target covers, as ratios in this run.</p>\
         <table><tr><th>work<th>against<th>target<th>reached",
    );
    for target in targets::all(results) {
        let _ = write!(
            page,
            "<tr><td>{}<td>{}<td>{}<td>",
            target.work.replace('`', ""),
            target.against,
            target.wanted
        );
        if target.reached.is_empty() {
            page.push_str("<span class=\"none\">not measured</span>");
        }
        for reached in &target.reached {
            let class = if reached.good { "good" } else { "bad" };
            let _ = write!(
                page,
                "<div><span class=\"{class}\">{} {}</span> {} <span class=\"cell\">{}</span></div>",
                if reached.good { "✓" } else { "✗" },
                reached.text,
                reached.by,
                escape(&reached.cell)
            );
        }
    }
    page.push_str("</table>");
}

fn part(page: &mut String, heading: &str, note: &str, cases: &[&CaseResult]) {
    if cases.is_empty() {
        return;
    }
    let _ = write!(page, "<h2>{heading}</h2><p>{note}</p><div class=\"cards\">");
    for case in cases {
        card(page, case);
    }
    page.push_str("</div>");
}

fn card(page: &mut String, case: &CaseResult) {
    let _ = write!(page, "<section class=\"card\" id=\"{}\"><h3>{}</h3>", case.name, escape(&case.about));
    let metrics = metrics(case);
    // Values that are not alternatives of each other have no common scale but their own.
    for metric in metrics.iter().take(if case.compares { 1 } else { usize::MAX }) {
        let better = if metric.1 == Better::Less { "less" } else { "more" };
        let chart = bars(case, &metric.0);
        let _ = write!(page, "<p class=\"metric\">{} ({better} is better)</p>{chart}", escape(&metric.0));
    }
    for failure in &case.failures {
        let _ = write!(page, "<p class=\"noisy\">{}</p>", escape(failure));
    }
    if case.compares {
        details(page, case, &metrics);
    }
    commands(page, case);
    page.push_str("</section>");
}

/// The metrics of a case in their order, each with what is better.
fn metrics(case: &CaseResult) -> Vec<(String, Better)> {
    let mut found: Vec<(String, Better)> = Vec::new();
    for sample in case.alternatives.iter().flat_map(|one| one.metrics()) {
        if !found.iter().any(|(name, _)| *name == sample.metric) {
            found.push((sample.metric.clone(), sample.better));
        }
    }
    found
}

fn details(page: &mut String, case: &CaseResult, metrics: &[(String, Better)]) {
    page.push_str("<details><summary>all values</summary><div class=\"wide\"><table><tr><th>");
    for (metric, _) in metrics {
        let _ = write!(page, "<th>{}", escape(metric));
    }
    for alternative in &case.alternatives {
        let _ = write!(
            page,
            "<tr><td><span class=\"dot\" style=\"background:{}\"></span>{}",
            colour(&alternative.name),
            escape(&alternative.name)
        );
        for (metric, better) in metrics {
            let Some(middle) = alternative.middle(metric) else {
                page.push_str("<td>–");
                continue;
            };
            let sample = alternative.metrics().into_iter().find(|sample| sample.metric == *metric);
            let text = |value| sample.map_or_else(String::new, |sample| sample.unit.text(value));
            let _ = write!(
                page,
                "<td title=\"{} to {}; {} is better\">{}",
                text(middle.least),
                text(middle.most),
                if *better == Better::Less { "less" } else { "more" },
                text(middle.median)
            );
        }
    }
    page.push_str("</table></div></details>");
}

fn commands(page: &mut String, case: &CaseResult) {
    page.push_str("<details><summary>commands</summary>");
    for alternative in case.alternatives.iter().filter(|one| !one.commands.is_empty()) {
        let lines = alternative.commands.iter().map(|line| escape(line)).collect::<Vec<_>>().join("\n");
        let _ = write!(page, "<p>{}</p><pre>{lines}</pre>", escape(&alternative.name));
    }
    page.push_str("</details>");
}

fn machine(page: &mut String, results: &Results) {
    let machine = &results.machine;
    let noise = &results.noise;
    let _ = write!(
        page,
        "<h2>The machine</h2><table class=\"facts\">\
         <tr><td>processor<td>{} × {}{}<tr><td>memory<td>{:.1} GiB<tr><td>system<td>{}, Linux {}\
         <tr><td>mitigations<td>{}<tr><td>placing<td>{}<tr><td>idle processors<td>{}<tr><td>between namespaces<td>{}<tr><td>programs<td>{}\
         <tr><td>noise<td>load {:.2} at the start; other programs {:.1} %, the host {:.1} % of the machine; the same loop \
         up to {:.0} % longer</table>\
         <p>The commands of both ends ran in cgroups and network namespaces of their own, at the highest priority (nice \
         −20), so that other programs disturb less. CPU time is that of both ends and of the sidecars, the kernel’s work \
         for them included.</p>",
        machine.processors,
        escape(&machine.processor),
        if machine.virtual_machine { ", in a virtual machine" } else { "" },
        machine.memory as f64 / f64::from(1 << 30),
        escape(&machine.system),
        escape(&machine.kernel),
        escape(&machine.mitigations.join("; ")),
        escape(&machine.pinning),
        escape(&machine.idle),
        escape(&machine.filter),
        machine.programs.iter().map(|program| escape(program)).collect::<Vec<_>>().join("<br>"),
        noise.load_at_start,
        noise.foreign,
        noise.stolen,
        noise.spread,
    );
}
