//! A peer's bytes become messages, and messages its dialect's text.

use crate::error::ParseError;
use crate::gathered::{Gathered, Read, tilde};
use crate::semi::{self, Semi};
use crate::{Envelope, Line, LineBuffer, Speaker};

/// One connection's way from bytes to messages and back, in the dialect of the peer's first message.
///
/// Accepts the canonical form, the same as separate lines (`type: …` alone on the first), and, where
/// it is allowed, the `semi` dialect of the public Java implementation, which is answered in kind.
#[derive(Debug)]
pub struct Conversation {
    lines: LineBuffer,
    /// A message that arrives as separate lines.
    gathered: Option<Gathered>,
    /// A message that was complete before it was asked for.
    next: Option<Result<Envelope, ParseError>>,
    speaker: Speaker,
    accepts_semi: bool,
    /// Whether extension lines are sent: from the beginning, or once the peer has sent one.
    extended: bool,
    dialect: Option<Dialect>,
    ignored: u64,
    ended: bool,
}

/// Bytes of messages that are encoded together, about.
const BATCH_BYTES: usize = 64 * 1024;

#[derive(Debug)]
enum Dialect {
    Tilde,
    Semi(Box<Semi>),
}

impl Conversation {
    /// A conversation with this peer in the canonical form, whose messages may have `limit` bytes.
    pub fn new(speaker: Speaker, limit: usize) -> Self {
        Self {
            lines: LineBuffer::with_limit(limit),
            gathered: None,
            next: None,
            speaker,
            accepts_semi: false,
            extended: true,
            dialect: None,
            ignored: 0,
            ended: false,
        }
    }

    /// Whether a peer whose first message is in the `semi` dialect is understood.
    #[must_use]
    pub fn accepting_semi(mut self, accepts: bool) -> Self {
        self.accepts_semi = accepts;
        self
    }

    /// Sends extension lines only when the peer has sent one itself: others may read by position.
    #[must_use]
    pub fn extended_on_request(mut self) -> Self {
        self.extended = false;
        self
    }

    /// Whether the peer's first message has come, so that its dialect is known.
    pub fn is_begun(&self) -> bool {
        self.dialect.is_some()
    }

    /// Messages that the peer's dialect has and SSMMP does not; nothing came of them.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Bytes that wait for the rest of their message; never more than one message and one read.
    pub fn held(&self) -> usize {
        self.lines.held() + self.gathered.as_ref().map_or(0, |gathered| gathered.text.len())
    }

