//! One line, cut into its `name: value` fields.

use memchr::{memchr, memchr_iter};

use crate::error::{Problem, quote};
use crate::value::Value;

/// The separator between fields as it is emitted.
pub(crate) const SEPARATOR: &str = " ~ ";

/// The fields of one line in their order; a typed message takes its own, what is left stays.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    entries: Vec<(&'a str, &'a str)>,
}

impl<'a> Fields<'a> {
    /// Cuts a line at its separators. Fails on a segment without `:` and on a name that stands twice.
    pub(crate) fn split(line: &'a str) -> Result<Self, Problem> {
        let mut entries: Vec<(&str, &str)> = Vec::with_capacity(16);
        for segment in segments(line) {
            let Some(colon) = memchr(b':', segment.as_bytes()) else {
                return Err(Problem::NotAField { segment: quote(segment) });
            };
            entries.push((trim(&segment[..colon]), trim(&segment[colon + 1..])));
        }
        if entries.is_empty() {
            return Err(Problem::Empty);
        }
        for (index, (name, _)) in entries.iter().enumerate() {
            if entries[..index].iter().any(|(earlier, _)| earlier.eq_ignore_ascii_case(name)) {
                return Err(Problem::Duplicate(quote(name)));
            }
        }
        Ok(Self { entries })
    }

    /// The first field's name and value.
    pub(crate) fn first(&self) -> (&'a str, &'a str) {
        self.entries[0]
    }

    /// The value of a field without taking it.
    pub(crate) fn peek(&self, name: &str) -> Option<&'a str> {
        self.entries.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// Takes the text of a field, by its name or one of its aliases, in any letter case.
    pub(crate) fn take_text(
        &mut self,
        name: &'static str,
        aliases: &[&str],
    ) -> Result<Option<&'a str>, Problem> {
        let is_it = |found: &str| {
            found.eq_ignore_ascii_case(name) || aliases.iter().any(|alias| found.eq_ignore_ascii_case(alias))
        };
        let Some(index) = self.entries.iter().position(|(found, _)| is_it(found)) else { return Ok(None) };
        let (_, value) = self.entries.remove(index);
        if self.entries.iter().any(|(found, _)| is_it(found)) {
            return Err(Problem::Duplicate(name.to_owned()));
        }
        Ok(Some(value))
    }

    /// Takes a mandatory field.
    pub(crate) fn take<T: Value>(&mut self, name: &'static str, aliases: &[&str]) -> Result<T, Problem> {
        let text = self.take_text(name, aliases)?.ok_or(Problem::Missing(name))?;
        read(name, text)
    }

    /// Takes a field that a peer may leave out.
    pub(crate) fn take_optional<T: Value>(
        &mut self,
        name: &'static str,
        aliases: &[&str],
    ) -> Result<T, Problem> {
        match self.take_text(name, aliases)? {
            Some(text) => read(name, text),
            None => T::unknown().ok_or(Problem::Missing(name)),
        }
    }

    /// What nobody took, in order.
    pub(crate) fn into_rest(self) -> Vec<(String, String)> {
        self.entries.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

fn read<T: Value>(field: &'static str, text: &str) -> Result<T, Problem> {
    T::read(text).map_err(|reason| Problem::Invalid { field, value: quote(text), reason })
}

/// Appends one field in the emitted form.
pub(crate) fn put<T: Value>(out: &mut String, name: &str, value: &T) {
    start(out, name);
    value.write(out);
}

/// Appends one field whose value is text already.
pub(crate) fn put_text(out: &mut String, name: &str, value: &str) {
    start(out, name);
    out.push_str(value);
}

/// Appends the field that every message begins with.
pub(crate) fn put_first(out: &mut String, message_type: &str) {
    out.push_str("type: ");
    out.push_str(message_type);
}

fn start(out: &mut String, name: &str) {
    out.push_str(SEPARATOR);
    out.push_str(name);
    out.push_str(": ");
}

/// Cuts at a tilde that stands alone with a field, another tilde or nothing behind it; any other tilde
/// belongs to a value.
fn segments(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let text = rest?;
        let cut = memchr_iter(b'~', text.as_bytes()).find(|at| is_separator(text, *at));
        match cut {
            Some(at) => {
                rest = Some(&text[at + 1..]);
                Some(&text[..at])
            }
            None => {
                rest = None;
                Some(text)
            }
        }
    })
    .map(trim)
    .filter(|segment| !segment.is_empty())
}

/// [`str::trim`], at once where there is one blank at most, as in what is emitted.
fn trim(text: &str) -> &str {
    let bare = text.strip_prefix(' ').unwrap_or(text);
    let bare = bare.strip_suffix(' ').unwrap_or(bare);
    match (bare.as_bytes().first(), bare.as_bytes().last()) {
        (Some(first), Some(last)) if first.is_ascii_graphic() && last.is_ascii_graphic() => bare,
        _ => bare.trim(),
    }
}

fn is_separator(text: &str, at: usize) -> bool {
    let next = &text[at + 1..];
    if text[..at].ends_with(' ') && next.strip_prefix(' ').is_some_and(starts_with_field) {
        return true;
    }
    let next = next.trim_start();
    stands_alone(text, at) && (next.is_empty() || next.starts_with('~') || starts_with_field(next))
}

/// Whether a tilde has white space or the text's edge on both sides. A colon before it counts too: one
/// blank more will stand there once the value behind a colon is passed on.
pub(crate) fn stands_alone(text: &str, tilde: usize) -> bool {
    let (before, after) = (&text[..tilde], &text[tilde + 1..]);
    (before.is_empty() || before.ends_with(|c: char| c.is_whitespace() || c == ':'))
        && (after.is_empty() || after.starts_with(char::is_whitespace))
}

fn starts_with_field(text: &str) -> bool {
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let name = text.bytes().take_while(is_of_name).count();
    name > 0 && (text.as_bytes().get(name) == Some(&b':') || text[name..].trim_start().starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &[(&str, &str)]) {
        assert_eq!(Fields::split(line).expect(line).entries, expected, "splitting {line:?}");
    }

    #[test]
    fn separators_are_liberal() {
        let expected = [("type", "a"), ("x", "1")];
        check("type: a ~ x: 1", &expected);
        check("  type: a  ~\tx : 1 ~ ", &expected);
        check("type:a ~ x:1 ~", &expected);
        check("type: a ~ ~ x: 1", &expected);
    }

    #[test]
    fn a_tilde_inside_a_value_is_not_a_separator() {
        check("type: a~b ~ x: 1 ~ 2", &[("type", "a~b"), ("x", "1 ~ 2")]);
    }

    #[test]
    fn a_tilde_behind_a_colon_separates_as_it_would_when_it_is_passed_on() {
        check("type: a ~ x:~ y: 1", &[("type", "a"), ("x", ""), ("y", "1")]);
        check("type: a ~ x:~", &[("type", "a"), ("x", "")]);
        check("type: a ~ x:~1 ~ y:~~ z: 2", &[("type", "a"), ("x", "~1"), ("y", "~~ z: 2")]);
    }

    #[test]
    fn the_first_colon_ends_the_name() {
        check("type: a ~ address: 2001:db8::1", &[("type", "a"), ("address", "2001:db8::1")]);
    }

    #[test]
    fn duplicates_and_junk_are_refused() {
        assert!(matches!(Fields::split("type: a ~ Type: b"), Err(Problem::Duplicate(_))));
        assert!(matches!(Fields::split("hello"), Err(Problem::NotAField { .. })));
        assert!(matches!(Fields::split(" ~ "), Err(Problem::Empty)));
    }
}
