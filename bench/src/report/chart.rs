//! Charts as SVG, made for a page that stands alone.

use std::fmt::Write as _;

use crate::run::results::{AlternativeResult, CaseResult, Middle};

/// Width of a chart, in its own units.
const WIDTH: f64 = 560.0;
/// Height of a bar with its gap.
const ROW: f64 = 24.0;
/// Width of the names.
const NAMES: f64 = 140.0;
/// Width of the values behind the bars.
const VALUES: f64 = 130.0;

/// Colours by alternative, so that each looks the same in all charts.
pub fn colour(alternative: &str) -> &'static str {
    match alternative {
        "Patchbay auto" | "redirection on" | "with the agent" => "var(--auto)",
        "Patchbay always" => "var(--always)",
        "plain recipe (unsafe)" => "var(--recipe)",
        "Unix socket" => "var(--unix)",
        "HAProxy pair" => "var(--haproxy)",
        "nginx pair" => "var(--nginx)",
        _ => "var(--tcp)",
    }
}

/// One bar for each alternative, with the least and the most as a line.
pub fn bars(case: &CaseResult, metric: &str) -> String {
    let rows: Vec<(&AlternativeResult, Middle)> =
        case.alternatives.iter().filter_map(|one| Some((one, one.middle(metric)?))).collect();
    let most = rows.iter().map(|(_, middle)| middle.median).fold(0.0, f64::max);
    if rows.is_empty() || most <= 0.0 {
        return String::new();
    }
    let room = WIDTH - NAMES - VALUES;
    let scale = |value: f64| (room * value / most).min(room);
    let height = ROW * rows.len() as f64 + 4.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}: {}\">",
        escape(&case.name),
        escape(metric)
    );
    for (index, (alternative, middle)) in rows.iter().enumerate() {
        let y = ROW * index as f64 + 3.0;
        let text = y + 13.0;
        let length = scale(middle.median).max(1.0);
        let unit =
            alternative.metrics().iter().find(|sample| sample.metric == metric).map(|sample| sample.unit);
        let mut value = unit.map_or_else(String::new, |unit| unit.text(middle.median));
        let base = &case.alternatives[0].name;
        if case.compares
            && *base != alternative.name
            && let Some(ratio) = case.ratio(metric, &alternative.name, base)
        {
            let _ = write!(value, "  <tspan class=\"ratio\">× {:.2}</tspan>", ratio.median);
        }
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{NAMES}\" y=\"{y}\" width=\"{length:.1}\" height=\"17\" rx=\"2\" fill=\"{}\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{mid}\" y2=\"{mid}\" class=\"spread\"/>\
             <text x=\"{:.1}\" y=\"{text}\">{value}</text>",
            NAMES - 8.0,
            escape(&alternative.name),
            colour(&alternative.name),
            NAMES + scale(middle.least),
            NAMES + scale(middle.most),
            NAMES + length.max(scale(middle.most)) + 8.0,
            mid = y + 8.5,
        );
    }
    svg.push_str("</svg>");
    svg
}

/// Text that HTML and SVG take as it is.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
