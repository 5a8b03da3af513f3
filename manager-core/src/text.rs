//! Peers' texts, no longer than is kept.

use ssmmp::Envelope;
use ssmmp::extension::Output;

/// Longest line, name or reason of a peer's that is kept, in characters.
pub(crate) const LONGEST_TEXT: usize = 500;
/// Lines of an instance's last output that are kept.
const MAX_OUTPUT_LINES: usize = 40;

/// The last output lines that an agent sent with a failure.
pub(crate) fn output_of(envelope: &Envelope) -> Vec<String> {
    let lines = envelope.line().map(|Output(lines)| lines).unwrap_or_default();
    lines.iter().take(MAX_OUTPUT_LINES).map(|line| first(line, LONGEST_TEXT)).collect()
}

/// A peer's text, no longer than is kept.
pub(crate) fn first(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}
