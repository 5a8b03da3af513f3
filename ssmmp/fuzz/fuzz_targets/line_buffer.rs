//! However a stream is cut, its lines are the same, and memory stays bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ssmmp::{Line, LineBuffer};

const LIMIT: usize = 32;

fn lines<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<Option<Vec<u8>>> {
    let mut buffer = LineBuffer::with_limit(LIMIT);
    let mut lines = Vec::new();
    for chunk in chunks {
        buffer.push(chunk);
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

fuzz_target!(|bytes: &[u8]| {
    assert_eq!(lines(bytes.chunks(1)), lines(std::iter::once(bytes)));
});
