//! What peers and programs say, made fit for a terminal.

use std::borrow::Cow;

/// A text whose control characters, those that turn the direction of writing, and those that have no width are escaped: it can neither move a
/// terminal's cursor nor look like another text.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_dangerous) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().flat_map(|character| {
        let escape = is_dangerous(character).then(|| character.escape_default());
        let plain = escape.is_none().then_some(character);
        escape.into_iter().flatten().chain(plain)
    });
    Cow::Owned(escaped.collect())
}

/// The same for a text of several lines.
pub fn visible_lines(text: &str) -> String {
    text.split('\n').map(visible).collect::<Vec<_>>().join("\n")
}

fn is_dangerous(character: char) -> bool {
    ssmmp::is_unseen(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_a_terminal_as_more_than_text() {
        assert!(matches!(visible("grün → 1"), Cow::Borrowed("grün → 1")));
        assert_eq!(visible("a\x1b[2Jb\0"), "a\\u{1b}[2Jb\\u{0}");
        assert_eq!(visible("one\ntwo\r"), "one\\ntwo\\r");
        assert_eq!(visible("\u{202e}txt.exe\u{9b}1m"), "\\u{202e}txt.exe\\u{9b}1m");
        assert_eq!(visible("a\u{200b}b\u{feff}"), "a\\u{200b}b\\u{feff}");
        assert_eq!(visible_lines("one\ntwo\u{7}"), "one\ntwo\\u{7}");
    }
}
