//! A flame graph as one SVG: width is time, what is above is called by what is below.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::stacks::Stacks;
use crate::report::escape;

/// Width of the graph, in pixels.
const WIDTH: f64 = 1400.0;
/// Height of a frame.
const ROW: f64 = 17.0;
/// Frames narrower than this are left out.
const NARROWEST: f64 = 0.6;
/// Width of a letter, about.
const LETTER: f64 = 6.6;
/// Room for the title.
const TITLE: f64 = 34.0;

/// A function with what it called.
#[derive(Default)]
struct Frame {
    count: u64,
    called: BTreeMap<String, Frame>,
}

impl Frame {
    fn depth(&self) -> usize {
        1 + self.called.values().map(Frame::depth).max().unwrap_or(0)
    }
}

/// The graph.
pub fn svg(title: &str, stacks: &Stacks) -> String {
    let mut root = Frame::default();
    for (stack, count) in stacks.iter() {
        root.count += count;
        let mut frame = &mut root;
        for name in stack {
            frame = frame.called.entry(name.clone()).or_default();
            frame.count += count;
        }
    }
    let height = TITLE + ROW * root.depth() as f64 + 6.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" \
         font-size=\"11\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\
         <text x=\"8\" y=\"21\" font-size=\"15\">{}</text>",
        escape(title)
    );
    let scale = WIDTH / root.count.max(1) as f64;
    draw(&mut svg, "all", &root, 0.0, height - ROW - 3.0, scale, root.count);
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, name: &str, frame: &Frame, x: f64, y: f64, scale: f64, all: u64) {
    let width = frame.count as f64 * scale;
    if width < NARROWEST {
        return;
    }
    let letters = ((width - 6.0) / LETTER).max(0.0) as usize;
    let shown: String = if letters >= 3 { name.chars().take(letters).collect() } else { String::new() };
    let _ = write!(
        svg,
        "<g><title>{} {:.1} %</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{}\" rx=\"1\" \
         fill=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
        escape(name),
        100.0 * frame.count as f64 / all.max(1) as f64,
        width - 0.5,
        ROW - 1.0,
        colour(name),
        x + 3.0,
        y + 12.0,
        escape(&shown)
    );
    let mut next = x;
    for (name, called) in &frame.called {
        draw(svg, name, called, next, y - ROW, scale, all);
        next += called.count as f64 * scale;
    }
}

/// BPF programs and what redirects stand out.
fn colour(name: &str) -> &'static str {
    match name {
        _ if name.starts_with("bpf_prog") => "#c678dd",
        _ if name.contains("bpf") || name.contains("psock") || name.contains("sock_map") => "#e5a0f0",
        _ if name.starts_with("tcp") || name.starts_with("ip_") || name.starts_with("__tcp") => "#f2b880",
        _ if name.contains("copy") => "#e88a7d",
        _ if name.contains("sched") || name.contains("wake") || name.contains("futex") => "#8fc1e3",
        _ => "#e8dcb5",
    }
}
