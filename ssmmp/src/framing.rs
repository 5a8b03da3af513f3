use memchr::memchr;

/// Longest message accepted, in bytes without the newline, unless set otherwise.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// How much of an over-long line is kept so that its type and id can be told, in bytes.
const KEPT_OF_TOO_LONG: usize = 1024;

/// Room that an empty buffer keeps, in bytes: a peer that once sent a long message does not hold it.
const KEPT_CAPACITY: usize = 16 * 1024;

/// One line taken from a byte stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// A whole line, without `\n` or `\r\n`.
    Whole(&'a [u8]),
    /// The beginning of a line over the limit; the rest was skipped, not buffered.
    TooLong(&'a [u8]),
}

/// Cuts a byte stream into lines and never holds more than one message and one read.
#[derive(Debug)]
pub struct LineBuffer {
    limit: usize,
    bytes: Vec<u8>,
    /// Where the next line begins; what is before it was taken.
    start: usize,
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
        Self { limit, bytes: Vec::new(), start: 0, searched: 0, skipping: false }
    }

    /// Bytes allowed in one line.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that wait for the rest of their line.
    pub fn held(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Adds bytes as they came from the peer. Call [`Self::next_line`] until `None` after each.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT_CAPACITY {
            self.bytes = Vec::new();
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next line, when one is complete or over the limit.
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        loop {
            let newline = memchr(b'\n', &self.bytes[self.searched..]).map(|at| at + self.searched);
            let begin = self.start;
            match newline {
                Some(end) => {
                    self.start = end + 1;
                    self.searched = end + 1;
                    if !std::mem::take(&mut self.skipping) {
                        return Some(self.line(begin, end));
                    }
                }
                None => {
                    self.searched = self.bytes.len();
                    // One more byte than the limit is allowed for a `\r` whose `\n` is still to come.
                    if self.skipping {
                        self.start = self.bytes.len();
                    } else if self.held() > self.limit + 1 {
                        self.skipping = true;
                        self.start = self.bytes.len();
                        return Some(Line::TooLong(kept(&self.bytes[begin..])));
                    }
                    return None;
                }
            }
        }
    }

    /// The last line of a stream that ended without a newline, if there is one.
    pub fn finish(&mut self) -> Option<Line<'_>> {
        let (begin, end) = (self.start, self.bytes.len());
        self.start = end;
        self.searched = end;
        (begin < end && !self.skipping).then(|| self.line(begin, end))
    }

    fn line(&self, begin: usize, end: usize) -> Line<'_> {
        let line = &self.bytes[begin..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.limit { Line::TooLong(kept(line)) } else { Line::Whole(line) }
    }
}

fn kept(line: &[u8]) -> &[u8] {
    &line[..line.len().min(KEPT_OF_TOO_LONG)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The lines of a stream that arrives in these pieces; `true` for one that is too long.
    fn lines(limit: usize, chunks: &[&[u8]]) -> Vec<(bool, String)> {
        let owned = |line: Line<'_>| match line {
            Line::Whole(bytes) => (false, String::from_utf8_lossy(bytes).into_owned()),
            Line::TooLong(bytes) => (true, String::from_utf8_lossy(bytes).into_owned()),
        };
        let mut buffer = LineBuffer::with_limit(limit);
        let mut found = Vec::new();
        for chunk in chunks {
            buffer.push(chunk);
            while let Some(line) = buffer.next_line() {
                found.push(owned(line));
            }
        }
        found.extend(buffer.finish().map(owned));
        found
    }

    fn whole(text: &str) -> (bool, String) {
        (false, text.to_owned())
    }

    #[test]
    fn lines_end_with_newline_or_carriage_return_and_newline() {
        assert_eq!(lines(10, &[b"a\nb\r\nc"]), [whole("a"), whole("b"), whole("c")]);
    }

    #[test]
    fn an_over_long_line_is_told_once_and_skipped_to_its_end() {
        let found = lines(4, &[b"12345", b"6789", b"more\nok\n"]);
        assert_eq!(found, [(true, "123456789".to_owned()), whole("ok")]);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole() {
        assert_eq!(lines(4, &[b"1234\r", b"\n"]), [whole("1234")]);
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
                prop_assert!(buffer.held() <= 17);
            }
        }
    }
}
