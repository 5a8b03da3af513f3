/// Longest message accepted, in bytes without the newline, unless set otherwise.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// How much of an over-long line is kept so that its type and id can be told, in bytes.
const KEPT_OF_TOO_LONG: usize = 1024;

/// One line taken from a byte stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A whole line, without `\n` or `\r\n`.
    Whole(Vec<u8>),
    /// The beginning of a line over the limit; the rest was skipped, not buffered.
    TooLong(Vec<u8>),
}

/// Cuts a byte stream into lines and never holds more than one message and one read.
#[derive(Debug)]
pub struct LineBuffer {
    limit: usize,
    bytes: Vec<u8>,
    /// Where the search for the next newline goes on; what is before it holds none.
    searched: usize,
    skipping: bool,
}

impl Default for LineBuffer {
    fn default() -> Self {
        Self::with_limit(MAX_MESSAGE_BYTES)
    }
}

impl LineBuffer {
    /// A buffer whose lines may have `limit` bytes, without the newline.
    pub fn with_limit(limit: usize) -> Self {
        Self { limit, bytes: Vec::new(), searched: 0, skipping: false }
    }

    /// Bytes allowed in one line.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Adds bytes as they came from the peer. Call [`Self::next_line`] until `None` after each.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next line, when one is complete or over the limit.
    pub fn next_line(&mut self) -> Option<Line> {
        loop {
            let newline = self.bytes[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n')
                .map(|at| at + self.searched);
            match newline {
                Some(end) if self.skipping => {
                    self.bytes.drain(..=end);
                    self.searched = 0;
                    self.skipping = false;
                }
                Some(end) => {
                    let mut line: Vec<u8> = self.bytes.drain(..=end).collect();
                    self.searched = 0;
                    line.pop();
                    if line.last() == Some(&b'\r') {
                        line.pop();
                    }
                    return Some(if line.len() > self.limit { too_long(line) } else { Line::Whole(line) });
                }
                None if self.skipping => {
                    self.bytes.clear();
                    self.searched = 0;
                    return None;
                }
                // One more byte than the limit is allowed for a `\r` whose `\n` is still to come.
                None if self.bytes.len() > self.limit + 1 => {
                    self.skipping = true;
                    self.searched = 0;
                    return Some(too_long(std::mem::take(&mut self.bytes)));
                }
                None => {
                    self.searched = self.bytes.len();
                    return None;
                }
            }
        }
    }

    /// The last line of a stream that ended without a newline, if there is one.
    pub fn finish(&mut self) -> Option<Line> {
        self.searched = 0;
        if self.skipping || self.bytes.is_empty() {
            return None;
        }
        Some(Line::Whole(std::mem::take(&mut self.bytes)))
    }
}

fn too_long(mut line: Vec<u8>) -> Line {
    line.truncate(KEPT_OF_TOO_LONG);
    Line::TooLong(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(limit: usize, chunks: &[&[u8]]) -> Vec<Line> {
        let mut buffer = LineBuffer::with_limit(limit);
        let mut found = Vec::new();
        for chunk in chunks {
            buffer.push(chunk);
            while let Some(line) = buffer.next_line() {
                found.push(line);
            }
        }
        found.extend(buffer.finish());
        found
    }

    #[test]
    fn lines_end_with_newline_or_carriage_return_and_newline() {
        let whole = |text: &str| Line::Whole(text.as_bytes().to_vec());
        assert_eq!(lines(10, &[b"a\nb\r\nc"]), [whole("a"), whole("b"), whole("c")]);
    }

    #[test]
    fn an_over_long_line_is_told_once_and_skipped_to_its_end() {
        let found = lines(4, &[b"12345", b"6789", b"more\nok\n"]);
        assert_eq!(found, [Line::TooLong(b"123456789".to_vec()), Line::Whole(b"ok".to_vec())]);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole() {
        assert_eq!(lines(4, &[b"1234\r", b"\n"]), [Line::Whole(b"1234".to_vec())]);
    }

    proptest! {
        #[test]
        fn cutting_the_stream_anywhere_gives_the_same_lines(
            texts in prop::collection::vec("[a-z]{0,6}", 0..8),
            cut in 0usize..40,
        ) {
            let stream: Vec<u8> = texts.iter().flat_map(|t| format!("{t}\n").into_bytes()).collect();
            let cut = cut.min(stream.len());
            prop_assert_eq!(lines(8, &[&stream]), lines(8, &[&stream[..cut], &stream[cut..]]));
        }

        #[test]
        fn memory_stays_under_the_limit_whatever_comes(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..32),
        ) {
            let mut buffer = LineBuffer::with_limit(16);
            for chunk in &chunks {
                buffer.push(chunk);
                while buffer.next_line().is_some() {}
                prop_assert!(buffer.bytes.len() <= 17);
            }
        }
    }
}
