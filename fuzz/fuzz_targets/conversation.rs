//! However a stream is cut, its lines and messages are the same, in every dialect, and memory stays bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ssmmp::{Conversation, Envelope, InstanceId, Line, LineBuffer, Name, Speaker};

const LIMIT: usize = 256;

fn lines<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Option<Vec<u8>>> {
    let mut buffer = LineBuffer::with_limit(LIMIT);
    let mut lines = Vec::new();
    for piece in pieces {
        buffer.push(piece);
        while let Some(line) = buffer.next_line() {
            lines.push(match line {
                // How much is kept of an over-long line depends on how it arrived.
                Line::TooLong(_) => None,
                Line::Whole(bytes) => Some(bytes.to_vec()),
            });
        }
        assert!(buffer.held() <= LIMIT + 1, "no more than one line is held");
    }
    lines
}

fn messages<'a>(
    speaker: &Speaker,
    semi: bool,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Vec<Option<Envelope>> {
    let mut conversation = Conversation::new(speaker.clone(), LIMIT).accepting_semi(semi);
    let mut found = Vec::new();
    let end: &[u8] = &[];
    for piece in pieces.filter(|piece| !piece.is_empty()).chain([end]) {
        conversation.push(piece);
        while let Some(read) = conversation.next_message() {
            found.push(read.ok());
        }
        assert!(conversation.held() <= 2 * (LIMIT + 1), "no more than one message is held");
    }
    let mut out = String::new();
    for envelope in found.iter().flatten() {
        conversation.encode(envelope, &mut out);
        assert!(out.is_empty() || out.ends_with('\n'));
    }
    found
}

fuzz_target!(|bytes: &[u8]| {
    assert_eq!(lines(bytes.chunks(1)), lines(std::iter::once(bytes)));
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let speaker = match kind % 3 {
        0 => Speaker::Agent,
        1 => Speaker::Instance(Name::unnamed(), InstanceId(7)),
        _ => Speaker::Server,
    };
    let semi = kind & 8 != 0;
    assert_eq!(messages(&speaker, semi, bytes.chunks(1)), messages(&speaker, semi, std::iter::once(bytes)));
});