    /// Adds bytes as they were read; none are the end of the stream, as they are for a read. Call
    /// [`Self::next_message`] until `None` after each.
    pub fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.lines.push(bytes);
        } else if !self.ended {
            self.ended = true;
            // A newline makes a rest without one a line like any other.
            if self.lines.held() > 0 {
                self.lines.push(b"\n");
            }
        }
    }

    /// The next message, or what is wrong with the peer's next line; at the end of the stream also what
    /// ended without a newline or in the middle of lines.
    pub fn next_message(&mut self) -> Option<Result<Envelope, ParseError>> {
        let of_lines = self.next_of_lines();
        let next =
            of_lines.or_else(|| self.gathered.take_if(|_| self.ended).and_then(Gathered::into_message));
        self.extended |= matches!(&next, Some(Ok(envelope)) if envelope.has_extensions());
        next
    }

    fn next_of_lines(&mut self) -> Option<Result<Envelope, ParseError>> {
        if let Some(next) = self.next.take() {
            return Some(next);
        }
        loop {
            let limit = self.lines.limit();
            let read = match self.lines.next_line()? {
                Line::TooLong(beginning) => Read::Message(Err(Envelope::too_long(beginning, limit))),
                Line::Whole(line) => {
                    let dialect =
                        self.dialect.get_or_insert_with(|| match self.accepts_semi && semi::is_semi(line) {
                            true => Dialect::Semi(Box::new(Semi::new(self.speaker.clone()))),
                            false => Dialect::Tilde,
                        });
                    match dialect {
                        Dialect::Semi(semi) => match semi.read(line) {
                            Ok(Some(envelope)) => Read::Message(Ok(envelope)),
                            Ok(None) => Read::Ignored,
                            Err(problem) => Read::Message(Err(problem)),
                        },
                        Dialect::Tilde => tilde(&mut self.gathered, line, limit),
                    }
                }
            };
            match read {
                Read::More => {}
                Read::Ignored => self.ignored += 1,
                Read::Message(message) => return Some(message),
                Read::Two(first, second) => {
                    self.next = second;
                    return Some(first);
                }
            }
        }
    }

    /// Appends a message in the peer's dialect. Where that has no such message nothing is sent, and
    /// what is returned stands for the peer's answer.
    pub fn encode(&mut self, envelope: &Envelope, out: &mut String) -> Option<Envelope> {
        match &mut self.dialect {
            Some(Dialect::Semi(semi)) => semi.write(envelope, out),
            _ if self.extended => {
                envelope.encode_into(out);
                None
            }
            _ => {
                envelope.encode_plain_into(out);
                None
            }
        }
    }

    /// Appends a message and those that wait behind it, as many as are well written at once. What is
    /// returned stands for the peer's answers to messages that its dialect does not have.
    pub fn encode_all(
        &mut self,
        first: Envelope,
        mut waiting: impl FnMut() -> Option<Envelope>,
        out: &mut String,
    ) -> Vec<Envelope> {
        let mut answers = Vec::new();
        let mut next = Some(first);
        while let Some(envelope) = next {
            answers.extend(self.encode(&envelope, out));
            next = if out.len() < BATCH_BYTES { waiting() } else { None };
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of a stream: their wire form, or what is wrong.
    fn messages(stream: &[u8]) -> Vec<String> {
        let text = |read: Result<Envelope, ParseError>| match read {
            Ok(envelope) => envelope.encode().trim_end().to_owned(),
            Err(error) => format!("error: {}", error.problem),
        };
        let mut conversation = Conversation::new(Speaker::Agent, 200);
        let mut found = Vec::new();
        for piece in stream.chunks(7) {
            conversation.push(piece);
            while let Some(read) = conversation.next_message() {
                found.push(text(read));
            }
            assert!(conversation.held() <= 2 * 207);
        }
        conversation.push(&[]);
        while let Some(read) = conversation.next_message() {
            found.push(text(read));
        }
        found
    }

    const SHUT: &str =
        "type: graceful_shutdown_response ~ message_id: 7 ~ sub_type: agent_to_Manager ~ status: 200";
    const LINES: &str =
        "type: graceful_shutdown_response\nmessage_id: 7\nsub_type: agent_to_Manager\nstatus: 200\n";

    #[test]
    fn a_message_may_come_as_separate_lines() {
        assert_eq!(messages(LINES.as_bytes()), [SHUT]);
        assert_eq!(messages(format!("{LINES}\n{LINES}").as_bytes()), [SHUT, SHUT]);
        assert_eq!(messages(format!("{LINES}{SHUT}\n{LINES}").as_bytes()), [SHUT, SHUT, SHUT]);
        assert_eq!(messages(LINES.replace('\n', "\r\n").as_bytes()), [SHUT]);
    }

    #[test]
    fn separate_lines_end_at_a_blank_line_the_next_type_or_the_end() {
        let reordered = "type: graceful_shutdown_response\nstatus_text: fine\nSTATUS: 200\nmessage_id: 7\nsub_type: agent_to_Manager\n";
        let expected = [format!("{SHUT} ~ status_text: fine")];
        assert_eq!(messages(format!("{reordered}\n").as_bytes()), expected);
        assert_eq!(messages(reordered.as_bytes()), expected);
        assert_eq!(messages(format!("{reordered}{SHUT}\n").as_bytes()), [&expected[0], SHUT]);
        assert_eq!(messages(format!("{LINES}x_more: late\n{LINES}").as_bytes()), [SHUT, SHUT]);
    }

    #[test]
    fn separate_lines_over_the_limit_are_told_once_and_skipped() {
        let long = format!("type: graceful_shutdown_response\n{}\n{SHUT}\n", "x_more: much\n".repeat(50));
        assert_eq!(messages(long.as_bytes()), ["error: the message is longer than 200 bytes", SHUT]);
        let torn = b"type: graceful_shutdown_response\nmessage_id: \xff\nstatus: 200\n\n";
        assert_eq!(messages(torn), ["error: the message is not UTF-8"]);
    }

    #[test]
    fn the_end_of_the_stream_ends_the_last_message() {
        assert_eq!(messages(SHUT.as_bytes()), [SHUT]);
        assert_eq!(
            messages(b"type: graceful_shutdown_response"),
            ["error: the field `message_id` is missing"]
        );
    }

    #[test]
    fn those_that_wait_are_encoded_together_up_to_a_bound() {
        let mut message = Envelope::parse(SHUT).expect("good");
        message.extensions.push(("x_more".into(), "much ".repeat(2_000)));
        let mut conversation = Conversation::new(Speaker::Agent, 200);
        let (mut taken, mut out) = (0, String::new());
        let waiting = || {
            taken += 1;
            Some(message.clone())
        };
        assert!(conversation.encode_all(message.clone(), waiting, &mut out).is_empty());
        assert_eq!(out.lines().count(), taken + 1);
        assert!((BATCH_BYTES..BATCH_BYTES + message.encode().len()).contains(&out.len()));
    }

    #[test]
    fn a_blank_line_alone_is_an_empty_message() {
        assert_eq!(messages(b"\n"), ["error: the message is empty"]);
    }
}
