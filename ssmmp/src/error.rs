use std::borrow::Cow;
use std::fmt;

use crate::{Envelope, MessageId, MessageType};

/// Why a line is not a message; the fault is the sender's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    /// What is wrong.
    pub problem: Problem,
    /// The message's type, when the line said a known one.
    pub message_type: Option<MessageType>,
    /// The message's id, when it could be read.
    pub message_id: Option<MessageId>,
    /// The answer that tells the sender (400), in the message's own response type. `None` where
    /// the type has no response: such a message is logged and counted only.
    pub refusal: Option<Box<Envelope>>,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The line holds no field at all.
    #[error("the message is empty")]
    Empty,
    /// The line is not UTF-8.
    #[error("the message is not UTF-8")]
    NotUtf8,
    /// The line is longer than the limit; its rest was skipped.
    #[error("the message is longer than {limit} bytes")]
    TooLong {
        /// Bytes allowed.
        limit: usize,
    },
    /// A segment has no `name: value` form.
    #[error("`{segment}` is not of the form `name: value`")]
    NotAField {
        /// The offending segment, cut to a readable length.
        segment: String,
    },
    /// The first line is not `type: …`.
    #[error("the first line must be `type: …`, it is `{found}`")]
    TypeNotFirst {
        /// The name found in its place.
        found: String,
    },
    /// A type that SSMMP/1.1 does not have.
    #[error("unknown message type `{0}`")]
    UnknownType(String),
    /// The line is one of a dialect that is not accepted here.
    #[error("the peer speaks the `semi` dialect, which is accepted only with `--accept-dialect semi`")]
    DialectNotAccepted,
    /// A mandatory field is absent.
    #[error("the field `{0}` is missing")]
    Missing(&'static str),
    /// A field (or an alias of it) stands twice.
    #[error("the field `{0}` stands twice")]
    Duplicate(String),
    /// A value can't be read.
    #[error("the field `{field}` has the value `{value}`: {reason}")]
    Invalid {
        /// The field's name.
        field: &'static str,
        /// The value, cut to a readable length.
        value: String,
        /// What is expected.
        reason: String,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(message_type) = self.message_type {
            write!(f, "{message_type}")?;
            if let Some(id) = self.message_id {
                write!(f, " {id}")?;
            }
            f.write_str(": ")?;
        }
        self.problem.fmt(f)
    }
}

/// Longest piece of a peer's text repeated in an error, in characters.
const QUOTE_CHARACTERS: usize = 80;

/// Cuts a peer's text to a length fit for a log line, its control characters escaped.
pub(crate) fn quote(text: &str) -> String {
    let end = text.char_indices().nth(QUOTE_CHARACTERS).map(|(end, _)| end);
    let mut quoted = printable(&text[..end.unwrap_or(text.len())]).into_owned();
    if end.is_some() {
        quoted.push('…');
    }
    quoted
}

/// A text with its control characters escaped (`\u{0}`), so that it drives no terminal and begins no line of a log.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unseen) {
        return Cow::Borrowed(text);
    }
    let mut printable = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match is_unseen(character) {
            true => printable.extend(character.escape_default()),
            false => printable.push(character),
        }
    }
    Cow::Owned(printable)
}

/// Whether a character does something else in a terminal than to be seen: control characters, those that turn the
/// direction of writing, and those that have no width, with which two texts look the same.
#[must_use]
pub fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_short_and_controls_no_terminal() {
        assert_eq!(quote("a\0b\x1b[2J\u{9b}ü"), "a\\u{0}b\\u{1b}[2J\\u{9b}ü");
        assert_eq!(printable("n0\u{200b}\u{202e}\u{feff}"), "n0\\u{200b}\\u{202e}\\u{feff}");
        assert_eq!(quote(&"x".repeat(QUOTE_CHARACTERS)).chars().count(), QUOTE_CHARACTERS);
        assert!(quote(&"ü".repeat(QUOTE_CHARACTERS + 1)).ends_with("ü…"));
    }
}
