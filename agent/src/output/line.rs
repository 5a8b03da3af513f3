//! A kept line: `2026-11-29T02:53:01.123456Z text`. Times of one output only grow, so that a time is a place.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of a time and the space behind it.
const TIME_BYTES: usize = "2026-11-29T02:53:01.123456Z ".len();

/// Microseconds since 1970.
pub(super) type Micros = u64;

/// Now, but later than the latest line: a clock that was set back does not mix lines up.
pub(super) fn next_time(latest: Micros) -> Micros {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX).max(latest + 1)
}

/// Writes a line with its time.
pub(super) fn write(out: &mut Vec<u8>, time: Micros, text: &[u8]) {
    let at = UNIX_EPOCH + Duration::from_micros(time);
    out.extend_from_slice(humantime::format_rfc3339_micros(at).to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// A line's time and text; `None` for what is no kept line.
pub(super) fn parse(line: &[u8]) -> Option<(Micros, &[u8])> {
    let time = std::str::from_utf8(line.get(..TIME_BYTES - 1)?).ok()?;
    let at = humantime::parse_rfc3339(time).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((u64::try_from(at.as_micros()).ok()?, line.get(TIME_BYTES..)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(time in 0u64..4_000_000_000_000_000, text in "[^\n]{0,40}") {
            let mut out = Vec::new();
            write(&mut out, time, text.as_bytes());
            prop_assert_eq!(out.pop(), Some(b'\n'));
            prop_assert_eq!(parse(&out), Some((time, text.as_bytes())));
        }
    }

    #[test]
    fn times_grow_whatever_the_clock_does() {
        let first = next_time(0);
        assert!(next_time(first + 1_000_000_000) == first + 1_000_000_001, "it is in the future");
        assert_eq!(parse(b"no line"), None);
        assert_eq!(parse(b""), None);
    }
}
