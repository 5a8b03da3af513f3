//! A message that arrives as separate lines, gathered into one.

use crate::error::{ParseError, Problem};
use crate::fields::SEPARATOR;
use crate::{Envelope, MessageType};

/// The lines of one message so far, as one text.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) text: String,
    message_type: MessageType,
    state: Gathering,
}

#[derive(Debug, PartialEq, Eq)]
enum Gathering {
    Open,
    /// Over the limit, which was said; its further lines are skipped.
    TooLong,
    /// Its last field has come; further lines are none of ours.
    Done,
}

/// What a line brings.
pub(crate) enum Read {
    More,
    Ignored,
    Message(Result<Envelope, ParseError>),
    Two(Result<Envelope, ParseError>, Option<Result<Envelope, ParseError>>),
}

/// A line in the canonical form, or one of a message that arrives as separate lines.
pub(crate) fn tilde(gathered: &mut Option<Gathered>, line: &[u8], limit: usize) -> Read {
    let begun = alone(line).map(|(text, message_type)| Gathered {
        text: text.to_owned(),
        message_type,
        state: Gathering::Open,
    });
    let Some(open) = gathered else {
        if begun.is_some() {
            *gathered = begun;
            return Read::More;
        }
        return Read::Message(Envelope::parse_bytes(line));
    };
    let is_blank = line.trim_ascii().is_empty();
    if is_blank || is_type(line) {
        let before = gathered.take().and_then(Gathered::into_message);
        let now = match begun {
            Some(_) => {
                *gathered = begun;
                None
            }
            None if is_blank => None,
            None => Some(Envelope::parse_bytes(line)),
        };
        return match (before, now) {
            (Some(before), now) => Read::Two(before, now),
            (None, Some(now)) => Read::Message(now),
            (None, None) => Read::More,
        };
    }
    open.add(line, limit)
}

impl Gathered {
    fn add(&mut self, line: &[u8], limit: usize) -> Read {
        if self.state != Gathering::Open {
            return Read::More;
        }
        if self.text.len() + SEPARATOR.len() + line.len() > limit {
            self.state = Gathering::TooLong;
            let beginning = std::mem::take(&mut self.text);
            return Read::Message(Err(Envelope::too_long(beginning.as_bytes(), limit)));
        }
        let Ok(text) = std::str::from_utf8(line) else {
            self.state = Gathering::Done;
            let mut bytes = std::mem::take(&mut self.text).into_bytes();
            bytes.extend_from_slice(SEPARATOR.as_bytes());
            bytes.extend_from_slice(line);
            return Read::Message(Envelope::parse_bytes(&bytes));
        };
        self.text.push_str(SEPARATOR);
        self.text.push_str(text);
        let name = text.split_once(':').map(|(name, _)| name.trim());
        if name.is_some_and(|name| Some(name) == self.message_type.last_field()) {
            let read = Envelope::parse(&self.text);
            // In another order the last field comes early: what is missing may still come.
            if !matches!(&read, Err(ParseError { problem: Problem::Missing(_), .. })) {
                self.state = Gathering::Done;
                self.text = String::new();
                return Read::Message(read);
            }
        }
        Read::More
    }

    pub(crate) fn into_message(self) -> Option<Result<Envelope, ParseError>> {
        (self.state == Gathering::Open).then(|| Envelope::parse(&self.text))
    }
}

/// A line that holds a known type and nothing else begins a message of separate lines.
fn alone(line: &[u8]) -> Option<(&str, MessageType)> {
    let text = std::str::from_utf8(line).ok()?.trim();
    let (name, value) = text.split_once(':')?;
    let message_type = MessageType::find(value.trim())?;
    name.trim().eq_ignore_ascii_case("type").then_some((text, message_type))
}

fn is_type(line: &[u8]) -> bool {
    let line = line.trim_ascii_start();
    line.len() > 4
        && line[..4].eq_ignore_ascii_case(b"type")
        && line[4..].trim_ascii_start().starts_with(b":")
}
